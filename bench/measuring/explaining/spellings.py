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

    Function = Callable[..., Tensor]


class Spelling(NamedTuple):
    """Another word for an operator."""

    operator: str
    """As torch's dispatcher has it: `aten::embedding`."""
    other: str
    """What is called in its place."""
    owner: Callable[[], Any]
    """What Python finds it in."""
    made: Callable[[Function], Function]
    """Of the function as it is."""

    @property
    def attribute(self) -> str:
        """What Python calls it."""
        return self.operator.rpartition("::")[2]

    @property
    def name(self) -> str:
        """`embedding as index_select`."""
        return f"{self.attribute} as {self.other}"


class Spelled:
    """Enters a spelling, and counts how often it was called."""

    def __init__(self, spelling: Spelling) -> None:
        self.calls = 0
        self._spelling = spelling

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """For a while."""
        owner, attribute = self._spelling.owner(), self._spelling.attribute
        plain, own = getattr(owner, attribute), attribute in vars(owner)
        other = self._spelling.made(plain)

        def counted(*args: Any, **kwargs: Any) -> Tensor:
            self.calls += 1
            return other(*args, **kwargs)

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


def _selected(plain: Function) -> Function:
    """`embedding` by `index_select`, where it is a lookup and nothing else."""

    def embedding(rows: Tensor, table: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if any(args) or any(v for key, v in kwargs.items() if key != "norm_type"):
            return plain(rows, table, *args, **kwargs)
        return table.index_select(0, rows.reshape(-1)).view(*rows.shape, table.shape[1])

    return embedding


def _along(like: Tensor, dim: int, index: Tensor, length: int) -> Tensor:
    """The index, repeated over all other dimensions."""
    shape = list(like.shape)
    shape[dim] = length
    ones = [length if d == dim % like.dim() else 1 for d in range(like.dim())]
    return index.reshape(ones).expand(shape)


def _gathered(plain: Function) -> Function:
    """`index_select` by `gather`."""

    def index_select(table: Tensor, dim: int, index: Tensor) -> Tensor:
        return table.gather(dim, _along(table, dim, index, index.numel()))

    return index_select


def _scattered(plain: Function) -> Function:
    """`index_add_` by `scatter_add_`."""

    def index_add_(
        table: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: float = 1
    ) -> Tensor:
        brought = source if alpha == 1 else source * alpha
        return table.scatter_add_(dim, _along(source, dim, index, index.numel()), brought)

    return index_add_


SPELLINGS = (
    Spelling("aten::embedding", "index_select", _functional, _selected),
    Spelling("aten::index_select", "gather", _tensor, _gathered),
    Spelling("aten::index_add_", "scatter_add_", _tensor, _scattered),
)


def known(operators: Iterable[str]) -> list[Spelling]:
    """Those of operators that a step has."""
    there = set(operators)
    return [spelling for spelling in SPELLINGS if spelling.operator in there]
