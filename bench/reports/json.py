"""Flat rows, one per case of each run, for other programs."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bench.judging.summary import summarize
from bench.records.encoding import encoded
from bench.records.run import RunFile
from bench.report import Canvas, Report
from bench.reports.flat.row import flat


class JsonReport(Report):
    """A list of objects; a figure that does not exist is null, never zero."""

    def render(self, runs: Sequence[RunFile], canvas: Canvas) -> str:
        """Every row of every run, in the order of the plans."""
        rows = [flat(run, row) for run in runs for row in summarize(run)]
        return msgspec.json.format(encoded(rows), indent=2).decode() + "\n"


REPORT = JsonReport()
