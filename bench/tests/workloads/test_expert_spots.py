"""Choices of experts and what they give are held to float64 at the timed size: twins have none."""

from __future__ import annotations

import functools
import io
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from bench.measuring import messages
from bench.measuring.asked import complaint
from bench.measuring.gates.numerics import gate
from bench.measuring.launch import Launch
from bench.precision import PRECISIONS
from bench.records.case import Case
from bench.records.outcome import Void
from bench.records.run import Settings
from bench.tests.replay import FakeRecorder
from bench.tests.small_workloads import WORKLOADS, model_of, one_thread, site, small
from bench.tests.stand_in_products import Experts
from bench.workload import Site
from bench.workloads.spots import expert_spots
from bench.workloads.spots.expert_spots import CHOICE, FACT, Rule
from bench.workloads.spots.spots import allowed

__all__ = ["one_thread"]  # a fixture, used by being here

BF16, FP32 = PRECISIONS["bf16"], PRECISIONS["fp32"]
MODELS = [("qwen3", "tiny-moe"), ("deepseek", "tiny"), ("deepseek", "tiny-v3"), ("gpt-oss", "tiny")]
FAMILIES = pytest.mark.parametrize(("name", "model"), MODELS)
CASES = [
    (name, model, mode)
    for name, model in MODELS
    for mode in ("train", "lora", "prefill", "decode")
    if mode in WORKLOADS[name].modes
]


def timed(name: str, model: str, mode: str, at: Site, **given: Any) -> Any:
    job = WORKLOADS[name].build(mode, small(name, mode, model=model, **given), at)
    job.step()
    return job


def told(job: Any) -> str:
    found = [look for look in job.looks() if FACT in look.what]
    assert found, "nobody looked"
    assert FACT not in job.facts, job.facts[FACT]
    return complaint(found)


# What is right


@pytest.mark.parametrize("precision", [BF16, FP32], ids=lambda precision: precision.name)
@pytest.mark.parametrize(("name", "model", "mode"), CASES)
def test_right_experts_are_never_void(name: str, model: str, mode: str, precision: Any) -> None:
    """With far less room than they have: a third of it for what they give, a fifth for choices."""
    for seed, batch in ((1, 1), (2, 2), (3, 5)):
        job = timed(name, model, mode, site(precision, seed=seed), batch_size=batch)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(expert_spots, "allowed", narrowed)
            assert told(job) == ""
        job.step()


def narrowed(precision: Any, quantity: str, length: int, twin: int) -> float:
    return allowed(precision, quantity, length, twin) / (3 if quantity == "experts" else 5)


@pytest.mark.parametrize("execution", ["compile", "graph"])
@pytest.mark.parametrize("mode", ["train", "prefill", "decode"])
def test_nor_where_steps_are_compiled_or_recorded(mode: str, execution: str) -> None:
    """The look is a step as it is written: nothing more is compiled for it."""
    graphs: list[object] = []

    def compiler(graph: Any, _: object) -> Any:
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    given: dict[str, Any] = {"execution": execution, "recorder": FakeRecorder()}
    if execution == "compile":
        given = {"execution": execution, "compiler": compiler}
    job = timed("gpt-oss", "tiny", mode, msgspec.structs.replace(site(FP32), **given))
    before = len(graphs)
    assert (before > 0) == (execution == "compile")
    assert told(job) == ""
    job.step()
    assert len(graphs) == before


def test_of_narrow_experts_the_choice_alone_is_looked_at() -> None:
    at = msgspec.structs.replace(site(BF16), products=Experts())
    job = timed("gpt-oss", "tiny-mxfp4", "prefill", at)
    assert told(job) == ""
    assert [look.what for look in job.looks() if FACT in look.what] == [CHOICE]


def test_a_model_without_experts_takes_no_step_more() -> None:
    job = timed("qwen3", "tiny", "prefill", site(BF16))
    job._prefill = None
    assert complaint(job.looks()) == "" and FACT not in job.facts


