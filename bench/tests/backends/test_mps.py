"""The Apple GPU, by a fake of its module."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from bench.backends import mps


def test_the_apple_gpu_has_no_peak_and_says_what_it_has() -> None:
    made = mps.MpsDevice.__new__(mps.MpsDevice)
    emptied: list[bool] = []
    made._module = SimpleNamespace(
        driver_allocated_memory=lambda: 2**30, empty_cache=lambda: emptied.append(True)
    )
    made.reset_peak_memory()
    memory = made.memory()
    assert emptied and memory.peak_bytes == 2**30
    assert memory.scope == "held by the driver at the end, cache included"


@pytest.mark.parametrize("cores", [30, 40, None])
def test_gpus_of_one_chip_with_fewer_cores_are_told_apart(
    cores: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By torch from 2.9 on."""
    import torch

    module = SimpleNamespace(recommended_max_memory=lambda: 2**35)
    said: dict[str, Any] = {} if cores is None else {"get_core_count": lambda: cores}
    known = SimpleNamespace(is_available=lambda: True, **said)
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(torch.backends, "mps", known)
    monkeypatch.setattr(mps, "cpu_name", lambda: "A chip")
    monkeypatch.setattr(type(mps.BACKEND), "load", lambda backend: module)
    (info,) = mps.BACKEND.devices()
    assert info.name == "A chip"
    assert info.facts.get("gpu_cores") == (cores and str(cores))
