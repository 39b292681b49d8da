"""A case that has not run is not started where its shapes alone outlast the budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench import catalogue, stats
from bench.planning.arrivals import load_of
from bench.planning.plan import parameters_of
from bench.planning.shapes import LEAST_BLOCKS, Shapes, is_matmul_ceiling
from bench.precision import PRECISIONS
from bench.records.case import Case
from bench.records.outcome import Outcome
from bench.records.run import Settings
from bench.tests.fakes import MS
from bench.tests.measuring.timing.scripted_engine import engine
from bench.tests.running import test_session
from bench.tests.running.test_session import play
from bench.tests.served_runs import serve_case
from bench.tests.values import failed, make_case, make_launch, make_measured

SETTINGS = Settings(block_seconds=0.01)
PRODUCT = 2 * 1024**3
MATMUL, LARGER = (make_case(parameters={"shape": f"{n}x1024x1024"}) for n in (1024, 4096))
TRIAD = make_case(workload="memory", mode="triad", parameters={"size_bytes": 2**20})


def serving(concurrency: int = 1, **changes: Any) -> Case:
    """A load of today's version."""
    case = serve_case(concurrency, **changes)
    return msgspec.structs.replace(case, version=catalogue.workload("serve").version)


def seen(*launches: tuple[Case, Outcome]) -> Shapes:
    shapes = Shapes(SETTINGS)
    for case, outcome in launches:
        shapes.note(case, outcome)
    return shapes


def test_nothing_is_known_of_what_nothing_like_has_run() -> None:
    other = make_case(precision="fp32", parameters={"shape": "1024x1024x1024"})
    quick = make_measured(0.1, items=PRODUCT, flop=PRODUCT)
    assert seen().least_seconds(LARGER) == 0.0
    assert seen((other, quick), (MATMUL, failed())).least_seconds(LARGER) == 0.0


def test_a_step_takes_its_flop_at_the_best_rate_of_its_arithmetic() -> None:
    slow, quick = (make_measured(s, items=PRODUCT, flop=PRODUCT) for s in (0.2, 0.1))
    shapes = seen((MATMUL, quick), (MATMUL, slow))
    assert shapes.least_seconds(LARGER) == pytest.approx(LEAST_BLOCKS * 0.4)


def test_a_launch_takes_no_more_blocks_than_that_where_nothing_moves() -> None:
    """Of twice as many, budgets left out what would have fitted."""
    measuring, _ = engine([MS])
    series = measuring.measure(samples=stats.MINIMUM_SAMPLES)
    assert len(series.warmup) + len(series.steady) == LEAST_BLOCKS


def test_or_its_bytes_at_the_best_bandwidth_and_a_block_at_least() -> None:
    moved = 3 * 2**20
    shapes = seen((TRIAD, make_measured(0.001, items=moved, unit="B", moved_bytes=moved)))
    large = make_case(workload="memory", mode="copy", parameters={"size_bytes": 3 * 2**29})
    assert shapes.least_seconds(large) == pytest.approx(LEAST_BLOCKS * 1.024)
    assert shapes.least_seconds(TRIAD) == pytest.approx(LEAST_BLOCKS * 0.01)


def test_what_only_moved_its_bytes_stands_for_no_ceiling() -> None:
    """A decode reaches a hundredth of the FLOP/s of a product, and less than a stream's bytes."""
    decode = make_case(workload="llama", mode="decode", parameters={})
    slow = make_measured(0.1, flop=PRODUCT // 100, moved_bytes=2**20)
    quick = make_measured(0.1, items=PRODUCT, flop=PRODUCT, moved_bytes=2**20)
    shapes = seen((decode, slow))
    assert shapes.least_seconds(LARGER) == shapes.least_seconds(TRIAD) == 0.0
    assert seen((MATMUL, quick)).least_seconds(TRIAD) == 0.0
    shapes = seen((decode, slow), (MATMUL, quick), (decode, slow))
    assert shapes.least_seconds(LARGER) == pytest.approx(LEAST_BLOCKS * 0.4)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, True),
        ({"shape": "8192x8192x8192"}, True),
        ({"shape": "4096x14336x4096"}, True),
        ({"shape": "1024x128256x4096"}, True),
        ({"shape": "1024x16384x16384"}, True),
        ({"shape": "256x256x256"}, True),
        ({"shape": "1x1x1"}, True),
        ({"shape": "1x14336x4096"}, False),
        ({"shape": "128x14336x4096"}, False),
        ({"shape": "4096x8192x64"}, False),
        ({"shape": "256x1536x2048", "experts": 128}, False),
        ({"shape": "32768x1536x2048", "experts": 128}, True),
    ],
)
def test_a_product_is_a_ceiling_by_its_shape(parameters: dict[str, Any], expected: bool) -> None:
    """One that moves a matrix for a few rows reaches a hundredth of what others do."""
    case = make_case(parameters=parameters)
    assert is_matmul_ceiling(case) == expected
    flop = make_measured(0.1, items=PRODUCT, flop=PRODUCT)
    assert bool(seen((case, flop)).least_seconds(LARGER)) == expected
    assert not is_matmul_ceiling(make_case(workload="attention", parameters=parameters))


