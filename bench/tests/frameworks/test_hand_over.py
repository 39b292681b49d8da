"""What torch hands over: the draws of each launch, of which the first alone is built."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.frameworks import _hand_over
from bench.frameworks.mindspore import BUILDERS
from bench.measuring.messages import Order, Request
from bench.records.case import Case
from bench.records.run import Settings
from bench.rehearsal import has_no_values
from bench.running import handing
from bench.tests.small_workloads import WORKLOADS, one_thread, site, small
from bench.workload import Site
from bench.workloads.jobs.seeded import Noted, SeededData

__all__ = ["one_thread"]


def equal(one: Noted, other: Noted) -> bool:
    return len(one) == len(other) and all(
        mine[:2] == theirs[:2] and bool((torch.as_tensor(mine[2]) == theirs[2]).all())
        for mine, theirs in zip(one, other, strict=True)
    )


@pytest.mark.parametrize(("name", "mode"), BUILDERS)
def test_what_is_replayed_is_what_building_draws(name: str, mode: str) -> None:
    of = WORKLOADS[name], mode, small(name, mode)
    found = dict(_hand_over._of_seeds((1, 2), *of, site()))
    assert not equal(found[1], found[2])
    rehearsed = _hand_over._rehearsed(*of, site())
    assert rehearsed is not None and not any(type(x[2]) in (int, torch.Tensor) for x in rehearsed)
    assert equal(found[2], _hand_over._noted(*of, site(seed=2)))


class Drawn:
    """A job's end is all that it has."""

    def close(self) -> None:
        pass


class Work:
    """Notes with which seeds values were drawn; from that seed's generator, or another besides."""

    def __init__(self, seeds: Callable[[int], list[int]]) -> None:
        self.built: list[int] = []
        self.seeds = seeds

    def build(self, mode: str, parameters: Any, at: Site) -> Drawn:
        for seed in self.seeds(at.seed):
            data = SeededData(seed)
            made = data.normal((3, 2), torch.float32, 0.5)
            data.integers(0, 100, (5,))
        if not has_no_values(made):
            self.built.append(at.seed)
        return Drawn()


@pytest.mark.parametrize(
    ("seeds", "built"), [(lambda seed: [seed], []), (lambda seed: [seed, 7], [1, 2, 3])]
)
def test_no_job_is_built_where_a_rehearsal_says_what_it_draws(
    seeds: Callable[[int], list[int]], built: list[int]
) -> None:
    work = Work(seeds)
    found = dict(_hand_over._of_seeds((1, 2, 3), work, "a mode", None, site()))
    assert work.built == built
    for seed, drawn in found.items():
        alone = _hand_over._noted(work, "a mode", None, site(seed=seed))
        assert equal(drawn, alone)


@pytest.mark.parametrize(
    ("script", "said", "act"),
    [
        ("exec sleep 60", "no answer within 0 s", "Raise launch_limit_seconds"),
        ("kill -9 $$", "its process was killed", "take a smaller model"),
        ("echo no torch >&2; exit 3", "exit 3: no torch", ""),
    ],
)
def test_torch_that_gives_nothing_is_told_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str, act: str
) -> None:
    monkeypatch.setattr(handing, "COMMAND", ("sh", "-c", script))
    case = Case(workload="gemm", version=1, mode="matmul", precision="fp32", parameters={})
    request = Request(case=case, backend="cpu", index=0, settings=Settings(), samples=1, seed=0)
    order = Order(request=request, seeds=(1,), folder=str(tmp_path))
    limit = 0.05 if "sleep" in script else 60.0
    failed = handing.asked(order, {"PATH": "/usr/bin:/bin"}, limit).failed
    assert failed.startswith(said) and act in failed
