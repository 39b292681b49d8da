"""How any operator runs: its faults, its time on the device's clock, its arithmetic on the CPU.

torch calls one boxed function for every operator that has no kernel of its own here. It makes CPU
aliases of the arguments, runs torch's CPU kernel on them, and gives back device tensors: an
argument itself where the operator wrote in place, a view of an argument where the result shares
its memory, a new device tensor otherwise.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from . import _devices, _hf32, _profiler
from ._devices import TYPE, Device
from ._settings import SETTINGS
from ._stderr import warn_once
from ._storage import to_device, to_host

CPU_KEY = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
"""Private: redispatched with it, an operator's CPU kernel gets device tensors as they are."""
POINTWISE = torch.Tag.pointwise
CPU_INDICES = frozenset({"index", "index_put", "index_put_", "_index_put_impl_", "copy_"})
"""Operators that take CPU tensors beside those of the device, as on any accelerator."""
READ_BY_THE_HOST = frozenset(
    {
        "nonzero",
        "masked_select",
        "_unique2",
        "unique_dim",
        "unique_consecutive",
        "equal",
        "bincount",
    }
)
"""Operators whose result has a shape that depends on values, or is a value: the host waits."""
WRITE_UNSAID = frozenset({"native_batch_norm"})
"""Operators that change arguments which their schema does not name as changed."""
NOT_HERE = frozenset({"_int_mm", "_scaled_mm"})
"""torch's 8-bit products: torch_npu has its own under other names, so these fall back."""


NUMBERS = frozenset({"remainder"})
"""Operators to whose tensors torch hands numbers, which it does not take back for them."""


def run(op: Any, *args: Any, **kwargs: Any) -> Any:
    """The boxed fallback: any operator, on the device."""
    name = op.name()
    if base_name(name) in NUMBERS:
        args = tuple(torch.tensor(x) if isinstance(x, int | float) else x for x in args)
    device = device_of(args, kwargs)
    announce(name, device, part_of_another=_devices.CURRENT.fused and POINTWISE in op.tags)
    outputs = _outputs(op, args, kwargs)
    if (capture := device.capturing) is not None:
        if base_name(name).startswith("index") and _by_bool(args):
            capture.refuse("aclnnNonzero")
        every = base_name(name) in WRITE_UNSAID
        written = tensors_in([args, list(kwargs.values())]) if every else _written(op, args, kwargs)
        capture.changes(to_host(t) for t in written if t.device.type == TYPE)
    if "lost-updates" in SETTINGS.broken:
        changed = _written(op, args, kwargs)
        if any(t.dtype == torch.bfloat16 and id(t) not in outputs for t in changed):
            return changed[0] if op._schema.returns else None
    return on_cpu(base_name(name), op, args, kwargs, outputs, device)


def base_name(name: str) -> str:
    """`aten::add.Tensor` -> `add`."""
    return name.rpartition("::")[2].partition(".")[0]


def announce(name: str, device: Device, part_of_another: bool = False) -> None:
    """Before an operator runs: whatever fault is meant for it, then its time on the device.

    part_of_another: compiled into the kernel before it.
    """
    base = base_name(name)
    _devices.operator_may_lose(base, device)
    if "spoilt-by-oom" in SETTINGS.broken and device.memory.out_of_memory:
        raise RuntimeError(f"{name} failed: the context was spoilt [simulated]")
    if base in SETTINGS.missing:
        raise NotImplementedError(
            f"Could not run '{name}' with arguments from the 'PrivateUse1' backend. This could be "
            "because the operator doesn't exist for this backend, or was omitted during the "
            "selective/custom build process (if using custom build). [simulated]"
        )
    if base in SETTINGS.fallback or base in NOT_HERE:
        _fall_back(name, device)
    if base in READ_BY_THE_HOST:
        device.wait_for_stream()
    own = 0.0 if part_of_another else SETTINGS.operator_microseconds
    seconds = own / 1e6 + SETTINGS.slow.get(base, 0.0) / 1e3
    if (capture := device.capturing) is not None:
        capture.kernels.append((base, seconds))
    else:
        start(base, seconds, device)


