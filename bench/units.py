"""Numbers as people read them. Formatting only: every value keeps its unit in its name."""

from __future__ import annotations

import math
from collections.abc import Sequence

MOST_RANKS = 8
"""That are named one by one."""

_SI = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


LONGEST = 1e15
"""A number of more digits than anybody reads has an exponent."""


def significant(value: float, digits: int = 3) -> str:
    """`value` in `digits` significant digits, without an exponent where it is readable.

    >>> significant(1234.5), significant(27.345), significant(0.01234)
    ('1,234', '27.3', '0.0123')
    """
    if value == 0:
        return "0"
    magnitude = abs(value)
    if magnitude >= LONGEST:
        return f"{value:.{digits - 1}e}"
    if magnitude >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    if magnitude < 1e-4:
        return f"{value:.{digits - 1}e}"
    decimals = digits - 1
    while magnitude < 1 and decimals < digits + 4:
        magnitude *= 10
        decimals += 1
    while magnitude >= 10:
        magnitude /= 10
        decimals -= 1
    return f"{value:.{decimals}f}"


def prefixed(value: float, unit: str) -> str:
    """`value` with a decimal (SI) prefix: 9.85e11, "FLOP/s" -> "985 GFLOP/s"."""
    for factor, prefix in _SI:
        if abs(value) >= factor:
            return f"{significant(value / factor)} {prefix}{unit}"
    return f"{significant(value)} {unit}"


def rate(value: float, item: str) -> str:
    """A throughput in `item` per second; FLOP, OP and bytes take an SI prefix, counts do not."""
    if item in ("FLOP", "OP", "B"):
        return prefixed(value, f"{item}/s")
    return f"{significant(value)} {item}/s"


def duration(seconds: float) -> str:
    """A time with its natural unit: 0.0123 -> "12.3 ms", 75 -> "1 min 15 s"."""
    if not math.isfinite(seconds):
        return f"{seconds} s"
    if seconds >= 60:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    if seconds >= 1:
        return f"{significant(seconds)} s"
    if seconds >= 1e-3:
        return f"{significant(seconds * 1e3)} ms"
    return f"{significant(seconds * 1e6)} us"


SYMMETRIC = 0.10
"""Up to this half-width on the log scale, +-x % says it well enough."""


LEAST_PERCENT = 0.00095
"""Half-widths below it have no digit that counts in percents of one digit after the point."""
WIDEST = 16.0
"""From this half-width on, percents have more digits than anybody reads."""


def spread(half_width: float) -> str:
    """An interval by its half-width on the log scale, on which the two sides differ in percent.

    >>> spread(0.032), spread(0.3)
    ('±3.2%', '-26% +35%')
    """
    if 0 < half_width < LEAST_PERCENT:
        return f"±{100 * half_width:.1g}%"
    if half_width <= SYMMETRIC:
        return f"±{half_width:.1%}"
    if half_width > WIDEST:
        return f"-100% +{half_width / math.log(10):.0f} orders of magnitude"
    return f"-{-math.expm1(-half_width):.0%} +{math.expm1(half_width):.0%}"


def counted(number: int, noun: str) -> str:
    """A number and its noun: "1 launch", "3 launches"."""
    plural = f"{noun}es" if noun.endswith("ch") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"


def ranks(numbers: Sequence[int], noun: str = "rank") -> str:
    """`rank 3`, `ranks 1, 2`; of very many the first ones: `ranks 1, 2, 3, ... and 55 more`."""
    return f"{noun if len(numbers) == 1 else f'{noun}s'} {first_ones(numbers, MOST_RANKS)}"


def first_ones(some: Sequence[object], most: int) -> str:
    """All of them; of more than `most` the first, and how many more: `a, b, c and 5 more`."""
    more = f" and {len(some) - most} more" if len(some) > most else ""
    return ", ".join(map(str, some[:most])) + more


def memory(size_bytes: int) -> str:
    """A memory size with a binary prefix: 1610612736 -> "1.5 GiB"."""
    if size_bytes >= 2**30:
        return f"{size_bytes / 2**30:.1f} GiB"
    if size_bytes >= 2**20:
        return f"{size_bytes / 2**20:.0f} MiB"
    if size_bytes < 2**10:
        return f"{size_bytes} B"
    return f"{size_bytes / 2**10:.0f} KiB"


def joules(each: float, item: str) -> str:
    """Energy of an item: "12 mJ/image"; of operations and bytes how many a joule buys.

    >>> joules(0.0123, "image"), joules(1e-12, "FLOP")
    ('12.3 mJ/image', '1.00 TFLOP/J')
    """
    if item in ("FLOP", "OP", "B"):
        return prefixed(1 / each, f"{item}/J")
    for factor, unit in ((1.0, "J"), (1e-3, "mJ")):
        if each >= factor:
            return f"{significant(each / factor)} {unit}/{item}"
    return f"{significant(each * 1e6)} uJ/{item}"
