"""Two runs as whole systems: eight devices of the one against sixty-four of the other.

Pairs the same work at equal global batch, however each side spreads it: of each work the largest
number of devices that a side measured, or the one that it is asked for. All else is as strict as
between two equal cases (`bench.judging.comparing.compare`), and the test is the same; of what it
gives, the ratio of the systems is a product (`bench.judging.comparing.product`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import msgspec

from bench import units
from bench.errors import ComparisonError
from bench.judging.comparing.comparability import timed_otherwise, unequal, unfit
from bench.judging.comparing.compare import (
    Paired,
    Prices,
    concluded,
    level_of,
    no_counterpart,
    sides_of,
    with_ratio,
    witness_gap,
)
from bench.judging.comparing.comparison import CaseComparison, Comparison
from bench.judging.comparing.equal_work import EqualWork
from bench.judging.comparing.pairing import Rows, pairs
from bench.judging.comparing.product import product
from bench.judging.comparing.reasons import Code, Reason
from bench.judging.comparing.side import Side
from bench.judging.comparing.system import NAMES, System
from bench.judging.comparing.whole import equal_work_of_systems, is_joint, scheme, trains
from bench.judging.row import Row
from bench.planning.sweep import BATCH, batch_of, without_batch
from bench.records.case import Case
from bench.records.run import RunFile

Wanted = tuple[str, str]
"""Of base and other: a number of devices, a spread (`fsdp64`), or empty: the most that it has."""


def compare_systems(
    base: RunFile, other: RunFile, prices: Prices | None = None, wanted: Wanted = ("", "")
) -> Comparison:
    """Judges the work that both measured at equal global batch, on what number of devices ever.

    prices: of an hour of one device. Raises `ComparisonError` where the two are one run, have no
    such work in common, or not the devices that are wanted.
    """
    sides = sides_of(base, other)
    mine, theirs = (
        _chosen(who, side, one) for who, side, one in zip(NAMES, sides, wanted, strict=True)
    )
    paired = [rows for rows in _pairs(mine, theirs) if not _are_single(rows)]
    both = [(a, b) for a, b in paired if a is not None and b is not None]
    if not any(_batch_reason(sides, *rows) is None for rows in both):
        raise ComparisonError(_nothing(sides, both), code=Code.NOTHING_IN_COMMON)
    level = level_of(sides)
    judged = [_judge(sides, *rows, level, prices) for rows in paired]
    found = concluded(sides, level, paired, judged)
    told = [_with_others(sides, case, paired) for case in found.cases]
    return msgspec.structs.replace(found, cases=tuple(told))


def otherwise_spread(base: RunFile, other: RunFile) -> Comparison | None:
    """Two runs as systems, where any work of theirs is spread otherwise; None where none is, and
    where nothing is to be compared so."""
    if all(launch.case.devices == 1 for file in (base, other) for launch in file.launches):
        return None
    try:
        found = compare_systems(base, other)
    except ComparisonError:
        return None
    spreads = (case.system.spreads for case in found.cases if case.system)
    return found if any(mine != theirs for mine, theirs in spreads) else None


def _pairs(base: Rows, other: Rows) -> Iterator[tuple[Row | None, Row | None]]:
    """Equal work spread alike; then equal work; then, of works that have no pair, the nearest.

    What has none although its work has one (`fsdp64`, where `dp8` stands beside `dp64`) is no pair.
    """
    left = [dict(base), dict(other)]
    mine, theirs = ({key: _work(row) for key, row in rows.items()} for rows in left)
    alike = [(key, key) for key in base if key in other]
    same = [(one, two) for one in mine for two in theirs if mine[one] == theirs[two]]
    done: set[str] = set()
    for one, two in (*alike, *same):
        if one in left[0] and two in left[1]:
            done.add(mine[one])
            yield left[0].pop(one), left[1].pop(two)
    rest = ({key: row for key, row in rows.items() if _work(row) not in done} for rows in left)
    yield from pairs(*rest)


def _work(row: Row) -> str:
    return row.work.alone.fingerprint


def _are_single(rows: Sequence[Row | None]) -> bool:
    """Whether no side is more than one device: that comparison is the usual one."""
    return all(row is None or row.case.devices == 1 for row in rows)


def _counts(row: Row) -> bool:
    """Whether it is of a system: no collective, nor a point of a sweep that nobody meant to try."""
    return not is_joint(row.case) and not row.untried_point


def _chosen(who: str, side: Side, wanted: str) -> dict[str, Row]:
    """Of each work the rows that stand for the side, by work and scheme."""
    works: dict[str, list[Row]] = {}
    for row in side.rows.values():
        if _counts(row):
            works.setdefault(_work(row), []).append(row)
    found: dict[str, Row] = {}
    for work, rows in works.items():
        for row in _standing(rows, wanted):
            key = f"{work} {scheme(row.case)}"
            found[f"{work} {row.case.parallelism}" if key in found else key] = row
    if wanted and not found:
        there = dict.fromkeys(
            "1" if row.case.devices == 1 else row.case.parallelism
            for rows in works.values()
            for row in rows
        )
        raise ComparisonError(
            f"--devices {wanted}: {who} ({side.file.path}) has nothing on that. "
            f"It has {', '.join(there) or 'no work that is spread'}: give one of these, or a "
            "number of devices."
        )
    return found


def _standing(rows: Sequence[Row], wanted: str) -> list[Row]:
    """Of rows of one work, those on the number of devices that is wanted, or the most measured."""
    if wanted:
        return [row for row in rows if wanted in (str(row.case.devices), row.case.parallelism)]
    most = max(rows, key=lambda row: (row.measured, row.case.devices))
    return [
        row for row in rows if row.case.devices == most.case.devices and row.status == most.status
    ]


def _spread(row: Row | None) -> str:
    if row is None:
        return ""
    return "1 device" if row.case.devices == 1 else row.case.parallelism


def _judge(
    sides: tuple[Side, Side],
    base: Row | None,
    other: Row | None,
    level: float,
    prices: Prices | None,
) -> CaseComparison:
    """All but the verdict of ranked cases, which depends on the whole comparison (Holm)."""
    present = base or other
    assert present is not None
    found = CaseComparison(
        case=present.work.alone,
        base=base,
        other=other,
        verdict="INCOMPARABLE",
        system=System(spreads=(_spread(base), _spread(other))),
    )
    change = msgspec.structs.replace
    if base is None or other is None:
        return change(found, because=(no_counterpart(other is None),))
    found = change(found, same_work=equal_work_of_systems(sides, base, other))
    same_work = found.same_work
    if because := tuple(_incomparable(sides, base, other, same_work)):
        return change(found, because=because)
    assert found.system is not None
    return change(
        with_ratio(found, sides, level, prices),
        witness_gap=witness_gap(found, sides) if trains(sides, base, other) else None,
        system=change(found.system, product=product(sides, base, other, level)),
    )


def _incomparable(
    sides: tuple[Side, Side], base: Row, other: Row, same_work: EqualWork | None
) -> Iterator[Reason]:
    """Every reason why two systems may not be compared; nothing where they may."""
    mine, theirs = base.work.alone, other.work.alone
    batch = _batch_reason(sides, base, other)
    if batch is not None:
        yield batch
        mine, theirs = without_batch(mine), without_batch(theirs)
    yield from unequal(mine, theirs)
    yield from timed_otherwise(sides, base, other)
    for who, row in zip(NAMES, (base, other), strict=True):
        if row.shared_host:
            words = f"{who}: its {row.case.devices} ranks share the cores of one host: one device"
            yield Reason(Code.SHARED_HOST, words)
    yield from unfit(sides, base, other)
    if same_work is not None:
        yield from same_work.refusals


def _batch(row: Row) -> object:
    """Of all its devices together; a tuned case's is that of its choice."""
    return (row.choice or {}).get(BATCH, row.case.parameters.get(BATCH))


