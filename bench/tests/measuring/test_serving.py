"""A whole launch of a small load, in this process: what is recorded, and what is refused."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from bench.backends.cpu import CpuDevice
from bench.measuring import messages, serving
from bench.measuring.gates import serving_gate
from bench.measuring.launch import Launch
from bench.measuring.timing.blocks import collected
from bench.planning.arrivals import load_of
from bench.records.case import Case
from bench.records.outcome import Measured, Outcome, Void
from bench.records.run import Settings
from bench.tests.measuring.gates.wrong_slots import one_slot_forgets, stale
from bench.tests.replay import FakeRecorder
from bench.tests.small_workloads import one_thread
from bench.workloads.serve import WORKLOAD, ServeParameters, SlotJob

__all__ = ["one_thread"]
SMALL = ServeParameters(
    model="tiny-untied-2l",
    slots=3,
    chunk=16,
    input_tokens=12,
    output_tokens=6,
    requests=15,
    concurrency=3,
)


@pytest.fixture(autouse=True)
def few_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate is tried elsewhere."""
    monkeypatch.setattr(serving_gate, "TWIN_PROMPTS", (12, 5))


def launch(seed: int = 0, execution: str = "eager", **changes: Any) -> Outcome:
    case = Case(
        workload="serve",
        version=WORKLOAD.version,
        mode="load",
        precision="fp32",
        execution=execution,
        parameters=msgspec.to_builtins(msgspec.structs.replace(SMALL, **changes)),
    )
    settings = Settings(warmup_seconds=0.0)
    request = messages.Request(
        case=case, backend="cpu", index=0, settings=settings, samples=10, seed=seed
    )
    return Launch(request, messages.Channel(io.BytesIO())).run().outcome


def test_a_launch_keeps_every_request_and_its_throughput_is_the_window_s() -> None:
    """And its schedule is that of a launch of another seed, whose prompts are others."""
    one, other = launch(0), launch(1)
    assert isinstance(one, Measured) and isinstance(other, Measured), (one, other)
    assert one.served is not None and other.served is not None
    window = one.served.window
    assert window is not None and len(one.served.requests) == 15
    assert one.throughput == pytest.approx(window.tokens / window.seconds)
    assert one.work.unit == "token" and one.work.flop is not None
    assert one.served.schedule == other.served.schedule
    assert one.served.load == other.served.load
    assert one.witness != other.witness
    quantities = [check.quantity for check in one.numerics.checks]
    assert quantities == ["logits", serving_gate.TWIN, serving_gate.TIMED]
    assert msgspec.json.decode(msgspec.json.encode(one), type=Measured) == one


@pytest.mark.parametrize("wrong", [one_slot_forgets, stale])
def test_an_engine_that_is_right_only_in_the_gate_is_void(
    wrong: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answers of the timed load are read again: it is warmed, which no twin is, and wrong."""
    warm = SlotJob.warm

    def spoiled(job: SlotJob) -> None:
        warm(job)
        wrong(job)

    monkeypatch.setattr(SlotJob, "warm", spoiled)
    found = launch()
    assert isinstance(found, Void) and serving_gate.TIMED in found.reason, found


def test_a_replayed_launch_records_each_variant_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the warm-up: a recording within the load would be in its figures."""
    recorder = FakeRecorder()
    monkeypatch.setattr(CpuDevice, "recorder", lambda device: recorder)
    before: list[int] = []

    def noted() -> Any:
        before.append(recorder.recordings)
        return collected()

    monkeypatch.setattr("bench.measuring.serving.collected", noted)
    found = launch(execution="graph", arrival="offline", concurrency=0)
    assert isinstance(found, Measured), found
    assert before == [recorder.recordings]


def test_the_case_s_load_is_the_one_that_is_served() -> None:
    """Each arrival by its own words; another seed of lengths, another load."""
    rate = msgspec.structs.replace(SMALL, arrival="poisson", concurrency=0, rate=3.0)
    drawn = msgspec.structs.replace(SMALL, length_sigma=0.3)
    loads = [load_of(x) for x in (SMALL, rate, drawn)]
    assert [load.process for load in loads] == ["closed", "poisson", "closed"]
    assert loads[0].concurrency == 3 and loads[0].tokens == 15 * 6
    again = msgspec.structs.replace(drawn, length_seed=1)
    assert load_of(again).digest != loads[2].digest == load_of(drawn).digest


@pytest.mark.parametrize(
    ("module", "name", "stopped"),
    [(serving, "collected", True), (serving_gate, "timed_answers", False)],
)
def test_a_machine_that_is_suspended_stops_a_load_and_not_what_comes_after(
    module: Any, name: str, stopped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answers are read again in float64, which takes longer than the load."""
    suspended = [0]
    call = getattr(module, name)

    def closed(*given: Any) -> Any:
        suspended[0] += 10**10
        return call(*given)

    monkeypatch.setattr(serving, "suspended_ns", lambda: suspended[0])
    monkeypatch.setattr(module, name, closed)
    found = launch()
    assert isinstance(found, Measured), found
    assert ("suspended for 10 s" in found.causes.get("STOPPED", "")) == stopped
