"""The tuned track: the best of a stated space of settings, found first and measured afterwards.

A fixed case says what its device does with work of just that batch; a tuned one, what can be had of
the device by whoever may choose batch, memory format and execution. Each choice gets one launch in
a process of its own, a trial; one that other work on the host or heat slowed gets a second. Beyond
a batch for which memory or the time limit ran out, larger ones (all else equal) are not tried. What
takes a compiler minutes, to search for its kernels, is tried once: at the best of what it compiled
without. The
fastest is then measured again, in as many launches as any other case, and only those make up the
figure: the best of many single readings is the luckiest of them, and its own reading would be too
high. Where the fastest fails after all (memory at its brim), the next one follows.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import msgspec

from bench.planning.sweep import BATCH, met_others, too_large
from bench.records.case import COMPILER, PLAIN, SEARCHED, TUNABLE, Case, Choice
from bench.records.execution import is_compiled
from bench.records.outcome import Failed, Measured, Outcome, Skipped, Void
from bench.records.run import Launch
from bench.telemetry.flags import hindered

Status = Literal["measured", "void", "skipped", "failed", "does not fit"]
STATUS: dict[type[Outcome], Status] = {Void: "void", Skipped: "skipped", Failed: "failed"}
Key = tuple[tuple[str, int | str], ...]


def candidates(case: Case) -> Iterator[Choice]:
    """Every choice of a tuned case, batches ascending within all else; nothing for a fixed one.

    Where its compiler may search, those without.
    """
    space = case.space
    if not space:  # of which the product would be one empty choice
        return
    names = [name for name in reversed(TUNABLE) if name in space]
    for values in itertools.product(*(space[name] for name in names)):
        chosen = dict(zip(names, values, strict=True))
        if chosen.get(COMPILER, PLAIN) != PLAIN:
            continue
        yield {name: chosen[name] for name in TUNABLE if name in chosen}


def settled(case: Case, choice: Choice) -> Case:
    """The fixed case that a launch of a tuned one runs. (Its memory format is in no case.)"""
    batch = {name: value for name, value in choice.items() if name == BATCH}
    return msgspec.structs.replace(
        case,
        parameters=batch | case.parameters,
        execution=str(choice.get("execution", case.execution)),
        tuned=msgspec.UNSET,
    )


def memory_format(choice: Choice) -> str | None:
    """The memory format that a launch asks of its worker; None for the workload's own."""
    chosen = choice.get("memory_format")
    return None if chosen is None else str(chosen)


def searches(choice: Choice) -> bool:
    """Whether a launch has its compiler search for the fastest kernels."""
    return choice.get(COMPILER, PLAIN) == SEARCHED


def in_words(choice: Choice) -> str:
    """`batch 64, compile, channels_last`; what a compiler does by itself goes without saying."""
    named = {name: choice[name] for name in TUNABLE if choice.get(name, PLAIN) != PLAIN}
    return ", ".join(f"batch {v}" if name == BATCH else str(v) for name, v in named.items())


def beside(choice: Choice) -> Choice:
    """The choice without its batch: what the points of one curve share."""
    return {name: value for name, value in choice.items() if name != BATCH}


def key_of(choice: Choice) -> Key:
    """The choice as something to look up by."""
    return tuple(sorted(choice.items()))


class Trial(NamedTuple):
    """The launch by which a choice was tried."""

    choice: Choice
    status: Status
    rate: float | None = None
    """Items/s; None where it has no number."""
    why: str = ""
    """Why it has none."""
    hindered: bool = False
    """Whether something outside the job slowed it, so that it may have been the best."""
    ends_curve: bool = False
    """Whether larger batches, all else equal, would do no better: no memory, or no time."""
    accident: bool = False
    """Whether its process was lost, which says nothing of the choice."""

    @classmethod
    def of(cls, choice: Choice, outcome: Outcome) -> Trial:
        """What became of it."""
        if isinstance(outcome, Measured):
            return cls(choice, "measured", outcome.throughput, hindered=hindered(outcome))
        if too_large(outcome):
            return cls(choice, "does not fit", why=outcome.reason, ends_curve=True)
        kind = outcome.kind if isinstance(outcome, Failed) else ""
        return cls(
            choice,
            STATUS[type(outcome)],
            why=outcome.reason,
            ends_curve=kind == "timeout",
            accident=kind in ("crash", "device_lost") or met_others(outcome),
        )


