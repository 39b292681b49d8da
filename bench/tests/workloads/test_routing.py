"""Bytes of a decode step are those of the experts that its tokens went to."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch

from bench.measuring import messages
from bench.measuring.launch import Launch
from bench.precision import PRECISIONS
from bench.records.case import Case
from bench.records.outcome import Measured, Work
from bench.records.run import Settings
from bench.tests.replay import FakeRecorder
from bench.tests.small_workloads import FP32, WORKLOADS, model_of, one_thread, site, small
from bench.workload import Site
from bench.workloads.language import latent
from bench.workloads.layers import routing

__all__ = ["one_thread"]  # a fixture, used by being here

STEPS = 4
GIVEN: dict[str, Any] = {"batch_size": 2, "prompt_length": 5, "new_tokens": STEPS}
ALIKE, APART = [[0, 1, 2, 3], [0, 1, 2, 3]], [[0, 1, 2, 3], [4, 5, 6, 9]]
"""Of two tokens, the four experts of each."""
FAMILIES = pytest.mark.parametrize(
    ("name", "model"), [("qwen3", "tiny-moe"), ("deepseek", "tiny"), ("deepseek", "tiny-v3")]
)


def routed(name: str, model: str, at: Site) -> tuple[Any, Any]:
    """A decode whose tokens go to the same experts in every other step, and to others in the rest;
    and its parameters. Any layer's router says so."""
    parameters = small(name, "decode", model=model, **GIVEN)
    job: Any = WORKLOADS[name].build("decode", parameters, at)
    layers = [m for p, m in model_of(job).named_modules() if p.endswith(".mlp.gate")]
    calls: dict[int, int] = {}

    def say(layer: torch.nn.Module, _: Any, found: Any) -> Any:
        logits, scores, indices = found
        if len(indices) != 2:  # the prompt's tokens
            return found
        number = calls[id(layer)] = calls.get(id(layer), -1) + 1
        return logits, scores, torch.tensor((ALIKE, APART)[number % 2])

    for layer in layers:
        layer.register_forward_hook(say)
    assert len(layers) > 1
    return job, parameters


@FAMILIES
def test_bytes_are_those_of_the_experts_that_were_hit(name: str, model: str) -> None:
    """By the tensors of the model itself: two of four steps hit 4 of 16 experts, two hit 8."""
    job, parameters = routed(name, model, site())
    evenly = WORKLOADS[name].work("decode", parameters, FP32)
    found = job.counted(evenly)
    assert found.experts_hit == 6 and evenly.experts_hit is None
    assert found == msgspec.structs.replace(
        evenly, moved_bytes=found.moved_bytes, experts_hit=found.experts_hit
    )
    library = model_of(job)
    elements = sum(p.numel() for p in library.parameters())
    for path, p in library.named_parameters():
        if ".mlp.experts." in path:
            elements -= p.numel() * 10 // 16
        elif path.endswith("embed_tokens.weight"):  # a row for each token; tied it is read as well
            tied = library.config.tie_word_embeddings  # type: ignore[union-attr]
            elements += 2 * p.shape[1] - (0 if tied else p.numel())
    held = [x for layer in job.generator._cache.layers for x in layer[:2]]
    seen = parameters.context + 1
    elements += round(sum(x.numel() / x.shape[2] for x in held) * seen)
    assert found.moved_bytes == 4 * elements


def test_counting_is_of_the_window_that_is_timed_and_leaves_the_steps_alone() -> None:
    parameters = small("qwen3", "decode", model="tiny-moe", **GIVEN)
    jobs: list[Any] = [WORKLOADS["qwen3"].build("decode", parameters, site()) for _ in "ab"]
    work = WORKLOADS["qwen3"].work("decode", parameters, FP32)
    with routing.choices(model_of(jobs[0])) as chosen:
        for _ in range(STEPS):
            jobs[0].step()
        hits = [len(one.unique()) for one in chosen]
    assert len(hits) == 3 * STEPS and 4 <= min(hits) <= max(hits) <= 8
    jobs[1].step()
    assert jobs[1].counted(work).experts_hit == sum(hits) / len(hits)
    jobs[0].step()  # the first of its window again
    for _ in range(3):
        for job in jobs:
            job.step()
        assert torch.equal(jobs[0].outputs()["output"][0], jobs[1].outputs()["output"][0])


