"""What the tuned track found, in words, and beside it the figures of the fixed one.

Both are shown, and no ratio of them: they are other work. A tuned figure says how far the software
of a device can be driven; a fixed one, what a given piece of work costs on it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from bench import stats, units
from bench.judging.row import Row
from bench.planning.sweep import BATCH
from bench.planning.tuning import Trial, beside, in_words, searches
from bench.records.case import COMPILER, PLAIN


class Found(NamedTuple):
    """What was found of one tuned case."""

    title: str
    """The case, without what it leaves open."""
    best: str
    """The best choice and its figure."""
    beside: tuple[str, ...]
    """The curves of all choices, what has no number, and the fixed figures of the same work."""

    @property
    def words(self) -> str:
        """All of it on a line."""
        return "; ".join((self.best, *self.beside))


def tuned(rows: Sequence[Row]) -> Iterator[Found]:
    """Of each tuned case of a run for which a choice was tried, what was found."""
    for row in rows:
        if row.trials:
            yield Found(_title(row), _best(row), (*_tried(row), *_fixed(row, rows)))


def settings(row: Row) -> str:
    """What each setting gave when it was tried, at its best batch, the fastest first: `compile,
    channels_last 45.0; eager, channels_last 42.2 image/s`; empty where nothing but the batch is
    open."""
    groups = _by_settings(row)
    if len(groups) < 2:
        return ""
    ran = {name: max(trial.rate or 0.0 for trial in trials) for name, trials in groups.items()}
    ordered = sorted(groups, key=lambda name: -ran[name])
    rates = [f"{name} {units.significant(ran[name])}" for name in ordered if ran[name]]
    lost = [f"{name} {_figure(groups[name][0])}" for name in ordered if not ran[name]]
    words = f"{'; '.join(rates)} {row.unit or 'items/s'}" if rates else ""
    return "; ".join((*([words] if words else []), *lost))


def by_choice(slower: Row, faster: Row) -> float:
    """p of what the slower side's trial of the other's choice read, were it as fast there; 0 if it
    chose the same, or cannot do that. Of a search of kernels elsewhere the trials without it count.

    By single trials equal devices choose unlike. Twice the p of t, as chance passed this one over.
    """
    if slower.choice is None or faster.choice is None or slower.choice == faster.choice:
        return 0.0
    mine, theirs = ([math.log(rate) for rate in row.rates] for row in (slower, faster))
    choice, spread, read = faster.choice, stats.variance(theirs), theirs
    there = [trial for trial in slower.trials if trial.choice == choice]
    if not there and searches(choice):
        choice = {**choice, COMPILER: PLAIN}
        there = [trial for trial in slower.trials if trial.choice == choice]
        read = [math.log(x.rate) for x in faster.trials if x.choice == choice and x.rate]
    if there and there[0].accident:
        return 1.0
    if not there or not there[0].rate or not read:
        return 0.0
    gap = statistics.fmean(read) - math.log(there[0].rate)
    if there[0].hindered or gap <= 0:
        return 1.0
    error = math.sqrt(max(spread / len(read) + stats.variance(mine), 1e-24))
    return min(1.0, 4 * stats.t_tail(gap / error, len(mine) - 1))


def _by_settings(row: Row) -> dict[str, list[Trial]]:
    """Its trials by what is chosen beside the batch."""
    groups: dict[str, list[Trial]] = {}
    for trial in row.trials:
        groups.setdefault(in_words(beside(trial.choice)), []).append(trial)
    return groups


def _title(row: Row) -> str:
    rest = msgspec.structs.replace(row.case, tuned=msgspec.UNSET).detail
    name = f"{row.case.name} {row.case.precision}"
    return f"{name} ({rest})" if rest else name


def _best(row: Row) -> str:
    total = len(row.trials) + row.untried
    ran = sum(trial.rate is not None for trial in row.trials)
    searched = f"the best of {units.counted(total, 'choice')}, of which {ran} ran"
    if row.choice is None or row.throughput is None:
        return f"no best choice of {total} yet, of which {ran} ran"
    again = units.counted(row.launches, "launch")
    return (
        f"{in_words(row.choice)} is {searched}; measured again, in {again} of its own, it gave "
        f"{row.rate}"
    )


def _tried(row: Row) -> Iterator[str]:
    """A curve over the batch for each other setting; then, of each kind, why there is no number."""
    unit = row.unit or "items/s"
    groups = _by_settings(row)
    if BATCH not in row.case.space:
        points = [f"{name} {_figure(trial)}" for name, trials in groups.items() for trial in trials]
        yield f"{unit} when tried: {', '.join(points)}"
    else:
        for name, trials in groups.items():
            points = [f"{trial.choice[BATCH]}: {_figure(trial)}" for trial in trials]
            yield f"{name}{', ' if name else ''}{unit} at batch {', '.join(points)}"
    for status in ("void", "failed", "skipped"):
        lost = [trial for trial in row.trials if trial.status == status]
        if lost:
            first = f"{in_words(lost[0].choice)}: {lost[0].why}"
            yield f"{status.upper()} {units.counted(len(lost), 'choice')}, first {first}"


def _figure(trial: Trial) -> str:
    if trial.rate is None:
        return trial.status if trial.status == "does not fit" else trial.status.upper()
    return units.significant(trial.rate) + (" (slowed from outside)" if trial.hindered else "")


def _fixed(row: Row, rows: Sequence[Row]) -> Iterator[str]:
    """The fixed figures of the same model and shapes, at the settings that the run has."""
    words = [
        f"{other.rate} at {_settings(other)}"
        for other in rows
        if other.throughput is not None and _same_but_for_tuning(row, other)
    ]
    if words:
        yield f"fixed, beside it: {', '.join(words)}"


def _same_but_for_tuning(row: Row, other: Row) -> bool:
    mine, theirs = row.work, other.work
    parameters = {name: v for name, v in theirs.parameters.items() if name not in mine.space}
    return (
        not theirs.space
        and (mine.name, mine.version, mine.precision)
        == (theirs.name, theirs.version, theirs.precision)
        and (mine.devices, mine.parallelism) == (theirs.devices, theirs.parallelism)
        and ("execution" in mine.space or mine.execution == theirs.execution)
        and mine.parameters == parameters
    )


def _settings(row: Row) -> str:
    batch = row.case.parameters.get(BATCH)
    words = [] if batch is None else [f"batch {batch}"]
    return ", ".join([*words, row.case.execution])