def test_a_look_leaves_training_as_it_was() -> None:
    jobs = [timed("qwen3", "tiny-moe", "train", site(FP32)) for _ in "ab"]
    gradients = [p.grad for p in model_of(jobs[0]).parameters()]
    step = functools.partial(jobs[0]._read, jobs[0]._taken[0])
    looks = expert_spots.looks(jobs[0], jobs[0]._model, step, jobs[0]._site)
    assert complaint(looks) == ""
    assert all(a is p.grad for a, p in zip(gradients, model_of(jobs[0]).parameters(), strict=True))
    for job in jobs:
        job.step()
    assert jobs[0].witness() == jobs[1].witness()


# What is wrong where there is something to choose


def smallest(x: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    wrong = k < x.shape[dim] and largest
    return TOPK(x, k, dim, largest=not wrong, sorted=sorted)


TOPK, GROUPED = torch.topk, functional.grouped_mm


@pytest.mark.parametrize(("name", "model", "mode"), CASES)
def test_a_choice_of_the_worst_passes_the_gate_and_is_void(
    monkeypatch: pytest.MonkeyPatch, name: str, model: str, mode: str
) -> None:
    monkeypatch.setattr(torch, "topk", smallest)
    for precision in (BF16, FP32):
        at, parameters = site(precision), small(name, mode, model=model)
        assert gate(WORKLOADS[name], mode, parameters, at).passed
        found = told(timed(name, model, mode, at))
        assert found.startswith(f"{CHOICE}: asked for the best by their scores")
        assert "goes to expert" in found


@FAMILIES
def test_weights_of_another_token_are_void(
    monkeypatch: pytest.MonkeyPatch, name: str, model: str
) -> None:
    def values(x: Tensor, k: int, *given: Any, **how: Any) -> Any:
        found, index = TOPK(x, k, *given, **how)
        return (found.roll(1, 0) if k < x.shape[-1] else found), index

    if model == "tiny-v3":  # by indices
        right = torch.Tensor.gather
        monkeypatch.setattr(torch.Tensor, "gather", lambda x, *at: right(x, *at).roll(1, 0))
    else:
        monkeypatch.setattr(torch, "topk", values)
    patched, job = torch.Tensor.gather, timed(name, model, "prefill", site(BF16))
    if model == "tiny-v3":
        monkeypatch.setattr(expert_spots.Rule, "complaint", unpatched(right, patched))
    found = told(job)
    assert found.startswith(CHOICE) and " has a weight of " in found


def unpatched(right: Any, patched: Any) -> Any:
    """The host's arithmetic is not the device's."""
    complain = Rule.complaint

    def complaint(*given: Any) -> Any:
        torch.Tensor.gather = right  # type: ignore[method-assign]
        try:
            return complain(*given)
        finally:
            torch.Tensor.gather = patched  # type: ignore[method-assign]

    return complaint


@FAMILIES
@pytest.mark.parametrize("mode", ["train", "prefill", "decode"])
def test_a_grouped_product_without_its_last_group_is_void(
    monkeypatch: pytest.MonkeyPatch, name: str, model: str, mode: str
) -> None:
    """Of more groups than a twin has, that is."""

    def product(rows: Tensor, matrices: Tensor, *, offs: Tensor) -> Tensor:
        found = GROUPED(rows, matrices, offs=offs)
        if len(matrices) > 4:
            last = int((offs < offs[-1]).sum())
            found[int(offs[last - 1]) :] = 0
        return found

    monkeypatch.setattr(functional, "grouped_mm", product)
    assert gate(WORKLOADS[name], mode, small(name, mode, model=model), site(BF16)).passed
    found = told(timed(name, model, mode, site(BF16)))
    assert found.startswith(f"{FACT}: asked for what float64 makes of its operands, within 0.036, ")
    assert "A kernel is wrong at this size" in found


def test_a_launch_of_such_a_choice_is_void(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "topk", smallest)
    parameters = small("qwen3", "prefill", model="tiny-moe")
    case = Case(
        workload="qwen3",
        version=1,
        mode="prefill",
        precision="bf16",
        execution="eager",
        parameters=msgspec.to_builtins(parameters),
    )
    settings = Settings(block_seconds=0.001, warmup_seconds=0.0, warmup_limit_seconds=0.1)
    request = messages.Request(
        case=case, backend="cpu", index=0, settings=settings, samples=10, seed=0
    )
    outcome = Launch(request, messages.Channel(io.BytesIO())).run().outcome
    assert isinstance(outcome, Void)
    assert outcome.reason.startswith(CHOICE) and outcome.numerics


def rule(groups: int, best_groups: int) -> Rule:
    """Of a router whose scores are the sigmoids of its rows [n, 8]."""
    eye, bias = torch.eye(8).double(), torch.zeros(8).double()
    return Rule("DeepseekV3TopkRouter", eye, bias, groups, best_groups, True, 1.0)


def test_a_choice_is_of_the_best_groups() -> None:
    row = torch.tensor([[3.0, -3.0, 1.0, 2.0, 0.5, 0.4, -1.0, -2.0]]).double()

    def said(*chosen: int) -> Any:
        index = torch.tensor([chosen])
        weights = row.sigmoid().gather(1, index)
        found = rule(4, 2).complaint(row, index, weights / weights.sum(), 1e-3)
        return found and found[1]

    assert said(3, 2) is None  # the best but one, of groups (0.95 + 0.05), (0.73 + 0.88), (1.2)
    assert "to expert 0, than which 0 score more" in said(3, 0)
    assert "to expert 4, than which 3 score more" in said(3, 4)


def test_what_is_level_may_go_either_way() -> None:
    row = torch.zeros(1, 8).double()
    row[0, :3] = torch.tensor([1.0, 1.0 + 1e-5, 1.0 - 1e-5])
    weights = torch.full((1, 2), 0.5).double()
    for chosen in ([0, 1], [2, 0], [1, 2]):
        assert rule(1, 1).complaint(row, torch.tensor([chosen]), weights, 1e-3) is None
    # Of level groups too.
    row = torch.ones(1, 8).double() + torch.linspace(0, 1e-5, 8).double()
    for chosen in ([0, 1], [7, 0], [3, 4]):
        assert rule(4, 2).complaint(row, torch.tensor([chosen]), weights, 1e-3) is None


@pytest.mark.parametrize(
    ("index", "wrong"),
    [
        ([[0, 8]], "expert 8 of 8"),
        ([[-1, 2]], "expert -1 of 8"),
        ([[0, 1], [3, 3]], "a token that goes twice to an expert"),
    ],
)
def test_indices_are_of_experts_each_once(index: Any, wrong: str) -> None:
    assert expert_spots._not_a_choice(torch.tensor(index), 8) == wrong
    assert expert_spots._not_a_choice(torch.tensor([[0, 7], [3, 2]]), 8) == ""


# What cannot be seen costs no figure


@pytest.mark.parametrize("mode", ["train", "prefill", "decode"])
def test_a_look_that_fails_is_a_fact(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    def full(*_: object) -> Any:
        raise torch.OutOfMemoryError("out of memory")

    job = timed("qwen3", "tiny-moe", mode, site(BF16))
    monkeypatch.setattr(expert_spots, "_expert", full)
    assert complaint(job.looks()) == ""
    assert job.facts[FACT].startswith("not observable: ") and "out of memory" in job.facts[FACT]
    job.step()


def test_so_is_a_step_that_fails() -> None:
    job: Any = SimpleNamespace(facts={"experts": "grouped_mm"})
    model = timed("qwen3", "tiny-moe", "prefill", site(BF16)).generator.model
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]

    def step() -> None:
        raise RuntimeError("a lost device")

    assert list(expert_spots.looks(job, model, step, site(BF16))) == []
    assert job.facts[FACT] == "not observable: RuntimeError: a lost device"
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]


def test_a_router_that_is_not_known_leaves_what_its_experts_give(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(expert_spots, "ROUTERS", ("of another name",))
    monkeypatch.setattr(torch, "topk", smallest)
    job = timed("qwen3", "tiny-moe", "prefill", site(BF16))
    assert told(job) == ""
    assert job.facts[CHOICE] == "not observable: no rule of NoneType is known"
