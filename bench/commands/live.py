"""What a person sees while a run goes on: on a terminal, a display that stands still.

It has as many lines from the first to the last, none wider than the terminal, and each case keeps
its place: what changes is what is new. A line is written over itself, never wiped first as
`rich.live` does it, which flickers. Drawn only when a worker says something (twice a second at
most), never by a timer: a parent that redraws all the time takes a core from the job that it times.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rich.console import Console
from rich.control import Control
from rich.segment import ControlType
from rich.text import Text

from bench.commands.under_way import account_in_words, chosen, describe, doing, how_far, which
from bench.measuring.messages import Progress
from bench.planning.sweep import Limits
from bench.records.case import Case
from bench.records.explained import Explanation
from bench.records.run import Launch, Settings
from bench.running.face import Ahead, Start
from bench.running.time_left import Span

ROWS = 14
"""Most cases that are listed at once."""
HEAD = 5
"""Lines above them: how far the run is, what runs now (two), what comes next, nothing."""
ERASE_REST = Control((ControlType.ERASE_IN_LINE, 0))
SHARE = 0.45
"""Of the width, at most so much for a case's name."""
GAP = 2
"""Columns between a case and what came of it."""


class Row(NamedTuple):
    """A case of a side, in its place."""

    number: int
    side: str
    case: Case

    @property
    def label(self) -> str:
        """As it is called."""
        return f"{self.side}{self.case.label}"


