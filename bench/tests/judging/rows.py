"""The row of one case, of launches as they are given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.judging.row import Row
from bench.judging.summary import summarize
from bench.records.case import Case
from bench.records.outcome import Outcome
from bench.tests.values import make_case, make_file, make_launches, make_measured

CASE = make_case()
FINE = make_measured(0.01)


def row(outcomes: Sequence[Outcome], case: Case = CASE, **changes: Any) -> Row:
    """The row of one case with these launches."""
    (found,) = summarize(make_file([case], make_launches(case, outcomes), **changes))
    return found
