"""A run under way in words: how far it is, what runs now, what came of a launch."""

from __future__ import annotations

from collections.abc import Sequence

from bench import stats, units
from bench.measuring.messages import Progress
from bench.planning.tuning import in_words
from bench.records.explained import Explanation, Unexplained
from bench.records.outcome import Failed, Measured, Phase
from bench.records.reason import shortened
from bench.records.run import Launch, Settings
from bench.running.face import Ahead, Start
from bench.running.time_left import Span

PHASES: dict[Phase, str] = {
    "start": "starts",
    "import": "imports its libraries",
    "open": "opens the device",
    "numerics": "checks the numbers",
    "build": "builds the job",
    "warm-up": "warms up",
    "measure": "measures",
    "report": "reports",
    "explain": "explains its step",
}
"""What a worker does in each phase."""
MESSAGE_CHARACTERS = 300
"""Longest message of a failure that is shown; the record has all of it."""
LEVEL = 1.25
"""Up to this ratio of most to least, an estimate is one figure."""


def how_far(ahead: Ahead) -> str:
    """`37 of 240 launches, about 5 min left`; `240+` where more may follow."""
    planned = f"{ahead.done + ahead.left}{'+' if ahead.more else ''}"
    return f"{ahead.done} of {planned} launches, {time_left(ahead.seconds)}"


def time_left(seconds: Span) -> str:
    """An estimate as sharp as it is: `about 5 min left`, `2 to 20 min left`, `at least 4 min left`.

    One that says nothing is not made: `time left unknown`.
    """
    least, most = _rounded(seconds.least), None if seconds.most is None else _rounded(seconds.most)
    if most is None:
        return f"at least {_said(least)} left" if least else "time left unknown"
    if not most:
        return "under 10 s left"
    if not least:
        return f"up to {_said(most)} left"
    level = seconds.most is not None and seconds.most <= LEVEL * seconds.least
    if seconds.most is not None and (level or least == most):
        return f"about {_said(_rounded((seconds.least + seconds.most) / 2))} left"
    first, last = _said(least), _said(most)
    number, _, unit = first.partition(" ")
    return f"{number if last.endswith(unit) else first} to {last} left"


def _rounded(seconds: float) -> float:
    """To what anybody wants to know of it: 5 s, minutes, half hours; 0 below 10 s."""
    if seconds < 10:
        return 0.0
    if seconds < 90:
        return 5.0 * round(seconds / 5)
    if seconds < 90 * 60:
        return 60.0 * round(seconds / 60)
    return 1800.0 * round(seconds / 1800)


def _said(rounded: float) -> str:
    if rounded <= 90:
        return f"{rounded:.0f} s"
    if rounded <= 90 * 60:
        return f"{rounded / 60:.0f} min"
    return f"{rounded / 3600:g} h"


def which(start: Start) -> str:
    """`launch 3 of 10`; `choice 4 of 28` while the best is looked for."""
    kind = "choice" if start.search else "launch"
    return f"{kind} {start.number} of {start.of}{'+' if start.more else ''}"


def chosen(start: Start) -> str:
    """` (batch 64, compile)` of a tuned case, else nothing."""
    return "" if start.choice is None else f" ({in_words(start.choice)})"


def doing(progress: Progress) -> str:
    """`measures, 7 samples, 91.1 token/s`."""
    words = [PHASES[progress.phase]]
    if progress.samples:
        words.append(units.counted(progress.samples, "sample"))
    if progress.throughput is not None:
        words.append(units.rate(progress.throughput, progress.unit or "item"))
    return ", ".join(words)


def describe(launch: Launch, rates: Sequence[float], settings: Settings) -> str:
    """The outcome of a launch, with the throughput and interval of its case so far: of how many of
    its launches where some are left out, and which flags the last of them has.

    Of a tuned case, with what was chosen for it; one that looks for the best choice has a
    throughput of its own and no interval.
    """
    if launch.choice is not None:
        said = _described(launch, [] if launch.search else rates, settings, len(rates))
        return f"{'tries' if launch.search else 'best,'} {in_words(launch.choice)}: {said}"
    return _described(launch, rates, settings, launch.launch + 1)


def _described(launch: Launch, rates: Sequence[float], settings: Settings, made: int) -> str:
    """made: how many launches the case has had."""
    outcome = launch.outcome
    if isinstance(outcome, Measured):
        last = " in the last" if rates and launch.launch else ""
        flags = f" [{', '.join(outcome.flags)}{last}]" if outcome.flags else ""
        if not rates:
            return f"{units.rate(outcome.throughput, outcome.work.unit)}{flags}"
        estimate = stats.log_estimate(rates, stats.level(settings.launches))
        spread = units.spread(estimate.half_width) if estimate else "no interval yet"
        mean, used = stats.geometric_mean(rates), len(rates)
        of = f" of {units.counted(used, 'launch')}, {made - used} left out" if made > used else ""
        return f"{units.rate(mean, outcome.work.unit)} ({spread}){of}{flags}"
    if isinstance(outcome, Failed):
        message = one_line(outcome.message)
        return f"FAILED ({outcome.kind} in {outcome.phase}): {message}"
    return f"{type(outcome).__name__.upper()}: {one_line(outcome.reason)}"


def one_line(text: str) -> str:
    """A message as one line of at most so many characters, with nothing that moves a cursor."""
    words = " ".join(shortened(text, MESSAGE_CHARACTERS).split())
    return "".join(letter if letter.isprintable() else "?" for letter in words)


def account_in_words(explanation: Explanation) -> str:
    """`explained (launch 2): 97 operators`; or why it is not."""
    account = explanation.account
    if isinstance(account, Unexplained):
        return f"not explained: {one_line(account.reason)}"
    operators = units.counted(len(account.operators), "operator")
    return f"explained (launch {explanation.number + 1}): {operators}"
