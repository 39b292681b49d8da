"""Which rank is slow: each one's computing over launches, held against how ranks differ anyway.

Chips of a kind are never quite alike, and the slowest of many is always some percent behind: "10 %
over the mean" names somebody wrongly in most runs. A rank is named whose median over launches lies
further out than the slowest of so many alike ones would once in a hundred runs, by 2 % or more, and
in nearly every launch. How ranks differ is estimated from the others; with what is known of chips
(`USUAL_SPREAD`) where they are few, as a moderated t test does.

Sources: Rosner, "Percentage points for a generalized ESD many-outlier procedure", 1983 (several
slow ranks do not hide one another); Smyth, "Linear models and empirical Bayes methods", 2004 (the
moderated t). What it finds and names falsely: `python -m bench.tests.scripts.slow`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import msgspec

from bench import stats, units
from bench.records.case import Case
from bench.records.outcome import Measured

LEVEL = 0.01
"""Of so many runs in which no rank is slow, one is named in."""
LEAST = 0.02
"""Relative time by which a rank must be slower to be named: less is nobody's concern."""
USUAL_SPREAD = 0.01
"""Relative standard deviation of computing between chips of a kind that do the same work: taken
for known as if `USUAL_RANKS` ranks had shown it."""
USUAL_RANKS = 4
MOST_SHARE = 4
"""At most one of so many ranks can be slow: of more one cannot say who are the rest."""
MISSES = 5
"""In at most one of so many launches a rank that is slow may look as the rest do."""
MOST_NAMED = 3
"""Ranks that are named in words."""
UNEQUAL = "dlrm-hybrid"
"""What is spread unevenly: 26 tables over eight ranks."""
NORMAL_MEDIAN = math.pi / 2
"""Variance of a median over that of a mean, of many normal values."""


class SlowRank(msgspec.Struct, frozen=True, kw_only=True):
    """A rank that computes longer than the rest."""

    rank: int
    longer: float
    """Relative time beyond the rest's: 0.08 is 8 % longer; the median over launches."""
    launches: int
    """In which it was slower than the rest by half of that at least."""


class RankTimes(msgspec.Struct, frozen=True, kw_only=True):
    """What each rank of a case computes and waits, and who of them is slow."""

    compute_seconds: tuple[tuple[float, ...], ...]
    """[rank][launch]: seconds of computing a step, of blocks in which nothing is communicated: the
    launch's median. Launches in the row's order."""
    hosts: tuple[int, ...]
    devices: tuple[int, ...]
    """Of each rank its host, 0-based in the ranks' order, and its device's index there."""
    slow: tuple[SlowRank, ...] = ()
    """The slowest first; empty where none is, and where it cannot be told."""
    absent: str = ""
    """Why it cannot be told; empty where it can."""

    @property
    def relative(self) -> list[list[float]]:
        """[rank][launch]: its computing over the median of the launch's ranks, for a heat map."""
        return relative(self.compute_seconds)

    @property
    def compute(self) -> list[float]:
        """Of each rank its computing, seconds a step: the median over launches."""
        return [statistics.median(launches) for launches in self.compute_seconds]

    @property
    def wait_seconds(self) -> list[float]:
        """Of each rank for how long of a step it waits for the launch's slowest: the median over
        launches; what the communication itself takes is not in it."""
        slowest = [max(of_launch) for of_launch in zip(*self.compute_seconds, strict=True)]
        return [
            statistics.median(most - own for most, own in zip(slowest, launches, strict=True))
            for launches in self.compute_seconds
        ]

    @property
    def words(self) -> str:
        """Who is slow, or that nobody is, or why that cannot be told."""
        if self.absent:
            return f"cannot be told: {self.absent}"
        if not self.slow:
            return "no rank is slow"
        if len(self.hosts) == 2:  # of two nobody can say which is the odd one
            (one,) = self.slow
            return f"{self._named(one)} than rank {1 - one.rank}{self._seen(one)}"
        named = [
            f"{self._named(one)} than the rest{self._seen(one)}" for one in self.slow[:MOST_NAMED]
        ]
        more = len(self.slow) - MOST_NAMED
        return "; ".join([*named, *([f"and {more} more"] if more > 0 else [])])

    def _named(self, one: SlowRank) -> str:
        where = f"device {self.devices[one.rank]}"
        if len(set(self.hosts)) > 1:
            where = f"host {self.hosts[one.rank]}, {where}"
        return f"rank {one.rank} ({where}) computes {100 * one.longer:.2g} % longer"

    def _seen(self, one: SlowRank) -> str:
        return f", in {one.launches} of {len(self.compute_seconds[0])} launches"


def rank_times(
    case: Case, outcomes: Sequence[Measured], *, shared: bool = False, why: str = ""
) -> RankTimes | None:
    """Of a case's launches; None where no rank computes anything, and where nobody looked.

    shared: whether its ranks share the cores of a host; why: what a launch says of having no
    silent blocks.
    """
    alone = case.parallelism.startswith("replicas")
    if case.parallelism == "none" or not outcomes or not outcomes[0].ranks:
        return None
    known = alone or all(o.silent and all(s.silent_ns for s in o.ranks) for o in outcomes)
    if not known and not why:
        return None
    places = outcomes[0].ranks
    seconds = tuple(
        tuple(statistics.median(_computing(outcome, rank, alone)) for outcome in outcomes)
        for rank in range(len(places) if known else 0)
    )
    absent = why if not known else _untold(case, len(outcomes), shared)
    return RankTimes(
        compute_seconds=seconds,
        hosts=tuple(share.host for share in places),
        devices=tuple(share.device for share in places),
        slow=() if absent else slow_ranks(relative(seconds)),
        absent=absent,
    )


