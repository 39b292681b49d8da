"""`torch.npu`: the device module, with the names of torch_npu's own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch

from .. import _devices  # noqa: TID252 - as a package on the path it has no other name
from .._hf32 import CONVOLUTION as conv  # noqa: TID252, N811
from .._hf32 import MATMUL as matmul  # noqa: TID252, N811
from .._settings import SETTINGS  # noqa: TID252
from . import utils
from .graphs import NPUGraph, graph, is_current_stream_capturing
from .memory import (
    empty_cache,
    max_memory_allocated,
    max_memory_reserved,
    mem_get_info,
    memory_allocated,
    memory_reserved,
    memory_stats,
    reset_accumulated_memory_stats,
    reset_max_memory_allocated,
    reset_peak_memory_stats,
)
from .random import (
    get_rng_state,
    get_rng_state_all,
    initial_seed,
    manual_seed,
    manual_seed_all,
    seed,
    seed_all,
    set_rng_state,
    set_rng_state_all,
)
from .streams import Event, Stream, current_stream, default_stream, set_stream, stream


def is_available() -> bool:
    """Whether there is a device."""
    return bool(_devices.DEVICES)


def is_initialized() -> bool:
    """Always: nothing is set up lazily here."""
    return True


def init() -> None:
    """Nothing to do."""


def device_count() -> int:
    """Dies, not packages."""
    return len(_devices.DEVICES)


def current_device() -> int:
    """Of this thread."""
    return _devices.current().index


def set_device(device: Any) -> None:
    """For this thread."""
    _devices.CURRENT.index = _devices.device(device).index


@contextlib.contextmanager
def device(device: Any) -> Iterator[None]:
    """Current within the block. A real one is a class; nobody derives from it."""
    before = _devices.CURRENT.index
    set_device(device)
    try:
        yield
    finally:
        _devices.CURRENT.index = before


def synchronize(device: Any = None) -> None:
    """Blocks until every stream of the device is done."""
    _devices.device(device).synchronize()


def get_device_name(device: Any = None) -> str:
    """`Ascend910B2` or what SIMNPU_DEVICE_NAME says."""
    _devices.device(device)
    return SETTINGS.device_name


def get_device_properties(device: Any = None) -> SimpleNamespace:
    """The fields that torch_npu documents."""
    return SimpleNamespace(
        name=get_device_name(device),
        total_memory=_devices.device(device).memory.total,
        cube_core_num=24,
        vector_core_num=48,
        L2_cache_size=192 * 2**20,
    )


def get_device_capability(device: Any = None) -> None:
    """torch_npu warns and gives None: CUDA's idea, which Ascend has not."""


def is_bf16_supported() -> bool:
    """A2 and A3 have it."""
    return True


def get_amp_supported_dtype() -> list[torch.dtype]:
    """What `torch.autocast` asks."""
    return [torch.float16, torch.bfloat16]


def set_compile_mode(jit_compile: bool = False) -> None:
    """Accepted: nothing is compiled here."""


def get_sync_debug_mode() -> str:
    """A number, of the real one."""
    return _devices.CURRENT.sync_debug_mode


def set_sync_debug_mode(debug_mode: str) -> None:
    """`default`, or `error`: who reads what the device computes raises."""
    type(_devices.CURRENT).sync_debug_mode = debug_mode


def _is_in_bad_fork() -> bool:
    return False


__all__ = [
    "Event",
    "NPUGraph",
    "Stream",
    "conv",
    "current_device",
    "current_stream",
    "default_stream",
    "device",
    "device_count",
    "empty_cache",
    "get_amp_supported_dtype",
    "get_device_capability",
    "get_device_name",
    "get_device_properties",
    "get_rng_state",
    "get_rng_state_all",
    "get_sync_debug_mode",
    "graph",
    "init",
    "initial_seed",
    "is_available",
    "is_bf16_supported",
    "is_current_stream_capturing",
    "is_initialized",
    "manual_seed",
    "manual_seed_all",
    "matmul",
    "max_memory_allocated",
    "max_memory_reserved",
    "mem_get_info",
    "memory_allocated",
    "memory_reserved",
    "memory_stats",
    "reset_accumulated_memory_stats",
    "reset_max_memory_allocated",
    "reset_peak_memory_stats",
    "seed",
    "seed_all",
    "set_compile_mode",
    "set_device",
    "set_rng_state",
    "set_rng_state_all",
    "set_stream",
    "set_sync_debug_mode",
    "stream",
    "synchronize",
    "utils",
]
