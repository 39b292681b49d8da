"""Served loads at a limit on the time a token: the best throughput of each side, whatever the load.

A question of its own. At equal concurrency two engines are compared as any two cases are; here each
side takes the load at which it gives most, of those whose median TPOT keeps the limit, and the two
loads may differ. Everything else of the case is equal. A best of several reads high, on both sides
alike where both have as many points.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import msgspec

from bench.errors import ComparisonError
from bench.judging.comparing.comparability import served_otherwise, timed_otherwise, unfit
from bench.judging.comparing.compare import Prices, concluded, level_of, sides_of, with_ratio
from bench.judging.comparing.comparison import CaseComparison, Comparison
from bench.judging.comparing.reasons import Code, Reason
from bench.judging.comparing.side import Side
from bench.judging.comparing.system import NAMES
from bench.judging.comparing.verdicts import DISTURBED
from bench.judging.row import Row
from bench.judging.served import (
    ServingCurve,
    best_within,
    density,
    in_doubt,
    keeps,
    no_tpot,
    serving_curves,
    unsteady,
)
from bench.records.run import RunFile


def limit_seconds(tpot_ms: object) -> float:
    """A limit in seconds; `ComparisonError` for what is no number of ms above 0."""
    if isinstance(tpot_ms, int | float) and 0 < tpot_ms < math.inf:
        return tpot_ms / 1e3
    raise ComparisonError(f"a limit on TPOT is a number of ms above 0, not {tpot_ms!r}.")


def compare_at_tpot(
    base: RunFile, other: RunFile, tpot_seconds: float, prices: Prices | None = None
) -> Comparison:
    """Judges each kind of load that both runs have; prices: of an hour of each side's device.

    Raises `ComparisonError` if they are one run, or have none in common.
    """
    sides = sides_of(base, other)
    mine, theirs = (
        {curve.case.fingerprint: curve for curve in serving_curves(side.rows.values())}
        for side in sides
    )
    common = [key for key in mine if key in theirs]
    if not common:
        raise ComparisonError(
            f"{base.path} and {other.path} have no served load in common: model, slots, chunk, "
            "lengths and limits must be equal. Compare runs of the same suite (`serving`).",
            code=Code.NOTHING_IN_COMMON,
        )
    level = level_of(sides)
    judged = [
        _judged(sides, (mine[key], theirs[key]), tpot_seconds, level, prices) for key in common
    ]
    return concluded(sides, level, [(case.base, case.other) for case in judged], judged)


def _judged(
    sides: tuple[Side, Side],
    curves: tuple[ServingCurve, ServingCurve],
    tpot_seconds: float,
    level: float,
    prices: Prices | None,
) -> CaseComparison:
    base, other = (best_within(curve.points, tpot_seconds) for curve in curves)
    found = CaseComparison(
        case=curves[0].case,
        base=base,
        other=other,
        verdict="INCOMPARABLE",
        tpot_limit_seconds=tpot_seconds,
    )
    limit = f"{tpot_seconds * 1e3:g} ms"
    lacking = [
        Reason(Code.NO_LOAD_IN_LIMIT, _lacking(who, curve, limit))
        for who, row, curve in zip(NAMES, (base, other), curves, strict=True)
        if row is None
    ]
    if base is None or other is None:
        return msgspec.structs.replace(found, because=tuple(lacking))
    because = (
        *_untried(curves, (base, other), tpot_seconds),
        *_by_luck(curves, (base, other), tpot_seconds),
        *dict.fromkeys(_drawn_otherwise(*curves)),
        *timed_otherwise(sides, base, other),
        *unfit(sides, base, other),
    )
    if because:
        return msgspec.structs.replace(found, because=because)
    same = f"both give most at {_load(base)}, which is their throughput"
    where = f"{same}: measure rates {_beyond(curves, base)}"
    return with_ratio(found, sides, level, prices, at_given_rate=where)


def _beyond(curves: tuple[ServingCurve, ServingCurve], best: Row) -> str:
    """Where a rate lies that may tell them apart."""
    loads = (row for curve in curves for row in (*curve.points, *curve.saturated))
    denser = _denser(best, loads)
    return f"between it and {min(denser)[1]:g}" if denser else "above it"


def _denser(than: Row, rows: Iterable[Row]) -> dict[tuple[str, float], Row]:
    """Loads of the kind at which requests come more densely, by how they come."""
    kind, dense = density(than)
    found = {density(row): row for row in rows}
    return {one: row for one, row in found.items() if one[0] == kind and one[1] > dense}


def _lacking(who: str, curve: ServingCurve, limit: str) -> str:
    """Why a side has no load within the limit."""
    unknown = dict.fromkeys(no_tpot(row.serving) for row in curve.points if row.serving)
    if "" not in unknown:
        return f"no load of the {who} has a TPOT: {', or '.join(unknown)}"
    steady = "steady " if any(map(unsteady, curve.points)) else ""
    lost = [f"; it {_was(row)}" for row in curve.points if _disturbed(row)]
    return f"no {steady}load of the {who} keeps a median TPOT of {limit}{''.join(lost[:1])}"


def _untried(
    curves: tuple[ServingCurve, ServingCurve], best: tuple[Row, Row], tpot_seconds: float
) -> Iterator[Reason]:
    """Why a side's best may not be all that it has: it gives less than the other's, and that was
    measured at a denser load: where it kept the limit and the side was disturbed, or which is
    denser than all of the side's own. One that saturated was measured."""
    for i, who in enumerate(NAMES):
        mine, theirs = best[i], best[1 - i]
        own = _denser(mine, (*curves[i].points, *curves[i].saturated))
        there = _denser(mine, (row for row in curves[1 - i].points if not _disturbed(row)))
        lost = [
            row
            for how, row in own.items()
            if _disturbed(row) and how in there and keeps(there[how], tpot_seconds)
        ]
        if (mine.throughput or 0) >= (theirs.throughput or 0):
            continue
        if lost:
            where = f"the {who} {_was(lost[0])}, where its best may lie"
            yield Reason(Code.BEST_NOT_MEASURED, f"{where}: measure again")
        elif there and all(map(_disturbed, own.values())):
            most = f"gave most at its densest load, {_load(mine)},"
            yield Reason(
                Code.BEST_NOT_MEASURED,
                f"the {who} {_was(own[min(own)]) if own else most} and was not measured "
                f"at {_load(there[min(there)])}, as the other side was: measure both at both",
            )


