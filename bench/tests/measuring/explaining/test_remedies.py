"""Remedies tried beside a job, by a clock that only their steps move."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch

from bench.backends.cpu import BACKEND
from bench.judging.explaining.remedies import said
from bench.measuring.explaining.remedies import UNUSED, Bench, remedies, tried, try_one
from bench.measuring.explaining.spellings import SPELLINGS, Spelled
from bench.measuring.explaining.tape import recorded
from bench.records.outcome import Numerics
from bench.tests.fakes import MS
from bench.tests.measuring.explaining.small_job import CLOCK, FP32, SmallJob
from bench.tests.values import BAD_NUMERICS, NUMERICS
from bench.workload import Site, Training


class Timed(SmallJob):
    """A step of so many ms."""

    def __init__(self, ms: int, **facts: str) -> None:
        super().__init__()
        self.facts, self.ms, self.closed = facts, ms, False

    def step(self) -> None:
        CLOCK.advance(self.ms * MS)

    def close(self) -> None:
        self.closed = True


class Work:
    """A workload of two layouts that compiles, or does not."""

    memory_formats = ("contiguous", "channels_last")

    def __init__(self) -> None:
        self.modes = {"train": SimpleNamespace(executions=("eager", "compile"))}
        self.built: list[Timed] = []

    def build(self, mode: str, parameters: Any, site: Site) -> Timed:
        if site.execution == "compile":
            raise RuntimeError("no compiler\nis installed")
        self.built.append(Timed(6 if site.memory_format == "channels_last" else 11))
        return self.built[-1]


def bench(work: Work, verdict: Numerics = NUMERICS) -> Bench:
    site = Site(device=torch.device("cpu"), precision=FP32, seed=0)
    workload: Any = work
    device = BACKEND.open(0, FP32)
    return Bench(workload, "train", None, site, BACKEND, device, lambda given, changed: verdict)


def test_what_each_came_to_is_said_as_it_was() -> None:
    work = Work()
    found = tried(bench(work), Timed(10, attention="sdpa"), CLOCK)
    assert [said(one) for one in found] == [
        "tried memory format channels_last: 10 -> 6 ms, held in one launch",
        "tried attention as plain products: 10 -> 11 ms, did not help",
        "not tried: execution compile: RuntimeError: no compiler",
    ]
    assert all(job.closed for job in work.built)


def test_what_computes_wrongly_is_not_timed() -> None:
    work = Work()
    found = tried(bench(work, BAD_NUMERICS), Timed(10), CLOCK)
    assert {one.absent.partition(":")[0] for one in found} == {"numerics"} and not work.built


def offered(job: Timed, parameters: Any = None) -> list[str]:
    changed = bench(Work())._replace(parameters=parameters)
    return [one.name for one in remedies(changed, job)][1:-1]  # but for the layout, the compiler


@pytest.mark.parametrize(
    ("facts", "names"), [({}, []), ({"attention": "sdpa"}, ["attention as plain products"])]
)
def test_attention_is_changed_where_there_is_some(facts: dict[str, str], names: list[str]) -> None:
    assert offered(Timed(1, **facts)) == names


def test_the_compiler_is_tried_for_the_sizes_of_the_step() -> None:
    """Not for any size, as torch would after the gate's twin."""
    config: Any = torch._dynamo.config
    with config.patch(automatic_dynamic_shapes=True):
        assert "execution compile" in [one.name for one in remedies(bench(Work()), Timed(1))]
        assert not config.automatic_dynamic_shapes


class Batch(msgspec.Struct):
    batch_size: int


def test_a_larger_batch_is_held_against_the_same_items() -> None:
    work = Work()
    larger = bench(work)._replace(parameters=Batch(4))
    found = tried(larger, Timed(10), CLOCK)[-1]
    assert said(found) == "tried batch_size 8, for the items of 4: 10 -> 5.5 ms, held in one launch"


class Trained(Timed):
    """A step that gathers, scatters and has an optimizer."""

    def __init__(self, **how: bool) -> None:
        super().__init__(1)
        self.at = torch.tensor([3, 1, 3])
        self.embedded = torch.nn.Parameter(torch.randn(8, 4, generator=torch.manual_seed(1)))
        self.optimizer: Any = torch.optim.SGD([self.embedded], lr=0.1, momentum=0.9, **how)
        self.seen: list[str] = []

    def step(self) -> None:
        self.seen = [call.name for call in recorded(self.update, "cpu").calls]

    def update(self) -> None:
        rows = torch.nn.functional.embedding(self.at, self.embedded)
        columns = rows.index_select(1, self.at)
        torch.zeros(8, 3).index_add_(0, self.at, columns.detach(), alpha=-0.5)
        (columns**2).sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def training(self) -> Any:
        return SimpleNamespace(optimizer=self.optimizer)


