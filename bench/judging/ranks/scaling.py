"""How well work scales: throughput a device, beside that of the same work on fewer devices.

*Strong*: the batch of all devices together is the same at every point, so all do the same work.
*Weak*: that of each device is. What the points of a curve are is worked out from the cases, as for
any sweep. Efficiency is (T_n / n) / (T_1 / 1), T being items/s; where there is no figure of one
device (it did not fit, say), against the fewest devices that have one, and it says so. Its interval
is Welch's, on logarithms of launches' throughputs in the rounds that both had.

Source: Amdahl, "Validity of the single processor approach", AFIPS 30 (1967), and Gustafson,
"Reevaluating Amdahl's law", Communications of the ACM 31 (1988), for the two kinds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from bench import stats
from bench.judging.ceilings import SHARED_HOST
from bench.judging.row import UNDISTURBED, Efficiency, Row
from bench.planning.sweep import BATCH, batch_of
from bench.records import parallelism
from bench.records.case import Case

Kind = Literal["strong", "weak"]


class Scaling(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of work over devices: the points with a number, fewest devices first."""

    kind: Kind
    scheme: str
    """`dp`, `fsdp`, `hsdp`, `replicas`, ..., as a suite writes it."""
    points: tuple[Row, ...]
    fabric: tuple[float | None, ...] = ()
    """Of each point: seconds that its gradients alone take by the all-reduce that this run
    measured over as many devices; None where it measured none, or where they go otherwise."""

    @property
    def work(self) -> Case:
        """The case on one device; of weak scaling with the batch of each."""
        return on_one(self.points[0].case, self.kind)

    @property
    def absent(self) -> str:
        """Why no efficiency is given; empty where it is."""
        if any(self.efficiency(row) for row in self.points):
            return ""
        if any(row.shared_host for row in self.points):
            return SHARED_HOST
        return "no two points have a figure that may be used"

    @property
    def against(self) -> int:
        """Devices of the point that efficiency is against; 0 without one."""
        found = (self.efficiency(row) for row in self.points)
        return next((one.against for one in found if one is not None), 0)

    def efficiency(self, row: Row) -> Efficiency | None:
        """Of a point."""
        return row.strong if self.kind == "strong" else row.weak


def with_efficiency(rows: Sequence[Row]) -> list[Row]:
    """Gives each row of work over devices its efficiency, of either kind."""
    found = {row.case.fingerprint: row for row in rows}
    for kind, _, points in _grouped(rows):
        for fingerprint, efficiency in _efficiencies(points).items():
            found[fingerprint] = msgspec.structs.replace(found[fingerprint], **{kind: efficiency})
    return [found[row.case.fingerprint] for row in rows]


def scalings(rows: Sequence[Row]) -> Iterator[Scaling]:
    """The curves of a run that have two points or more with a number.

    Points of several devices that all lie on curves of equal batch are not told again as one of
    equal batch a device: nobody asked for that.
    """
    strong: set[str] = set()
    for kind, scheme, points in _grouped(rows):
        names = {row.case.fingerprint for row in points if row.case.devices > 1}
        if kind == "strong":
            strong |= names
        elif names <= strong:
            continue
        measured = [row for row in points if row.measured]
        if len(measured) > 1:
            yield Scaling(
                kind=kind,
                scheme=scheme,
                points=tuple(measured),
                fabric=tuple(_fabric(row, rows) for row in measured),
            )