class LiveFace:
    """How far the run is, the launch under way, the case that follows, and a row for each case."""

    def __init__(
        self, console: Console, settings: Settings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.settings = settings
        self.console = console
        self.clock = clock
        self.side = ""
        self._ahead: dict[str, Ahead] = {}
        """Of each side."""
        self._plan: list[Row] = []
        self._place: dict[tuple[str, str], int] = {}
        """Of each row, by side and fingerprint."""
        self._longest = 0
        """Columns of the longest label."""
        self._said: dict[tuple[str, str], str] = {}
        """What came of each, by side and fingerprint."""
        self._limits: dict[str, Limits] = {}
        """Which batches fit, on each side."""
        self._now: Start | None = None
        self._here = 0
        """Place of the row that is under way."""
        self._since = 0.0
        self._progress = Progress(phase="start")
        self._drawn = 0
        """Lines that stand above the cursor."""

    def __enter__(self) -> LiveFace:
        with contextlib.suppress(OSError):
            self.console.show_cursor(False)
        return self

    def __exit__(self, *_: object) -> None:
        """Leaves the terminal as it was: what was measured follows as the card."""
        with contextlib.suppress(OSError):  # the terminal is gone
            drawn = self._drawn
            self._put([])
            self.console.control(Control.move(0, -drawn))
            self.console.show_cursor(True)

    def turn(self, side: str) -> None:
        """Remembers it for the lines."""
        self.side = f"{side}: "

    def begins(self, plan: Sequence[Case], ahead: Ahead) -> None:
        """Gives each case its row; those of two sides stand together."""
        self._ahead[self.side] = ahead
        self._limits[self.side] = Limits()
        self._plan += [Row(k, self.side, case) for k, case in enumerate(plan)]
        self._plan.sort(key=lambda row: row[:2])
        self._place = {(row.side, row.case.fingerprint): k for k, row in enumerate(self._plan)}
        self._longest = max((len(row.label) for row in self._plan), default=0)
        self._draw()

    def starts(self, start: Start, ahead: Ahead) -> None:
        """Shows the next launch as under way."""
        self._ahead[self.side] = ahead
        self._shows(start)

    def progress(self, progress: Progress) -> None:
        """Shows the phase and the throughput so far."""
        self._progress = progress
        self._draw()

    def ends(self, launch: Launch, rates: Sequence[float], finished: bool) -> None:
        """Says in its row what came of the case so far."""
        said = describe(launch, rates, self.settings)
        self._said[self.side, launch.fingerprint] = said
        self._limits[self.side].note(launch.case, launch.outcome)

    def explains(self, case: Case, number: int, of: int) -> None:
        """Shows the case as under way."""
        self._shows(Start(case, number, of, False, None, False, 0.0, None))

    def explained(self, explanation: Explanation) -> None:
        """Says in its row whether it could be."""
        self._said[self.side, explanation.fingerprint] = account_in_words(explanation)

    def _shows(self, start: Start) -> None:
        self._now, self._since = start, self.clock()
        self._here = self._place.get((self.side, start.case.fingerprint), 0)
        self.progress(Progress(phase="start"))

    def _draw(self) -> None:
        with contextlib.suppress(OSError):
            self._put(self.screen())

    def _put(self, lines: list[Text]) -> None:
        """Writes them over those that stand there."""
        lines = lines + [Text()] * (self._drawn - len(lines))
        with self.console:  # in one piece
            self.console.control(Control.move_to_column(0, -self._drawn))
            for line in lines:
                self.console.print(line, end="")
                self.console.control(ERASE_REST)
                self.console.line()
        self._drawn = len(lines)

    def screen(self) -> list[Text]:
        """The display as it is now, no line wider than the terminal."""
        width, height = self.console.size
        width = max(width - 1, 1)  # one column is left for a character that has a longer stand-in
        rows = max(min(ROWS, height - HEAD - 1, len(self._plan)), 0)
        lines = [Text(how_far(self._sum()), style="bold"), *self._under_way()]
        lines = lines[: max(height - 1, 1)] + self._rows(rows, width)
        for line in lines:
            line.truncate(width, overflow="ellipsis")
            line.no_wrap = True
        return lines

    def _sum(self) -> Ahead:
        """Of both sides together; less the time that the launch under way has taken."""
        each = list(self._ahead.values())
        least = sum(ahead.seconds.least for ahead in each)
        mosts = [ahead.seconds.most for ahead in each]
        most = None if None in mosts else sum(most for most in mosts if most is not None)
        if self._now is not None:
            passed = min(self.clock() - self._since, self._now.seconds)
            least, most = max(least - passed, 0.0), None if most is None else max(most - passed, 0)
        return Ahead(
            sum(ahead.done for ahead in each),
            sum(ahead.left for ahead in each),
            any(ahead.more for ahead in each),
            Span(least, most),
        )

    def _under_way(self) -> list[Text]:
        start = self._now
        if start is None:
            return [Text("now   the first launch starts"), Text(), Text(), Text()]
        following = "" if start.next is None else f"next  {start.next.label}"
        return [
            Text.assemble("now   ", (f"{self.side}{start.case.label}", "bold cyan")),
            Text(f"      {which(start)}: {doing(self._progress)}{chosen(start)}"),
            Text(following, style="dim"),
            Text(),
        ]

    def _rows(self, count: int, width: int) -> list[Text]:
        """The page of the plan on which the case under way stands."""
        if not count:
            return []
        first = min(self._here - self._here % count, len(self._plan) - count)
        column = min(self._longest, int(width * SHARE))
        return [self._row(place, column) for place in range(first, first + count)]

    def _row(self, place: int, column: int) -> Text:
        row = self._plan[place]
        said = self._said.get((row.side, row.case.fingerprint))
        under_way = self._now is not None and place == self._here
        if said is None:
            beyond = self._limits[row.side].beyond(row.case)
            said = f"SKIPPED: {beyond}" if beyond else "under way" if under_way else "waiting"
        name = shown(row.label, column).ljust(column + GAP)
        return Text.assemble((name, "bold cyan" if under_way else ""), (said, "dim"))


def shown(label: str, width: int) -> str:
    """A case in so many columns: of a longer one something is left out before its end, by which
    those of a sweep may differ."""
    if len(label) <= width:
        return label
    end = (width - 1) // 3
    return f"{label[: width - 1 - end]}…{label[len(label) - end :] if end else ''}"
