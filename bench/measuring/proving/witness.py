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
import math
from collections.abc import Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any

from bench import catalogue
from bench.records.proof import PROJECTIONS, Vector

if TYPE_CHECKING:
    from bench.framework import Array, Tensors

POSITIONS = 65_536
"""Most values of a quantity that are looked at."""
CHUNK = 2_048
"""Values summed at once; a multiple of 8."""
DIGITS = 7
"""Significant digits that are kept of a sum, as many as float32 has; of a single number two more,
as its tolerance is the narrowest."""


def counts(sizes: Sequence[int], most: int = POSITIONS, least: int = 1) -> list[int]:
    """How many values of each tensor are looked at: all, or in proportion, and so many at least."""
    total = sum(sizes)
    if total <= most:
        return list(sizes)
    return [min(size, max(least, most * size // total)) for size in sizes]


def random_bytes(seed: int, label: str, count: int) -> bytearray:
    """Bytes that only the seed, the label and FIPS 202 say."""
    return bytearray(hashlib.shake_256(f"accelmark/{seed}/{label}".encode()).digest(count))


def positions(seed: int, label: str, size: int, count: int) -> Array:
    """Ascending positions below `size`, int64: all of them, or `count` drawn with replacement."""
    import numpy as np

    if size <= count:
        return np.arange(size)
    drawn = np.frombuffer(random_bytes(seed, label, 8 * count), dtype="<i8")
    return np.sort(drawn % size)


def signs(seed: int, label: str, size: int) -> list[Array]:
    """Of 64 sums of so many values, the signs as bits: [64, octets], uint8, of each chunk."""
    import numpy as np

    found = []
    for start in range(0, size, CHUNK):
        octets = -(-min(CHUNK, size - start) // 8)
        drawn = random_bytes(seed, f"{label}/signs/{start}", PROJECTIONS * octets)
        found.append(np.frombuffer(drawn, dtype=np.uint8).reshape(PROJECTIONS, octets))
    return found


def project(values: Array, drawn: Sequence[Array]) -> list[float]:
    """Values [n], float64 on the host, as 64 sums with random signs, each over 8.

    drawn: the `signs` of so many. Of each eight values there are 256 sums, which are computed once;
    each of the 64 takes one of them.
    """
    import numpy as np

    total = np.zeros(PROJECTIONS)
    for number, rows in enumerate(drawn):
        part = values[number * CHUNK : (number + 1) * CHUNK]
        eights = np.zeros(rows.shape[1] * 8)
        eights[: len(part)] = part
        # By pattern of bits, the first value the lowest: without a product, whose library would
        # start threads of its own.
        sums = np.zeros((rows.shape[1], 1))
        for one in eights.reshape(-1, 8).T:
            sums = np.concatenate((sums - one[:, None], sums + one[:, None]), 1)
        total += np.take_along_axis(sums, rows.T.astype(np.int64), 1).sum(0)
    found: list[float] = (total / PROJECTIONS**0.5).tolist()
    return found


KNOWN = 4
"""Inputs of which it is kept what came of them."""


class Known:
    """What came of the first inputs."""

    def __init__(self) -> None:
        self._found: list[tuple[Sequence[Any], Vector]] = []

    def of(self, inputs: Sequence[Any]) -> Vector | None:
        """What is known to come of these, the very same tensors."""
        found = (
            vector
            for known, vector in self._found
            if all(one is other for one, other in zip(known, inputs, strict=True))
        )
        return next(found, None)

    def lacks(self, inputs: Sequence[Any]) -> bool:
        """Whether it is still to be learnt what comes of them."""
        return len(self._found) < KNOWN and self.of(inputs) is None

    def add(self, inputs: Sequence[Any], output: Vector) -> None:
        """Keeps it."""
        self._found.append((inputs, output))


class Sample:
    """The same positions of tensors of the same shapes, whenever it is asked.

    Positions are those of the values, not of memory, so a memory format makes no difference. Each
    value is weighted by the root of how many it stands for: the norm is that of the whole. What is
    drawn is drawn once, and lies on the host.
    """

    def __init__(
        self,
        seed: int,
        label: str,
        tensors: Sequence[Any],
        kit: Tensors | None = None,
        least: int = 1,
    ) -> None:
        """tensors: one at least; only the shapes are kept of what lies here of them; kit: of their
        framework, by default torch's; least: values of each, where it has as many."""
        self._seed, self._label = seed, label
        self._kit = kit or catalogue.framework("torch").tensors
        self.shapes = [self._kit.shape(tensor) for tensor in tensors]
        self._sizes = [math.prod(shape) for shape in self.shapes]
        self.counts = counts(self._sizes, least=least)
        self.size = sum(self._sizes)

    @functools.cached_property
    def _positions(self) -> list[Array]:
        """Of each tensor. To draw them takes longer than to gather."""
        labels = [f"{self._label}/{i}/{'x'.join(map(str, s))}" for i, s in enumerate(self.shapes)]
        return [*map(positions, repeat(self._seed), labels, self._sizes, self.counts)]

    @functools.cached_property
    def _signs(self) -> list[Array]:
        return signs(self._seed, self._label, sum(self.counts))

    @functools.cached_property
    def _roots(self) -> Array:
        """Of how many values each one stands for."""
        sizes = zip(self._sizes, self.counts, strict=True)
        # A rank may have none of a tensor that has fewer rows than there are ranks.
        return self.spread([(size / max(count, 1)) ** 0.5 for size, count in sizes])

    def gather(self, tensors: Sequence[Any]) -> Array:
        """Copies of the values [n] on the host, in float64. None stands for zeros: no gradient.

        Raises ValueError where the shapes are others.
        """
        import numpy as np

        for number, (tensor, shape) in enumerate(zip(tensors, self.shapes, strict=True)):
            if tensor is not None and self._kit.shape(tensor) != shape:
                raise ValueError(f"{self._label} {number}: {self._kit.shape(tensor)}, not {shape}")
        there = [tensor is not None for tensor in tensors]
        wanted = [at for at, is_there in zip(self._positions, there, strict=True) if is_there]
        values = np.zeros(sum(self.counts))
        if wanted:
            whole = np.repeat(there, self.counts)
            values[whole] = self._kit.picked([x for x in tensors if x is not None], wanted)
        return values

    def spread(self, values: Sequence[float]) -> Array:
        """One value a tensor, as often as that tensor is looked at: [n], float64."""
        import numpy as np

        return np.repeat(np.asarray(values, dtype=np.float64), self.counts)

    def weighted(self, values: Array) -> Array:
        """The values that `gather` gave, each times the root of how many it stands for."""
        return values * self._roots

    def vector(self, values: Array, whole: bool = True) -> Vector | None:
        """What is kept of the values that `gather` gave; None where one of them is not finite.

        whole: with the sums, not the norm only.
        """
        import numpy as np

        if not np.isfinite(values).all():
            return None
        weighted = self.weighted(values)
        norm = float(np.sqrt(np.square(weighted).sum()))
        if self.size == 1:
            return Vector(size=1, norm=rounded(float(weighted[0]), DIGITS + 2))
        sums = project(weighted, self._signs) if whole else []
        return Vector(
            size=self.size,
            norm=rounded(norm, DIGITS),
            projections=tuple(rounded(x, DIGITS) for x in sums),
            rests_on=resting(weighted / norm) if norm else None,
        )


def resting(values: Array) -> float:
    """On how many of these values [n], whose norm is 1, that norm rests: 1 to n, to two digits.

    The squared sum of the squares over the sum of their squares, the inverse participation ratio.
    """
    return max(1.0, rounded(1 / float((values**4).sum()), 2))


def rounded(value: float, digits: int) -> float:
    """The value to so many significant digits."""
    return float(f"{value:.{digits - 1}e}")