@pytest.mark.parametrize(("steps", "taken"), [(4, 4), (32, 32), (128, 128), (1000, 256)])
def test_what_is_looked_at_is_spread_over_the_window(steps: int, taken: int) -> None:
    """A step hits two experts, in the later half of the window one: of both as many are seen."""
    seen: list[int] = []

    class Experts(torch.nn.Module):
        def forward(self, states: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
            return states

    model = torch.nn.ModuleDict({routing.EXPERTS: Experts()})

    def step(token: torch.Tensor, index: int) -> torch.Tensor:
        seen.append(index)
        choice = torch.tensor([[0, 0 if index >= taken / 2 else 1]])
        found: torch.Tensor = model[routing.EXPERTS](token, choice)
        return found

    assert routing.hit(model, step, torch.zeros(1, 1), steps) == 1.5
    assert seen == list(range(taken))


def test_a_recorded_decode_counts_what_one_that_is_not_does() -> None:
    at = site()
    graph = msgspec.structs.replace(at, execution="graph", recorder=FakeRecorder())
    eager, _ = routed("qwen3", "tiny-moe", at)
    job, parameters = routed("qwen3", "tiny-moe", graph)
    work = WORKLOADS["qwen3"].work("decode", parameters, FP32)
    assert job.counted(work) == eager.counted(work) != work


def test_dense_models_and_experts_that_nobody_sees_count_as_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work = Work(items=2, unit="token", moved_bytes=10)
    dense: Any = WORKLOADS["qwen3"].build("decode", small("qwen3", "decode"), site())
    assert dense.counted(work) == work
    job, _ = routed("qwen3", "tiny-moe", site())
    monkeypatch.setattr(routing, "EXPERTS", "of another name")
    assert job.counted(work) == work


def test_ranks_add_up_what_each_reads() -> None:
    work = Work(items=2, unit="token", moved_bytes=10)
    ranks: Any = SimpleNamespace(told=lambda hit: [hit, 7.0])
    found = routing.counted(work, 5.0, lambda hit: round(100 * hit), ranks)
    assert (found.moved_bytes, found.experts_hit) == (1200, 6.0)
    ranks = SimpleNamespace(told=lambda hit: [hit, None])
    assert routing.counted(work, 5.0, lambda hit: 1, ranks) == work


def test_a_launch_records_what_was_hit() -> None:
    parameters = small("deepseek", "decode", model="tiny", **GIVEN)
    case = Case(
        workload="deepseek",
        version=2,
        mode="decode",
        precision="bf16",
        execution="eager",
        parameters=msgspec.to_builtins(parameters),
    )
    settings = Settings(block_seconds=0.001, warmup_seconds=0.0, warmup_limit_seconds=0.1)
    request = messages.Request(
        case=case, backend="cpu", index=0, settings=settings, samples=10, seed=0, thorough=True
    )
    outcome = Launch(request, messages.Channel(io.BytesIO())).run().outcome
    assert isinstance(outcome, Measured), outcome
    assert outcome.executed is not None
    hit, once = outcome.work.experts_hit, outcome.executed.experts_hit
    assert hit is not None and once is not None and 4 <= min(hit, once) <= max(hit, once) <= 8
    context = GIVEN["prompt_length"] + (STEPS + 1) / 2
    expected = latent.SIZES["tiny"].decode_bytes(2, context, PRECISIONS["bf16"], hit)
    assert outcome.work.moved_bytes == expected
