"""The Apple GPU, by a fake of its module."""

from __future__ import annotations

from types import SimpleNamespace

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