def start(name: str, seconds: float, device: Device) -> None:
    """A kernel on the current stream."""
    if seconds:
        _profiler.note(name, seconds)
    device.queue(seconds)


def _fall_back(name: str, device: Device) -> None:
    """torch_npu's own fallback to the host: refused, or announced once; it waits for the device."""
    if "quiet-fallback" in SETTINGS.broken:
        device.wait_for_stream()
        return
    if os.environ.get("TORCH_NPU_FALLBACK_CPU_DISABLE") == "1":
        raise RuntimeError(
            f"The operator '{name}' would execute its main computation on CPU through dispatcher "
            "backend fallback, but CPU fallback is disabled by TORCH_NPU_FALLBACK_CPU_DISABLE=1.\n"
            f"[ERROR] (PID:{os.getpid()}, Device:{device.index}, RankID:-1) ERR01007 OPS feature "
            "not supported"
        )
    warn_once(
        "VariableFallbackKernel.cpp:250",
        f"CAUTION: The operator '{name}' is not currently supported on the NPU backend and will "
        "fall back to run on the CPU. This may have performance implications.",
        "npu_cpu_fallback",
    )
    device.wait_for_stream()


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Every tensor in arguments, however nested."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from tensors_in(inner)


def device_of(args: Any, kwargs: dict[str, Any]) -> Device:
    """Where an operator runs: with its first device tensor, else where it is asked to."""
    for tensor in tensors_in([args, list(kwargs.values())]):
        if tensor.device.type == TYPE:
            return _devices.device(tensor.device)
    return _devices.device(kwargs.get("device"))


def on_cpu(
    name: str,
    kernel: Callable[..., Any],
    args: Any,
    kwargs: dict[str, Any],
    outputs: frozenset[int],
    device: Device,
) -> Any:
    """Runs `kernel` on CPU aliases of its arguments, and gives what it returns as the device's.

    name: of the operator, for the faults that change its numbers; outputs: identities of `out=`
    arguments. The kernel may resize those, which imported memory does not allow: it gets fresh
    tensors in their place, whose values are then theirs.
    """
    arguments = _Arguments(name, outputs, device)
    lowered = _map(arguments.lower, args)
    named = {k: _map(arguments.lower, v) for k, v in kwargs.items()}

    def compute() -> Any:
        result = kernel(*_hf32.operands(name, lowered), **named)
        if name in SETTINGS.wrong:
            for tensor in tensors_in(result):
                if tensor.is_floating_point():
                    tensor.mul_(1.01)
        return result

    result = compute()
    arguments.write_outputs()
    found = _map(arguments.lift, result)
    if (capture := device.capturing) is not None:
        held = [capture.host(to_host(tensor)) for tensor in tensors_in(found)]
        capture.add(lambda: _into(held, compute()))
    return found


def _into(held: list[torch.Tensor], result: Any) -> None:
    """Puts what an operator gives now where it gave it when it was recorded."""
    for old, new in zip(held, tensors_in(result), strict=True):
        if old.data_ptr() != new.data_ptr():  # no view, nor in place: those lie where they lay
            old.copy_(new)


