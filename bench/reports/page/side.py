"""One run of the page: its rows, and what is said of them in a word."""

from __future__ import annotations

from collections import Counter

from bench import units
from bench.judging.comparing.side import by_work
from bench.judging.row import Row
from bench.judging.summary import summarize
from bench.records.case import Case
from bench.records.run import RunFile
from bench.records.runfile import by_case
from bench.reports.wording import endpoint
from bench.reports.wording.card_notes import unseen
from bench.reports.wording.labels import labels
from bench.reports.wording.notes import grouped
from bench.reports.wording.rows import ending, handed_on, looks_of, word_of
from bench.reports.wording.summary import summary

NONE = "—"
"""Stands where there is nothing to show."""


class Side:
    """One run, summarized once, with its launches by case."""

    def __init__(self, number: int, file: RunFile) -> None:
        self.number = number
        self.file = file
        every = summarize(file)
        self.rows = [row for row in every if not row.untried_point]
        self.untried = [row for row in every if row.untried_point]
        """Points of sweeps over devices that the run was not to try."""
        self.device = file.run.on
        self.label = f"{number}: {file.run.device.get('name')}"
        launches = by_case(file.launches)
        self.works = by_work(self.rows)
        """The rows by the fingerprint of their work, by which those of two runs meet."""
        self.launches = {
            key: launches.get(row.case.fingerprint, ()) for key, row in self.works.items()
        }

    @property
    def measured(self) -> list[Row]:
        """The rows with a number."""
        return [row for row in self.rows if row.measured]

    def hover(self, row: Row, *words: str) -> list[str]:
        """Lines of a mark of a plot: the case, the run, what it shows, and the verdict."""
        return [row.case.label, self.label, *words, word_of(row)]

    @property
    def ending(self) -> str:
        """How the run ended, where it did not do all that was planned."""
        return ending(self.file)

    @property
    def damage(self) -> str:
        """What is wrong with the record, and what to do; empty where every line was read."""
        file = self.file
        if not file.damage:
            return ""
        return handed_on(f"{file.flaw.upper()}: {file.damage}. {file.remedy}", file)

    @property
    def server(self) -> list[str]:
        """What is said of a server that was measured from outside."""
        return [f"{note.word}: {note.text}" for note in endpoint.notes(self.rows)]

    @property
    def unseen(self) -> list[str]:
        """What nobody could see of its devices, and why."""
        names = labels(self.file.run.suite, [row.case for row in self.rows])
        return [note.text for note in unseen(self.measured, names, wide=True)]

    @property
    def counts(self) -> str:
        """`27 launches of 9 cases, 2026-11-21`."""
        launches = units.counted(len(self.file.launches), "launch")
        cases = units.counted(len(self.rows), "case")
        return f"{launches} of {cases}, {self.file.run.started_at[:10]}"

    @property
    def words(self) -> list[tuple[str, int, str]]:
        """Each verdict with its number of cases and its class of looks, in the rows' order."""
        found = Counter((word_of(row), looks_of(row)) for row in self.rows)
        return [(word, count, looks) for (word, looks), count in found.items()]

    @property
    def outcome(self) -> list[str]:
        """What came of the run, in a few sentences."""
        said = [f"{line}." for line in summary(self.rows)]
        for reason, some in grouped(self.untried, lambda row: row.reason):
            said.append(f"{units.counted(len(some), 'case')} left out: {reason}.")
        return said


def name_of(case: Case) -> str:
    """`resnet50-train bf16`: a case without its parameters."""
    return f"{case.name} {variant(case)}"


def title_of(case: Case) -> str:
    """A case with its parameters, as the heading of a plot."""
    return f"{name_of(case)} ({case.detail})" if case.detail else name_of(case)


def variant(case: Case) -> str:
    """`bf16`, and what else tells apart cases of one name but for their parameters."""
    return f"{case.precision}{case.variant}"
