"""Makes the device torch's own: its name, `torch.npu`, and the functions that any accelerator has.

torch 2.13 lets Python register a device, but its hooks for that answer only whether there is one.
What `torch.accelerator`, `torch.Event` and `torch.Generator` ask beyond it goes to C++ and fails,
so those entries are replaced here. All of it is private API, pinned to the torch of the tests.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import torch
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from . import _devices
from ._devices import TYPE

_core: Any = torch._C


def register(module: ModuleType) -> None:
    """Names the device, hands torch its module and fills what the Python hooks leave open."""
    _setup_privateuseone_for_python_backend(TYPE, backend_module=module, hook=_Hooks())
    # A backward runs on a thread per device, of which torch sees one for a Python device. Without
    # them every device's backward runs where it was called.
    torch.autograd.set_multithreading_enabled(False).__enter__()
    for name, function in _functions(module).items():
        setattr(_core, f"_accelerator_{name}", function)
    patched: Any = torch
    patched.Event = _substitute(torch.Event, module.Event, accept_device=True)
    patched.Generator = _substitute(torch.Generator, torch.Generator, accept_device=False)
    patched.Tensor.to = _to_current(torch.Tensor.to)
    # All host memory is alike here, and torch has no allocator of pinned memory to ask.
    patched.Tensor.pin_memory = lambda self, device=None: self
    for name in ("empty", "empty_like", "zeros", "zeros_like", "ones", "ones_like"):
        setattr(patched, name, _not_pinned(getattr(torch, name)))
    sys.modules[f"torch.{TYPE}"] = module


class _Hooks(_core._acc.PrivateUse1Hooks):  # type: ignore[misc]
    def is_available(self) -> bool:
        return bool(_devices.DEVICES)

    def has_primary_context(self, index: int) -> bool:
        return True

    def is_built(self) -> bool:
        return True


def _functions(module: ModuleType) -> dict[str, Any]:
    """torch._C._accelerator_*: what torch.accelerator calls."""

    def statistics(index: int) -> dict[str, Any]:
        """As C++ gives them: nested, with the four figures of each counter."""
        nested: dict[str, Any] = {"num_ooms": module.memory_stats(index)["num_ooms"]}
        for name, value in module.memory_stats(index).items():
            counter, _, rest = name.partition(".")
            if rest:
                pool, figure = rest.split(".")
                nested.setdefault(counter, {}).setdefault(pool, {})[figure] = value
        return nested

    def exchange(index: int) -> int:
        before: int = module.current_device()
        if index >= 0:
            module.set_device(index)
        return before

    return {
        "getDeviceIndex": module.current_device,
        "setDeviceIndex": module.set_device,
        "exchangeDevice": exchange,
        "maybeExchangeDevice": exchange,
        "getStream": module.current_stream,
        "setStream": module.set_stream,
        "synchronizeDevice": module.synchronize,
        "isAllocatorInitialized": lambda: True,
        "emptyCache": module.empty_cache,
        "emptyHostCache": lambda: None,
        "getMemoryInfo": module.mem_get_info,
        "getDeviceStats": statistics,
        "resetPeakStats": module.reset_peak_memory_stats,
        "resetAccumulatedStats": module.reset_accumulated_memory_stats,
    }


def _to_current(original: Any) -> Any:
    """`Tensor.to` that takes "npu" for the current device: C++ believes that it is always npu:0."""

    def to(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        args = tuple(_with_index(value) for value in args)
        if "device" in kwargs:
            kwargs["device"] = _with_index(kwargs["device"])
        result: torch.Tensor = original(self, *args, **kwargs)
        return result

    return to


def _not_pinned(original: Any) -> Any:
    """A factory of torch that takes `pin_memory=True` and does without."""

    def make(*args: Any, pin_memory: bool = False, **kwargs: Any) -> torch.Tensor:
        result: torch.Tensor = original(*args, **kwargs)
        return result

    return make


def _with_index(value: Any) -> Any:
    if isinstance(value, str | torch.device) and str(value) == TYPE:
        return torch.device(TYPE, _devices.CURRENT.index)
    return value


def _substitute(original: Any, ours: Any, accept_device: bool) -> Any:
    """A class that makes `ours` for this device and `original` for any other."""

    class Meta(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, original | ours)

        def __call__(cls, device: Any = None, *args: Any, **kwargs: Any) -> Any:
            wanted = torch.device(TYPE if device is None and accept_device else device or "cpu")
            if wanted.type == TYPE:
                return ours(*args, **kwargs)
            return original(wanted, *args, **kwargs)

    return Meta(original.__name__, (), {})
