"""Gathers and scatters in other words of torch's: the same numbers, by another kernel.

Which of them is the fastest, depends on the device and its library. What calls them from Python can
be given another one for a while; what torch calls by itself cannot.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Spelling(NamedTuple):
    """Another word for an operator."""

    operator: str
    """As torch's dispatcher has it: `aten::embedding`."""
    other: str
    """What is called in its place."""
    owner: Callable[[], Any]
    """What Python finds it in."""
    word: Callable[..., Tensor | None]
    """That, with the arguments of the function as it is; None where these ask for more than it
    does."""

    @property
    def attribute(self) -> str:
        """What Python calls it."""
        return self.operator.rpartition("::")[2]

    @property
    def name(self) -> str:
        """`embedding as index_select`."""
        return f"{self.attribute} as {self.other}"


class Spelled:
    """Enters a spelling, and counts how often the other word was said."""

    def __init__(self, spelling: Spelling) -> None:
        self.calls = 0
        self._spelling = spelling

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """For a while."""
        owner, attribute = self._spelling.owner(), self._spelling.attribute
        plain, own = getattr(owner, attribute), attribute in vars(owner)

        def counted(*args: Any, **kwargs: Any) -> Tensor:
            found = self._spelling.word(*args, **kwargs)
            if found is None:
                of_its_own: Tensor = plain(*args, **kwargs)
                return of_its_own
            self.calls += 1
            return found

        setattr(owner, attribute, counted)
        try:
            yield
        finally:
            setattr(owner, attribute, plain) if own else delattr(owner, attribute)


def _functional() -> Any:
    from torch.nn import functional

    return functional


def _tensor() -> Any:
    import torch

    return torch.Tensor


def _selected(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor | None:
    """`embedding` by `index_select`, where it is a lookup and nothing else."""
    if padding_idx is not None or max_norm is not None or scale_grad_by_freq or sparse:
        return None
    return weight.index_select(0, input.reshape(-1)).view(*input.shape, weight.shape[1])


def _along(like: Tensor, dim: int, index: Tensor, length: int) -> Tensor:
    """The index, repeated over all other dimensions."""
    shape = list(like.shape)
    shape[dim] = length
    ones = [length if d == dim % like.dim() else 1 for d in range(like.dim())]
    return index.reshape(ones).expand(shape)


def _gathered(table: Tensor, dim: int, index: Tensor) -> Tensor:
    """`index_select` by `gather`."""
    return table.gather(dim, _along(table, dim, index, index.numel()))


def _scattered(
    table: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: float = 1
) -> Tensor:
    """`index_add_` by `scatter_add_`."""
    brought = source if alpha == 1 else source * alpha
    return table.scatter_add_(dim, _along(source, dim, index, index.numel()), brought)


SPELLINGS = (
    Spelling("aten::embedding", "index_select", _functional, _selected),
    Spelling("aten::index_select", "gather", _tensor, _gathered),
    Spelling("aten::index_add_", "scatter_add_", _tensor, _scattered),
)


def known(operators: Iterable[str]) -> list[Spelling]:
    """Those of operators that a step has."""
    there = set(operators)
    return [spelling for spelling in SPELLINGS if spelling.operator in there]