def test_bursts_rest_and_steps_that_are_timed_alone_fill_no_block() -> None:
    quick = make_measured(0.1, items=PRODUCT, flop=PRODUCT)
    burst = make_case(mode="burst", parameters={"shape": "4096x1024x1024"})
    assert seen((MATMUL, quick)).least_seconds(burst) == pytest.approx(20 * (2.0 + 0.4))
    alone = Shapes(Settings(block_seconds=10.0, timing="step"))
    alone.note(MATMUL, quick)
    assert alone.least_seconds(LARGER) == pytest.approx(LEAST_BLOCKS * 0.4)


def test_a_load_is_served_once() -> None:
    """Its FLOP are those of all its requests: no warm-up and no blocks of it."""
    load = serving(4, requests=16, input_tokens=100, output_tokens=50)
    parameters = parameters_of(load, catalogue.workload("serve"))
    work = catalogue.workload("serve").work("load", parameters, PRECISIONS["fp32"])
    product = make_case(precision="fp32", parameters={"shape": "1024x1024x1024"})
    shapes = seen((product, make_measured(0.1, items=PRODUCT, flop=PRODUCT)))
    assert work.least_flop is not None
    assert shapes.least_seconds(load) == pytest.approx(work.least_flop / PRODUCT * 0.1)


def test_a_load_reads_the_weights_for_each_token_of_those_in_flight() -> None:
    """134.5 M weights of four bytes, and 16 * 50 tokens; of drawn lengths their own sum."""
    moved = 3 * 2**20
    shapes = seen((TRIAD, make_measured(0.001, items=moved, unit="B", moved_bytes=moved)))
    given: dict[str, Any] = {"model": "smollm2-135m-untied", "requests": 16}
    given |= {"input_tokens": 100, "output_tokens": 50}
    alone, four, drawn = (
        shapes.least_seconds(serving(count, **given, **more))
        for count, more in ((1, {}), (4, {}), (4, {"length_sigma": 1.0, "length_seed": 5}))
    )
    assert alone == pytest.approx(16 * 50 * 4 * 134.5e6 / moved * 0.001, rel=0.01)
    assert four == pytest.approx(alone / 4)
    assert 0.5 * four < drawn < 2 * four and drawn != four
    assert seen().least_seconds(serving(4, **given)) == 0.0


def test_a_load_takes_as_long_as_its_requests_come() -> None:
    """Whatever has run: arrivals are drawn beforehand."""
    load = serving(requests=64, rate=0.05)
    parameters = parameters_of(load, catalogue.workload("serve"))
    last = load_of(parameters).requests[-1].due_ns
    assert last is not None and last > 900e9
    assert seen().least_seconds(load) == pytest.approx(last / 1e9)
    assert seen().least_seconds(serving(4)) == 0.0


def test_a_session_leaves_out_what_its_shapes_say_will_not_fit(tmp_path: Path) -> None:
    """A is 1x1x1, C 27 times as much: its blocks alone take 13 times 27 s of 300."""
    tiny = make_measured(1.0, items=2, flop=2)
    script = {"A": [tiny], "B": [tiny], "C": [tiny]}
    stage, reason, _ = play(tmp_path, script, Settings(launches=1), budget_seconds=300)
    assert (stage.order, reason) == ("AB", "budget")
    long = tmp_path / "long"
    long.mkdir()
    stage, reason, _ = play(long, script, Settings(launches=1), budget_seconds=500)
    assert (stage.order, reason) == ("ABC", "complete")


@pytest.mark.parametrize("done", [0, 1])
@pytest.mark.parametrize(
    ("budget_seconds", "limit_seconds", "order"),
    [(720.0, 1800.0, ""), (1100.0, 1800.0, "A"), (None, 1800.0, "A"), (720.0, 600.0, "A")],
    ids=["short", "enough", "none", "nor without a budget"],
)
def test_a_load_that_a_budget_leaves_too_little_for_is_not_started(
    budget_seconds: float | None,
    limit_seconds: float,
    order: str,
    done: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or it was SKIPPED for good: 64 requests come over some 640 s, two thirds of 720 are less.

    For which a run without a budget has too little time, it says so.
    """
    load = serving(requests=64, rate=0.1)
    monkeypatch.setattr(test_session, "A", load)
    monkeypatch.setitem(test_session.NAMES, load.fingerprint, "A")
    before = [make_launch(make_measured(1.0), load, seconds=650.0)] * done
    settings = Settings(launches=1 + done, launch_limit_seconds=limit_seconds)
    script = {"A": [make_measured(1.0)]}
    stage, reason, _ = play(tmp_path, script, settings, budget_seconds, done=before)
    assert (stage.order, reason) == (order, "complete" if order else "budget")


def test_a_session_launches_what_a_decode_that_ran_first_would_leave_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `--only` has it: of B the decode's rate would say 8 times 13 s."""
    version = catalogue.workload("llama").version_of("decode")
    given = {"model": "tiny", "batch_size": 1, "prompt_length": 8, "new_tokens": 8}
    decode = make_case(workload="llama", mode="decode", version=version, parameters=given)
    monkeypatch.setattr(test_session, "A", decode)
    monkeypatch.setitem(test_session.NAMES, decode.fingerprint, "A")
    tiny = make_measured(1.0, items=2, flop=2)
    stage, reason, _ = play(
        tmp_path, {"A": [tiny], "B": [tiny]}, Settings(launches=1), budget_seconds=60
    )
    assert (stage.order, reason) == ("AB", "complete")
