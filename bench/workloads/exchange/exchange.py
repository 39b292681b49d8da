"""The job of a collective: buffers, the operation of torch.distributed, and its repetitions.

A sum in place grows with each repetition. Its buffer is therefore a ring of as many as there is
room for, operands begin small, and before each block, outside the clock, they are made anew; a
block has no more steps than keep every value finite. Everything else reads one buffer and writes
another, so that each step is the same as the one before.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench.precision import Precision
from bench.quantized_product import name_of
from bench.ranks import Ranks
from bench.records.outcome import Work
from bench.records.proof import OUTPUT
from bench.workload import Job, Look, Site, Unsupported, Wrong
from bench.workloads.exchange import operands
from bench.workloads.exchange.layout import Layout, from_root, partner, turns
from bench.workloads.exchange.proof import Proof, Seen, complaint

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.distributed import ProcessGroup

RING_BYTES = 2**26
"""Of all buffers of a sum in place together, where one is smaller."""
LONG_RING_BYTES = 2**32
"""The same, at most, on a device where so few sums stay finite that a block would end too soon."""
LONG_STEPS = 1024
"""Steps that such a ring is long enough for: 40 ms of 40 us."""
MOST_BUFFERS = 4096
SAMPLED = 64
"""Elements of each piece of a result, at most, that the gate compares with its formula."""
WITNESSED = 65_536
"""Elements of which a witness is the mean."""
REFUSED = re.compile(r"support|scalar type|data ?type|dtype|invalid type", re.IGNORECASE)
"""In what a library says that does not take a number format, or has no such operation."""
Call = Callable[["Tensor", "Tensor", int], None]
"""Reads the first tensor, writes the second; the number counts within a chain."""


def dtype_of(precision: Precision) -> torch.dtype:
    """What is exchanged in a precision: its narrowest numbers."""
    import torch

    dtype: torch.dtype = getattr(torch, precision.quantized or precision.weights)
    return dtype


def lasting(layout: Layout, name: str, chained: int) -> int | None:
    """In how many steps a buffer may be summed up before its operands must be made anew; None of
    what does not grow. Raises Unsupported where one is too many.

    name: torch's, of the number format; chained: sums of a step.
    """
    if not (layout.sums and layout.in_place):
        return None
    sums = 1 + math.floor(operands.FORMATS[name].growth / math.log2(layout.ranks))
    if sums < chained:
        raise Unsupported(
            f"a chain of {chained} sums over {layout.ranks} ranks outgrows {name}, which holds "
            f"{sums}"
        )
    return sums // chained


def buffers(layout: Layout, element_bytes: int, lasts: int | None, on_host: bool) -> int:
    """How many buffers a ring has; 1 of what does not grow.

    lasts: steps that one does; on_host: of a CPU, which takes longer for a step.
    """
    if lasts is None:
        return 1
    bytes_ = layout.got * element_bytes
    longer = 0 if on_host else min(-(-LONG_STEPS // lasts), LONG_RING_BYTES // bytes_)
    return max(1, min(MOST_BUFFERS, max(RING_BYTES // bytes_, longer)))


def held_bytes(layout: Layout, site: Site, chained: int) -> int:
    """Of all buffers of a rank."""
    precision = site.precision
    width, name = precision.matrix_bytes, precision.quantized or precision.weights
    lasts = lasting(layout, name, chained)
    count = layout.got * buffers(layout, width, lasts, site.device.type == "cpu")
    if not layout.in_place:
        count += layout.given + (layout.got if chained > 1 else 0)
    return (count + operands.PERIOD) * width


class Formula(Job):
    """What the gate compares with: the result as it must be, from its definition, in float64."""

    def __init__(self, layout: Layout, sampled: int) -> None:
        self._layout, self._sampled = layout, sampled
        self.facts: dict[str, str] = {}

    def step(self) -> None:
        """Nothing is exchanged."""

    def witness(self) -> float:
        """None is asked for."""
        return 0.0

    def probe(self) -> dict[str, Tensor]:
        """The first elements of each piece of the result."""
        import torch

        layout, found = self._layout, []
        for piece in layout.gets:
            share = operands.Share(piece.source, piece.target, 0, 0, piece.length)
            period = operands.small(share, layout.sums, layout.ranks)
            found.append(period[: min(self._sampled, piece.length)])
        return {OUTPUT: torch.cat(found).to(torch.float64)}


class Exchange(Job):
    """One or several operations of all ranks a step."""

    def __init__(
        self, layout: Layout, site: Site, what: str, sampled: int, chained: int = 1
    ) -> None:
        """what: the case in words, for complaints; sampled: elements of each piece that the gate
        compares. Raises Unsupported where the collective library refuses the number format, on
        every rank alike."""
        import torch

        assert site.ranks is not None
        self._ranks, self._layout, self._what = site.ranks, layout, what
        self._sampled, self._chained = sampled, chained
        dtype = dtype_of(site.precision)
        roots = min(chained, layout.ranks) if layout.mode == "broadcast" else 1
        self._proofs = [Proof(from_root(layout, root), dtype) for root in range(roots)]
        """Of each operation of a chain that is another than the first: of each root."""
        self._salt = 10_000 + site.seed * 1_000
        self._lasting = lasting(layout, name_of(dtype), chained)
        on_host = site.device.type == "cpu"
        self._rings = buffers(layout, dtype.itemsize, self._lasting, on_host)

        def zeros(count: int) -> Tensor:
            return torch.zeros(count, dtype=dtype, device=site.device)

        self._ring = zeros(layout.got * self._rings)
        self._slots: tuple[Tensor, ...] = tuple(self._ring.split(layout.got))
        self._given = self._slots[0] if layout.in_place else zeros(layout.given)
        self._between = zeros(layout.got) if chained > 1 and not layout.in_place else None
        self._call = operation(layout, self._ranks)
        self._require_accepted()
        self._period = (
            self._proofs[0].period(layout.gives[0], self._salt, timed=True).to(site.device)
        )
        self._steps = 0
        self._fill()
        bytes_ = dtype.itemsize
        self.own_work = Work(
            items=layout.counted * chained * bytes_,
            unit="B",
            bus_bytes=layout.crossing * chained * bytes_,
            operations=self.turns or chained,
        )
        self.facts = {
            "operation": layout.mode,
            "dtype": name_of(dtype),
            "elements_sent": " ".join(str(piece.length) for piece in layout.gives),
            "elements_received": " ".join(str(piece.length) for piece in layout.gets),
        }

    @property
    def most_steps(self) -> int | None:
        """After so many the sums would no longer be finite."""
        return self._lasting and self._lasting * self._rings

    def refill(self) -> None:
        """Makes the operands anew that a block has summed up."""
        if self._lasting is not None and self._steps:
            self._fill()

    def step(self) -> None:
        """Queues the operations, each on what the one before gave."""
        held = self._slots[self._steps % self._rings]
        self._steps += 1
        self._chain(self._given if self._rings == 1 else held, held)

    @property
    def turns(self) -> int:
        """In how many turns each rank meets each other; 0 where all act together."""
        return turns(self._ranks.size) if self._layout.mode == "pairs" else 0

    def meet(self, turn: int) -> int | None:
        """Exchanges one turn's messages; gives with whom."""
        return meet(self._layout, self._ranks, self._given, self._held, turn)

    def witness(self) -> float:
        """The mean of the first values that were received."""
        import torch

        return float(self._held[:WITNESSED].cpu().to(torch.float64).mean())

    def probe(self) -> dict[str, Tensor]:
        """The first elements of each piece, after all of several results have been proved exact.

        Raises Wrong, on every rank alike, with the rank whose fault it looks like.
        """
        import torch

        if said := self._complaint():
            raise Wrong(said)
        layout = self._layout
        for piece in layout.gives:
            share = operands.Share(piece.source, piece.target, 0, 0, piece.length)
            values = operands.small(share, layout.sums, layout.ranks)
            period = operands.as_format(values, self._given.dtype).to(self._given.device)
            operands.spread(self._given[piece.start : piece.start + piece.length], period)
        held = self._slots[0]
        self._call(self._given, held, 0)
        starts = [held[p.start :][: min(self._sampled, p.length)] for p in layout.gets]
        return {OUTPUT: torch.cat([part.cpu().to(torch.float64) for part in starts])}

    def outputs(self) -> Mapping[str, Sequence[Tensor]]:
        """What was received."""
        return {OUTPUT: [self._held]}

    def inputs(self) -> Sequence[Tensor]:
        """What was given; of what grows, that from which it is made, and how often it was summed
        up: no two steps read the same."""
        import torch

        if self._lasting is None:
            return [self._given]
        return [self._period, torch.tensor(self._steps)]

    def again(self) -> bool:
        """The last step; of what grows, as often as it was summed up since its operands were made.

        All ranks call it together.
        """
        if self._lasting is None:
            self._chain(self._given, self._slots[0])
            return True
        last = max(0, self._steps - 1)
        slot, held = last % self._rings, self._held
        operands.spread(held, self._period, slot * self._layout.got)
        for _ in range(last // self._rings + 1):
            self._chain(held, held)
        return True

    def looks(self) -> Iterable[Look]:
        """Whether results are exact after all that was timed, as they were before it."""
        self._salt += 500
        said = self._complaint()
        yield Look(
            what="results after the timing",
            asked="exact ones",
            seen=said or "exact ones",
            then="Test that device and its links, then run again",
        )

    @property
    def _held(self) -> Tensor:
        """The buffer that the last step wrote."""
        if self._between is not None and self._chained % 2 == 0:
            return self._between
        return self._slots[max(0, self._steps - 1) % self._rings]

    def _chain(self, given: Tensor, held: Tensor) -> None:
        self._call(given, held, 0)
        if self._chained == 1:
            return
        here, there = held, held if self._between is None else self._between
        for turn in range(1, self._chained):
            self._call(here, there, turn)
            here, there = there, here

    def _fill(self) -> None:
        """Operands of the timed steps."""
        if self._lasting is None:
            self._proofs[0].fill(self._given, self._salt, timed=True)
            return
        used = min(self._steps or self._rings, self._rings) * self._layout.got
        operands.spread(self._ring[:used], self._period)
        self._steps = 0

    def _complaint(self) -> str:
        """Proves one operation, or one of each root, on every rank; what they found, said by all
        alike."""
        given, held = self._given, self._slots[0]
        seen = Seen(0, 0, 0, (0,) * self._layout.ranks)
        for turn, proof in enumerate(self._proofs):
            step = functools.partial(self._call, given, held, turn)
            seen = seen + proof.prove(given, held, step, self._salt + 1 + turn * proof.passes)
        every = [Seen(*found) for found in self._ranks.told(tuple(seen))]
        return complaint(self._what, every, self._layout.sums)

    def _require_accepted(self) -> None:
        """Raises Unsupported where the library says on all ranks that it cannot."""
        refusal = ""
        try:
            self._call(self._given, self._slots[0], 0)
        except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
            if not REFUSED.search(str(error)):
                raise
            refusal = str(error).splitlines()[0]
        said = self._ranks.told(refusal)
        if all(said):
            raise Unsupported(f"the collective library does not take it: {said[0]}")
        if refusal:
            raise RuntimeError(refusal)


def both_ways(given: Tensor, to: int, held: Tensor, source: int, group: ProcessGroup) -> None:
    """Sends and receives at once."""
    import torch.distributed as dist

    both = [dist.P2POp(dist.isend, given, to, group), dist.P2POp(dist.irecv, held, source, group)]
    for work in dist.batch_isend_irecv(both):
        work.wait()


def meet(layout: Layout, ranks: Ranks, given: Tensor, held: Tensor, turn: int) -> int | None:
    """Exchanges the messages of a turn of `pairs`; gives with whom."""
    other = partner(ranks.rank, ranks.size, turn)
    if other is None:
        return None
    to = next(piece for piece in layout.gives if piece.target == other)
    source = next(piece for piece in layout.gets if piece.source == other)
    parts = given[to.start :][: to.length], held[source.start :][: source.length]
    both_ways(parts[0], other, parts[1], other, ranks.group)
    return other


def operation(layout: Layout, ranks: Ranks) -> Call:
    """The operation of torch.distributed over the measured group."""
    import torch.distributed as dist

    group = ranks.group
    new: Any = dist  # names since torch 2.13; the old ones will go
    gather = getattr(new, "all_gather_single", None) or new.all_gather_into_tensor
    scatter = getattr(new, "reduce_scatter_single", None) or new.reduce_scatter_tensor
    sent = [piece.length for piece in layout.gives]
    received = [piece.length for piece in layout.gets]
    right, left = (ranks.rank + 1) % ranks.size, (ranks.rank - 1) % ranks.size

    def exchange(given: Tensor, held: Tensor, turn: int) -> None:
        both_ways(given, right, held, left, group)

    def pairs(given: Tensor, held: Tensor, turn: int) -> None:
        for each in range(turns(ranks.size)):
            meet(layout, ranks, given, held, each)

    def all_to_all(given: Tensor, held: Tensor, turn: int) -> None:
        dist.all_to_all_single(held, given, received, sent, group=group)

    calls: dict[str, Call] = {
        "all-reduce": lambda given, held, turn: dist.all_reduce(held, group=group),
        "broadcast": lambda given, held, turn: dist.broadcast(held, turn % ranks.size, group=group),
        "all-gather": lambda given, held, turn: gather(held, given, group=group),
        "reduce-scatter": lambda given, held, turn: scatter(held, given, group=group),
        "all-to-all": lambda given, held, turn: dist.all_to_all_single(held, given, group=group),
        "dispatch": all_to_all,
        "combine": all_to_all,
        "send-receive": exchange,
        "pairs": pairs,
    }
    return calls[layout.mode]
