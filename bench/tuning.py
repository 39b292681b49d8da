"""The tuned track: the best of a stated space of settings, found first and measured afterwards.

A fixed case says what its device does with work of just that batch; a tuned one, what can be had of
the device by whoever may choose batch, memory format and execution. Each setting gets one launch in
a process of its own; beyond a batch for which memory ran out, larger ones (all else equal) are not
tried. The fastest is then measured again, in as many launches as any other case, and only those
make up the figure: the best of many single readings is the luckiest of them, and its own reading
would be too high. Where the fastest fails after all (memory at its brim), the next one follows.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from bench.case import TUNABLE, Case, Choice
from bench.record import Failed, Launch, Measured, Outcome, Skipped
from bench.sweep import BATCH, too_large


def candidates(case: Case) -> Iterator[Choice]:
    """Every choice of a tuned case, batches ascending within all else; nothing for a fixed one."""
    space = case.space
    if not space:  # of which the product would be one empty choice
        return
    names = [name for name in reversed(TUNABLE) if name in space]
    for values in itertools.product(*(space[name] for name in names)):
        chosen = dict(zip(names, values, strict=True))
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


def in_words(choice: Choice) -> str:
    """`batch 64, compile, channels_last`."""
    return ", ".join(f"batch {v}" if name == BATCH else str(v) for name, v in choice.items())


def beside(choice: Choice) -> Choice:
    """The choice without its batch: what the points of one curve share."""
    return {name: value for name, value in choice.items() if name != BATCH}


class Trial(NamedTuple):
    """The one launch by which a choice was tried."""

    choice: Choice
    rate: float | None
    """Items/s; None where it has no number."""
    why: str = ""
    """Why it has none."""
    too_large: bool = False
    """Whether that was memory."""
    skipped: bool = False
    """Whether the device cannot do it, and that is no fault."""

    @classmethod
    def of(cls, choice: Choice, outcome: Outcome) -> Trial:
        """What became of it."""
        if isinstance(outcome, Measured):
            return cls(choice, outcome.throughput)
        skipped = isinstance(outcome, Skipped)
        return cls(choice, None, outcome.reason, too_large(outcome), skipped)


def hopeless(outcome: Outcome) -> bool:
    """Whether what went wrong would go wrong again: no accident of one process."""
    if isinstance(outcome, Failed):
        return outcome.kind == "oom"
    return not isinstance(outcome, Measured)


class Search:
    """What is known of the choices of a tuned case, launch by launch."""

    def __init__(self, case: Case, launches: Sequence[Launch] = ()) -> None:
        """launches: those of the case that there are, in order."""
        self._left = list(candidates(case))
        self.trials: list[Trial] = []
        """In the order they ran."""
        self._given_up: list[Choice] = []
        for launch in launches:
            self.note(launch)

    def note(self, launch: Launch) -> None:
        """Takes note of a launch: a trial, or one of the choice that was the best."""
        choice = launch.choice
        if choice is None:
            return
        if launch.search:
            trial = Trial.of(choice, launch.outcome)
            self.trials.append(trial)
            self._left = [c for c in self._left if c != choice and not _beyond(c, trial)]
        elif hopeless(launch.outcome):
            self._given_up.append(choice)

    @property
    def left(self) -> int:
        """Choices that are still to be tried; fewer if memory runs out."""
        return len(self._left)

    @property
    def next(self) -> Choice | None:
        """The choice to try next; None once the search is over."""
        return self._left[0] if self._left else None

    @property
    def best(self) -> Choice | None:
        """Of the choices tried, and not failed since, the fastest; None if there is none."""
        usable = [t for t in self.trials if t.rate is not None and t.choice not in self._given_up]
        return max(usable, key=lambda trial: trial.rate or 0.0).choice if usable else None


def _beyond(choice: Choice, trial: Trial) -> bool:
    """Whether a choice has at least the batch for which memory ran out, all else equal."""
    if not trial.too_large or BATCH not in choice:
        return False
    larger = int(choice[BATCH]) >= int(trial.choice[BATCH])
    return larger and beside(choice) == beside(trial.choice)


def figures(launches: Sequence[Launch]) -> list[Launch]:
    """The launches that make up a case's figure: of a tuned one, those of its last choice."""
    measured = [launch for launch in launches if not launch.search]
    return [launch for launch in measured if launch.choice == measured[-1].choice]