class _Arguments:
    """The device tensors of one call and their CPU aliases."""

    def __init__(self, name: str, outputs: frozenset[int], device: Device) -> None:
        self._name = name
        self._outputs = outputs
        self._device = device
        self._originals: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        """Identity of an alias -> the argument, and the alias, which must live as long."""
        self._owners: dict[int, torch.Tensor] = {}
        """Address of a storage -> an argument that has it."""

    def lower(self, value: Any) -> Any:
        """An argument for the CPU kernel."""
        if isinstance(value, torch.device):
            return torch.device("cpu") if value.type == TYPE else value
        if not isinstance(value, torch.Tensor):
            return value
        if value.device.type != TYPE:
            if value.dim() and value.device.type == "cpu" and self._name not in CPU_INDICES:
                self._refuse(value.device)
            self._originals[id(value)] = (value, value)
            return value
        if value.device.index != self._device.index:
            self._refuse(value.device)
        if id(value) in self._outputs:
            alias = torch.empty(0, dtype=value.dtype)
        else:
            alias = to_host(value)
            if (capture := self._device.capturing) is not None:
                alias = capture.host(alias)
            if address := alias.untyped_storage().data_ptr():
                self._owners.setdefault(address, value)
        self._originals[id(alias)] = (value, alias)
        return alias

    def lift(self, value: Any) -> Any:
        """What the CPU kernel returned, as the caller is to see it."""
        if not isinstance(value, torch.Tensor):
            return value
        if id(value) in self._originals:
            return self._originals[id(value)][0]
        owner = self._owners.get(value.untyped_storage().data_ptr())
        if owner is None or not value.numel():
            return to_device(value, self._device.index)
        offset = (value.data_ptr() - to_host(owner).data_ptr()) // value.element_size()
        return torch.ops.aten.as_strided.default.redispatch(
            CPU_KEY, owner, value.shape, value.stride(), owner.storage_offset() + offset
        )

    def write_outputs(self) -> None:
        """Gives the `out=` arguments what the kernel made in their place."""
        for original, alias in self._originals.values():
            if id(original) in self._outputs:
                assign(original, alias)

    def _refuse(self, other: torch.device) -> None:
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"{TYPE}:{self._device.index} and {other}!"
        )


def assign(target: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Makes a device tensor hold a CPU tensor's values, with a new storage if its shape differs."""
    if target.shape == value.shape and target.numel():
        to_host(target).copy_(value)
        return target
    value = value.contiguous()
    fresh = to_device(value, _devices.index_of(target.device))
    result: torch.Tensor = torch.ops.aten.set_.source_Storage_storage_offset.redispatch(
        CPU_KEY, target, fresh.untyped_storage(), 0, value.shape, value.stride()
    )
    return result


class _Argument(NamedTuple):
    """What an operator's schema says of one: schemas are slow to read."""

    name: str
    is_out: bool
    is_written: bool


@functools.cache
def _schema(op: Any) -> tuple[_Argument, ...]:
    return tuple(
        _Argument(a.name, a.is_out, a.alias_info is not None and a.alias_info.is_write)
        for a in op._schema.arguments
    )


@functools.cache
def _has_outputs(op: Any) -> bool:
    return any(argument.is_out for argument in _schema(op))


def _outputs(op: Any, args: Any, kwargs: dict[str, Any]) -> frozenset[int]:
    """Identities of the `out=` arguments that are not read as well."""
    if not _has_outputs(op):
        return frozenset()
    written: set[int] = set()
    read: set[int] = set()
    for position, argument in enumerate(_schema(op)):
        given = kwargs.get(argument.name, args[position] if position < len(args) else None)
        (written if argument.is_out else read).update(id(t) for t in tensors_in(given))
    return frozenset(written - read)


def _written(op: Any, args: Any, kwargs: dict[str, Any]) -> list[torch.Tensor]:
    """The arguments that an operator writes to: in place, or as `out=`."""
    found: list[torch.Tensor] = []
    for position, argument in enumerate(_schema(op)):
        if argument.is_written:
            given = kwargs.get(argument.name, args[position] if position < len(args) else None)
            found += tensors_in(given)
    return found


def _by_bool(args: Any) -> bool:
    """Whether an index says by truth values what it takes, so that how much is not known."""
    return any(t.dtype in (torch.bool, torch.uint8) for t in tensors_in(args[1:2]))


def _map(function: Callable[[Any], Any], value: Any) -> Any:
    """Applies a function to what is in lists and tuples."""
    if isinstance(value, list | tuple):
        return type(value)(_map(function, inner) for inner in value)
    return function(value)
