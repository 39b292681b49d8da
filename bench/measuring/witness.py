"""A witness of a step: what it computed, as a few numbers that every stack computes alike.

Which values are looked at, and the signs that they are summed with, come from SHAKE-256 over seed
and name: the same bytes on every host, in every version of Python and torch (torch's own normals
differ in the last bit between CPUs). The device only gathers, an exact copy of at most 65,536
values a quantity; all arithmetic is the host's, in float64. Everything here happens outside the
clock, and nothing stays on the device.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bench.ranks import local
from bench.records.proof import PROJECTIONS, Vector

if TYPE_CHECKING:
    from torch import Tensor

POSITIONS = 65_536
"""Most values of a quantity that are looked at."""
CHUNK = 2_048
"""Values summed at once: 1 MiB of signs in float64."""
DIGITS = 7
"""Significant digits that are kept of a sum, as many as float32 has; of a single number two more,
as its tolerance is the narrowest."""


def counts(sizes: Sequence[int], most: int = POSITIONS) -> list[int]:
    """How many values of each tensor are looked at: all, or in proportion, and one at least."""
    total = sum(sizes)
    if total <= most:
        return list(sizes)
    return [min(size, max(1, most * size // total)) for size in sizes]


def random_bytes(seed: int, label: str, count: int) -> bytearray:
    """Bytes that only the seed, the label and FIPS 202 say."""
    return bytearray(hashlib.shake_256(f"accelmark/{seed}/{label}".encode()).digest(count))


def positions(seed: int, label: str, size: int, count: int) -> Tensor:
    """Ascending positions below `size`: all of them, or `count` drawn with replacement."""
    import torch

    if size <= count:
        return torch.arange(size)
    drawn = torch.frombuffer(random_bytes(seed, label, 8 * count), dtype=torch.int64)
    return (drawn % size).sort().values


def project(values: Tensor, seed: int, label: str) -> list[float]:
    """Values [n], float64 on the host, as 64 sums with random signs, each over 8."""
    import torch

    sums = torch.zeros(PROJECTIONS, dtype=torch.float64)
    bits = torch.arange(8, dtype=torch.uint8)
    for start in range(0, values.numel(), CHUNK):
        part = values[start : start + CHUNK]
        octets = -(-part.numel() // 8)
        drawn = random_bytes(seed, f"{label}/signs/{start}", PROJECTIONS * octets)
        rows = torch.frombuffer(drawn, dtype=torch.uint8).view(PROJECTIONS, octets, 1)
        signs = ((rows >> bits) & 1).view(PROJECTIONS, 8 * octets)[:, : part.numel()]
        sums += (signs.to(torch.float64) * 2 - 1) @ part
    found: list[float] = (sums / PROJECTIONS**0.5).tolist()
    return found


class Sample:
    """The same positions of tensors of the same shapes, whenever it is asked.

    Positions are those of the values, not of memory, so a memory format makes no difference. Each
    value is weighted by the root of how many it stands for: the norm is that of the whole.
    """

    def __init__(self, seed: int, label: str, tensors: Sequence[Tensor]) -> None:
        """tensors: one at least; only the shapes are kept of what lies here of them."""
        self._seed, self._label = seed, label
        tensors = [local(tensor) for tensor in tensors]
        self._shapes = [tuple(t.shape) for t in tensors]
        self._sizes = [t.numel() for t in tensors]
        self.counts = counts(self._sizes)
        self.size = sum(self._sizes)

    def gather(self, tensors: Sequence[Tensor | None]) -> Tensor:
        """Copies of the values [n] on the host, in float64. None stands for zeros: no gradient.

        Raises ValueError where the shapes are others.
        """
        import torch

        parts = []
        described = zip(tensors, self._shapes, self.counts, strict=True)
        for number, (given, shape, count) in enumerate(described):
            if given is None:
                parts.append(torch.zeros(count, dtype=torch.float64))
                continue
            tensor = local(given)
            if tuple(tensor.shape) != shape:
                raise ValueError(f"{self._label} {number}: {tuple(tensor.shape)}, not {shape}")
            label = f"{self._label}/{number}/{'x'.join(map(str, shape))}"
            wanted = positions(self._seed, label, math.prod(shape), count)
            parts.append(_picked(tensor, wanted))
        return torch.cat(parts)

    def spread(self, values: Sequence[float]) -> Tensor:
        """One value a tensor, as often as that tensor is looked at: [n], float64."""
        import torch

        numbers = torch.tensor(self.counts)
        return torch.tensor(values, dtype=torch.float64).repeat_interleave(numbers)

    def weighted(self, values: Tensor) -> Tensor:
        """The values that `gather` gave, each times the root of how many it stands for."""
        sizes = zip(self._sizes, self.counts, strict=True)
        # A rank may have none of a tensor that has fewer rows than there are ranks.
        return values * self.spread([(size / max(count, 1)) ** 0.5 for size, count in sizes])

    def vector(self, values: Tensor, whole: bool = True) -> Vector | None:
        """What is kept of the values that `gather` gave; None where one of them is not finite.

        whole: with the sums, not the norm only.
        """
        import torch

        if not bool(torch.isfinite(values).all()):
            return None
        weighted = self.weighted(values)
        if self.size == 1:
            return Vector(size=1, norm=rounded(float(weighted), DIGITS + 2))
        sums = project(weighted, self._seed, self._label) if whole else []
        return Vector(
            size=self.size,
            norm=rounded(float(weighted.norm()), DIGITS),
            projections=tuple(rounded(x, DIGITS) for x in sums),
        )


def rounded(value: float, digits: int) -> float:
    """The value to so many significant digits."""
    return float(f"{value:.{digits - 1}e}")


def _picked(tensor: Tensor, wanted: Tensor) -> Tensor:
    """The values at these positions, gathered where the tensor lies; float64 on the host."""
    import torch

    with torch.no_grad():
        tensor = tensor.detach()
        narrow = tensor.dtype if tensor.is_floating_point() and tensor.itemsize == 1 else None
        if narrow is not None:  # few devices index 8-bit floats: as bytes they are copied exactly
            tensor = tensor.view(torch.uint8)
        index: Any
        if tensor.is_contiguous():
            picked = tensor.view(-1).index_select(0, wanted.to(tensor.device))
        else:
            index = torch.unravel_index(wanted, tensor.shape)
            picked = tensor[tuple(i.to(tensor.device) for i in index)]
        picked = picked.cpu()
        return (picked if narrow is None else picked.view(narrow)).to(torch.float64)
