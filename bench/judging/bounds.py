"""The least time that an operator could take on this box, by the box's own ceilings."""

from __future__ import annotations

from typing import NamedTuple

from bench.records.explained import Ceilings, Operator


class Bound(NamedTuple):
    """The least time of all calls of an operator in a step."""

    ns: float
    by: str
    """What it is by: `matmul bf16`, `copy`, `read`, `write`, `launch`."""


def bound(operator: Operator, ceilings: Ceilings) -> Bound | None:
    """The largest of what its arithmetic, its bytes and its calls take at least; None of what does
    no work that is counted: views, memory that is not filled, a kernel of which only the name is
    known.
    """
    found = [b for b in (arithmetic(operator, ceilings), moving(operator, ceilings)) if b]
    if not found:
        return None
    calls = Bound(operator.calls * ceilings.launch_ns, "launch")
    return max((*found, calls), key=lambda one: one.ns)


def arithmetic(operator: Operator, ceilings: Ceilings) -> Bound | None:
    """By the FLOP/s of its kind and precision; attention is made of products."""
    kind = "convolution" if operator.kind == "convolution" else "matmul"
    name = f"{kind} {operator.precision}"
    rate = ceilings.flop_per_second.get(name)
    return Bound(operator.flop / rate * 1e9, name) if operator.flop and rate else None


def moving(operator: Operator, ceilings: Ceilings) -> Bound | None:
    """By bandwidth: as much as is read and written is copied, what is left is read or written."""
    read, written = operator.read_bytes, operator.written_bytes
    if read is None or written is None or not read + written:
        return None
    copied = 2 * min(read, written)
    rest, traffic = abs(read - written), ("read" if read > written else "write")
    rate = ceilings.bytes_per_second
    if not rate:  # nobody could look past the caches
        return None
    parts = {
        "copy": copied / rate["copy"] if "copy" in rate else 0.0,
        traffic: rest / rate[traffic] if traffic in rate else 0.0,
    }
    return Bound(sum(parts.values()) * 1e9, max(parts, key=lambda part: parts[part]))
