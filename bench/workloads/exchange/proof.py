"""Whether a collective gives every rank what it must, exactly; and if not, who it looks like."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from bench.quantized_product import name_of
from bench.workloads.exchange import operands
from bench.workloads.exchange.layout import Layout, Piece
from bench.workloads.exchange.operands import BOTH, Share

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PASSES = 3
"""Repetitions at least: each with other values, so that the last one's result is wrong in this."""
JUDGED = 65_536
"""Wrong elements of a piece whose origin is looked for."""
MAJORITY = 0.5
"""Of the wrong elements, from which share on they are one sender's."""


class Seen(NamedTuple):
    """What one rank found wrong in what it got."""

    wrong: int
    of: int
    """Elements that were compared, in all repetitions."""
    judged: int
    """Wrong ones whose origin was looked for."""
    whose: tuple[int, ...]
    """How many of those look like the doing of each rank, as a sender."""

    def __add__(self, other: Seen) -> Seen:  # type: ignore[override]
        """Of both together."""
        whose = tuple(a + b for a, b in zip(self.whose, other.whose, strict=True))
        return Seen(self.wrong + other.wrong, self.of + other.of, self.judged + other.judged, whose)


class Proof:
    """Of one collective on one rank."""

    def __init__(self, layout: Layout, dtype: torch.dtype) -> None:
        self._layout, self._dtype = layout, dtype
        self._most = operands.FORMATS[name_of(dtype)].most

    @property
    def passes(self) -> int:
        """As many as let every rank hold something of a sum, in a buffer of a few elements too; on
        all ranks as many."""
        if not self._layout.sums:
            return PASSES
        least = min(piece.length for piece in self._layout.gives if piece.length)
        return max(PASSES, -(-2 * self._layout.ranks // least))

    def period(self, piece: Piece, salt: int, timed: bool = False) -> Tensor:
        """What a piece is filled with, or must have become: on the host.

        timed: so small that it may grow (`operands.Format.scale`).
        """
        share = _share(piece, salt)
        if not self._layout.sums:
            return operands.marked(share, self._dtype)
        power = operands.FORMATS[name_of(self._dtype)].scale if timed else 0
        values = operands.summed(share, self._layout.ranks, self._most)
        return operands.as_format(values, self._dtype, power)

    def fill(self, given: Tensor, salt: int, timed: bool = False) -> None:
        """Gives this rank its operands of a repetition; timed: as `period`."""
        for piece in self._layout.gives:
            period = self.period(piece, salt, timed).to(given.device)
            operands.spread(given[piece.start : piece.start + piece.length], period)

    def wrong(self, held: Tensor, salt: int) -> Seen:
        """What of a result [n] is wrong. The device only copies; the host compares."""
        ranks = self._layout.ranks
        whose = [0] * ranks
        count = judged = 0
        for piece in self._layout.gets:
            part = held[piece.start : piece.start + piece.length]
            period = self.period(piece, salt)
            found = operands.unequal(part, period)
            count += len(found)
            judged += len(found) if piece.source != BOTH else min(len(found), JUDGED)
            if piece.source != BOTH:
                whose[piece.source] += len(found)
            elif len(found):
                for rank, number in enumerate(self._origins(part, period, found, piece, salt)):
                    whose[rank] += number
        return Seen(count, self._layout.got, judged, tuple(whose))

    def prove(self, given: Tensor, held: Tensor, step: Callable[[], None], first: int) -> Seen:
        """Repeats one operation with operands of its own. first: salt of the first repetition."""
        seen = Seen(0, 0, 0, (0,) * self._layout.ranks)
        for salt in range(first, first + self.passes):
            self.fill(given, salt)
            step()
            seen = seen + self.wrong(held, salt)
        return seen

    def _origins(
        self, part: Tensor, period: Tensor, wrong: Tensor, piece: Piece, salt: int
    ) -> list[int]:
        """By how much a sum is off says which addend is missing, or there twice."""
        import torch

        wrong = wrong[:JUDGED]
        ranks = self._layout.ranks
        at = wrong % len(period)
        share = _share(piece, salt)
        index = share.positions[at]
        a, b = operands.addends(index, share.mixed, self._most)
        p, q = operands.holders(index, ranks)
        found = part[wrong.to(part.device)].cpu().to(torch.float64)
        off = (found - period[at].to(torch.float64)).abs()
        counts = torch.bincount(p[off == a], minlength=ranks)
        counts += torch.bincount(q[off == b], minlength=ranks)
        return [int(count) for count in counts]


def _share(piece: Piece, salt: int) -> Share:
    return Share(piece.source, piece.target, salt, salt * piece.length, piece.length)


def complaint(what: str, seen: Sequence[Seen], sums: bool) -> str:
    """What is wrong, and which rank looks guilty; empty if nothing is.

    seen: of each rank; sums: whether values were added.
    """
    wrong = [rank for rank, one in enumerate(seen) if one.wrong]
    if not wrong:
        return ""
    count, total = sum(one.wrong for one in seen), sum(one.of for one in seen)
    on = f"rank {wrong[0]}" if len(wrong) == 1 else f"ranks {', '.join(map(str, wrong))}"
    return (
        f"{what}: {count:,} of {total:,} elements are wrong, on {on}; {_guilty(seen, wrong, sums)}"
    )


def _guilty(seen: Sequence[Seen], wrong: Sequence[int], sums: bool) -> str:
    """One that received wrongly, or one whose part all others miss; else the wire."""
    votes = [sum(one.whose[rank] for one in seen) for rank in range(len(seen))]
    *others, most = sorted(votes)
    sender = votes.index(most)
    one_sender = most > MAJORITY * sum(one.judged for one in seen) and most > 2 * others[-1]
    if len(wrong) == 1:
        # What is missing of a sum may as well have been lost where it was added.
        sent = one_sender and not sums and sender != wrong[0]
        of_whom = f", in what rank {sender} sent" if sent else ""
        return f"only rank {wrong[0]} has it wrong{of_whom}"
    if one_sender:
        return f"what rank {sender} gave to it is wrong"
    return "no rank stands out, so look at what joins them"