class Updated(Timed):
    """An optimizer's step; fused it leaves the weights as they are, and is the faster."""

    def __init__(self) -> None:
        super().__init__(10)
        self.weight = torch.nn.Parameter(torch.ones(64))
        self.optimizer = torch.optim.SGD([self.weight], lr=0.1, foreach=True)

    def step(self) -> None:
        before = self.weight.detach().clone()
        self.weight.grad = torch.ones(64)
        self.optimizer.step()
        fused = self.optimizer.param_groups[0]["fused"]
        if fused:
            self.weight.data.copy_(before)
        CLOCK.advance((5 if fused else 10) * MS)

    def training(self) -> Training:
        settings = {"lr": 0.1, "weight_decay": 0.0, "momentum": 0.0}
        return Training(optimizer=self.optimizer, settings=settings)


def test_what_leaves_weights_as_they_are_did_not_help(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch's fused SGD does to bfloat16 on a CPU (pytorch 191763), which no gate sees."""
    work = Work()
    monkeypatch.setattr(work, "build", lambda *_: Updated())
    absent = {one.remedy: one.absent for one in tried(bench(work), Updated(), CLOCK)}
    assert absent["memory format channels_last"] == ""
    assert absent["optimizer fused"].startswith("the optimizer's step is not what was asked for")


def test_an_optimizer_is_offered_only_what_it_has() -> None:
    job = Trained(foreach=False)
    job.optimizer = torch.optim.RMSprop([job.embedded], foreach=False)
    names = [name for name in offered(job) if name.startswith("optimizer")]
    assert names == ["optimizer foreach"]


@pytest.mark.parametrize(
    ("name", "there", "gone"),
    [
        ("optimizer fused", "aten::_fused_sgd_", "aten::_foreach_add_"),
        ("embedding as index_select", "aten::index_select", "aten::embedding"),
        ("index_select as gather", "aten::gather", "aten::index_select"),
        ("index_add_ as scatter_add_", "aten::scatter_add_", "aten::index_add_"),
    ],
)
def test_another_word_does_the_same(name: str, there: str, gone: str) -> None:
    """In its place only, to the same weights, and back again."""
    plain, changed = Trained(foreach=True), Trained(foreach=True)
    (remedy,) = [one for one in remedies(bench(Work()), Trained(foreach=True)) if one.name == name]
    for _ in range(2):
        plain.step()
        with remedy.around():
            changed.step()
    assert changed.seen.count(there) > plain.seen.count(there)
    assert changed.seen.count(gone) < plain.seen.count(gone)
    assert torch.allclose(plain.embedded, changed.embedded, rtol=1e-5)
    before = plain.seen
    plain.step()
    assert plain.seen == before


@pytest.mark.parametrize(("padding", "said"), [(None, 1), (0, 0)])
def test_a_layer_is_spelled_otherwise_where_it_only_looks_up(
    padding: int | None, said: int
) -> None:
    """As torch's own layer calls it: all arguments by their place, of which one is 2.0."""
    layer = torch.nn.Embedding(8, 4, padding_idx=padding)
    at, spelled = torch.tensor([[3, 1], [3, 0]]), Spelled(SPELLINGS[0])
    found, plain = list[torch.Tensor](), layer(at)
    with spelled():
        seen = [call.name for call in recorded(lambda: found.append(layer(at)), "cpu").calls]
    assert spelled.calls == seen.count("aten::index_select") == said
    assert seen.count("aten::embedding") == 1 - said and torch.equal(found[0], plain)


def test_what_python_does_not_call_is_not_spelled_otherwise() -> None:
    (remedy,) = [
        one for one in remedies(bench(Work()), Trained()) if one.name.startswith("embedding")
    ]
    found = try_one(bench(Work()), Timed(10), remedy, CLOCK)
    assert said(found) == f"not tried: {remedy.name}: {UNUSED}"
    assert "optimizer foreach" in offered(Trained(fused=True))
