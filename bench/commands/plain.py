"""What a log gets of a run: the plan, a line for each case, and a sign of life every minute."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from bench import units
from bench.commands.under_way import account_in_words, chosen, describe, doing, how_far, which
from bench.measuring.messages import Progress
from bench.records.case import Case
from bench.records.explained import Explanation
from bench.records.outcome import Failed
from bench.records.run import Launch, Settings
from bench.running.face import Ahead, Start

SILENCE_SECONDS = 60.0
"""After so long without a line, the next that a worker says is worth one."""


class PlainFace:
    """One line per case."""

    def __init__(
        self,
        say: Callable[[str], None],
        settings: Settings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """say: prints a line, or does nothing where nobody reads it."""
        self._print = say
        self.settings = settings
        self.clock = clock
        self.side = ""
        self._last = clock()
        self._told: set[str] = set()
        self._now = ""

    def turn(self, side: str) -> None:
        """Remembers it for the lines."""
        self.side = f"{side}: "

    def begins(self, plan: Sequence[Case], ahead: Ahead) -> None:
        """How much there is to do."""
        self._say(f"{self.side}{units.counted(len(plan), 'case')}, {how_far(ahead)}")

    def starts(self, start: Start, ahead: Ahead) -> None:
        """Nothing, unless nothing has been said for long."""
        case = f"{self.side}{start.case.label}"
        self._now = f"{how_far(ahead)}; now {case}, {which(start)}{chosen(start)}"
        self._break_silence("")

    def progress(self, progress: Progress) -> None:
        """Nothing, unless nothing has been said for long."""
        self._break_silence(f": {doing(progress)}")

    def ends(self, launch: Launch, rates: Sequence[float], finished: bool) -> None:
        """What came of a case after its last launch; of a failure at once."""
        key = f"{self.side}{launch.fingerprint}"
        said = describe(launch, rates, self.settings)
        if finished and key not in self._told:
            self._told.add(key)
            launches = units.counted(launch.launch + 1, "launch")
            self._say(f"{self.side}{launch.case.label}, {launches}: {said}")
        elif isinstance(launch.outcome, Failed) and not (finished or launch.search):
            label = f"{self.side}{launch.case.label}"
            self._say(f"{label}, launch {launch.launch + 1}: {said}. It is tried again")

    def explains(self, case: Case, number: int, of: int) -> None:
        """Nothing, unless nothing has been said for long."""
        self._now = f"{case.label} is explained, {number} of {of}"
        self._break_silence("")

    def explained(self, explanation: Explanation) -> None:
        """In a line, whether it could be."""
        self._say(f"{explanation.case.label}, {account_in_words(explanation)}")

    def _break_silence(self, doing: str) -> None:
        if self.clock() - self._last >= SILENCE_SECONDS:
            self._say(f"{self._now}{doing}")

    def _say(self, text: str) -> None:
        self._last = self.clock()
        self._print(text)
