"""Which experts a decode's tokens go to: seen in steps that nobody times, as they are written."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from bench.ranks import Ranks
from bench.records.outcome import Work

if TYPE_CHECKING:
    from torch import Tensor, nn

EXPERTS = "experts"
"""What transformers calls the experts of a layer."""
MOST_STEPS, MOST_LOOKS = 256, 32
"""Of a window that are taken, from its first on: all of one of the usual length; and of those that
are looked at, evenly spread: greedy tokens may come to repeat, and hit fewer than the first."""


@contextmanager
def choices(model: nn.Module) -> Iterator[list[Tensor]]:
    """Gives a list to which each layer with experts adds its tokens' choice of them, [T, k].

    By what transformers hands a layer's experts: hidden states, then the choice. A model whose
    experts go by another name adds nothing.
    """
    chosen: list[Tensor] = []

    def note(_: nn.Module, given: tuple[Any, ...]) -> None:
        chosen.append(given[1].detach().flatten())

    with ExitStack() as hooks:
        for path, module in model.named_modules():
            if path.rpartition(".")[2] == EXPERTS:
                hooks.enter_context(module.register_forward_pre_hook(note))
        yield chosen


def hit(
    model: nn.Module, step: Callable[[Tensor, int], Tensor], token: Tensor, steps: int
) -> float | None:
    """How many experts of a layer get a token, a mean of layers and steps; None if none was seen.

    step: from tokens [B, 1] and their number behind the prompt to the next tokens. Of `steps` no
    more than `MOST_STEPS` are taken; waits for the device in each that is looked at.
    """
    import torch

    hits: list[int] = []
    with choices(model) as chosen:
        taken = min(steps, MOST_STEPS)
        looks = min(taken, MOST_LOOKS)
        looked = {(2 * look + 1) * taken // (2 * looks) for look in range(looks)}
        for index in range(taken):
            token = step(token, index)
            if chosen and index in looked:
                hits += [len(layer.unique()) for layer in torch.stack(chosen).cpu()]
            chosen.clear()
    return statistics.fmean(hits) if hits else None


def counted(
    work: Work, hit: float | None, moved: Callable[[float], int], ranks: Ranks | None
) -> Work:
    """A step's work, whose bytes are those of the experts that were hit; of ranks all of theirs.

    moved: bytes of a step on one device from its experts hit. As it is where none was seen.
    """
    told = [hit] if ranks is None else ranks.told(hit)
    found = [one for one in told if one is not None]
    if len(found) < len(told):
        return work
    return msgspec.structs.replace(
        work, moved_bytes=sum(map(moved, found)), experts_hit=statistics.fmean(found)
    )