def _computing(outcome: Measured, rank: int, alone: bool) -> list[float]:
    """Seconds a step of one rank, of each block in which it waits for nobody."""
    share = outcome.ranks[rank]
    if alone:
        pairs = zip(share.busy_ns, outcome.steady, strict=True)
        return [ns / 1e9 / len(block.step_ns) for ns, block in pairs]
    assert outcome.silent is not None
    return [ns / 1e9 / outcome.silent.steps for ns in share.silent_ns]


def _untold(case: Case, launches: int, shared: bool) -> str:
    if shared:
        return "the ranks share the cores of one host"
    if case.parallelism.startswith(UNEQUAL):
        return "the ranks do not compute the same: some have more of the tables"
    if launches < stats.MINIMUM_LAUNCHES:
        least = stats.MINIMUM_LAUNCHES
        return f"{units.counted(launches, 'launch')}, and it takes {least}"
    return ""


def relative(seconds: Sequence[Sequence[float]]) -> list[list[float]]:
    """[rank][launch]: each over the median of its launch's ranks."""
    middle = [statistics.median(of_launch) for of_launch in zip(*seconds, strict=True)]
    return [
        [own / usual for own, usual in zip(launches, middle, strict=True)] for launches in seconds
    ]


def slow_ranks(relative: Sequence[Sequence[float]]) -> tuple[SlowRank, ...]:
    """Who is slow, the slowest first; of two ranks, who is slower than the other.

    relative: of each rank, in each of three launches or more, its computing over the median of the
    launch's ranks.
    """
    if len(relative) == 2:
        return _slower(*relative)
    logs = [[math.log(value) for value in launches] for launches in relative]
    middle = [statistics.median(launches) for launches in logs]
    order = sorted(range(len(logs)), key=lambda rank: -middle[rank])
    usual = USUAL_SPREAD**2 + _noise(logs, middle)
    found = 0
    for index in range(max(1, len(order) // MOST_SHARE)):
        one, *others = order[index:]
        if _stands_out(middle[one], [middle[rank] for rank in others], usual):
            found = index + 1
    rest = statistics.median(middle[rank] for rank in order[found:])
    named = []
    for rank in order[:found]:
        longer = middle[rank] - rest
        seen = sum(value - rest > longer / 2 for value in logs[rank])
        if math.expm1(longer) >= LEAST and seen >= len(logs[rank]) - len(logs[rank]) // MISSES:
            named.append(SlowRank(rank=rank, longer=math.expm1(longer), launches=seen))
    return tuple(named)


def _slower(first: Sequence[float], second: Sequence[float]) -> tuple[SlowRank, ...]:
    """Which of two takes longer by more than alike chips differ: some 6 %, as nobody else shows how
    much that is. The variance is of `USUAL_SPREAD` and of launches, with Satterthwaite's freedom.
    """
    logs = [math.log(b / a) for a, b in zip(first, second, strict=True)]
    difference, launches = statistics.fmean(logs), len(logs)
    usual, noise = 2 * USUAL_SPREAD**2, stats.variance(logs) / launches
    variance = usual + noise
    freedom = variance**2 / (usual**2 / USUAL_RANKS + noise**2 / (launches - 1))
    most = stats.t_quantile(1 - LEVEL / 2, freedom) * math.sqrt(variance)
    longer = abs(difference)
    if longer <= most:
        return ()
    rank = int(difference > 0)
    seen = sum((log if rank else -log) > longer / 2 for log in logs)
    return (SlowRank(rank=rank, longer=math.expm1(longer), launches=seen),)


def _noise(logs: Sequence[Sequence[float]], middle: Sequence[float]) -> float:
    """Variance of a rank's median for want of more launches; a launch that was struck says nothing.

    By the median absolute deviation of all ranks, as of normal values.
    """
    off = [
        abs(value - centre)
        for launches, centre in zip(logs, middle, strict=True)
        for value in launches
    ]
    launches = len(logs[0])
    deviation = stats.NORMAL_MAD * statistics.median(off)
    return NORMAL_MEDIAN * deviation**2 / (launches - 1)


def _stands_out(one: float, others: Sequence[float], usual: float) -> bool:
    """Whether the slowest is too far from the others to be the slowest of so many alike ones.

    usual: variance between ranks that is expected of any.
    """
    freedom = len(others) - 1
    own = stats.variance(others) if freedom else 0.0
    total = freedom + USUAL_RANKS
    variance = (freedom * own + USUAL_RANKS * usual) / total
    error = math.sqrt(variance * (1 + 1 / len(others)))
    most = stats.t_quantile(1 - LEVEL / (len(others) + 1), total)
    return one - statistics.fmean(others) > most * error
