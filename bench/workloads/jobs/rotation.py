"""Jobs whose steps give one output, and inputs that take turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from bench.records.proof import OUTPUT
from bench.workload import Job

if TYPE_CHECKING:
    from torch import Tensor

Item = TypeVar("Item")


class Rotation(Generic[Item]):
    """Gives its items in turn, for ever."""

    def __init__(self, items: Sequence[Item]) -> None:
        """Starts with the first of them."""
        self.items = items
        self._next = 0

    def __iter__(self) -> Rotation[Item]:
        return self

    def __next__(self) -> Item:
        item = self.items[self._next]
        self._next = (self._next + 1) % len(self.items)
        return item

    @property
    def last(self) -> Item:
        """The item that was given last."""
        return self.items[self._next - 1]

    def back(self) -> None:
        """Has the last item given once more."""
        self._next = (self._next - 1) % len(self.items)


def leaves(inputs: Any) -> list[Tensor]:
    """Tensors of what a workload calls an input: one, or tuples, lists and dicts of them."""
    import torch
    from torch.utils import _pytree

    return [x for x in _pytree.tree_leaves(inputs) if isinstance(x, torch.Tensor)]


class OneOutput(Job):
    """A step gives one tensor."""

    quantity = "output"
    """What the numerics gate calls it."""
    _output: Tensor
    """Of the last step."""
    _kept: Any = None
    """What `looks` judges of the last step that was timed."""

    def witness(self) -> float:
        """Mean of the last output, with no wider copy of it; keeps some of it to look at."""
        import torch

        self._kept = self._keep()
        return float(self._output.detach().mean(dtype=torch.float32))

    def probe(self) -> dict[str, Tensor]:
        """The output of the first step."""
        self.step()
        return {self.quantity: self._output}

    def outputs(self) -> Mapping[str, Sequence[Tensor]]:
        """The last output."""
        return {OUTPUT: [self._output]}

    def _keep(self) -> Any:
        """By default nothing."""

    def _timed(self) -> Any:
        """What was kept of the last step that was timed; of the last one where none was."""
        return self._kept or self._keep()


class RotatingJob(OneOutput):
    """The same, made of inputs that take turns."""

    _inputs: Rotation[Any]

    def inputs(self) -> Sequence[Tensor]:
        """The tensors of the last input."""
        return leaves(self._inputs.last)

    def again(self) -> bool:
        """A step on the last input."""
        self._inputs.back()
        self.step()
        return True
