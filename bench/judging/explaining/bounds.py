"""The least time that an operator could take on this box, by the box's own ceilings."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

from bench.records.explained import Ceilings, Kind, Operator

Name = TypeVar("Name", bound=str)
COUNTED: tuple[Kind, ...] = ("matmul", "convolution", "attention", "other")
"""Kinds that are, or may be, arithmetic: of one without FLOP nobody knows how many it has."""


class Bound(NamedTuple):
    """The least time of all calls of an operator in a step."""

    ns: float
    by: str
    """What it is by: `matmul bf16`, `copy`, `read`, `write`, `launch`."""


def bound(operator: Operator, ceilings: Ceilings) -> Bound | None:
    """The largest of what its arithmetic, its bytes and its calls take at least; None of what does
    no work that is counted (views, memory that is not filled, a kernel of which only the name is
    known), or whose arithmetic has no ceiling or may be uncounted: by its bytes alone the bound
    would be too low.
    """
    multiplies = operator.flop or operator.kind in COUNTED
    if multiplies and not (operator.flop and _rate(operator) in ceilings.flop_per_second):
        return None
    found = [b for b in (arithmetic(operator, ceilings), moving(operator, ceilings)) if b]
    if not found:
        return None
    if ceilings.launch_ns is not None:
        found.append(Bound(operator.calls * ceilings.launch_ns, "launch"))
    return max(found, key=lambda one: one.ns)


def priced(operators: Sequence[Operator], boxes: Sequence[Ceilings]) -> list[float] | None:
    """The least ns of the same operators on each of several boxes; None where one has a ceiling
    that another lacks, or no operator has a bound."""
    rates = {_rate(operator) for operator in operators if operator.flop}
    known = [
        ({*box.bytes_per_second}, rates & {*box.flop_per_second}, box.launch_ns is None)
        for box in boxes
    ]
    found = [[bound(operator, box) for operator in operators] for box in boxes]
    totals = [sum(one.ns for one in each if one) for each in found]
    return totals if all(totals) and all(one == known[0] for one in known) else None


def of_several(each: Sequence[Ceilings]) -> Ceilings:
    """Means of what several processes of one box measured."""

    def means(rates: Sequence[Mapping[Name, float]]) -> dict[Name, float]:
        names = dict.fromkeys(name for one in rates for name in one)
        return {name: statistics.fmean(r[name] for r in rates if name in r) for name in names}

    launches = [one.launch_ns for one in each if one.launch_ns is not None]
    return Ceilings(
        bytes_per_second=means([one.bytes_per_second for one in each]),
        flop_per_second=means([one.flop_per_second for one in each]),
        launch_ns=statistics.fmean(launches) if launches else None,
    )


def arithmetic(operator: Operator, ceilings: Ceilings) -> Bound | None:
    """By the FLOP/s of its kind and precision."""
    name = _rate(operator)
    rate = ceilings.flop_per_second.get(name)
    return Bound(operator.flop / rate * 1e9, name) if operator.flop and rate else None


def _rate(operator: Operator) -> str:
    """The name of its FLOP/s; attention is made of products."""
    kind = "convolution" if operator.kind == "convolution" else "matmul"
    return f"{kind} {operator.precision}"


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
