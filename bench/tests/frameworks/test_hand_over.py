"""What torch hands over: the draws of each launch, of which the first alone is built."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.frameworks import _hand_over
from bench.frameworks.mindspore import BUILDERS
from bench.measuring.messages import Order, Request
from bench.records.case import Case
from bench.records.run import Settings
from bench.running import handing
from bench.tests.small_workloads import WORKLOADS, one_thread, site, small
from bench.workload import Site
from bench.workloads._seeded import SeededData, replayed

__all__ = ["one_thread"]


@pytest.mark.parametrize(("name", "mode"), BUILDERS)
def test_what_is_replayed_is_what_building_draws(name: str, mode: str) -> None:
    first, second = (
        _hand_over._noted(WORKLOADS[name], mode, small(name, mode), site(seed=seed))
        for seed in (1, 2)
    )
    assert _hand_over._equal(replayed(first, 2), second)
    assert not _hand_over._equal(first, second)


class Drawn:
    """A job's end is all that it has."""

    def close(self) -> None:
        pass


class Work:
    """Notes for which seeds it was built; draws: from that seed, or from another's besides."""

    def __init__(self, seeds: Callable[[int], list[int]]) -> None:
        self.built: list[int] = []
        self.seeds = seeds

    def build(self, mode: str, parameters: Any, at: Site) -> Drawn:
        import torch

        self.built.append(at.seed)
        for seed in self.seeds(at.seed):
            data = SeededData(seed)
            data.normal((3, 2), torch.float32, 0.5)
            data.integers(0, 100, (5,))
        return Drawn()


@pytest.mark.parametrize(
    ("seeds", "built"), [(lambda seed: [seed], [1]), (lambda seed: [seed, 7], [1, 2, 3])]
)
def test_one_launch_is_built_where_that_says_what_the_others_draw(
    seeds: Callable[[int], list[int]], built: list[int]
) -> None:
    work = Work(seeds)
    found = dict(_hand_over._of_seeds((1, 2, 3), work, "a mode", None, site()))
    assert work.built == built
    for seed, drawn in found.items():
        alone = _hand_over._noted(work, "a mode", None, site(seed=seed))
        assert _hand_over._equal(drawn, alone)


@pytest.mark.parametrize(
    ("script", "said", "act"),
    [
        ("exec sleep 60", "no answer within 0 s", "Raise launch_limit_seconds"),
        ("kill -9 $$", "its process was killed", "Take a smaller model"),
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
