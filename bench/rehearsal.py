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
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

STEP_OPERATORS = 20_000
"""After so many the rehearsal of a step ends that need not be whole: a step of more is a loop over
the tokens of a text, and its first tokens will do."""


class Held(NamedTuple):
    """Bytes that a training job holds from step to step, as one process has them."""

    weights: int
    """Of what it trains; its gradients are as large."""
    states: int
    """How many times as much its optimizer keeps besides."""
    gathered: int
    """Of the weights, and of their gradients, what is whole at a time where the rest is sharded."""
    fixed: int = 0
    """Of weights that it does not train."""
    accumulates: bool = False
    """Whether gradients of micro-batches add up whole before they are sharded."""


class Steps(Protocol):
    """What a rehearsal needs of a job."""

    def step(self) -> None:
        """Queues one step."""


Stepping = TypeVar("Stepping", bound=Steps)


class Spread(Protocol):
    """How ranks share a job; see `bench.records.parallelism`."""

    @property
    def scheme(self) -> str:
        """`none`, `replicas`, `dp`, ..."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """The last one shards."""


def peak_bytes(
    build: Callable[[], Stepping],
    spread: Spread | None = None,
    held: Callable[[Stepping], Held | None] = lambda job: None,
    whole: Callable[[Stepping], bool] = lambda job: False,
) -> int:
    """Most bytes that the job's tensors hold at a time in its second step.

    In the second one gradients and optimizer state are there beside the activations. `build` must
    put the job on the CPU: autocast, the choice of a fused attention and its like are torch's own
    there. Not counted is what no tensor shows: a kernel's scratch space, an allocator's rounding.

    spread: how ranks share the job, which is built as if this one were alone with its rows; held:
    what of it they can share, None where that is not counted; whole: whether its steps are followed
    to their end, as training's are, where the optimizer makes its state.

    Raises what building and stepping raise; NotImplementedError where they share what is not
    counted.
    """
    ledger = _Ledger()
    scheme = "none" if spread is None else spread.scheme
    shared = None
    with shapes_alone(), ledger.watch():
        with _trained() as trained:
            job = build()
            most = math.inf if whole(job) else STEP_OPERATORS
            ledger.follow(job.step, most)
        gc.collect()  # what cycles keep alive of the construction is no part of the step
        if scheme not in ("none", "replicas"):
            shared = held(job)
            if shared is None or scheme not in ("dp", "fsdp", "hsdp"):
                raise NotImplementedError(
                    f"{spread}: what ranks share of its memory is not counted"
                )
            if scheme != "dp" and not shared.accumulates:
                for weight in trained:
                    ledger.leave_out_gradient(weight)
                    weight.register_post_accumulate_grad_hook(ledger.leave_out_gradient)
        ledger.follow(job.step, most)
    if shared is None or spread is None:
        return ledger.peak
    if scheme == "dp":
        return ledger.peak + shared.weights  # the buckets that gradients lie in from step to step
    return sharded_bytes(ledger.peak, shared, spread.sizes[-1])


@contextlib.contextmanager
def _trained() -> Iterator[list[Tensor]]:
    """What optimizers step meanwhile."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    found: list[Tensor] = []

    def note(optimizer: Any, args: Any, kwargs: Any) -> None:
        found.extend(weight for group in optimizer.param_groups for weight in group["params"])

    handle = register_optimizer_step_post_hook(note)
    try:
        yield found
    finally:
        handle.remove()


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


def sharded_bytes(peak: int, held: Held, shards: int) -> int:
    """`peak_bytes` where weights, gradients and optimizer state are sharded over so many ranks.

    peak: of one process with one rank's rows, without gradients, unless they add up whole. What of
    it is neither weight nor state is this rank's own: activations, and gradients that add up.
    """
    beside = max(0, peak - (1 + held.states) * held.weights - held.fixed)
    shared = (2 + held.states) * held.weights + held.fixed
    return beside + -(-shared // shards) + held.gathered


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
        from torch.utils._python_dispatch import TorchDispatchMode
        from torch.utils._pytree import tree_leaves

        ledger, asks = self, torch.ops.prim.device.default

        class Watch(TorchDispatchMode):
            @classmethod
            def _should_skip_dynamo(cls) -> bool:
                return False  # as `shapes_alone`

            def __torch_dispatch__(
                self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
            ) -> Any:
                if func is asks:
                    return _device_of(*args)
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
            self._known[key] = len(self._changes)
            self._changes.append(storage.nbytes())
            weakref.finalize(storage, self._leave, key)

    def leave_out_gradient(self, weight: Tensor) -> None:
        """Has a gradient count as nothing, from its making on."""
        if weight.grad is not None:
            place = self._known.get(weight.grad.untyped_storage()._cdata)
            if place is not None:
                self._changes[place] = 0

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
