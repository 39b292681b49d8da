"""What a person sees while a run goes on: a live display on a terminal, plain lines elsewhere.

Drawn only when a worker says something (twice a second at most), never by a timer: a parent that
redraws all the time takes a core from the job that it times.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bench import stats, units
from bench.measuring.worker import Progress
from bench.planning.tuning import in_words
from bench.records.case import Case
from bench.records.outcome import Failed, Measured, Outcome, Skipped, Void
from bench.records.run import Launch, Settings

LINES = 14
"""Cases that the live display lists at once: the latest ones."""


class PlainFace:
    """One line per launch."""

    def __init__(self, stream: TextIO, settings: Settings) -> None:
        self.stream = stream
        self.settings = settings
        self.side = ""

    def turn(self, side: str) -> None:
        """Remembers it for the line."""
        self.side = f"{side}: "

    def starts(self, case: Case, launch: int, seconds_left: float | None) -> None:
        """Nothing: the line is printed when the launch ends."""

    def progress(self, progress: Progress) -> None:
        """Nothing: a log is not a screen."""

    def ends(self, launch: Launch, rates: Sequence[float]) -> None:
        """The launch and what came of it."""
        with contextlib.suppress(OSError):  # nobody reads it: the record is what counts
            print(
                f"{self.side}{launch.case.label} launch {launch.launch + 1} "
                f"({units.duration(launch.seconds)}): {describe(launch, rates, self.settings)}",
                file=self.stream,
                flush=True,
            )


class LiveFace:
    """A table that grows, the case under way with its phase and throughput, and the time left."""

    def __init__(self, console: Console, settings: Settings) -> None:
        self.settings = settings
        self.side = ""
        self.done: dict[str, tuple[str, str]] = {}
        self.case: Case | None = None
        self.launch = 0
        self.now = Progress(phase="start")
        self.seconds_left: float | None = None
        self.live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> LiveFace:
        with contextlib.suppress(OSError):
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # the terminal is gone
            self.live.stop()

    def turn(self, side: str) -> None:
        """Remembers it for the lines."""
        self.side = f"{side}: "

    def starts(self, case: Case, launch: int, seconds_left: float | None) -> None:
        """Shows the next case as under way."""
        self.case, self.launch, self.seconds_left = case, launch, seconds_left
        self.progress(Progress(phase="start"))

    def progress(self, progress: Progress) -> None:
        """Shows the phase and the throughput so far."""
        self.now = progress
        with contextlib.suppress(OSError):
            self.live.update(self._screen(), refresh=True)

    def ends(self, launch: Launch, rates: Sequence[float]) -> None:
        """Moves the case among the done ones."""
        key = f"{self.side}{launch.fingerprint}"
        self.done.pop(key, None)
        name = f"{self.side}{launch.case.name} {launch.case.precision}"
        self.done[key] = (name, describe(launch, rates, self.settings))

    def _screen(self) -> Group:
        table = Table.grid(padding=(0, 2))
        for name, text in list(self.done.values())[-LINES:]:
            table.add_row(Text(name), Text(text, style="dim"))
        return Group(table, self._under_way())

    def _under_way(self) -> Text:
        if self.case is None:
            return Text("starting")
        text = Text.assemble(
            (f"{self.side}{self.case.name} {self.case.precision}", "bold cyan"),
            f"  launch {self.launch + 1}  {self.now.phase}",
        )
        if self.now.samples:
            text.append(f"  {self.now.samples} samples")
        if self.now.throughput is not None:
            text.append(f"  {units.significant(self.now.throughput)} items/s so far")
        left = self.seconds_left
        text.append(
            "  time left: "
            + (
                f"about {units.duration(left)}"
                if left is not None
                else "known after the first round"
            )
        )
        return text


def describe(launch: Launch, rates: Sequence[float], settings: Settings) -> str:
    """The outcome of a launch, with the throughput and interval of its case so far.

    Of a tuned case, with what was chosen for it; one that looks for the best choice has a
    throughput of its own and no interval.
    """
    outcome = launch.outcome
    if launch.choice is not None:
        said = _described(outcome, [] if launch.search else rates, settings)
        return f"{'tries' if launch.search else 'best,'} {in_words(launch.choice)}: {said}"
    return _described(outcome, rates, settings)


def _described(outcome: Outcome, rates: Sequence[float], settings: Settings) -> str:
    if isinstance(outcome, Measured) and not rates:
        flags = f" [{', '.join(outcome.flags)}]" if outcome.flags else ""
        return f"{units.rate(outcome.throughput, outcome.work.unit)}{flags}"
    if isinstance(outcome, Measured):
        level = stats.LOOK_LEVEL if settings.launches == "auto" else stats.FIXED_LEVEL
        estimate = stats.log_estimate(rates, level)
        spread = f"±{estimate.half_width:.1%}" if estimate else "no interval yet"
        flags = f" [{', '.join(outcome.flags)}]" if outcome.flags else ""
        mean = stats.geometric_mean(rates)
        return f"{units.rate(mean, outcome.work.unit)} ({spread}){flags}"
    if isinstance(outcome, Failed):
        return f"FAILED ({outcome.kind} in {outcome.phase}): {outcome.message}"
    if isinstance(outcome, Void):
        return f"VOID: {outcome.reason}"
    assert isinstance(outcome, Skipped)
    return f"skipped: {outcome.reason}"
