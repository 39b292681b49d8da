"""Whether two rows may be compared: equal work, timed alike, on devices that are what they say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.judging.equal_work import refused
from bench.judging.row import Row
from bench.judging.side import Side
from bench.records.case import Case, Setting


def unequal(base: Case, other: Case) -> Iterator[str]:
    """Every way in which two cases are not the same work, in words."""
    fields: list[tuple[str, Any, Any]] = [
        ("workload", base.workload, other.workload),
        ("workload version", base.version, other.version),
        ("mode", base.mode, other.mode),
        ("precision", base.precision, other.precision),
        ("execution", base.execution, other.execution),
        ("track", base.track, other.track),
        ("device count", base.devices, other.devices),
        ("parallelism", base.parallelism, other.parallelism),
    ]
    names = dict.fromkeys((*base.parameters, *other.parameters))
    fields += [(n, base.parameters.get(n, "none"), other.parameters.get(n, "none")) for n in names]
    opened = dict.fromkeys((*base.space, *other.space)) if base.track == other.track else ()
    fields += [(f"tuned {n}", _listed(base.space, n), _listed(other.space, n)) for n in opened]
    for name, mine, theirs in fields:
        # 1 == True == 1.0 for Python, and not for the fingerprint.
        if mine != theirs or type(mine) is not type(theirs):
            yield f"{name} differs ({mine}, {theirs})"


def _listed(space: Mapping[str, Sequence[Setting]], name: str) -> str:
    return " ".join(str(value) for value in space.get(name, ())) or "fixed"


def incomparable(sides: tuple[Side, Side], base: Row, other: Row) -> Iterator[str]:
    """Every reason why two rows may not be compared; nothing where they may."""
    yield from unequal(base.case, other.case)
    mine, theirs = (side.file.run for side in sides)
    if mine.schema != theirs.schema:
        yield f"record schema differs ({mine.schema}, {theirs.schema})"
    if mine.settings.timing != theirs.settings.timing:
        yield f"timing mode differs ({mine.settings.timing}, {theirs.settings.timing})"
    if base.unit and other.unit and base.unit != other.unit:
        yield f"unit of throughput differs ({base.unit}, {other.unit})"
    for who, side, row in zip(("base", "other"), sides, (base, other), strict=True):
        if row.status != "measured":
            yield f"{who} is {row.status}: {row.reason}"
        yield from (f"{who}: {reason}" for reason in _disqualified(side, row))
    yield from refused(sides, base, other)


def _disqualified(side: Side, row: Row) -> Iterator[str]:
    """What makes a row unfit for any comparison although it has a number."""
    environments = side.environments(row)
    devices = [side.file.run.device, *(e.get("device") for e in environments)]
    if any(isinstance(d, dict) and d.get("simulated") for d in devices):
        yield "a simulated device"
    arithmetic = row.arithmetic
    reduced = [e.get("float32_reduced") for e in environments]
    if arithmetic == "fp32" and any(reduced):
        yield "float32 products were allowed a shorter mantissa (TF32 or its like)"
    if arithmetic == "tf32" and not all(reduced):
        yield "float32 products were not allowed the shorter mantissa that the precision asks for"
