"""What ranks exchange so that a wrong result shows, and whose fault it is.

*What is summed*: of every element exactly two ranks hold something, a at rank p and b at rank q,
all others zero; p and q run through all pairs of ranks with the position. Whatever the number of
ranks and the order of the additions, every partial sum is 0, a, b or a + b, whole numbers that the
format holds exactly. a <= M / 2 < b <= M, so what a lost rank leaves, a doubled one, a maximum in
the sum's place, or one rank taken for another, all differ from a + b. M follows the format: most
of these numbers fit no shorter one, so a narrower wire shows.

*What is only moved* is compared bit by bit; each element says whose it is, whom it is for and in
which repetition. As numbers its bits are finite, and never so small that a device may drop them.

Operands repeat with a period, a prime, so that a buffer of any size is filled by copies and no
piece of it equals a piece that lies elsewhere by a power of two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PERIOD = 65_521
"""The largest prime below 2^16."""
COMPARED = 64 * PERIOD
"""Elements that are compared at a time: bounds the host's memory."""
BOTH = -1
"""In the place of a rank: the sum of what all hold."""


class Format(NamedTuple):
    """What a number format holds."""

    most: int
    """M: whole numbers up to 1.5 M are exact, and most of them are so in no shorter format."""
    scale: int
    """Power of two that timed operands are multiplied with, so that they may grow."""
    growth: int
    """So many doublings later their sums are still finite."""


FORMATS = {
    "float32": Format(11_184_810, -100, 200),
    "bfloat16": Format(170, -100, 210),
    "float16": Format(1_364, -14, 18),
    "float8_e4m3fn": Format(10, -6, 10),
    "int8": Format(84, 0, 0),
}
"""By torch's name; `growth` of integers is 0: their sums would wrap around."""


def holders(index: Tensor, ranks: int) -> tuple[Tensor, Tensor]:
    """p and q of each position: all ordered pairs in turn, every rank within the first `ranks`."""
    p = index % ranks
    return p, (p + 1 + (index // ranks) % (ranks - 1)) % ranks


def addends(index: Tensor, salt: int, most: int) -> tuple[Tensor, Tensor]:
    """a and b of each position."""
    half = most // 2
    a = 1 + (index * 2_654_435_761 + _word_of(salt * 40_503)) % half
    return a, half + 1 + (index * 1_597_334_677 + _word_of(salt * 92_821)) % half


class Share(NamedTuple):
    """Which elements: of one rank, for one rank, in one repetition."""

    source: int
    """`BOTH` for what is summed, where it has come."""
    target: int
    salt: int
    shift: int
    """Of the position, so that in tiny buffers every rank's turn comes."""
    length: int = PERIOD
    """Elements that are wanted; no more than a period is made."""

    @property
    def positions(self) -> Tensor:
        """Positions: int64, of one period or as many as are wanted."""
        import torch

        return torch.arange(min(self.length, PERIOD)) + _word_of(self.shift)

    @property
    def mixed(self) -> int:
        """Repetition and receiver in one number."""
        return self.salt * 8_191 + self.target


def summed(share: Share, ranks: int, most: int) -> Tensor:
    """One period of what `share.source` gives to a sum, or of the sum: int64."""
    index = share.positions
    a, b = addends(index, share.mixed, most)
    if share.source == BOTH:
        return a + b
    p, q = holders(index, ranks)
    return a * (p == share.source) + b * (q == share.source)


def marked(share: Share, dtype: torch.dtype) -> Tensor:
    """One period of what is only moved, of the dtype.

    Of a float the highest bit of the exponent is 0 and the next one 1: finite, below 2, and no
    subnormal.
    """
    whose = _word_of((share.source + 1) * 40_503 + share.mixed * 97)
    mixed = share.positions * 2_654_435_761 + whose
    mixed = mixed ^ (mixed >> 15) ^ (mixed >> 31)
    if dtype.is_floating_point:
        top = 8 * dtype.itemsize - 2
        mixed = (mixed & ~(1 << top)) | (1 << (top - 1))
    return mixed.to(_word(dtype)).view(dtype)


def small(share: Share, sums: bool, ranks: int) -> Tensor:
    """One period of whole numbers up to 6, which every format holds: int64."""
    if sums:
        return summed(share, ranks, most=4)
    return 1 + (share.positions * 7 + share.source * 3 + share.target * 5) % 6


def as_format(values: Tensor, dtype: torch.dtype, power: int = 0) -> Tensor:
    """Whole numbers (int64) times 2^power in a format."""
    import torch

    if not dtype.is_floating_point:
        return values.to(dtype)
    return (values.to(torch.float64) * 2.0**power).to(torch.float32).to(dtype)


def spread(target: Tensor, period: Tensor, start: int = 0) -> None:
    """Fills a tensor [n] with repetitions of a period on its device, from its element `start` on.

    By copies alone, of doubling length.
    """
    if not len(target):
        return
    start %= len(period)
    done = 0
    for part in (period[start:], period[:start]):
        count = min(len(part), len(target) - done)
        target[done : done + count].copy_(part[:count])
        done += count
    while done < len(target):
        count = min(done, len(target) - done)
        target[done : done + count].copy_(target[:count])
        done += count


def unequal(found: Tensor, period: Tensor) -> Tensor:
    """Where a tensor [n] differs, in any bit, from repetitions of a period: int64, on the host."""
    import torch

    if not len(found):
        return torch.zeros(0, dtype=torch.int64)
    wanted, length = bits(period), len(period)
    chunk, wrong = COMPARED // length * length, []
    for start in range(0, len(found), chunk):
        part = bits(found[start : start + chunk].cpu())
        whole = len(part) // length * length
        differs = torch.cat(
            [
                (part[:whole].view(-1, length) != wanted).view(-1),
                part[whole:] != wanted[: len(part) - whole],
            ]
        )
        if bool(differs.any()):
            wrong.append(differs.nonzero().flatten() + start)
    return torch.cat(wrong) if wrong else torch.zeros(0, dtype=torch.int64)


def bits(tensor: Tensor) -> Tensor:
    """The same memory as integers."""
    return tensor.view(_word(tensor.dtype))


def _word_of(number: int) -> int:
    """A number of any size as an int64 that overflows has it: salts come from anybody's seed."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


def _word(dtype: torch.dtype) -> torch.dtype:
    import torch

    return {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
