"""Real blocks and silent ones in turns, on scripted time; `test_rank_numerics` has real ranks."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bench.measuring.launch import Launch
from bench.measuring.messages import Channel
from bench.measuring.ranks.edges import SINGLE, Edges
from bench.measuring.ranks.hush import Hush
from bench.measuring.timing import silent_blocks
from bench.measuring.timing.silent_blocks import LEAST_PAIRS, PAIRS, Taken, taken
from bench.ranks import Ranks
from bench.records.outcome import Work
from bench.records.parallelism import parse
from bench.records.run import Settings
from bench.tests.fakes import MS, FakeDevice, FakeJob, ScriptedClock
from bench.tests.measuring.ranks.test_edges import Shared
from bench.tests.measuring.timing.scripted_engine import both_kinds
from bench.tests.scripts import silent as script
from bench.tests.values import make_block

STEPS = 3


class Scripted:
    """A job and its hush: a step takes longer while nothing is hushed."""

    def __init__(
        self,
        real_ms: float = 30,
        silent_ms: float = 20,
        *,
        synchronous: bool = True,
        error: Exception | None = None,
        hushes: bool = True,
        witness: float = 1.0,
        drift_ms: float = 0.0,
    ) -> None:
        """drift_ms: what every step takes longer than the one before."""
        self.clock = ScriptedClock()
        self.device = FakeDevice(self.clock, synchronous)
        self.job = FakeJob(self.device, [], witness=[witness])
        self.job.step = self.step  # type: ignore[method-assign]
        self.times, self.error, self.hushes = {False: real_ms, True: silent_ms}, error, hushes
        self.drift_ms, self.hushed, self.calls = drift_ms, False, 0
        self.order = ""

    def step(self) -> None:
        if self.hushed and self.error:
            raise self.error
        self.order += "s" if self.hushed else "r"
        self.calls += self.hushed and self.hushes
        late = self.drift_ms * len(self.order)
        self.device.work(round((self.times[self.hushed] + late) * MS))

    @contextlib.contextmanager
    def silence(self) -> Iterator[None]:
        self.hushed = True
        yield
        self.hushed = False

    def taken(self, edges: Edges = SINGLE, step_seconds: float = 0.03, **settings: float) -> Taken:
        return taken(
            cast(Any, self.job),
            self.device,
            Settings(**settings),  # type: ignore[arg-type]
            (make_block(step_seconds, STEPS),),
            cast(Hush, self),
            edges,
            lambda: None,
            self.clock,
        )


@both_kinds
def test_what_is_exposed_is_the_difference(synchronous: bool) -> None:
    found = Scripted(synchronous=synchronous).taken()
    assert found.silent is not None and found.absent == ""
    assert found.silent.steps == STEPS
    assert found.silent.exposed_seconds == pytest.approx([0.010] * PAIRS)
    assert found.own_ns == (STEPS * 20 * MS,) * PAIRS


def test_pairs_turn_round_and_each_block_follows_a_step_of_its_kind() -> None:
    scripted = Scripted()
    scripted.taken()
    trial, real, silent = "s", "r" * (1 + STEPS), "s" * (1 + STEPS)
    assert scripted.order == trial + (real + silent + silent + real) * (PAIRS // 2)


def test_what_drifts_evenly_cancels() -> None:
    found = Scripted(drift_ms=1.0).taken().silent
    assert found is not None
    exposed = found.exposed_seconds
    assert max(exposed) - min(exposed) > 0.005, "it does drift"
    assert sum(exposed) / len(exposed) == pytest.approx(0.010)


def test_the_slowest_rank_is_each_blocks_and_its_own_time_each_ranks() -> None:
    """The first waits in every silent block; in time too, both take as many."""
    shared = Shared(2)
    ranks = [Scripted(30, 10), Scripted(30, 22)]

    def one(rank: int) -> Taken:
        return ranks[rank].taken(shared.of(rank), steady_limit_seconds=1.2)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(one, range(2))
    assert first.silent is not None and first.silent == second.silent
    assert len(first.own_ns) == len(second.own_ns) == len(first.silent.silent_ns) < PAIRS
    assert set(first.silent.silent_ns) == {STEPS * 22 * MS}
    assert set(first.own_ns) == {STEPS * 10 * MS}
    assert set(second.own_ns) == {STEPS * 22 * MS}


@pytest.mark.parametrize(
    ("scripted", "words"),
    [
        (
            {"error": RuntimeError("no such operator")},
            "communication fails: RuntimeError: no such operator",
        ),
        ({"hushes": False}, "none of its collectives could be kept from running"),
        ({"witness": math.nan}, "what the silent steps computed is not finite"),
    ],
)
def test_where_it_cannot_be_there_is_none_and_why(scripted: dict[str, Any], words: str) -> None:
    found = Scripted(**scripted).taken()
    assert found.silent is None and found.own_ns == ()
    assert words in found.absent


def test_one_rank_that_cannot_keeps_all_from_it() -> None:
    shared, failing = Shared(2), Scripted(error=ValueError("not here"))
    able = Scripted()
    with ThreadPoolExecutor(2) as pool:
        pair = pool.map(lambda k: (failing, able)[k].taken(shared.of(k)), range(2))
    first, second = pair
    assert first.absent == "a step without communication fails: ValueError: not here"
    assert second.absent == "another rank could not take a step without communication"
    assert able.order == "s", "no real step after it, for which the other would be missing"


def test_long_steps_are_bounded() -> None:
    found = Scripted(1000, 750).taken(step_seconds=1.0)
    assert found.silent is not None and LEAST_PAIRS <= len(found.silent.real_ns) < PAIRS
    never = Scripted()
    assert never.taken(step_seconds=20.0).absent == "2 pairs of blocks would take 480 s"
    assert never.order == ""


def test_a_long_measurement_is_no_reason_to_report_for_longer_than_a_report_may_take() -> None:
    """Half of its ten minutes would be: the launch would be ended as one that hangs."""
    found = Scripted(1000, 750).taken(step_seconds=1.0, steady_limit_seconds=600.0)
    assert found.silent is not None
    blocks_seconds = sum((*found.silent.real_ns, *found.silent.silent_ns)) / 1e9
    assert 2 * blocks_seconds < 120
    assert Scripted().taken(step_seconds=4.0, steady_limit_seconds=600.0).absent


@pytest.mark.parametrize(
    ("parallelism", "asked"),
    [("dp2", True), ("hsdp2x2", True), ("dlrm-hybrid2", True), ("replicas2", False)],
)
def test_a_launch_asks_where_ranks_compute_one_model_together(
    monkeypatch: pytest.MonkeyPatch, parallelism: str, asked: bool
) -> None:
    known = Scripted().taken()
    answers = [known, Taken(absent="no operator")]
    monkeypatch.setattr(silent_blocks, "taken", lambda *arguments: answers.pop(0))
    request: Any = SimpleNamespace(settings=Settings())
    launch, work = Launch(request, Channel(io.BytesIO())), Work(items=1, unit="token")
    device: Any = SimpleNamespace(torch_device=SimpleNamespace(type="cpu"))
    job, nobody, blocks = cast(Any, None), cast(Any, None), (make_block(0.03),)
    assert launch._silent(job, device, blocks, work) is None, "one device"
    launch.environment["world"] = {}
    launch.ranks = Ranks(
        rank=0, size=2, parallelism=parse(parallelism), group=nobody, control=nobody
    )
    found = launch._silent(job, device, blocks, work)
    assert (found, launch.silent_ns) == ((known.silent, known.own_ns) if asked else (None, ()))
    assert launch._silent(job, device, blocks, work) is None
    assert launch.environment["world"] == ({"silent_absent": "no operator"} if asked else {})


@pytest.mark.parametrize(
    ("found", "waiting", "words", "right"),
    [
        ((0.0112, 0.0118), 0.010, "(1.050, near, covers)", True),
        ((0.0112, 0.0113, 0.0112), 0.0105, "(1.023, near, covers)", True),
        ((0.0112, 0.0113, 0.0112), 0.010, "(1.023, near, MISSES)", False),
        ((0.0107, 0.0108, 0.0107), 0.011, "(0.973, near, MISSES)", False),
        ((0.0130, 0.0180), 0.010, "(1.450, FAR, covers)", False),
    ],
)
def test_the_script_says_when_the_planted_time_is_not_read_back(
    found: tuple[float, ...], waiting: float, words: str, right: bool
) -> None:
    told = [{"operations": 2, "own": 0.001, "with": one, "waiting": waiting} for one in found]
    said, is_right = script.judged(told, 0.005, 0.15)
    assert words in said and is_right is right
