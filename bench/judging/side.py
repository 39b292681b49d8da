"""One side of a comparison: a run, summarized once, with the launches behind its figures."""

from __future__ import annotations

import functools
from typing import Any

from bench.judging.ceilings import Ceilings, ceilings
from bench.judging.row import Row
from bench.judging.summary import summarize
from bench.planning.tuning import figures
from bench.records.outcome import Measured
from bench.records.run import RunFile
from bench.records.runfile import by_case


class Side:
    """One run of two."""

    def __init__(self, file: RunFile) -> None:
        self.file = file
        self.rows = {row.case.fingerprint: row for row in summarize(file)}
        self._launches = by_case(file.launches)

    def environments(self, row: Row) -> list[dict[str, Any]]:
        """Of each measured launch of the figure."""
        launches = figures(self._launches.get(row.case.fingerprint, ()))
        return [x.environment for x in launches if isinstance(x.outcome, Measured)]

    def measured(self, row: Row) -> list[tuple[int, Measured]]:
        """Seed and outcome of each measured launch of the figure."""
        launches = figures(self._launches.get(row.case.fingerprint, ()))
        return [(x.seed, x.outcome) for x in launches if isinstance(x.outcome, Measured)]

    @functools.cached_property
    def ceilings(self) -> Ceilings:
        """What the run measured of its box."""
        return ceilings(self.rows.values())
