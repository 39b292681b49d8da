"""What a report is made of: one constant `REPORT`, an entry point of `accelmark.reports`.

A `Report` turns runs into text. `summarize` gives the judged rows of a run, `compare` two runs case
by case, `bench.units` writes numbers as every other report does.
"""

from bench import units
from bench.judging.comparing.compare import compare
from bench.judging.comparing.comparison import CaseComparison, Comparison
from bench.judging.row import Row
from bench.judging.summary import summarize
from bench.records.case import Case
from bench.records.outcome import Failed, Measured, Skipped, Void
from bench.records.run import End, Launch, Run, RunFile, Settings
from bench.report import Canvas, Report

__all__ = [
    "Canvas",
    "Case",
    "CaseComparison",
    "Comparison",
    "End",
    "Failed",
    "Launch",
    "Measured",
    "Report",
    "Row",
    "Run",
    "RunFile",
    "Settings",
    "Skipped",
    "Void",
    "compare",
    "summarize",
    "units",
]
