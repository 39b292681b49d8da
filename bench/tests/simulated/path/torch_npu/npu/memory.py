"""`torch.npu.memory`: what the allocator of a device counts, in bytes."""

from __future__ import annotations

from typing import Any

from .. import _devices  # noqa: TID252


def memory_allocated(device: Any = None) -> int:
    return _devices.device(device).memory.allocated


def max_memory_allocated(device: Any = None) -> int:
    return _devices.device(device).memory.allocated_peak


def memory_reserved(device: Any = None) -> int:
    return _devices.device(device).memory.reserved


def max_memory_reserved(device: Any = None) -> int:
    return _devices.device(device).memory.reserved_peak


def memory_stats(device: Any = None) -> dict[str, int]:
    return _devices.device(device).memory.statistics()


def reset_peak_memory_stats(device: Any = None) -> None:
    _devices.device(device).memory.reset_peaks()


reset_max_memory_allocated = reset_peak_memory_stats


def reset_accumulated_memory_stats(device: Any = None) -> None:
    """Nothing accumulates here."""
    _devices.device(device)


def mem_get_info(device: Any = None) -> tuple[int, int]:
    """Free and total; what the process keeps in reserve is not free."""
    memory = _devices.device(device).memory
    return memory.total - memory.reserved, memory.total


def empty_cache() -> None:
    for device in _devices.DEVICES:
        device.memory.empty_cache()