def _batch_reason(sides: tuple[Side, Side], base: Row, other: Row) -> Reason | None:
    """That the global batches differ, and the nearest that would not; None where they do not."""
    mine, theirs = _batch(base), _batch(other)
    if mine == theirs:
        return None
    on = [units.counted(row.case.devices, "device") for row in (base, other)]
    words = f"global batch differs ({mine} on {on[0]}, {theirs} on {on[1]}"
    if isinstance(mine, int) and isinstance(theirs, int):
        each = mine / base.case.devices
        if each == theirs / other.case.devices:
            words += f": {each:g} each, which is weak scaling"
        words += f"); {_nearest(sides, base, other, mine, theirs)}"
    else:
        words += ")"
    return Reason(Code.GLOBAL_BATCH, words)


def _nearest(sides: tuple[Side, Side], base: Row, other: Row, mine: int, theirs: int) -> str:
    """The nearest batch that both measured, or could."""
    measured = [
        {
            batch
            for row in side.rows.values()
            if row.measured
            and (batch := batch_of(row.case)) is not None
            and _other_batch(row.work) == _other_batch(wanted.work)
        }
        for side, wanted in zip(sides, (base, other), strict=True)
    ]
    if common := measured[0] & measured[1]:
        nearest = min(common, key=lambda batch: abs(math.log(batch / max(mine, theirs))))
        return f"nearest that both measured: {nearest}"
    step = math.lcm(base.case.devices, other.case.devices)
    fitting = [batch for batch in (mine, theirs) if batch % step == 0]
    nearest = max(fitting, default=-(-max(mine, theirs) // step) * step)
    return f"nearest that divides over both: {nearest}"


def _other_batch(work: Case) -> str:
    """What cases share that differ in batch and devices alone."""
    return without_batch(work.alone).fingerprint


def _with_others(sides: tuple[Side, Side], case: CaseComparison, paired: Paired) -> CaseComparison:
    """Says what a side has of the work on as many devices or more, and stands beside nothing."""
    assert case.system is not None
    standing = [row.case for rows in paired for row in rows if row is not None]
    found = []
    for who, side, row in zip(NAMES, sides, (case.base, case.other), strict=True):
        for one in side.rows.values() if row is not None else ():
            if row is None or not _counts(one) or _work(one) != _work(row):
                continue
            if one.case.devices >= row.case.devices and one.case not in standing:
                how = "measured" if one.measured else one.why
                found.append(f"{who} on {_spread(one)}: {how}")
    system = msgspec.structs.replace(case.system, beside=tuple(found))
    return msgspec.structs.replace(case, system=system)


def _nothing(sides: tuple[Side, Side], both: Sequence[tuple[Row, Row]]) -> str:
    """Why nothing is compared, and what to run."""
    paths = [side.file.path for side in sides]
    said = [
        f"{base.case.name} {base.case.precision}: {reason.words}"
        for base, other in both
        if (reason := _batch_reason(sides, base, other)) is not None
    ]
    has = "; ".join(said[:3]) or "; ".join(
        f"{who} has {', '.join(_on_several(side)) or 'nothing on several devices'}"
        for who, side in zip(NAMES, sides, strict=True)
    )
    return (
        f"{paths[0]} and {paths[1]} have no work at equal global batch in common that either "
        f"spread over several devices: {has}. Run one suite on both, e.g. `accelmark run scaling`: "
        "its `batch_size` is that of all devices together."
    )


def _on_several(side: Side) -> list[str]:
    several = [row.case for row in side.rows.values() if row.case.devices > 1]
    spread = [
        f"{case.name} {case.precision} {case.parallelism} (batch {case.parameters.get(BATCH)})"
        for case in several
        if not is_joint(case)
    ]
    joint = "what devices do together (a collective, a server), over others other work"
    return spread or [joint][: len(several)]
