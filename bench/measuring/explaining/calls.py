"""A call of an operator, and its tensors by the storages that they lie in."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.measuring.explaining import counts
from bench.records.explained import Kind

if TYPE_CHECKING:
    import torch

Key = tuple[str, str, Kind]
"""An operator's name, its operands in words, and what it does: an optimizer adds up as backward
does."""


class Ref(NamedTuple):
    """A tensor of the tape."""

    slot: int
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: Any

    @property
    def numel(self) -> int:
        """Elements."""
        return math.prod(self.size)

    @property
    def end_bytes(self) -> int:
        """Where its last element ends in its storage."""
        if not self.numel:
            return 0
        last = sum((n - 1) * step for n, step in zip(self.size, self.stride, strict=True))
        return (self.offset + last + 1) * int(self.dtype.itemsize)

    @property
    def word(self) -> str:
        """`bf16[64,128]`; with its strides where its elements do not lie in that order."""
        shape = ",".join(map(str, self.size))
        strides = "" if self.dense else f"/{','.join(map(str, self.stride))}"
        return f"{counts.word(self.dtype)}[{shape}{strides}]"

    @property
    def dense(self) -> bool:
        """Whether its elements lie one after the other in the order of its dimensions."""
        want = 1
        for n, stride in zip(reversed(self.size), reversed(self.stride), strict=True):
            if n != 1 and stride != want:
                return False
            want *= n
        return True


class Call(NamedTuple):
    """A call of an operator."""

    func: Any
    """torch's overload."""
    flat: tuple[Any, ...]
    """Arguments, flattened; tensors as `Ref`."""
    spec: Any
    outs: tuple[Ref | None, ...]
    kind: Kind
    flop: int
    moved: counts.Bytes
    precision: str
    structure: bool
    """Whether it does no work: a view, or memory that is not filled."""
    known: dict[int, torch.UntypedStorage]
    """Storages of integers that were made in the step, as the call was given them, by slot; of the
    first call of its variant only."""

    @property
    def name(self) -> str:
        """`aten::mm`."""
        return str(self.func._schema.name)

    @property
    def operands(self) -> str:
        """Its tensors in words; none of what does no work."""
        if self.structure:
            return ""
        return " ".join(v.word for v in self.flat if isinstance(v, Ref))

    @property
    def row(self) -> Key:
        """What it shares with all calls that a reader sees as one."""
        return self.name, self.operands, self.kind

    @property
    def variant(self) -> Hashable:
        """Which work of its row it does: by overload, by arguments that are no tensors (a sum over
        rows or over columns, attention half of which is masked or none), by what it gives, and by
        which of its tensors are one."""
        place: dict[int, int] = {}
        arguments = tuple(
            place.setdefault(value.slot, len(place)) if isinstance(value, Ref) else repr(value)
            for value in self.flat
        )
        gives = tuple(None if out is None else out.word for out in self.outs)
        return self.row, str(self.func), str(self.spec), arguments, gives

    @property
    def refs(self) -> list[Ref]:
        """All its tensors, those that it gives included."""
        return [v for v in (*self.flat, *self.outs) if isinstance(v, Ref)]


def copied(storage: torch.UntypedStorage) -> torch.UntypedStorage:
    """Another storage that holds the same; by a tensor, as a storage's own `clone` knows no devices
    but torch's."""
    import torch

    bytes_of = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
    return bytes_of.clone().untyped_storage()
