"""What a person sees during a run."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from bench.commands.live import LiveFace, PlainFace, describe
from bench.measuring.worker import Progress
from bench.records.outcome import Skipped, Void
from bench.records.run import Launch, Settings
from bench.tests.values import failed, make_case, make_launch, make_measured

SETTINGS = Settings(launches=3)
LLAMA = make_case(workload="llama", mode="decode", parameters={"model": "toy", "batch_size": 1})


def test_a_plain_line_per_launch() -> None:
    stream = io.StringIO()
    face = PlainFace(stream, SETTINGS)
    measured = make_measured(0.01, unit="token")
    face.starts(LLAMA, 0, None)
    face.progress(Progress(phase="measure", samples=3, throughput=99.0))
    face.ends(make_launch(measured, LLAMA, launch=0, seconds=4.25), [100.0])
    face.ends(make_launch(measured, LLAMA, launch=1, seconds=75.0), [100.0, 100.0])
    face.ends(make_launch(measured, LLAMA, launch=2), [100.0, 100.0, 101.0])
    face.ends(make_launch(failed(message="killed"), LLAMA, launch=3), [100.0])
    assert stream.getvalue().splitlines() == [
        "llama-decode bf16 (toy, batch 1) launch 1 (4.25 s): 100 token/s (no interval yet)",
        "llama-decode bf16 (toy, batch 1) launch 2 (1 min 15 s): 100 token/s (no interval yet)",
        # logs 0 0 0.00995: SD 0.005745, error 0.003317, times 4.302653
        "llama-decode bf16 (toy, batch 1) launch 3 (4.00 s): 100 token/s (±1.4%)",
        "llama-decode bf16 (toy, batch 1) launch 4 (4.00 s): FAILED (crash in measure): killed",
    ]


@pytest.mark.parametrize(
    ("launch", "text"),
    [
        (make_launch(Void(reason="numerics: off")), "VOID: numerics: off"),
        (make_launch(Skipped(reason="no bf16")), "skipped: no bf16"),
        (
            make_launch(make_measured(0.01, flags=("DRIFT",))),
            "100 image/s (no interval yet) [DRIFT]",
        ),
    ],
)
def test_every_outcome_is_described(launch: Launch, text: str) -> None:
    assert describe(launch, [100.0], SETTINGS) == text


def test_looks_are_described_at_their_level() -> None:
    """logs 0 0 0.00995: error 0.003317, times t(99 %, 2) = 6.964557."""
    found = describe(make_launch(), [100.0, 100.0, 101.0], Settings(launches="auto"))
    assert found == "100 image/s (±2.3%)"


def screen(face: LiveFace) -> str:
    """What the display shows now, as text."""
    console = Console(width=120, record=True, file=io.StringIO(), color_system=None)
    console.print(face._screen())
    return console.export_text()


def make_face() -> LiveFace:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    return LiveFace(console, SETTINGS)


def test_the_live_display_shows_case_phase_throughput_and_time_left() -> None:
    with make_face() as face:
        face.starts(LLAMA, 1, 95.0)
        assert "llama-decode bf16  launch 2  start" in screen(face)
        face.progress(Progress(phase="measure", samples=7, throughput=123.4))
        shown = screen(face)
        assert "llama-decode bf16  launch 2  measure  7 samples" in shown
        assert "123 items/s" in shown or "123 token/s" in shown
        assert "time left: about 1 min 35 s" in shown


def test_time_left_is_not_guessed() -> None:
    with make_face() as face:
        face.starts(LLAMA, 0, None)
        assert "time left: known after the first round" in screen(face)


def test_finished_launches_stay_on_the_display_once_a_case() -> None:
    with make_face() as face:
        for k in range(3):
            face.starts(LLAMA, k, None)
            face.ends(make_launch(make_measured(0.01), LLAMA, launch=k), [100.0] * (k + 1))
        face.ends(make_launch(failed(message="killed")), [])
        shown = screen(face)
    assert shown.count("100 image/s") == 1 and "(±0.0%)" in shown
    assert "gemm-matmul bf16" in shown and "FAILED (crash in measure): killed" in shown


def test_the_live_display_is_drawn_when_something_is_said() -> None:
    """And by no timer, which would take a core from the job."""
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    stream = console.file
    assert isinstance(stream, io.StringIO)
    with LiveFace(console, SETTINGS) as face:
        assert not face.live.auto_refresh
        face.starts(LLAMA, 0, None)
        face.progress(Progress(phase="warm-up", samples=12))
        drawn = stream.getvalue()
    assert "warm-up" in drawn and "12 samples" in drawn
