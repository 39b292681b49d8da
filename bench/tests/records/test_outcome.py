"""What came of a launch: nonsense cannot be made, and what the values say."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from bench.records.outcome import (
    Block,
    Check,
    Cold,
    Failed,
    Memory,
    Numerics,
    Share,
    Skipped,
    Void,
    Work,
)
from bench.tests.values import BAD_NUMERICS, make_block, make_measured

nan, inf = math.nan, math.inf
half: Any = 1.5

MEMORY = Memory(peak_bytes=1, scope="process RSS", host_rss_bytes=1)


def share(rank: int = 0, busy: int = 10_000_000, **changes: Any) -> Share:
    """Of a launch of ten steps of 10 ms."""
    return Share(rank=rank, device=0, busy_ns=(busy,) * 10, memory=MEMORY, **changes)


NONSENSE: list[tuple[str, Callable[[], Any], str]] = [
    ("no steady sample", lambda: make_measured(steady=()), "without a steady sample"),
    ("wrong result", lambda: make_measured(numerics=BAD_NUMERICS), "numerics failed: output off"),
    ("witness NaN", lambda: make_measured(witness=(1.0, nan)), "not finite"),
    ("witness infinite", lambda: make_measured(witness=(inf, 1.0)), "not finite"),
    ("energy and its absence", lambda: make_measured(energy_joules=1.0), "either an energy or"),
    ("no word on energy", lambda: make_measured(energy_absent=None), "either an energy or"),
    (
        "negative energy",
        lambda: make_measured(energy_joules=-1.0, energy_absent=None),
        "energy_joules must be finite and above zero",
    ),
    ("unnamed latency", lambda: make_measured(request_ns=(1,)), "latencies without a name"),
    (
        "no request",
        lambda: make_measured(request_ns=(), latency_name="TTFT"),
        "latencies must be above zero",
    ),
    (
        "request without time",
        lambda: make_measured(request_ns=(5, 0), latency_name="TTFT"),
        "latencies must be above zero",
    ),
    ("block without steps", lambda: Block(wall_ns=1, step_ns=()), "a block without steps"),
    ("block without time", lambda: Block(wall_ns=0, step_ns=(1,)), "must be above zero"),
    ("negative block", lambda: Block(wall_ns=-1, step_ns=(1,)), "must be above zero"),
    ("negative step", lambda: Block(wall_ns=1, step_ns=(2, -1)), "must be above zero"),
    (
        "usage of fewer steps",
        lambda: Block(wall_ns=1, step_ns=(1, 1), step_cpu_ns=(1,)),
        "one value >= 0 a step",
    ),
    (
        "negative usage",
        lambda: Block(wall_ns=1, step_ns=(1,), step_switches=(-1,)),
        "one value >= 0 a step",
    ),
    (
        "negative wait",
        lambda: Block(wall_ns=1, step_ns=(1,), input_wait_ns=-1),
        "a wait must be 0 or more",
    ),
    ("negative queueing", lambda: make_measured(queue_ns=(-1,)), "queueing times must be"),
    ("rank below 0", lambda: share(-1), "count from 0"),
    ("rank without time", lambda: share(busy=0), "a rank's times must be above zero"),
    ("negative exchange", lambda: share(peer_ns=(-1,)), "an exchange takes no less"),
    ("exchanges of one", lambda: make_measured(ranks=(share(peer_ns=(0, 1)),)), "with each rank"),
    ("a rank is missing", lambda: make_measured(ranks=(share(1),)), "ranks must be all there"),
    (
        "rank longer than its block",
        lambda: make_measured(ranks=(share(busy=10_000_001),)),
        "no longer than it",
    ),
    ("least above all", lambda: Work(items=1, unit="x", flop=1, least_flop=2), "is above flop"),
    ("no check", lambda: Numerics(reference="fp64", checks=()), "without a check"),
    ("error NaN", lambda: Check(quantity="x", error=nan, tolerance=1.0), "error of x"),
    ("negative error", lambda: Check(quantity="x", error=-0.1, tolerance=1.0), "error of x"),
    ("no tolerance", lambda: Check(quantity="x", error=0.1, tolerance=0.0), "tolerance must be"),
    ("tolerance all", lambda: Check(quantity="x", error=0.1, tolerance=inf), "tolerance must be"),
    ("no memory", lambda: Memory(peak_bytes=0, scope="x", host_rss_bytes=1), "peak memory"),
    ("no items", lambda: Work(items=0, unit="image"), "items must be"),
    ("item without a name", lambda: Work(items=1, unit=""), "item without a name"),
    ("no FLOP", lambda: Work(items=1, unit="image", flop=0), "flop_or_bytes must be"),
    ("no bytes", lambda: Work(items=1, unit="image", moved_bytes=-1), "flop_or_bytes must be"),
    ("a half item", lambda: Work(items=half, unit="image"), "an int, not float 1.5"),
    ("a float", lambda: Work(items=1, unit="x", flop=half), "an int, not float 1.5"),
    ("no link", lambda: Work(items=1, unit="image", transferred_bytes=0), "flop_or_bytes must be"),
    ("void without reason", lambda: Void(reason=""), "must say why"),
    ("skipped without reason", lambda: Skipped(reason=" "), "must say why"),
    (
        "failed without message",
        lambda: Failed(kind="crash", phase="measure", message=""),
        "must say why",
    ),
    ("cold before its start", lambda: Cold(build_seconds=-0.1), "build_seconds must be"),
    ("cold NaN", lambda: Cold(import_seconds=nan), "import_seconds must be"),
]


@pytest.mark.parametrize(
    ("make", "complaint"), [n[1:] for n in NONSENSE], ids=[n[0] for n in NONSENSE]
)
def test_nonsense_cannot_be_made(make: Callable[[], Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        make()


def test_values_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        make_measured().flags = ("DRIFT",)  # type: ignore[misc]


def test_figures_of_a_launch_are_computed_from_its_samples() -> None:
    """Three blocks: 2 steps in 1 s, 4 in 1 s, 2 in 2 s, of 5 items each: 8 steps, 40 items, 4 s."""
    steady = (make_block(0.5, 2), make_block(0.25, 4), make_block(1.0, 2))
    measured = make_measured(items=5, steady=steady)
    assert measured.steady_steps == 8
    assert measured.steady_seconds == 4
    assert measured.throughput == 10
    assert measured.samples == [0.5, 0.25, 1.0]


def test_latencies_are_requests_or_on_the_host_clock_steps() -> None:
    steps = (Block(wall_ns=5, step_ns=(2, 3)), Block(wall_ns=4, step_ns=(4,)))
    assert make_measured(steady=steps).latencies is None, "no name, no latency"
    host = make_measured(steady=steps, latency_name="TTFT")
    assert host.latencies == [2e-9, 3e-9, 4e-9]
    queue = make_measured(steady=steps, latency_name="TTFT", step_clock="device event")
    assert queue.latencies is None, "a queued step's device time is no request's latency"
    timed = make_measured(
        steady=steps, latency_name="TTFT", step_clock="device event", request_ns=(7, 8)
    )
    assert timed.latencies == [7e-9, 8e-9]


def test_a_check_at_its_tolerance_passes() -> None:
    assert Check(quantity="x", error=0.01, tolerance=0.01).passed
    assert not Check(quantity="x", error=0.0101, tolerance=0.01).passed


def test_numerics_name_all_that_failed() -> None:
    numerics = Numerics(
        reference="fp64",
        checks=(
            Check(quantity="logits", error=0.5, tolerance=0.01),
            Check(quantity="loss", error=0.001, tolerance=0.01),
            Check(quantity="gradient_norm", error=inf, tolerance=0.01),
        ),
    )
    assert not numerics.passed
    assert numerics.complaint == (
        "logits off by 0.5 (tolerance 0.01); gradient_norm is not finite (tolerance 0.01)"
    )


def test_a_result_that_is_not_finite_survives_the_record() -> None:
    """JSON has no infinity: NaN logits must come back as a void launch, not as a garbled one."""
    check = Check(quantity="logits", error=inf, tolerance=0.01)
    void = Void(reason="numerics", numerics=Numerics(reference="fp64", checks=(check,)))
    assert msgspec.json.decode(msgspec.json.encode(void), type=Void) == void
    assert not check.passed
