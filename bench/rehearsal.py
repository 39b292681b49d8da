"""A rehearsal: a job built and stepped with tensors that have shapes and no values.

What it would hold in memory is then counted from the storages that are alive, operator by operator:
weights, gradients, optimizer state, activations, caches and temporaries, by the code that will run
and by no formula of its own. It holds no values, takes next to no memory, and needs no device.
"""

from __future__ import annotations

import contextlib
import gc
import math
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

STEP_OPERATORS = 20_000
"""After so many the rehearsal of a step ends. The longest forward, backward and update has about
half of them; a step of more is a loop over the tokens of a text, and its first tokens will do."""


class Steps(Protocol):
    """What a rehearsal needs of a job."""

    def step(self) -> None:
        """Queues one step."""


def peak_bytes(build: Callable[[], Steps]) -> int:
    """Most bytes that the job's tensors hold at a time in its second step.

    In the second one gradients and optimizer state are there beside the activations. `build` must
    put the job on the CPU: autocast, the choice of a fused attention and its like are torch's own
    there. Not counted is what no tensor shows: a kernel's scratch space, an allocator's rounding.

    Raises what building and stepping raise.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    ledger = _Ledger()
    with FakeTensorMode(), ledger.watch():
        job = build()
        ledger.follow(job.step)
        gc.collect()  # what cycles keep alive of the construction is no part of the step
        ledger.peak = ledger.held
        ledger.follow(job.step)
    return ledger.peak


class _LongEnough(Exception):
    """A step has had its operators."""


class _Ledger:
    """Bytes of the storages that are alive."""

    def __init__(self) -> None:
        self.held = 0
        self.peak = 0
        self._known: set[int] = set()
        self._left = math.inf

    def follow(self, step: Callable[[], None]) -> None:
        """Runs a step, or its first STEP_OPERATORS operators."""
        self._left = STEP_OPERATORS
        with contextlib.suppress(_LongEnough):
            step()

    def watch(self) -> AbstractContextManager[object]:
        """A context in which every tensor that an operator returns is entered."""
        import torch
        from torch.utils._python_dispatch import TorchDispatchMode
        from torch.utils._pytree import tree_leaves

        ledger, asks = self, torch.ops.prim.device.default

        class Watch(TorchDispatchMode):
            def __torch_dispatch__(
                self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
            ) -> Any:
                if func is asks:
                    return func(*args)
                ledger.count()
                result = _shapes(func, args, kwargs or {})
                for value in tree_leaves(result):
                    ledger.enter(value)
                return result

        mode: Any = Watch
        context: AbstractContextManager[object] = mode()
        return context

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
            size = storage.nbytes()
            self._known.add(key)
            self.held += size
            self.peak = max(self.peak, self.held)
            weakref.finalize(storage, self._leave, key, size)

    def _leave(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.held -= size


def _shapes(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What an operator returns. Torch's rule for the grouped product knows bfloat16 only."""
    import torch

    if func.name() != "aten::_grouped_mm" or args[0].dtype is torch.bfloat16:
        return func(*args, **kwargs)
    dtype = args[0].dtype
    narrow = [a.bfloat16() if isinstance(a, torch.Tensor) and a.dtype is dtype else a for a in args]
    return func(*narrow, **kwargs).to(dtype)