def on_one(case: Case, kind: Kind) -> Case:
    """The case of one device beside which another is scaled."""
    batch = batch_of(case)
    if kind == "strong" or batch is None:
        return case.alone
    parameters = {**case.parameters, BATCH: batch // case.devices}
    return msgspec.structs.replace(case.alone, parameters=parameters)


def _grouped(rows: Sequence[Row]) -> list[tuple[Kind, str, list[Row]]]:
    """Rows of one work over different numbers of devices, fewest first; the strong ones first."""
    alone = {row.case.fingerprint: row for row in rows if row.case.devices == 1}
    groups: dict[tuple[Kind, str, str], list[Row]] = {}
    kinds: tuple[Kind, ...] = ("strong", "weak")
    for kind in kinds:
        for row in rows:
            if scheme := _scheme(row.case, kind):
                base = on_one(row.case, kind).fingerprint
                beside = [alone[base]] if base in alone else []
                groups.setdefault((kind, scheme, base), beside).append(row)
    return [
        (kind, scheme, sorted(points, key=lambda row: row.case.devices))
        for (kind, scheme, _), points in groups.items()
        if len({row.case.devices for row in points}) > 1
    ]


def _scheme(case: Case, kind: Kind) -> str:
    """How a case goes over several devices; empty for what is no point of such a curve."""
    if case.devices == 1 or case.space:
        return ""
    if kind == "weak" and (batch_of(case) is None or (batch_of(case) or 0) % case.devices):
        return ""
    try:
        scheme = parallelism.parse(case.parallelism).scheme
    except ValueError:  # of a newer version
        return ""
    return "" if scheme == "none" else scheme


def _efficiencies(points: Sequence[Row]) -> dict[str, Efficiency]:
    """Of each point that has one, by fingerprint; ranks that share a host have none."""
    usable = [row for row in points if row.verdict in UNDISTURBED and not row.shared_host]
    if len(usable) < 2:
        return {}
    base = usable[0]
    own = {base.case.fingerprint: Efficiency(value=1.0, against=base.case.devices)}
    return own | {row.case.fingerprint: _beside(base, row) for row in usable[1:]}


def _beside(base: Row, row: Row) -> Efficiency:
    fewer = base.case.devices / row.case.devices
    levels = [one.interval.level for one in (base, row) if one.interval is not None]
    few, many = of_equal_rounds(base, row)
    value = stats.geometric_mean(many) / stats.geometric_mean(few) * fewer
    welch = stats.welch(few, many, max(levels, default=stats.FIXED_LEVEL))
    low, high = (welch.ratio.low * fewer, welch.ratio.high * fewer) if welch else (None, None)
    return Efficiency(value=value, low=low, high=high, against=base.case.devices)


def of_equal_rounds(base: Row, row: Row) -> tuple[list[float], list[float]]:
    """Their launches of the rounds that both have. Where those are too few for an interval, and for
    one launch alone, which was made again, the first of each, equally many.

    A run whose number of launches adapts ends one case after 5 and another after 20, and of either
    what was slowed from outside is left out. A cluster that drifts meanwhile would be taken for one
    that scales otherwise: by all launches 79 % of intervals hold the truth, by those of equal
    rounds 98 % (`python -m bench.tests.scripts.efficiency`).
    """
    mine, theirs = (dict(zip(one.rounds, one.rates, strict=True)) for one in (base, row))
    both = [k for k in mine if k in theirs]
    fewest = min(len(mine), len(theirs))
    if len(both) < stats.MINIMUM_LAUNCHES and (not both or len(both) == fewest - 1):
        first = fewest if both else min(fewest, stats.MINIMUM_LAUNCHES - 1)
        return list(base.rates[:first]), list(row.rates[:first])
    return [mine[k] for k in both], [theirs[k] for k in both]


def _fabric(row: Row, rows: Sequence[Row]) -> float | None:
    """Seconds that a step's gradients take by the all-reduce that this run has measured."""
    case, count = row.case, row.case.devices
    if row.reduced_bytes is None or not case.parallelism.startswith("dp"):
        return None
    for other in rows:
        of_it = other.case
        if (
            other.link is not None
            and (of_it.name, of_it.devices) == ("collective-all-reduce", count)
            and of_it.precision == row.reduced_as
            and of_it.parameters.get("chained", 1) == 1
        ):
            crossing = 2 * (count - 1) / count * row.reduced_bytes
            return other.link.latency.value + crossing / other.link.bandwidth.value
    return None
