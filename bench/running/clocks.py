"""Whether a worker's clock, which all its figures rest on, goes as this process's does."""

from __future__ import annotations

import time

import msgspec

from bench.measuring.messages import Progress, Report
from bench.records.outcome import Measured, Void

MOST_APART = 0.05
"""Share by which one may go faster or slower."""
LEAST_NS = 500_000_000
"""What lasts less proves nothing."""


class Clocks:
    """A worker's clock beside its parent's, by what certainly came after what.

    A line was made before it is read here, and an answer is heard after it was sent, however late
    either process gets to run. So a busy host, or one of both that stood still, voids nothing; what
    voids is that no order of the two can make both clocks right.
    """

    def __init__(self) -> None:
        self._let_go_ns = time.perf_counter_ns()
        self._began: tuple[int, int] | None = None
        """Theirs and ours, at the first line of the warm-up."""
        self._asked_ns: int | None = None

    def lets_go(self) -> None:
        """It may open the device from now on."""
        self._let_go_ns = time.perf_counter_ns()

    def asks(self, progress: Progress) -> bool:
        """Whether it has measured, and is to be answered now."""
        if progress.phase == "warm-up" and self._began is None and progress.clock_ns is not None:
            self._began = progress.clock_ns, time.perf_counter_ns()
        if progress.phase != "report" or self._asked_ns is not None:
            return False
        self._asked_ns = time.perf_counter_ns()
        return True

    def held(self, report: Report) -> Report:
        """The report; void where its clock, since the warm-up began, went otherwise than ours."""
        ended = report.clock_ns
        if None in (ended, self._began, self._asked_ns) or not isinstance(report.outcome, Measured):
            return report
        assert ended is not None and self._began is not None and self._asked_ns is not None
        theirs = ended - self._began[0]
        least = self._asked_ns - self._began[1]
        most = time.perf_counter_ns() - self._let_go_ns
        if least >= LEAST_NS and theirs < (1 - MOST_APART) * least:
            goes = f"no more than {theirs / least:.2g}"
        elif theirs >= LEAST_NS and theirs > (1 + MOST_APART) * most:
            goes = f"no less than {theirs / most:.2g}"
        else:
            return report
        void = Void(
            reason=f"the worker's clock runs at {goes} of the host's",
            numerics=report.outcome.numerics,
        )
        return msgspec.structs.replace(report, outcome=void)
