"""torch, in which every workload is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from bench.framework import Draws, Executing, Framework, Moved, Tensors
from bench.measuring import asked, operators
from bench.measuring.execution import Execution
from bench.measuring.surroundings import import_libraries
from bench.precision import Precision
from bench.ranks import local
from bench.records import environment
from bench.records.executed import Executed
from bench.workload import Job, Look, Mode, Site, Workload

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from bench.backend import Backend, Device, DeviceInfo
    from bench.framework import Array


class TorchTensors(Tensors):
    """torch's, on any device, sharded ones too: of those what lies here."""

    def shape(self, tensor: Tensor) -> tuple[int, ...]:
        """Of what lies here."""
        return tuple(local(tensor).shape)

    def itemsize(self, tensor: Tensor) -> int:
        """Bytes of an element."""
        return tensor.itemsize

    def picked(self, tensors: Sequence[Tensor], positions: Sequence[Array]) -> Array:
        """Gathered where each tensor lies; one copy to the host for all that are alike."""
        import torch

        places: dict[object, Sequence[Tensor]] = {}
        parts = []
        for number, tensor in enumerate(map(local, tensors)):
            if tensor.device not in places:
                counts = [len(wanted) for wanted in positions]
                every = torch.cat([torch.from_numpy(wanted) for wanted in positions])
                places[tensor.device] = every.to(tensor.device).split(counts)
            parts.append(_picked(tensor, places[tensor.device][number]))
        alike = groupby(parts, key=lambda part: (part.device, part.dtype))
        found: Array = torch.cat([_in_float64([*group]) for _, group in alike]).numpy()
        return found

    def on_host(self, tensor: Tensor) -> Array:
        """A whole tensor in float64."""
        import torch

        found: Array = tensor.detach().cpu().to(torch.float64).numpy()
        return found

    def is_on(self, tensor: Tensor, device: Device) -> bool:
        """Whether it has a dimension and lies on a device of that type."""
        return tensor.device.type == device.torch_device.type and bool(tensor.dim())

    def total(self, tensor: Tensor) -> Tensor:
        """Its sum."""
        import torch

        return tensor.detach().sum(dtype=torch.float32)

    def words(self, tensor: Tensor) -> Array:
        """Its bits, which go as bytes: those every device copies."""
        import torch

        flat = tensor.detach().clone(memory_format=torch.contiguous_format).view(-1)
        octets = flat.view(torch.uint8).cpu().numpy()
        found: Array = octets.view(f"u{tensor.itemsize}").reshape(tuple(tensor.shape))
        return found

    def is_floating(self, tensor: Tensor) -> bool:
        """Whether it holds floating-point numbers."""
        return tensor.is_floating_point()

    def rewrite(self, tensor: Tensor, words: Array) -> None:
        """Its bits again."""
        import torch

        with torch.no_grad():
            tensor.detach().copy_(torch.from_numpy(words).view(tensor.dtype))

    def rounded(self, values: Array, like: Tensor) -> Array:
        """By torch."""
        import torch

        found: Array = torch.from_numpy(values).to(like.dtype).to(torch.float64).numpy()
        return found

    def moved(self, optimizer: torch.optim.Optimizer) -> Sequence[Moved]:
        """What is in its groups, in order."""
        state: Any = optimizer.state
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        held = [state.get(weight, {}) for weight in weights]
        return [
            Moved(weight, weight.grad, kept, float(kept.get("step", 0)))
            for weight, kept in zip(weights, held, strict=True)
        ]

    def gradients(
        self, optimizer: torch.optim.Optimizer, which: Sequence[int]
    ) -> Sequence[Tensor | None]:
        """Not by `moved`, which asks a device how many steps there were."""
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        found = (weights[number].grad for number in which)
        return [None if gradient is None else local(gradient).clone() for gradient in found]

    def flip(self, tensor: Tensor, rows: int, bit: int) -> None:
        """On the device, without a copy."""
        import torch

        word = torch.int16 if tensor.itemsize == 2 else torch.int32
        with torch.no_grad():
            bits = tensor.detach().view(word)
            turned = torch.tensor(1 << bit, dtype=word, device=bits.device)  # not every one
            (bits[rows::2] if bits.dim() else bits).bitwise_xor_(turned)  # takes a number

    def turn(self, tensor: Tensor) -> None:
        """On the device, without a copy."""
        import torch

        with torch.no_grad():
            held = tensor.detach()
            if held.is_floating_point() and held.itemsize == 1:
                held.view(torch.uint8).bitwise_xor_(
                    torch.tensor(128, dtype=torch.uint8, device=held.device)
                )
            elif held.is_floating_point() or (held.is_signed() and held.itemsize == 1):
                held.neg_()
            else:
                held.copy_(held.flip(-1))