def hopeless(outcome: Outcome) -> bool:
    """Whether what went wrong would go wrong again: no accident of one process."""
    if isinstance(outcome, Failed):
        return outcome.kind == "oom" and not met_others(outcome)
    return not isinstance(outcome, Measured)


def too_many(failures: int, launches: int) -> bool:
    """Whether what looked like accidents is none: two of them, and more than a third."""
    return failures > 1 and failures > launches / 3


class Search:
    """What is known of the choices of a tuned case, launch by launch."""

    def __init__(self, case: Case, launches: Sequence[Launch] = ()) -> None:
        """launches: those of the case that there are, in order."""
        self._case = case
        self._left = list(candidates(case))
        self._may_search = SEARCHED in case.space.get(COMPILER, ())
        self.choices = len(self._left) + self._may_search
        """How many there are to choose from."""
        self._trials: dict[Key, Trial] = {}
        self._finals: dict[Key, tuple[int, int]] = {}
        """Of each choice that was measured again: failures, and launches in all."""
        for launch in launches:
            self.note(launch)

    def note(self, launch: Launch) -> None:
        """Takes note of a launch: a trial, or one of the choice that was the best."""
        choice = launch.choice
        if choice is None:
            return
        if launch.search:
            self._tried(Trial.of(choice, launch.outcome))
            return
        key = key_of(choice)
        failures, total = self._finals.get(key, (0, 0))
        failed = not isinstance(launch.outcome, Measured)
        failures, total = failures + failed, total + 1
        self._finals[key] = failures, total
        if failed and (hopeless(launch.outcome) or too_many(failures, total)):
            # Given up: what it came to in the end is what is told of it, and not its first reading.
            self._trials[key] = Trial.of(choice, launch.outcome)

    def _tried(self, trial: Trial) -> None:
        key = key_of(trial.choice)
        before = self._trials.get(key)
        if before is not None and before.rate is not None and trial.status == "failed":
            trial = before  # an accident of one process takes nothing from what another measured
        if before is None or trial.rate is None or trial.rate >= (before.rate or 0.0):
            self._trials[key] = trial
        self._left = [c for c in self._left if c != trial.choice and not _beyond(c, trial)]
        if trial.hindered and before is None:
            self._left.append(trial.choice)

    @property
    def trials(self) -> tuple[Trial, ...]:
        """The choices that were tried, in their order; of two trials of one, the faster, and of one
        that was given up, why."""
        return tuple(self._trials.values())

    @property
    def left(self) -> int:
        """Choices that are still to be tried; fewer if memory runs out."""
        return len(self._left) + (self._may_search and bool(self._left or self._searched()))

    @property
    def next(self) -> Choice | None:
        """The choice to try next; None once the search is over."""
        return self._left[0] if self._left else self._searched()

    def _searched(self) -> Choice | None:
        """The fastest of what was compiled, with a search besides; None if there is none, or if
        one has been tried."""
        trials = self._trials.values()
        if not self._may_search or any(searches(trial.choice) for trial in trials):
            return None
        compiled = [x for x in trials if is_compiled(settled(self._case, x.choice).execution)]
        best = _fastest(compiled)
        return None if best is None else {**best, COMPILER: SEARCHED}

    @property
    def best(self) -> Choice | None:
        """Of the choices tried, and not given up since, the fastest; None if there is none."""
        return _fastest(self._trials.values())


def _fastest(trials: Iterable[Trial]) -> Choice | None:
    """The choice of the fastest of these; None if none has a number."""
    usable = [trial for trial in trials if trial.rate is not None]
    return max(usable, key=lambda trial: trial.rate or 0.0).choice if usable else None


def _beyond(choice: Choice, trial: Trial) -> bool:
    """Whether a choice has a larger batch than one that ended its curve, all else equal."""
    if not trial.ends_curve or BATCH not in choice:
        return False
    larger = int(choice[BATCH]) >= int(trial.choice[BATCH])
    return larger and beside(choice) == beside(trial.choice)


def figures(launches: Sequence[Launch]) -> Sequence[Launch]:
    """The launches that make up a case's figure: of a tuned one, those of its best choice, or of
    the last one where that has none."""
    if not launches or not launches[0].case.space:
        return launches  # of a large record, unread
    measured = [launch for launch in launches if not launch.search]
    best = Search(launches[0].case, launches).best
    of_best = [launch for launch in measured if launch.choice == best]
    return of_best or [launch for launch in measured if launch.choice == measured[-1].choice]
