"""Who sends what to whom in a collective: pieces of buffers, counted in elements.

Algorithm and bus bandwidth are counted as nccl-tests defines them: the size is that of the largest
buffer of a rank, and what crosses each rank's link is that times a factor that makes the figure of
any number of ranks comparable with the speed of a link.
Source: nccl-tests, doc/PERFORMANCE.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import msgspec

from bench.workload import Unsupported
from bench.workloads.exchange.operands import BOTH

ANYBODY = 0
"""In the place of a receiver where all get the same."""
SUMS = ("all-reduce", "reduce-scatter")
MOST_PAIRED = 128
"""Ranks whose pairs are told apart: 8,128 links."""
IN_PLACE = ("all-reduce", "broadcast")
"""What torch.distributed has in place only."""


class Piece(NamedTuple):
    """Consecutive elements of a buffer."""

    start: int
    length: int
    source: int
    """The rank that they come from; `BOTH` of a sum."""
    target: int


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """One rank's view of a collective."""

    mode: str
    rank: int
    ranks: int
    gives: tuple[Piece, ...]
    """Of the buffer that is read: for each receiver one."""
    gets: tuple[Piece, ...]
    """Of the one that is written."""
    counted: int
    """The size of which algorithm bandwidth is counted."""
    crossing: int
    """What crosses the busiest rank's link, in the direction in which there is more."""

    @property
    def sums(self) -> bool:
        """Whether values are added; else they are moved as they are."""
        return self.mode in SUMS

    @property
    def in_place(self) -> bool:
        """Whether the buffer that is read is the one that is written."""
        return self.mode in IN_PLACE

    @property
    def given(self) -> int:
        """Elements of the buffer that is read."""
        return sum(piece.length for piece in self.gives)

    @property
    def got(self) -> int:
        """Elements of the one that is written."""
        return sum(piece.length for piece in self.gets)


def bus_factor(mode: str, ranks: int) -> Fraction:
    """Bus bandwidth over algorithm bandwidth, as nccl-tests has it."""
    if mode == "all-reduce":
        return Fraction(2 * (ranks - 1), ranks)
    if mode in ("broadcast", "send-receive"):
        return Fraction(1)
    return Fraction(ranks - 1, ranks)


def even(mode: str, size_bytes: int, element_bytes: int, rank: int, ranks: int) -> Layout:
    """Of a collective whose parts are alike.

    A buffer that does not divide over the ranks is the next smaller one that does, as in
    nccl-tests. Raises Unsupported where that would be empty.
    """
    shared = mode not in ("all-reduce", "broadcast", "send-receive")
    part = size_bytes // element_bytes // (ranks if shared else 1)
    if not part:
        raise Unsupported(
            f"{size_bytes} B hold no element for each of {ranks} ranks; the smallest size is "
            f"{max(8, ranks * element_bytes)} B"
        )
    whole = part * (ranks if shared else 1)
    every = range(ranks)
    for_each = tuple(Piece(d * part, part, rank, d) for d in every)
    from_each = tuple(Piece(s * part, part, s, rank) for s in every)
    one = Piece(0, part, rank, ANYBODY)
    right, left = (rank + 1) % ranks, (rank - 1) % ranks
    gives, gets = {
        "all-reduce": ((one,), (one._replace(source=BOTH),)),
        "broadcast": ((one,), (one._replace(source=0),)),
        "all-gather": ((one,), tuple(p._replace(target=ANYBODY) for p in from_each)),
        "reduce-scatter": (for_each, (Piece(0, part, BOTH, rank),)),
        "all-to-all": (for_each, from_each),
        "send-receive": ((one._replace(target=right),), (Piece(0, part, left, rank),)),
    }[mode]
    return Layout(
        mode=mode,
        rank=rank,
        ranks=ranks,
        gives=gives,
        gets=gets,
        counted=whole,
        crossing=round(whole * bus_factor(mode, ranks)),
    )


def from_root(layout: Layout, root: int) -> Layout:
    """Where the first rank sends to all, another in its place: a broadcast's."""
    if not root:
        return layout
    gets = tuple(piece._replace(source=root) for piece in layout.gets)
    return msgspec.structs.replace(layout, gets=gets)


