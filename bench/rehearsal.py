"""A rehearsal: a job built and stepped with tensors that have shapes and no values.

What it would hold in memory is then counted from the storages that are alive, operator by operator:
weights, gradients, optimizer state, activations, caches and temporaries, by the code that will run
and by no formula of its own. It holds no values, takes next to no memory, and needs no device.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import math
import weakref
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from bench.dispatch import seen_by

if TYPE_CHECKING:
    from torch import Tensor

STEP_OPERATORS = 20_000
"""After so many the rehearsal of a step ends that need not be whole: a step of more is a loop over
the tokens of a text, and its first tokens will do."""


class Steps(Protocol):
    """What a rehearsal needs of a job."""

    def step(self) -> None:
        """Queues one step."""


Stepping = TypeVar("Stepping", bound=Steps)


def peak_bytes(
    build: Callable[[], Stepping],
    whole: Callable[[Stepping], bool] = lambda job: False,
    joined: Callable[[Stepping], Iterable[tuple[Tensor, int]]] = lambda job: (),
) -> int:
    """Most bytes that the job's tensors hold at a time in its second step.

    In the second one gradients and optimizer state are there beside the activations. `build` must
    put the job on the CPU: autocast, the choice of a fused attention and its like are torch's own
    there. Not counted is what no tensor shows: a kernel's scratch space, an allocator's rounding.

    whole: whether the job's steps are followed to their end, as training's are, where the optimizer
    makes its state; joined: has it, which is built as of one process, go on as one of ranks that
    share it, and gives of which tensors a rank has how many bytes.

    Raises what building, joining and stepping raise.
    """
    ledger = _Ledger()
    with shapes_alone(), ledger.watch():
        job = build()
        most = math.inf if whole(job) else STEP_OPERATORS
        ledger.follow(job.step, most)
        gc.collect()  # what cycles keep alive of the construction is no part of the step
        for tensor, size in joined(job):
            ledger.count_as(tensor, size)
        ledger.follow(job.step, most)
    return ledger.peak


def shapes_alone() -> AbstractContextManager[object]:
    """torch's mode in which tensors have shapes and no values, without a guard for compiled code
    around each operator: nothing is compiled here, and the compiler takes a second to import."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    guarded: Any = FakeTensorMode.__torch_dispatch__

    class Shapes(FakeTensorMode):
        __torch_dispatch__ = getattr(guarded, "__wrapped__", guarded)

        @classmethod
        def _should_skip_dynamo(cls) -> bool:
            return False

    context: AbstractContextManager[object] = Shapes()
    return context


def has_no_values(tensor: Tensor) -> bool:
    """Whether it is one of a rehearsal: a shape, which nobody can be sent."""
    import torch

    return type(tensor.detach()) is not torch.Tensor


class _LongEnough(Exception):
    """A step has had its operators."""


class _Ledger:
    """Bytes of the storages that are alive."""

    def __init__(self) -> None:
        self._changes: list[int] = []
        self._known: dict[int, int] = {}  # which change each storage that is alive was
        self._began = 0
        self._left = math.inf

    @property
    def peak(self) -> int:
        """Most of them since the last step began, and as it did."""
        return max([*itertools.accumulate(self._changes, initial=0)][self._began :])

    def follow(self, step: Callable[[], None], most: float = math.inf) -> None:
        """Runs a step, or its first operators, so many."""
        self._left, self._began = most, len(self._changes)
        with contextlib.suppress(_LongEnough):
            step()

    def watch(self) -> AbstractContextManager[object]:
        """A context in which every tensor that an operator returns is entered."""
        import torch
        from torch.utils._pytree import tree_leaves

        asks = torch.ops.prim.device.default

        def see(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if func is asks:
                return _device_of(*args)
            self.count()
            result = _shapes(func, args, kwargs)
            for value in tree_leaves(result):
                self.enter(value)
            return result

        return seen_by(see)

    def count(self) -> None:
        """One operator more."""
        self._left -= 1
        if self._left < 0:
            raise _LongEnough

    def enter(self, value: object) -> None:
        """A tensor, whose storage counts until nothing holds it; anything else is nothing."""
        import torch

        if not isinstance(value, torch.Tensor):
            return
        storage = value.untyped_storage()
        key = storage._cdata
        if key not in self._known:
            self._known[key] = len(self._changes)
            self._changes.append(storage.nbytes())
            weakref.finalize(storage, self._leave, key)

    def count_as(self, tensor: Tensor, size: int) -> None:
        """Has a tensor that is alive count as so many bytes."""
        self._changes[self._known[tensor.untyped_storage()._cdata]] = size

    def _leave(self, key: int) -> None:
        self._changes.append(-self._changes[self._known.pop(key)])


def _device_of(tensor: Tensor) -> Any:
    """Where a tensor would be: what autograd asks at every turn."""
    from torch._subclasses.fake_tensor import FakeTensor

    if isinstance(tensor, FakeTensor) and not tensor.fake_mode.in_kernel_invocation:
        return tensor.fake_device
    return tensor.device


def _shapes(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What an operator returns. Torch's rule for the grouped product knows bfloat16 only."""
    import torch

    if func.name() != "aten::_grouped_mm" or args[0].dtype is torch.bfloat16:
        return func(*args, **kwargs)
    dtype = args[0].dtype
    narrow = [a.bfloat16() if isinstance(a, torch.Tensor) and a.dtype is dtype else a for a in args]
    return func(*narrow, **kwargs).to(dtype)
