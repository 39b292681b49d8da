"""References of convolutions are computed on one thread, and nothing else is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from bench import catalogue
from bench.measuring.gates import numerics, references
from bench.precision import PRECISIONS
from bench.workload import Site


@pytest.fixture
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("name", "threads"), [("resnet50", [4, 1]), ("bert", [4, 4])])
def test_the_timed_twin_has_all_threads_and_a_reference_of_convolutions_one(
    name: str, threads: list[int], four_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def probe(*of: Any) -> dict[str, Any]:
        seen.append(torch.get_num_threads())
        return {"logits": np.ones(1)}

    monkeypatch.setattr(numerics, "_probe", probe)
    site = Site(device=torch.device("cpu"), precision=PRECISIONS["fp32"], seed=0)
    numerics.gate(catalogue.workload(name), "infer", None, site, twin=())
    assert seen == threads
    assert torch.get_num_threads() == 4


def test_the_threads_are_given_back_where_a_reference_fails(four_threads: None) -> None:
    with pytest.raises(ValueError), references.few_threads(catalogue.workload("resnet50")):
        raise ValueError
    assert torch.get_num_threads() == 4
