"""What a bare loop is, and the training step that most of them have."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    from torch import Tensor, dtype

Parameters = Mapping[str, Any]
"""Of the case."""
Timed = Callable[[], None]
Given = TypeVar("Given")
BATCHES = 4


def rotating(batch: Callable[[], Given]) -> Iterator[Given]:
    """Other inputs in each step, as whoever trains or serves has them, made beforehand.

    Those of one batch alone would stay in the cache; and of experts, the sizes of their groups.
    """
    return itertools.cycle(batches(batch))


def batches(batch: Callable[[], Given]) -> list[Given]:
    """As many as a loop rotates among."""
    return [batch() for _ in range(BATCHES)]


def autocast(kind: dtype | None) -> AbstractContextManager[object]:
    """Products of float32 weights in bfloat16, if that is the kind."""
    import torch

    return torch.autocast("cpu", torch.bfloat16, enabled=kind is torch.bfloat16)


class Loop(NamedTuple):
    """A bare loop: its step, how many make a pass, and what is done, untimed, before a pass."""

    step: Timed
    modules: tuple[Any, ...]
    """What is compiled, each by itself, where the loop is to be."""
    steps: int = 1
    before_pass: Timed | None = None
    routed: Any = None
    """The model, where tokens choose among experts: its weights decide how many do any work."""
    tokens: tuple[Tensor, ...] = ()
    """What it trains on: they decide it, too."""

    def routed_as(self, model: Any, tokens: Iterable[Tensor]) -> None:
        """Its model, which is routed, has that one's weights from now on; and it these tokens."""
        self.routed.load_state_dict(model.state_dict())
        for mine, theirs in zip(self.tokens, tokens, strict=True):
            mine.copy_(theirs)

    def compile(self) -> None:
        """From now on its step is compiled: torch does it in the first one."""
        for module in self.modules:
            module.compile()

    def seconds(self, clock: Callable[[], float] = time.perf_counter) -> float:
        """Times one pass by hand. clock: in seconds."""
        if self.before_pass is not None:
            self.before_pass()
        start = clock()
        for _ in range(self.steps):
            self.step()
        return clock() - start


def training(
    model: Any, optimizer: Any, loss_of: Callable[[], Tensor], kind: dtype | None = None
) -> Loop:
    """The step of a loop that trains, on a CPU; the loss is computed in float32.

    kind: what autocast takes products to, or None: they have the kind of the weights.
    """

    def step() -> None:
        optimizer.zero_grad()
        with autocast(kind):
            loss = loss_of()
        loss.backward()
        optimizer.step()

    return Loop(step, (model,))


def inference(forward: Callable[[], Any], *modules: Any) -> Loop:
    """The step of a loop that infers."""
    import torch

    def step() -> None:
        with torch.inference_mode():
            forward()

    return Loop(step, modules)


def adamw(model: Any, learning_rate: float) -> Any:
    """Over what the model trains."""
    import torch

    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.01, fused=True)


Bare = Callable[[Parameters, "dtype"], Loop]
"""Of a case's parameters and the kind of its numbers, bfloat16 or float32: a model's weights where
it infers; where it trains, what its products are calculated in."""
