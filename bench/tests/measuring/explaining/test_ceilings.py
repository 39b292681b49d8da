"""What explain's ceilings are measured with: numbers as a step has them, out of the caches."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.backend import DeviceInfo
from bench.backends.cpu import CpuDevice
from bench.judging.explaining.bounds import bound
from bench.measuring.explaining import ceilings
from bench.records.explained import Ceilings
from bench.tests.judging.explaining.accounts import operator

MIB = 2**20


def device(cache: int | None, room: int | None = None) -> CpuDevice:
    """A host of such caches, and so much memory."""
    facts = {} if cache is None else {"last_level_cache_bytes": str(cache)}
    info = DeviceInfo(backend="cpu", index=0, name="CPU", memory_bytes=None, facts=facts)

    class Host(CpuDevice):
        def capacity_bytes(self) -> int | None:
            return room

    return Host(info)


def moved(found: CpuDevice) -> dict[str, int]:
    return {traffic: size for traffic, size, _ in ceilings._moving(found)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numbers_are_as_a_steps(dtype: torch.dtype) -> None:
    made = ceilings._numbers((64, 64), dtype, torch.device("cpu"))
    _, exponents = torch.frexp(made.float())
    assert made.dtype is dtype
    assert 0.4 < float((made < 0).float().mean()) < 0.6
    assert len(exponents.unique()) > 5


def test_what_is_moved_is_numbers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def noted(*given: Any) -> torch.Tensor:
        asked.append(given)
        return torch.empty(given[0])

    monkeypatch.setattr(ceilings, "_numbers", noted)
    moved(device(None))
    assert [(shape, dtype) for shape, dtype, _ in asked] == 2 * [((16 * MIB,), torch.float32)]


@pytest.mark.parametrize(
    ("cache", "room", "buffer"),
    [
        (None, 2**30, 64 * MIB),
        (16 * MIB, 2**20, 64 * MIB),
        (32 * MIB, None, 128 * MIB),
        (32 * MIB, 2**30, 128 * MIB),
        (32 * MIB, 2**30 - 1, 0),
        (1152 * MIB, 2**37, 4608 * MIB),
    ],
)
def test_buffers_are_larger_than_the_caches_or_there_are_none(
    cache: int | None, room: int | None, buffer: int
) -> None:
    assert ceilings._buffer_bytes(device(cache, room)) == buffer


@pytest.mark.parametrize(("cache", "buffer"), [(None, 512), (126, 512), (256, 1024)])
def test_a_devices_buffers_are_larger_than_its_cache_too(
    cache: int | None, buffer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ceilings, "on_host", lambda _: False)
    found = device(cache and cache * MIB, 2**37)
    assert ceilings._buffer_bytes(found) == buffer * MIB


def test_without_a_bandwidth_nothing_is_bounded_by_one() -> None:
    assert moved(device(1152 * MIB, 2**30)) == {}
    without = Ceilings(bytes_per_second={}, launch_ns=1.0)
    assert bound(operator("aten::add", "elementwise", 1.0), without) is None
