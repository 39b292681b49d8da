"""Comparisons of runs, in any of their formats."""

from __future__ import annotations

import json

from bench.errors import ComparisonError
from bench.judging.comparing.comparison import Comparison
from bench.report import Canvas

COMPARISON_FORMATS = ("table", "json", "csv")
"""What a comparison is rendered as."""


def compared(comparisons: list[Comparison], format_name: str, canvas: Canvas) -> str:
    """As text. Raises `ComparisonError` for another format."""
    if format_name == "json":
        from bench.reports.flat.comparison import flat

        return json.dumps([flat(one) for one in comparisons], indent=2) + "\n"
    if format_name == "csv":
        from bench.reports.flat.comma_separated import written
        from bench.reports.flat.comparison import rows

        return written(rows(comparisons))
    if format_name == "table":
        from bench.reports.terminal.comparison import render as render_table

        return render_table(comparisons, canvas)
    raise ComparisonError(
        f"no comparison is rendered as `{format_name}`. Allowed: {', '.join(COMPARISON_FORMATS)}."
    )
