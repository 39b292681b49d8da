"""What one of several ranks holds of a training job, where the job is rehearsed.

Nothing is sharded or sent. What DDP and FSDP2 hold beside their shards comes and goes when it
would, as tensors that have shapes and no values, which are counted as all others are.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from bench.records.parallelism import Parallelism
from bench.workload import Site
from bench.workloads.jobs.sharded import Spread, blocks

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


def joined(
    alone: Spread, optimizer: torch.optim.Optimizer, kind: Parallelism, site: Site
) -> tuple[Spread, list[tuple[Tensor, int]]]:
    """A job between two steps, as one of ranks that train it together; and the tensors of which a
    rank has a part, with its bytes. alone: as it was made.

    Raises NotImplementedError where that is not counted.
    """
    import torch

    trained = [weight for group in optimizer.param_groups for weight in group["params"]]
    if kind.scheme == "dp":
        return Replica(alone.module, trained), []
    if kind.scheme not in ("fsdp", "hsdp"):
        raise NotImplementedError(f"{kind}: what ranks share of its memory is not counted")
    kept = [value for of_one in optimizer.state.values() for value in of_one.values()]
    states = [value for value in kept if isinstance(value, torch.Tensor) and value.dim()]
    wider = 1
    if alone.policy is not None:
        wider = site.precision.dtype.itemsize // getattr(torch, alone.policy).itemsize
    shards = Shards(alone.module, kind.sizes[-1], wider)
    shards.policy = alone.policy
    return shards, [(t, shards.part(t.nbytes)) for t in (*alone.module.parameters(), *states)]


class Replica(Spread):
    """DDP: gradients lie in its buckets from step to step; those that micro-batches add up before
    the last one lie beside them."""

    def __init__(self, model: nn.Module, trained: Iterable[Tensor]) -> None:
        import torch

        super().__init__(model)
        self._last = True
        self._buckets = {weight: torch.empty_like(weight) for weight in trained}
        for weight in self._buckets:
            weight.register_post_accumulate_grad_hook(self._came)
            self._came(weight)

    @contextlib.contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        """The last one's gradients come into the buckets."""
        self._last = last
        yield

    def _came(self, weight: Tensor) -> None:
        if self._last:
            weight.grad = self._buckets[weight]


class _Group:
    """Weights that are gathered at once."""

    def __init__(self, weights: Sequence[Tensor], before: _Group | None) -> None:
        self.before = before
        self.trained = [weight for weight in weights if weight.requires_grad]
        self.whole: Tensor | None = None
        self.awaited = 0
        """Gradients that the backward has not made yet."""
        self._bytes = sum(weight.nbytes for weight in weights)

    def gathered(self) -> Tensor:
        """The memory of all its weights."""
        return _memory(self._bytes)


class Shards(Spread):
    """FSDP2: a block is gathered into one buffer, and out of it into its weights, when it runs; in
    the backward also the buffer of the block before it. The buffer that its gradients are reduced
    from stays until the next block's are. The rest of the model is gathered once a step."""

    def __init__(self, model: nn.Module, count: int, wider: int) -> None:
        """wider: how many times as wide as what is gathered shards and sums of gradients are."""
        super().__init__(model)
        self._count, self._wider = count, wider
        self._last, self._backwards = True, False
        self._buffer: Tensor | None = None
        self._reduced: Tensor | None = None
        self._groups: list[_Group] = []
        inner = [(block, [*block.parameters()]) for block in blocks(model)]
        inside = {weight for _, weights in inner for weight in weights}
        rest = [weight for weight in model.parameters() if weight not in inside]
        group: _Group | None = None
        for module, weights in (*inner, (model, rest)):
            group = _Group(weights, group)
            self._groups.append(group)
            module.register_forward_pre_hook(functools.partial(self._enter, group))
            module.register_forward_hook(functools.partial(self._leave, group))
            for weight in group.trained:
                hook = functools.partial(self._came, group)
                weight.register_post_accumulate_grad_hook(hook)
            self._reduce(group)
        self._free()

    def part(self, size: int) -> int:
        """Of so many bytes or elements as they are rehearsed, those of a shard."""
        return -(-size * self._wider // self._count)

    @contextlib.contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        """The last one's gradients are reduced; others add up whole."""
        self._last, self._backwards = last, False
        for group in self._groups:
            group.awaited = len(group.trained)
        yield
        self._free()

    def _free(self) -> None:
        self._buffer = self._reduced = None
        for group in self._groups:
            group.whole = None

    def _enter(self, group: _Group, *_: Any) -> None:
        """Before a forward; where it is done again in the backward, all is there."""
        if group.whole is None:
            self._buffer = group.gathered()
            group.whole = group.gathered()

    def _leave(self, group: _Group, module: nn.Module, inputs: Any, output: Any) -> None:
        import torch
        from torch.utils import _pytree

        if self._backwards:
            return
        if group is self._groups[-1]:  # stays for the backward
            self._buffer = None
        else:
            group.whole = None
        for value in _pytree.tree_leaves(output):
            if isinstance(value, torch.Tensor) and value.requires_grad:
                value.register_hook(functools.partial(self._turn, group))
                break

    def _turn(self, group: _Group, gradient: Tensor) -> None:
        """Before a backward."""
        self._backwards = True
        if group.whole is None:
            group.whole = group.gathered()
        self._buffer = None
        if group.before is not None:
            self._buffer = group.before.gathered()

    def _came(self, group: _Group, weight: Tensor) -> None:
        group.awaited -= 1
        if not group.awaited:
            self._reduce(group)

    def _reduce(self, group: _Group) -> None:
        """After a backward."""
        group.whole = None
        if self._last:
            self._reduced = None
            self._reduced = _memory(sum(w.nbytes for w in group.trained) * self._wider)
        for weight in group.trained:
            if weight.grad is not None:
                whole = weight.numel() * self._wider
                weight.grad = _lying_on(self.part(weight.numel()) if self._last else whole, weight)


def _memory(size: int) -> Tensor:
    """So many bytes."""
    import torch

    return torch.empty(size, dtype=torch.uint8)


def _lying_on(count: int, weight: Tensor) -> Tensor:
    """What can be a weight's gradient, and takes the memory of so many of its elements."""
    import torch

    strides = weight.stride() if count >= weight.numel() else [0] * weight.dim()
    return torch.empty(count, dtype=weight.dtype).as_strided(weight.shape, strides)
