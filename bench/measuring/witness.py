"""A witness of a step: what it computed, as a few numbers that every stack computes alike.

Which values are looked at, and the signs that they are summed with, come from SHAKE-256 over seed
and name: the same bytes on every host, in every version of Python and torch (torch's own normals
differ in the last bit between CPUs). The device only gathers, an exact copy of at most 65,536
values a quantity; all arithmetic is the host's, in float64. Everything here happens outside the
clock, and nothing stays on the device.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from itertools import groupby, repeat
from typing import TYPE_CHECKING

from bench.ranks import local
from bench.records.proof import PROJECTIONS, Vector

if TYPE_CHECKING:
    from torch import Tensor

POSITIONS = 65_536
"""Most values of a quantity that are looked at."""
CHUNK = 2_048
"""Values summed at once; a multiple of 8."""
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


def signs(seed: int, label: str, size: int) -> list[Tensor]:
    """Of 64 sums of so many values, the signs as bits: [64, octets], uint8, of each chunk."""
    import torch

    found = []
    for start in range(0, size, CHUNK):
        octets = -(-min(CHUNK, size - start) // 8)
        drawn = random_bytes(seed, f"{label}/signs/{start}", PROJECTIONS * octets)
        found.append(torch.frombuffer(drawn, dtype=torch.uint8).view(PROJECTIONS, octets))
    return found


def project(values: Tensor, drawn: Sequence[Tensor]) -> list[float]:
    """Values [n], float64 on the host, as 64 sums with random signs, each over 8.

    drawn: the `signs` of so many. Of each eight values there are 256 sums, which are computed once;
    each of the 64 takes one of them.
    """
    import torch
    from torch.nn import functional

    bits = (torch.arange(256)[:, None] >> torch.arange(8)) & 1
    patterns = (2 * bits - 1).to(torch.float64).t()
    sums = torch.zeros(PROJECTIONS, dtype=torch.float64)
    for rows, part in zip(drawn, values.split(CHUNK), strict=True):
        eights = functional.pad(part, (0, -part.numel() % 8)).view(-1, 8)
        sums += (eights @ patterns).gather(1, rows.t().long()).sum(0)
    found: list[float] = (sums / PROJECTIONS**0.5).tolist()
    return found


class Sample:
    """The same positions of tensors of the same shapes, whenever it is asked.

    Positions are those of the values, not of memory, so a memory format makes no difference. Each
    value is weighted by the root of how many it stands for: the norm is that of the whole. What is
    drawn is drawn once, and lies on the host.
    """

    def __init__(self, seed: int, label: str, tensors: Sequence[Tensor]) -> None:
        """tensors: one at least; only the shapes are kept of what lies here of them."""
        self._seed, self._label = seed, label
        tensors = [local(tensor) for tensor in tensors]
        self.shapes = [tuple(t.shape) for t in tensors]
        self._sizes = [t.numel() for t in tensors]
        self.counts = counts(self._sizes)
        self.size = sum(self._sizes)

    @functools.cached_property
    def _positions(self) -> Tensor:
        """Of all tensors, one after the other. To draw them takes longer than to gather."""
        import torch

        labels = [f"{self._label}/{i}/{'x'.join(map(str, s))}" for i, s in enumerate(self.shapes)]
        drawn = map(positions, repeat(self._seed), labels, self._sizes, self.counts)
        return torch.cat([*drawn])

    @functools.cached_property
    def _signs(self) -> list[Tensor]:
        return signs(self._seed, self._label, sum(self.counts))

    @functools.cached_property
    def _roots(self) -> Tensor:
        """Of how many values each one stands for."""
        sizes = zip(self._sizes, self.counts, strict=True)
        # A rank may have none of a tensor that has fewer rows than there are ranks.
        return self.spread([(size / max(count, 1)) ** 0.5 for size, count in sizes])

    def gather(self, tensors: Sequence[Tensor | None]) -> Tensor:
        """Copies of the values [n] on the host, in float64. None stands for zeros: no gradient.

        Raises ValueError where the shapes are others.
        """
        import torch

        places: dict[object, Sequence[Tensor]] = {}
        parts = []
        described = zip(tensors, self.shapes, self.counts, strict=True)
        for number, (given, shape, count) in enumerate(described):
            if given is None:
                parts.append(torch.zeros(count, dtype=torch.float64))
                continue
            tensor = local(given)
            if tuple(tensor.shape) != shape:
                raise ValueError(f"{self._label} {number}: {tuple(tensor.shape)}, not {shape}")
            if tensor.device not in places:
                places[tensor.device] = self._positions.to(tensor.device).split(self.counts)
            parts.append(_picked(tensor, places[tensor.device][number]))
        # One copy to the host for all that are alike.
        alike = groupby(parts, key=lambda part: (part.device, part.dtype))
        return torch.cat([_on_host([*group]) for _, group in alike])

    def spread(self, values: Sequence[float]) -> Tensor:
        """One value a tensor, as often as that tensor is looked at: [n], float64."""
        import torch

        numbers = torch.tensor(self.counts)
        return torch.tensor(values, dtype=torch.float64).repeat_interleave(numbers)

    def weighted(self, values: Tensor) -> Tensor:
        """The values that `gather` gave, each times the root of how many it stands for."""
        return values * self._roots

    def vector(self, values: Tensor, whole: bool = True) -> Vector | None:
        """What is kept of the values that `gather` gave; None where one of them is not finite.

        whole: with the sums, not the norm only.
        """
        import torch

        if not bool(torch.isfinite(values).all()):
            return None
        weighted = self.weighted(values)
        norm = float(weighted.norm())
        if self.size == 1:
            return Vector(size=1, norm=rounded(float(weighted), DIGITS + 2))
        sums = project(weighted, self._signs) if whole else []
        return Vector(
            size=self.size,
            norm=rounded(norm, DIGITS),
            projections=tuple(rounded(x, DIGITS) for x in sums),
            rests_on=resting(weighted / norm) if norm else None,
        )


def resting(values: Tensor) -> float:
    """On how many of these values [n], whose norm is 1, that norm rests: 1 to n, to two digits.

    The squared sum of the squares over the sum of their squares, the inverse participation ratio.
    """
    return max(1.0, rounded(1 / float(values.square().square().sum()), 2))


def rounded(value: float, digits: int) -> float:
    """The value to so many significant digits."""
    return float(f"{value:.{digits - 1}e}")


def _picked(tensor: Tensor, wanted: Tensor) -> Tensor:
    """The values at these positions, gathered where the tensor lies."""
    import torch

    with torch.no_grad():
        tensor = tensor.detach()
        narrow = tensor.dtype if tensor.is_floating_point() and tensor.itemsize == 1 else None
        if narrow is not None:  # few devices index 8-bit floats: as bytes they are copied exactly
            tensor = tensor.view(torch.uint8)
        if wanted.numel() == tensor.numel():
            picked = tensor.reshape(-1)
        elif tensor.is_contiguous():
            picked = tensor.view(-1).index_select(0, wanted)
        else:
            picked = tensor[torch.unravel_index(wanted, tensor.shape)]
        return picked if narrow is None else picked.view(narrow)


def _on_host(alike: list[Tensor]) -> Tensor:
    """Values of one device and dtype, one after the other, in float64 on the host."""
    import torch

    dtype = alike[0].dtype
    if dtype.is_floating_point and dtype.itemsize == 1:
        return torch.cat([x.view(torch.uint8) for x in alike]).cpu().view(dtype).to(torch.float64)
    return torch.cat(alike).cpu().to(torch.float64)
