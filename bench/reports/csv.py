"""Comma-separated rows, one per case of each run, with units in the headers; pandas reads it."""

from __future__ import annotations

from collections.abc import Sequence

from bench.judging.summary import summarize
from bench.records.run import RunFile
from bench.report import Canvas, Report
from bench.reports.flat.comma_separated import written
from bench.reports.flat.row import flat
from bench.reports.wording.rows import handed_on

HEADERS = {
    "throughput": "throughput_items_per_second",
    "throughput_per_device": "throughput_per_device_items_per_second",
    "throughput_per_package": "throughput_per_package_items_per_second",
    "ci_low": "ci_low_items_per_second",
    "ci_high": "ci_high_items_per_second",
    "unit": "item_unit",
}
"""Headers that differ from the keys of the JSON report, where the unit stands in a row's field."""


class CsvReport(Report):
    """A header line, then rows; a figure that does not exist is an empty field, never zero."""

    def render(self, runs: Sequence[RunFile], canvas: Canvas) -> str:
        """Every row of every run, in the order of the plans."""
        rows = [
            {**flat(run, row), "record_damage": run.damage and handed_on(run.damage, run)}
            for run in runs
            for row in summarize(run)
        ]
        for row in rows:
            row["unit"] = row["unit"] and row["unit"].removesuffix("/s")
        return written(rows, HEADERS)


REPORT = CsvReport()