def paired(message_bytes: int, element_bytes: int, rank: int, ranks: int) -> Layout:
    """Of messages between each two ranks, both ways. Raises Unsupported for less than an element,
    and for more ranks than a map of their pairs shows."""
    part = message_bytes // element_bytes
    if not part:
        raise Unsupported(f"{message_bytes} B hold no element; the smallest is {element_bytes} B")
    if ranks > MOST_PAIRED:
        pairs = ranks * (ranks - 1) // 2
        raise Unsupported(
            f"{ranks} ranks make {pairs:,} pairs, of which each would be timed by itself; up to "
            f"{MOST_PAIRED} ranks are"
        )
    others = [other for other in range(ranks) if other != rank]
    return Layout(
        mode="pairs",
        rank=rank,
        ranks=ranks,
        gives=tuple(Piece(k * part, part, rank, d) for k, d in enumerate(others)),
        gets=tuple(Piece(k * part, part, s, rank) for k, s in enumerate(others)),
        counted=part * len(others),
        crossing=part * len(others),
    )


def turns(ranks: int) -> int:
    """In how many turns each meets each, all that can at once (a round-robin tournament)."""
    return ranks - 1 + ranks % 2


def partner(rank: int, ranks: int, turn: int) -> int | None:
    """Whom a rank meets in a turn; None where it sits out, as one does of an odd number.

    The circle method: i and j meet in the turn i + j, modulo the number of turns, and who would
    meet itself meets the last one.
    """
    last = turns(ranks)
    if rank == last:
        other = turn * (last + 1) // 2 % last
    else:
        other = (turn - rank) % last
        other = last if other == rank else other
    return other if other < ranks else None


def uneven(mode: str, copies: Sequence[Sequence[int]], width: int, rank: int) -> Layout:
    """Of `dispatch`, or `combine`, which brings everything back.

    copies: of tokens, from rank [i] to the experts of rank [j]; width: elements of a token.
    """
    ranks = len(copies)
    there = mode == "dispatch"
    sent = [row if there else [r[s] for r in copies] for s, row in enumerate(copies)]
    received = [[row[d] for row in sent] for d in range(ranks)]
    if empty := [d for d in range(ranks) if not sum(received[d]) or not sum(sent[d])]:
        raise Unsupported(f"rank {empty[0]} would get no token: ask for more of them")
    crossing = max(max(sum(sent[r]), sum(received[r])) - copies[r][r] for r in range(ranks))
    return Layout(
        mode=mode,
        rank=rank,
        ranks=ranks,
        gives=_pieces([(count, rank, d) for d, count in enumerate(sent[rank])], width),
        gets=_pieces([(count, s, rank) for s, count in enumerate(received[rank])], width),
        counted=sum(copies[0]) * width,
        crossing=crossing * width,
    )


def _pieces(counts: Sequence[tuple[int, int, int]], width: int) -> tuple[Piece, ...]:
    found, start = [], 0
    for count, source, target in counts:
        found.append(Piece(start, count * width, source, target))
        start += count * width
    return tuple(found)


def routed(ranks: int, tokens: int, experts: int, top_k: int, skew_percent: int) -> list[list[int]]:
    """Copies of tokens from each rank to the experts of each: [ranks][ranks].

    Experts lie evenly over the ranks. The k-th most popular one is chosen in proportion to
    k^-(skew_percent / 100), which is Zipf's law, each copy independently; which experts those are
    is drawn too. The same in every launch and everywhere: it is a part of the work.
    Raises Unsupported where the experts do not divide.
    """
    import torch

    if experts % ranks:
        raise Unsupported(f"{experts} experts do not divide over {ranks} ranks")
    drawn = torch.Generator().manual_seed(0)
    popular = [max(1, round(2**20 / (k + 1) ** (skew_percent / 100))) for k in range(experts)]
    weights = torch.tensor(popular)[torch.randperm(experts, generator=drawn)]
    ends = weights.cumsum(0)
    total = int(ends[-1])
    found = []
    for _ in range(ranks):
        places = torch.randint(total, (tokens * top_k,), generator=drawn)
        owner = torch.bucketize(places, ends, right=True) // (experts // ranks)
        found.append([int(n) for n in torch.bincount(owner, minlength=ranks)])
    return found
