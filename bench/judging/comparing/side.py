"""One side of a comparison: a run, summarized once, with the launches behind its figures."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from bench.judging.ceilings import Ceilings, ceilings
from bench.judging.row import Row
from bench.judging.summary import summarize
from bench.planning.tuning import figures
from bench.records.outcome import Measured
from bench.records.run import Launch, RunFile
from bench.records.runfile import by_case


def by_work(rows: Sequence[Row]) -> dict[str, Row]:
    """By the fingerprint of each row's work: its case in today's form.

    By the case's own where another row has that work: a run may have measured it by two names.
    """
    own = {row.case.fingerprint for row in rows}
    found: dict[str, Row] = {}
    for row in rows:
        fingerprint = row.work.fingerprint
        taken = fingerprint in own or fingerprint in found
        found[row.case.fingerprint if taken else fingerprint] = row
    return found


class Side:
    """One run of two."""

    def __init__(self, file: RunFile) -> None:
        self.file = file
        self.rows = by_work(summarize(file))
        self._launches = by_case(file.launches)

    def environments(self, row: Row) -> list[dict[str, Any]]:
        """Of each measured launch of the figure."""
        return [x.environment for x in self._of(row) if isinstance(x.outcome, Measured)]

    def measured(self, row: Row) -> list[tuple[int, Measured]]:
        """Seed and outcome of each measured launch of the figure."""
        return [(x.seed, x.outcome) for x in self._of(row) if isinstance(x.outcome, Measured)]

    def _of(self, row: Row) -> Sequence[Launch]:
        return figures(self._launches.get(row.case.fingerprint, ()))

    @functools.cached_property
    def ceilings(self) -> Ceilings:
        """What the run measured of its box."""
        return ceilings(self.rows.values())
