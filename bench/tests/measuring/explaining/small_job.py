"""A training step with all that makes a tape hard, and an operator of known time."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from bench.precision import PRECISIONS
from bench.tests.fakes import MS, ScriptedClock
from bench.workload import Job

CLOCK = ScriptedClock()
PLANTED_NS = 10 * MS


@functools.cache
def planted() -> Any:
    """An operator that takes 10 ms by the scripted clock, and nothing else does."""
    library = torch.library.Library("planted", "DEF")
    library.define("layer_norm(Tensor x) -> Tensor")

    def work(x: torch.Tensor) -> torch.Tensor:
        CLOCK.advance(PLANTED_NS)
        return x.clone()

    library.impl("layer_norm", work, "CPU")
    planted.library = library  # type: ignore[attr-defined]  # which ends with it
    return torch.ops.planted.layer_norm


class SmallJob(Job):
    """One weight used three times (its gradients add up), a table, columns picked from it, and a
    position that moves."""

    def __init__(self, prepare: Callable[[], None] = lambda: None) -> None:
        self.facts = {}
        torch.manual_seed(0)
        self.weight = torch.nn.Parameter(torch.randn(32, 32) / 8)
        self.table = torch.nn.Parameter(torch.randn(16, 32))
        self.position = torch.zeros(1, dtype=torch.int64)
        self.cache = torch.zeros(64, 32)
        self.loss = torch.zeros(())
        self.planted = planted()
        self.prepare = prepare
        self.refills = 0

    @property
    def most_steps(self) -> int:
        return 1

    def refill(self) -> None:
        self.refills += 1
        self.position.zero_()  # a step too many would overflow the cache

    def step(self) -> None:
        self.weight.grad = self.table.grad = None
        x = torch.nn.functional.embedding(torch.arange(8), self.table)
        x = x.index_select(1, torch.arange(32))
        for _ in range(3):
            x = torch.relu(x @ self.weight)
        with torch.no_grad():
            self.cache.index_copy_(0, self.position, self.planted(x.detach())[:1])
            self.position += 40
        self.loss = x.square().sum()
        self.loss.backward()
        # As torch's optimizers mark it, whose import alone takes a second.
        with torch.no_grad(), torch.autograd.profiler.record_function("Optimizer.step#plain"):
            for weight in (self.weight, self.table):
                weight.add_(weight.grad, alpha=-1e-3)  # type: ignore[arg-type]

    def witness(self) -> float:
        return float(self.loss)

    def probe(self) -> dict[str, torch.Tensor]:
        return {}


FP32 = PRECISIONS["fp32"]


def nobody_looks(*_: object) -> None:
    """In the place of torch's profiler."""
    raise RuntimeError("nobody looks")
