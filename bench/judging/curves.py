"""What a sweep over the batch found: throughput and latency at each point, and the best of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from bench import units
from bench.judging.ranks.scaling import scalings
from bench.judging.row import UNDISTURBED, Row
from bench.planning.sweep import batch_of, without_batch
from bench.records.outcome import DOES_NOT_FIT


class Curve(msgspec.Struct, frozen=True):
    """The rows of one sweep, smallest batch first."""

    points: tuple[Row, ...]

    @property
    def best(self) -> Row | None:
        """The point of the highest throughput, of those that nothing disturbed."""
        return max(self._ranked, key=lambda row: row.throughput or 0.0, default=None)

    @property
    def ranked(self) -> int:
        """Of how many points that is the best."""
        return len(self._ranked)

    @property
    def _ranked(self) -> list[Row]:
        return [row for row in self.points if row.verdict in UNDISTURBED]

    @property
    def title(self) -> str:
        """The case without its batch."""
        return without_batch(self.points[0].case).label

    @property
    def words(self) -> str:
        """The curve on a line, and its best point, said as what it is."""
        tried = [row for row in self.points if not _untried(row)]
        points = [f"batch {batch_of(row.case)}: {_point(row)}" for row in tried]
        best = self.best
        if best is None:
            return "; ".join(points)
        chosen = f"best of {self.ranked}: {best.rate} at batch {batch_of(best.case)}"
        caution = ", which reads high where points are nearly level" if self.ranked > 1 else ""
        return f"{'; '.join(points)}; {chosen}{caution}"


def curves(rows: Sequence[Row]) -> Iterator[Curve]:
    """The sweeps among a run's rows of which at least one point has a number.

    Batches that grow with the devices are another question (`bench.judging.ranks.scaling`).
    """
    found: dict[str, list[Row]] = {}
    for row in rows:
        if batch_of(row.case) is not None:
            found.setdefault(without_batch(row.case).fingerprint, []).append(row)
    weak = [one for one in scalings(rows) if one.kind == "weak"]
    grown = {row.case.fingerprint for one in weak for row in one.points}
    for points in found.values():
        if any(row.case.fingerprint in grown for row in points):
            continue
        if len(points) > 1 and any(row.measured for row in points):
            yield Curve(tuple(sorted(points, key=lambda row: batch_of(row.case) or 0)))


def _untried(row: Row) -> bool:
    """Whether no launch was made of it: why, its own row says."""
    return row.status == "skipped" and not row.reason.startswith(DOES_NOT_FIT)


def _point(row: Row) -> str:
    if not row.measured:
        memory = row.sweep_end or row.reason.startswith(DOES_NOT_FIT)
        return "does not fit" if memory else row.status.upper()
    if row.latency is None:
        return row.rate
    return f"{row.rate}, {row.latency.name} {units.duration(row.latency.p50)}"