class Torch(Framework):
    """Reaches what its backends reach."""

    name = "torch"
    tensors = TorchTensors()
    hands_over = False

    def devices(self, backend: Backend) -> list[DeviceInfo]:
        """The backend's own."""
        return backend.devices()

    def unsupported(self, backend: Backend, info: DeviceInfo, precision: Precision) -> str | None:
        """As the backend says."""
        return backend.unsupported(info, precision)

    def slow(self, backend: Backend, info: DeviceInfo, precision: Precision) -> str | None:
        """As the backend says."""
        return backend.slow(info, precision)

    def open(self, backend: Backend, index: int, precision: Precision) -> Device:
        """The backend's."""
        return backend.open(index, precision)

    def imported(self, workload: Workload, mode: Mode) -> str:
        """What workload and mode name."""
        return import_libraries(workload, mode)

    def stack(self) -> dict[str, Any]:
        """torch as this worker has it."""
        return environment.stack()

    def switches(self, device: Device, precision: Precision) -> list[Look]:
        """torch's own."""
        return asked.switches(device, precision)

    def execution(
        self, name: str, backend: Backend, device: Device, searches: bool = False
    ) -> Executing:
        """torch.compile, and the device's graphs."""
        return Execution(name, backend, device, searches)

    def build(
        self, workload: Workload, mode: str, parameters: Any, site: Site, draws: Draws | None
    ) -> Job:
        """The workload's own job, which draws by itself."""
        return workload.build(mode, parameters, site)

    def executed(self, step: Callable[[], object], device: Device, execution: str) -> Executed:
        """As torch's dispatcher names it, where it is asked."""
        if absent := operators.NOT_OBSERVABLE.get(execution):
            step()
            return Executed(absent=absent)
        return operators.executed(step, device.torch_device.type)


def _picked(tensor: Tensor, wanted: Tensor) -> Tensor:
    """The values at these positions, gathered where the tensor lies."""
    import torch

    with torch.no_grad():
        tensor = tensor.detach()
        narrow = tensor.dtype if tensor.is_floating_point() and tensor.itemsize == 1 else None
        if narrow is not None:  # few devices index 8-bit floats: as bytes they are copied exactly
            tensor = tensor.view(torch.uint8)
        if wanted.numel() == tensor.numel():
            picked = tensor.reshape(-1)
        elif tensor.is_contiguous():
            picked = tensor.view(-1).index_select(0, wanted)
        else:
            picked = tensor[torch.unravel_index(wanted, tensor.shape)]
        return picked if narrow is None else picked.view(narrow)


def _in_float64(alike: list[Tensor]) -> Tensor:
    """Values of one device and dtype, one after the other, in float64 on the host."""
    import torch

    dtype = alike[0].dtype
    if dtype.is_floating_point and dtype.itemsize == 1:
        return torch.cat([x.view(torch.uint8) for x in alike]).cpu().view(dtype).to(torch.float64)
    return torch.cat(alike).cpu().to(torch.float64)


FRAMEWORK = Torch()
