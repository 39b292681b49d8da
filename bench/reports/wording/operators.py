"""Operators of an explained step, and their times, in words."""

from __future__ import annotations

from bench import units
from bench.judging.explaining.explained import ExplainedCase, OperatorRow
from bench.reports.wording.labels import plain


def called(row: OperatorRow) -> str:
    """An operator with what it works on: `mm bf16[64,128] bf16[128,256]`."""
    name = row.name.removeprefix("aten::")
    if row.fuses:
        return plain(f"{name} ({', '.join(row.fuses)})")
    return plain(f"{name} {row.operands}")


def ms(value: float) -> str:
    """Milliseconds; to a microsecond, and to a tenth of what is ten or more."""
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3f}"


def launched(case: ExplainedCase, of: int) -> str:
    """`2 of 5 launches`; of: processes that were to explain it."""
    some = f"{case.launches} of " if case.launches < of else ""
    return some + units.counted(max(of, case.launches), "launch")
