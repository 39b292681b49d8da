"""One run as a document of pytest-benchmark, for its `compare` command and its readers."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bench.errors import ComparisonError
from bench.exchange.benchmark_json import to_document
from bench.records.encoding import encoded
from bench.records.run import RunFile
from bench.report import Canvas, Report
from bench.reports.wording.rows import handed_on


class PytestBenchmarkReport(Report):
    """A round is a launch, and times are seconds per item; see `bench.exchange.benchmark_json`."""

    def render(self, runs: Sequence[RunFile], canvas: Canvas) -> str:
        """The document of one run; `ComparisonError` for several."""
        if len(runs) != 1:
            raise ComparisonError(
                f"--format pytest-benchmark: a document holds one run, not {len(runs)}. Print one "
                "for each run, then `pytest-benchmark compare A.json B.json --between=ops`."
            )
        (run,) = runs
        damage = None if run.damage is None else handed_on(run.damage, run)
        remedy = handed_on(run.remedy, run)
        document = encoded(to_document(msgspec.structs.replace(run, damage=damage, remedy=remedy)))
        return msgspec.json.format(document, indent=2).decode() + "\n"


REPORT = PytestBenchmarkReport()
