"""The gate of serving: right engines pass, and each wrong one is refused by its answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch

from bench.backends.cpu import BACKEND
from bench.measuring import serving_loop
from bench.measuring.gates import numerics, serving_gate
from bench.measuring.gates.gating import gated
from bench.measuring.gates.numerics import reference_of
from bench.measuring.serving_schedule import Asked
from bench.precision import PRECISIONS
from bench.records.outcome import Check, Numerics
from bench.records.run import Settings
from bench.serving_job import ServingJob
from bench.tests.measuring.gates.wrong_slots import WRONG, StopsEarly
from bench.tests.replay import FakeRecorder
from bench.tests.small_workloads import one_thread, site
from bench.workload import Job, Site
from bench.workloads.serve import WORKLOAD, Serve, ServeParameters

__all__ = ["one_thread"]
TWIN = ServeParameters(
    model="tiny-untied-2l",
    slots=3,
    chunk=32,
    input_tokens=72,
    output_tokens=8,
    requests=12,
    concurrency=3,
)


@pytest.fixture(autouse=True)
def few_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over chunks, and shorter than one; more than there are slots."""
    monkeypatch.setattr(serving_gate, "TWIN_PROMPTS", (72, 5, 33, 9))


LATENT = msgspec.structs.replace(TWIN, model="deepseek-tiny-2l", input_tokens=252, chunk=64)
OF_THE_CACHE = [name for name in WRONG if name not in ("a stale graph", "a cached answer")]
"""Faults in what is kept and where; the others are of tokens, whatever keeps them."""
LONG = serving_gate.TWIN_PROMPTS
"""The gate's own: one text of several fifties of tokens."""


@pytest.fixture(scope="module")
def reference() -> Iterator[Any]:
    yield WORKLOAD.build("load", TWIN, reference_of(site()))


@pytest.fixture(scope="module")
def of_latents() -> Iterator[Any]:
    yield WORKLOAD.build("load", LATENT, reference_of(site()))


def checked(job: Any, reference: Any, precision: str = "bf16") -> Any:
    requests = serving_gate.of_twin(job, 0).requests
    limit = serving_gate.TWIN_REGRETS[precision]
    return serving_gate.check(serving_gate.TWIN, requests, reference.regrets, limit)


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_engine_is_refused(reference: Any, name: str) -> None:
    """By the widest of all limits, bfloat16's."""
    right: Any = WORKLOAD.build("load", TWIN, site())
    job = WRONG[name](right)
    found = checked(job, reference)
    assert not found.passed, f"{name}: {found.finding}"


@pytest.mark.parametrize("name", OF_THE_CACHE)
def test_a_wrong_engine_of_latents_is_refused(
    of_latents: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Likewise; a latent that is kept in the wrong place is as wrong as a key."""
    monkeypatch.setattr(serving_gate, "TWIN_PROMPTS", LONG)
    right: Any = WORKLOAD.build("load", LATENT, site())
    found = checked(WRONG[name](right), of_latents)
    assert not found.passed, f"{name}: {found.finding}"


def test_a_right_engine_of_latents_passes(of_latents: Any) -> None:
    job = WORKLOAD.build("load", LATENT, site(PRECISIONS["bf16"]))
    assert checked(job, of_latents, "bf16").passed
    job = WORKLOAD.build("load", LATENT, site())
    assert checked(job, of_latents, "fp32").error == 0.0


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_right_engine_passes(reference: Any, precision: str) -> None:
    """In float32 without any regret: each token is the reference's best."""
    job = WORKLOAD.build("load", TWIN, site(PRECISIONS[precision]))
    found = checked(job, reference, precision)
    assert found.passed, found.finding
    assert precision != "fp32" or found.error == 0.0


def test_an_engine_that_stops_early_is_refused(
    reference: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tokens are right; there are too few."""
    monkeypatch.setattr(serving_loop, "Schedule", StopsEarly)
    found = checked(WORKLOAD.build("load", TWIN, site()), reference)
    assert found.error is None and not found.passed


def test_the_whole_gate_has_logits_twin_and_lone_answers() -> None:
    """Each in its own precision, by name; nothing of it is skipped."""
    at = site(PRECISIONS["bf16"])
    verdict = serving_gate.gate(WORKLOAD, "load", TWIN, at)
    assert [check.quantity for check in verdict.checks] == [
        "logits",
        serving_gate.TWIN,
        serving_gate.LONE,
    ]
    assert verdict.passed, verdict.complaint
    assert [c.tolerance for c in verdict.checks[1:]] == [
        serving_gate.TWIN_REGRETS["bf16"],
        serving_gate.TWIN_REGRETS["fp32"],
    ]


@pytest.mark.parametrize(("twin", "lone"), [(TWIN, "graph"), (LATENT, "eager")])
def test_experts_are_not_recorded_in_float32(
    monkeypatch: pytest.MonkeyPatch, twin: ServeParameters, lone: str
) -> None:
    """Torch asks the device where each one's rows begin; in the timed precision it need not."""
    built: list[tuple[str, str]] = []

    class Noted(Serve):
        def build(self, mode: str, parameters: Any, site: Site) -> Job:
            if not site.is_reference:
                built.append((site.precision.name, site.execution))
            return super().build(mode, parameters, site)

    logits = Check(quantity="logits", error=0.0, tolerance=1.0)
    right = Numerics(reference="", checks=(logits,))
    monkeypatch.setattr(numerics, "gate", lambda *_: right)
    monkeypatch.setattr(serving_gate, "of_twin", lambda *_: SimpleNamespace(requests=()))
    graph = msgspec.structs.replace(
        site(PRECISIONS["bf16"]), execution="graph", recorder=FakeRecorder()
    )
    serving_gate.gate(Noted(), "load", twin, graph)
    assert built == [("bf16", "graph"), ("fp32", lone)]


def test_float32_answers_are_float32_where_products_are_short(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In a process of tf32, whose switch is on for all else."""
    switched: list[str] = []

    def answers(job: ServingJob, seed: int) -> serving_loop.Loaded:
        switched.append(torch.get_float32_matmul_precision())
        return of_twin(job, seed)

    of_twin = serving_gate.of_twin
    monkeypatch.setattr(serving_gate, "of_twin", answers)
    case = SimpleNamespace(mode="load", execution="eager")
    request: Any = SimpleNamespace(case=case, settings=Settings(), scratch=str(tmp_path))
    device: Any = SimpleNamespace(release_memory=lambda: None)
    launch: Any = SimpleNamespace(request=request, backend=BACKEND, environment={}, cold={})
    at = site(PRECISIONS["tf32"])
    before = torch.get_float32_matmul_precision()
    BACKEND.shorten_float32(True)
    try:
        verdict, _ = gated(launch, WORKLOAD, TWIN, at, device, None)
        assert switched == ["high", "highest"]
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    assert [check.quantity for check in verdict.checks][1:] == [
        serving_gate.TWIN,
        serving_gate.LONE,
    ]


def test_timed_answers_are_one_of_each_slot_by_a_draw() -> None:
    """So that a fault in one slot is seen; which of a slot's answers, nobody knows beforehand."""
    requests = [Asked(i, [1], 1, 0, slot=i % 5, answer=[0]) for i in range(50)]
    drawn = [serving_gate.sample(requests, seed) for seed in (1, 2)]
    assert [sorted(r.slot for r in some) for some in drawn] == [[0, 1, 2, 3, 4]] * 2
    assert drawn[0] != drawn[1]
    many = [Asked(i, [1], 1, 0, slot=i) for i in range(50)]
    assert len(serving_gate.sample(many, 0)) == serving_gate.MOST_ANSWERS