def _by_luck(
    curves: tuple[ServingCurve, ServingCurve], best: tuple[Row, Row], tpot_seconds: float
) -> Iterator[Reason]:
    """Why two loads may be those of luck: the launches leave open whether a side's, if they are
    unlike, or one that gives more, keeps the limit; of equal loads on the side that is behind."""
    unlike = density(best[0]) != density(best[1])
    for who, curve, mine, theirs in zip(NAMES, curves, best, best[::-1], strict=True):
        behind = (mine.throughput or 0) < (theirs.throughput or 0)
        for row in curve.points if unlike or behind else ():
            sure = unsteady(row) or (row is mine and not unlike)
            tpot = "" if sure else in_doubt(row, tpot_seconds)
            if tpot and (row.throughput or 0) >= (mine.throughput or 0):
                yield Reason(
                    Code.LIMIT_IN_DOUBT,
                    f"the {who} has a median TPOT of {tpot} at {_load(row)}: whether it keeps "
                    f"{tpot_seconds * 1e3:g} ms is not known; measure more launches, or ask "
                    "another limit",
                )


def _disturbed(row: Row) -> bool:
    """Whether its figure is not the side's; of one that is unsteady it is known to be less."""
    return row.verdict in DISTURBED and not unsteady(row)


def _was(row: Row) -> str:
    return f"was {row.verdict} at {_load(row)}"


def _load(row: Row) -> str:
    """`concurrency 8`."""
    names = [name for name in ("concurrency", "rate") if row.case.parameters.get(name)]
    return ", ".join(row.case.worded(names)) or "arrival offline"


def _drawn_otherwise(mine: ServingCurve, theirs: ServingCurve) -> Iterator[Reason]:
    """Why equal points of two curves did not serve the same requests. Those of unlike arrival have
    digests of their own, and tell nothing."""
    points = {row.work.fingerprint: row for row in theirs.points}
    for row in mine.points:
        if (other := points.get(row.work.fingerprint)) is not None:
            yield from served_otherwise(row, other)
