"""Remedies tried beside a job, by a clock that only their steps move."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.backends.cpu import BACKEND
from bench.judging.remedies import said
from bench.measuring.explaining.remedies import Bench, remedies, tried
from bench.records.outcome import Numerics
from bench.tests.fakes import MS
from bench.tests.measuring.explaining.small_job import CLOCK, FP32, SmallJob
from bench.tests.values import BAD_NUMERICS, NUMERICS
from bench.workload import Site


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
    return Bench(workload, "train", None, site, BACKEND, device, lambda changed: verdict)


def test_what_each_came_to_is_said_as_it_was() -> None:
    work = Work()
    found = tried(bench(work), Timed(10, attention="sdpa"), CLOCK)
    assert [said(one) for one in found] == [
        "tried memory format channels_last: 10 -> 6 ms, held",
        "not tried: execution compile: RuntimeError: no compiler",
        "tried attention as plain products: 10 -> 11 ms, did not help",
    ]
    assert all(job.closed for job in work.built)


def test_what_computes_wrongly_is_not_timed() -> None:
    work = Work()
    found = tried(bench(work, BAD_NUMERICS), Timed(10), CLOCK)
    assert {one.absent.partition(":")[0] for one in found} == {"numerics"} and not work.built


@pytest.mark.parametrize(("facts", "names"), [({}, 2), ({"attention": "sdpa"}, 3)])
def test_attention_is_changed_where_there_is_some(facts: dict[str, str], names: int) -> None:
    assert len(list(remedies(bench(Work()), Timed(1, **facts)))) == names
