"""The comparison of two runs, as values: of each case its ratio, with all that is said of it."""

from __future__ import annotations

from typing import Literal

import msgspec

from bench import stats
from bench.judging.comparing.configured import Configured
from bench.judging.comparing.cycles import PerCycle
from bench.judging.comparing.differences import Difference
from bench.judging.comparing.equal_work import EqualWork
from bench.judging.comparing.reasons import Code, Reason
from bench.judging.comparing.split import Split
from bench.judging.comparing.system import System
from bench.judging.row import Row
from bench.records.case import Case
from bench.records.run import RunFile

CompareVerdict = Literal[
    "FASTER", "SLOWER", "EQUIVALENT", "UNDECIDED", "NO_INTERVAL", "UNRANKED", "INCOMPARABLE"
]


class CaseComparison(msgspec.Struct, frozen=True, kw_only=True):
    """One case of the base beside the same of the other, or what stands nearest to it."""

    case: Case
    base: Row | None
    """None where the base has no such case."""
    other: Row | None
    verdict: CompareVerdict
    because: tuple[Reason, ...] = ()
    """Why there is no verdict; empty where there is one."""
    ratio: float | None = None
    """Other / base throughput; None where the two are not comparable."""
    interval: stats.Estimate | None = None
    """Welch-Satterthwaite interval of the ratio."""
    p_value: float | None = None
    """Two-sided, of equal throughput; adjusted for looks (`auto`) and by Holm's method."""
    per_cycle: PerCycle | None = None
    """The ratio per cycle of the device; None where its clock was not observable."""
    clock_remark: str = ""
    """Of FASTER and SLOWER: that it does not hold per cycle; empty where it does, or who knows."""
    split: Split | None = None
    """The ratio, split into chip and software; None where the runs share no measured ceiling. Not
    the chip's where `Configured.chip_doubt` says why."""
    joule_ratio: float | None = None
    """Other / base items per joule; None where a side was disturbed."""
    joule_interval: stats.Estimate | None = None
    """Its Welch interval over launches, as that of the ratio."""
    price_ratio: float | None = None
    """Other / base items per currency unit, at the prices given."""
    system: System | None = None
    """Of two whole systems, each of as many devices as it has; None of two equal cases. `case` then
    is the work on one device."""
    tpot_limit_seconds: float | None = None
    """Of two served loads, each the best of its side within this median TPOT: `case` then is what
    they have in common, and how requests come is not in it. None of two equal cases."""
    same_work: EqualWork | None = None
    """Whether the two did the same work; None where that is no question."""
    experts_remark: str = ""
    """How many tokens went to other experts; empty where none did, or nobody looked."""
    witness_gap: float | None = None
    """Of records without a witness: how far first losses or mean outputs of equal seeds differ."""

    @property
    def label(self) -> str:
        """The case; of two systems with how each spreads it."""
        if self.system is None:
            return self.case.label
        return f"{self.case.label}, {self.system.words}"

    @property
    def reasons(self) -> tuple[str, ...]:
        """`because`, in words."""
        return tuple(reason.words for reason in self.because)

    @property
    def codes(self) -> tuple[Code, ...]:
        """Of the rules that gave the verdict: of each reason, or the verdict's own."""
        return tuple(reason.code for reason in self.because) or (Code(self.verdict.lower()),)

    @property
    def not_excluded(self) -> float | None:
        """Largest relative difference, either way, that the interval does not exclude."""
        if self.interval is None:
            return None
        return max(abs(self.interval.low - 1), abs(self.interval.high - 1))


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """One other run against the base."""

    base: RunFile
    other: RunFile
    level: float
    """Of the intervals."""
    cases: tuple[CaseComparison, ...]
    differences: tuple[Difference, ...]
    configured: Configured = Configured()
    """Of the differences, the settings that may be why one is faster, and what is not known."""
    suite: str = ""
    """Of the base: a shipped one's name and number (`suites.py`), or as it says."""
    command_for_the_rest: str = ""
    """What measures, on the other's device, those of the base's cases that it has not; or empty."""
    command_for_the_base: str = ""
    """The command line that measures, on the base's device, what the other's has measured in
    another precision than the suite says, for want of that; empty where there is no such case."""

    @property
    def of_systems(self) -> bool:
        """Whether whole systems are compared, of as many devices as each has."""
        return any(case.system is not None for case in self.cases)

    @property
    def ratios(self) -> list[float]:
        """Of the cases that both measured and that are the same work."""
        return [c.ratio for c in self.cases if c.ratio is not None]

    @property
    def averaged(self) -> list[float]:
        """Those that `geometric_mean` is of: not where a given rate is the throughput of both."""
        return [
            case.ratio
            for case in self.cases
            if case.ratio is not None and Code.RATE_GIVEN not in case.codes
        ]

    @property
    def geometric_mean(self) -> float | None:
        """A figure beside the table and never instead of it."""
        return stats.geometric_mean(self.averaged) if self.averaged else None
