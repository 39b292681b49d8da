"""What is known of one case while the run goes on: how often it has run, and what comes next."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from types import MappingProxyType
from typing import NamedTuple

from bench import stats
from bench.planning.sweep import without_batch
from bench.planning.tuning import Key, Search, hopeless, key_of, too_many
from bench.records.case import Case, Choice
from bench.records.limits import ended_sooner
from bench.records.outcome import Measured
from bench.records.run import Launch, Settings
from bench.telemetry.flags import Clocks, clocks_of, hindered, slow_clocks


class Kept(NamedTuple):
    """Of a launch that is on disk, what planning the next ones needs: a run may have thousands."""

    key: Key
    """Of its choice."""
    seconds: float
    rate: float | None
    """Items/s; None unless it was measured."""
    samples: Sequence[float] = ()
    """Its steady timing samples, seconds a step."""
    steady_seconds: float = 0.0
    hindered: bool = False
    """Whether something outside the job slowed it, by its own flags: then it is left out of the
    figures."""
    hopeless: bool = False
    """Whether its failure is no accident: out of memory, a wrong result, an impossible case."""
    clocks: Clocks = MappingProxyType({})
    """Beside those of the case's other launches they show whether it was slowed."""

    @classmethod
    def of(cls, launch: Launch) -> Kept:
        """The part of a launch that stays in memory."""
        key, outcome = key_of(launch.choice or {}), launch.outcome
        if isinstance(outcome, Measured):
            samples = array("d", outcome.samples)
            return cls(
                key,
                launch.seconds,
                outcome.throughput,
                samples,
                outcome.steady_seconds,
                hindered=hindered(outcome),
                clocks=clocks_of(launch),
            )
        return cls(key, launch.seconds, None, hopeless=hopeless(outcome))


class CaseState:
    """What is known of one case while the run goes on."""

    def __init__(self, case: Case, settings: Settings) -> None:
        self.case = case
        self.settings = settings
        self._finals: list[Kept] = []
        """All but those of a search."""
        self.seconds: list[float] = []
        """Of each launch, those of a search included."""
        self._of_choice: dict[Key, float] = {}
        """Of the last launch of each choice."""
        self.search = Search(case)
        self.beyond = False
        """Whether it is not tried: a smaller batch of the same did not fit, or it is left out."""

    def keep(self, launch: Launch, now: Settings | None = None) -> None:
        """Takes note of a launch that is on disk.

        now: of an earlier session's, what one made now would have: what a small budget ended
        sooner is made again.
        """
        self.seconds.append(launch.seconds)
        self._of_choice[key_of(launch.choice or {})] = launch.seconds
        if now is not None and ended_sooner(launch, now.launch_limit_seconds):
            return
        self.search.note(launch)
        if not launch.search:
            self._finals.append(Kept.of(launch))

    @property
    def launches(self) -> list[Kept]:
        """Those that make up its figure: of a tuned case, of the choice that is the best now."""
        key = key_of(self.choice or {})
        return [x for x in self._finals if x.key == key]

    @property
    def searching(self) -> bool:
        """Whether the next launch of a tuned case is to find its best choice."""
        return not self.beyond and self.search.next is not None

    @property
    def choice(self) -> Choice | None:
        """What the next launch of a tuned case runs with; None of a fixed one, or if none works."""
        return self.search.next or self.search.best

    @property
    def expected_seconds(self) -> float | None:
        """How long its next launch will take: as the last of the same choice, or as the longest of
        the others; None before the first."""
        longest = max(self.seconds, default=None)
        return self._of_choice.get(key_of(self.choice or {}), longest)

    @property
    def measured(self) -> list[Kept]:
        """Launches with samples."""
        return [x for x in self.launches if x.rate is not None]

    @property
    def rates(self) -> list[float]:
        """Items/s of each measured launch that nothing slowed from outside; of all if none is."""
        rates = {k: x.rate for k, x in enumerate(self.launches) if x.rate is not None}
        slowed = self._slowed
        return [rate for k, rate in rates.items() if k not in slowed] or list(rates.values())

    @property
    def undisturbed(self) -> set[int]:
        """Which of its launches were measured, and slowed by nothing from outside."""
        return {k for k, x in enumerate(self.launches) if x.rate is not None} - self._slowed

    @property
    def _slowed(self) -> set[int]:
        """Which of its launches something outside slowed: judging leaves them out."""
        slow = slow_clocks({k: x.clocks for k, x in enumerate(self.launches)})
        return {*slow, *(k for k, x in enumerate(self.launches) if x.hindered)}

    @property
    def hopeless(self) -> bool:
        """Whether what went wrong would go wrong again.

        A failure is tried again, since it may be an accident, until there are two and they are
        more than a third of the launches.
        """
        if self.searching:
            return False
        failures = len(self.launches) - len(self.measured)
        if (
            self.beyond
            or (self.case.space and self.choice is None)
            or any(x.hopeless for x in self.launches)
        ):
            return True
        return too_many(failures, len(self.launches))

    @property
    def finished(self) -> bool:
        """Whether another launch would add nothing."""
        if self.searching:
            return False
        if self.hopeless:
            return True
        if self.settings.launches == "auto":
            target = self.settings.target_half_width
            return stats.adaptive_ends(self.rates, *self._counts, target)
        return len(self.measured) >= self.settings.launches

    @property
    def _counts(self) -> tuple[int, int, int]:
        """How many of its launches were measured, were so though slowed from outside, failed."""
        made = len(self.measured)
        return made, len(self._slowed), len(self.launches) - made

    def samples(self) -> int:
        """Steady samples that the next launch should take."""
        measured = self.measured
        return stats.samples_per_launch(
            [x.samples for x in measured],
            overheads=[x.seconds - x.steady_seconds for x in measured],
            costs=[x.steady_seconds / len(x.samples) for x in measured],
            target=self.settings.target_half_width,
        )

    def launches_left(self, to_the_last_look: bool = False) -> int:
        """How many more are planned; for `auto`, up to the next look, or to the last one, and what
        outweighs those that were disturbed.

        Of a tuned case, all choices that are left, and the launches that follow.
        """
        if self.finished:
            return 0
        if self.searching:
            return self.search.left + self._planned(0, to_the_last_look)
        auto = self.settings.launches == "auto"
        if auto and stats.passed_enough(self.rates, self.settings.target_half_width):
            return stats.outweighing(*self._counts)
        done = len(self.rates if auto else self.measured)
        return self._planned(done, to_the_last_look)

    def _planned(self, done: int, to_the_last_look: bool) -> int:
        if self.settings.launches == "auto":
            looks = stats.LOOKS[-1:] if to_the_last_look else stats.LOOKS
            return next(look for look in looks if look > done) - done
        return self.settings.launches - done


def groups(states: Sequence[CaseState], together: int) -> Iterator[list[CaseState]]:
    """Those whose workers import side by side, so many at the most.

    Of a sweep's points that have not run, one: whether it fits decides about the next.
    """
    group: list[CaseState] = []
    sweeps: set[str] = set()
    for state in states:
        sweep = without_batch(state.case).fingerprint
        full = len(group) == together or (sweep in sweeps and not state.seconds)
        alone = any(one.case.devices > 1 for one in (state, *group[-1:]))
        if group and (full or alone):
            yield group
            group, sweeps = [], set()
        group.append(state)
        sweeps.add(sweep)
    if group:
        yield group
