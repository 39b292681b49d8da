"""A run under way in words."""

from __future__ import annotations

import pytest

from bench.commands.under_way import chosen, describe, doing, how_far, time_left, which
from bench.measuring.messages import Progress
from bench.records.case import Choice
from bench.records.outcome import Flag, Skipped, Void
from bench.records.run import Launch, Settings
from bench.running.face import Ahead, Start
from bench.running.time_left import Span
from bench.tests.values import failed, make_case, make_launch, make_measured


@pytest.mark.parametrize(
    ("launch", "text"),
    [
        (make_launch(Void(reason="numerics: off")), "VOID: numerics: off"),
        (make_launch(Skipped(reason="no bf16")), "SKIPPED: no bf16"),
        (
            make_launch(make_measured(0.01, flags=("DRIFT",))),
            "100 image/s (no interval yet) [DRIFT]",
        ),
        (
            make_launch(failed(message="E: first\n\x1b[2Jlast\tword")),
            "FAILED (crash in measure): E: first ?[2Jlast word",
        ),
    ],
)
def test_every_outcome_is_described(launch: Launch, text: str) -> None:
    assert describe(launch, [100.0], Settings(launches=3)) == text


def test_a_long_message_is_shortened_to_a_line() -> None:
    found = describe(make_launch(failed(message="x\n" * 900)), [], Settings())
    assert "\n" not in found and len(found) < 400 and "characters or more" in found


@pytest.mark.parametrize(
    ("number", "flags", "rates", "text"),
    [
        (0, ("CONTENDED",), 1, "100 image/s (no interval yet) [CONTENDED]"),
        (
            2,
            ("CONTENDED",),
            1,
            "100 image/s (no interval yet) of 1 launch, 2 left out [CONTENDED in the last]",
        ),
        (2, ("DRIFT",), 3, "100 image/s (±0.0%) [DRIFT in the last]"),
        (3, (), 2, "100 image/s (no interval yet) of 2 launches, 2 left out"),
    ],
)
def test_a_figure_says_of_which_launches_it_is(
    number: int, flags: tuple[Flag, ...], rates: int, text: str
) -> None:
    found = make_launch(make_measured(0.01, flags=flags), launch=number)
    assert describe(found, [100.0] * rates, Settings(launches=4)) == text


def test_looks_are_described_at_their_level() -> None:
    """logs 0 0 0.00995: error 0.003317, times t(99 %, 2) = 6.964557."""
    found = describe(make_launch(), [100.0, 100.0, 101.0], Settings(launches="auto"))
    assert found == "100 image/s (±2.3%)"


def test_a_wide_interval_is_said_as_the_card_says_it() -> None:
    """logs 0, 0.693, 0.693: error 0.231, times 4.302653: 0.994."""
    found = describe(make_launch(), [1.0, 2.0, 2.0], Settings(launches=3))
    assert found == "1.59 image/s (-63% +170%)"


@pytest.mark.parametrize(
    ("span", "said"),
    [
        (Span(0.0, None), "time left unknown"),
        (Span(9.9, None), "time left unknown"),
        (Span(131.0, None), "at least 2 min left"),
        (Span(0.0, 9.0), "under 10 s left"),
        (Span(0.0, 0.0), "under 10 s left"),
        (Span(3.0, 200.0), "up to 3 min left"),
        (Span(44.0, 46.0), "about 45 s left"),
        (Span(100.0, 120.0), "about 2 min left"),
        (Span(20.0, 60.0), "20 to 60 s left"),
        (Span(95.0, 149.0), "about 2 min left"),
        (Span(45.0, 240.0), "45 s to 4 min left"),
        (Span(120.0, 1200.0), "2 to 20 min left"),
        (Span(3000.0, 9000.0), "50 min to 2.5 h left"),
        (Span(7200.0, 7300.0), "about 2 h left"),
        (Span(88.0, 91.0), "about 90 s left"),
    ],
)
def test_the_time_left_is_as_sharp_as_it_is_known(span: Span, said: str) -> None:
    assert time_left(span) == said


def test_how_far_and_which() -> None:
    assert how_far(Ahead(3, 7, False, Span(60.0, 66.0))) == "3 of 10 launches, about 65 s left"
    assert how_far(Ahead(3, 7, True, Span(60.0, 66.0))).startswith("3 of 10+ launches, ")
    start = Start(make_case(), 3, 10, False, None, False, 0.0, None)
    assert which(start) == "launch 3 of 10"
    assert which(start._replace(more=True)) == "launch 3 of 10+"
    choice: Choice = {"batch_size": 64, "execution": "compile"}
    assert chosen(start._replace(choice=choice)) == " (batch 64, compile)" and chosen(start) == ""
    assert which(start._replace(choice=choice, search=True)) == "choice 3 of 10"


def test_doing() -> None:
    assert doing(Progress(phase="numerics")) == "checks the numbers"
    assert doing(Progress(phase="warm-up", samples=1)) == "warms up, 1 sample"
    found = doing(Progress(phase="measure", samples=2, throughput=4.6e10, unit="FLOP"))
    assert found == "measures, 2 samples, 46.0 GFLOP/s"
