"""Collectives that do nothing, for as long as a block lasts: any backend's, any vendor library's.

Every group of torch's hands its operations to one dispatcher, by the kind of device. For a while
the operations of the work's devices are ours there, and then the library's own again: no step that
counts runs through a line of Python more than usual.

What would have been received is made of what is here: memory that nobody wrote holds numbers that
are none, and arithmetic on those may take another time (and leaves a model of them). It costs a
copy within the memory, where the library's own would have been written too.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import ProcessGroup

NAMESPACE = "c10d"
OPERATIONS = (
    *("allreduce_", "allreduce_coalesced_", "broadcast_", "reduce_"),
    *("_allgather_base_", "allgather_", "allgather_coalesced_", "allgather_into_tensor_coalesced_"),
    *("_reduce_scatter_base_", "reduce_scatter_", "reduce_scatter_tensor_coalesced_"),
    *("alltoall_base_", "alltoall_", "gather_", "scatter_"),
)
"""torch's names below its Python ones, which some versions have renamed: these are the same from
2.6 to 2.13. Each takes what it writes first, and next, unless it works in place, what it reads."""


class Hush:
    """Makes the collectives of one kind of device do nothing."""

    def __init__(self, device_type: str, control: ProcessGroup) -> None:
        """control: the group whose operations stay what they are."""
        self._device_type = device_type
        self._control = control
        self.calls = 0
        """Operations that did nothing so far."""

    @contextlib.contextmanager
    def silence(self) -> Iterator[None]:
        """While this lasts no rank sends anything; all must be within, or they wait for ever.

        Raises RuntimeError or AttributeError where torch does not let itself be hushed.
        """
        import torch

        key = torch._C._dispatch_key_for_device(self._device_type)
        with contextlib.ExitStack() as undo:
            library = undo.enter_context(torch.library._scoped_library(NAMESPACE, "IMPL"))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that an operation is ours now: so it should be
                for name in OPERATIONS:
                    if hasattr(torch.ops.c10d, name):
                        library.impl(name, self._nothing(name), key)
            yield

    def _nothing(self, name: str) -> Callable[..., Any]:
        """The operation of that name, done at once."""
        import torch

        schema = getattr(torch.ops.c10d, name).default._schema
        where = next(i for i, one in enumerate(schema.arguments) if one.name == "process_group")
        gives_tensors = len(schema.returns) > 1
        process_group: Any = torch.distributed.ProcessGroup

        def operation(*arguments: Any) -> Any:
            group = process_group.unbox(arguments[where])
            if group.group_name == self._control.group_name:
                raise RuntimeError(f"a step uses the control group: {name}")
            self.calls += 1
            written = arguments[0]
            if where > 1:
                fill(_flat(written), _flat(arguments[1]))
            work = _done(_flat(written)).boxed()
            return (written, work) if gives_tensors else work

        return operation


def _flat(tensors: Any) -> list[Tensor]:
    """Of what an operation takes (a tensor, a list, or lists of lists) all tensors."""
    if isinstance(tensors, list | tuple):
        return [tensor for one in tensors for tensor in _flat(one)]
    return [tensors]


def fill(written: list[Tensor], read: list[Tensor]) -> None:
    """Writes what is read over and over, until everything is written."""
    import torch

    most = max(tensor.numel() for tensor in written)
    # A copy, for what is read may lie within what is written.
    values = torch.cat([tensor.detach().reshape(-1)[:most] for tensor in read])
    values = values if len(values) else values.new_zeros(1)
    size = len(values)
    for tensor in written:
        flat = tensor.detach().view(-1)
        whole = len(flat) - len(flat) % size
        flat[:whole].view(-1, size).copy_(values)
        flat[whole:].copy_(values[: len(flat) - whole])


def _done(tensors: list[Tensor]) -> Any:
    """A work that is over, whose future holds the tensors, as a caller may expect of one."""
    import torch
    from torch._C import _distributed_c10d

    devices: list[int | str | torch.device] = []
    if tensors[0].device.type != "cpu":  # whose queue the future must be in
        devices.append(tensors[0].device)
    future: Any = torch.futures.Future(devices=devices)
    future.set_result(tensors)
    return _distributed_c10d._create_work_from_future(future)  # type: ignore[attr-defined]
