"""Collectives proved exact at any number of ranks, and the rank named that spoils one.

All ranks are here at once, and what a library would do between them is done by hand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from bench.workload import Unsupported
from bench.workloads.exchange import operands
from bench.workloads.exchange.layout import (
    IN_PLACE,
    MOST_PAIRED,
    SUMS,
    Layout,
    bus_factor,
    even,
    paired,
    partner,
    turns,
    uneven,
)
from bench.workloads.exchange.operands import BOTH
from bench.workloads.exchange.proof import Proof, Seen, complaint

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MODES = (
    *("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "broadcast", "send-receive"),
    "pairs",
)
COPIES = [[5, 1, 3], [2, 2, 5], [1, 1, 7]]


def layouts(
    mode: str, ranks: int, count: int = 480, element_bytes: int = 4, copies: Any = COPIES
) -> list[Layout]:
    if mode in ("dispatch", "combine"):
        return [uneven(mode, copies, 8, rank) for rank in range(3)]
    if mode == "pairs":
        return [paired(count * element_bytes, element_bytes, r, ranks) for r in range(ranks)]
    return [even(mode, count * element_bytes, element_bytes, r, ranks) for r in range(ranks)]


class Library:
    """What happens between all ranks of one collective, and what may go wrong at one of them."""

    def __init__(
        self, ranks: list[Layout], dtype: torch.dtype, fault: str = "", at: int = 0
    ) -> None:
        import torch

        self.ranks, self.fault, self.at = ranks, fault, at
        self.given = [torch.zeros(one.given, dtype=dtype) for one in ranks]
        self.held = [
            given if one.in_place else torch.zeros(one.got, dtype=dtype)
            for one, given in zip(ranks, self.given, strict=True)
        ]

    def run(self) -> None:
        import torch

        sent = [given.clone() for given in self.given]
        if self.fault == "lost":
            sent[self.at].zero_()
        if self.fault == "doubled":
            sent[self.at].mul_(2)
        if self.fault == "narrow":
            sent = [one.to(torch.bfloat16).to(one.dtype) for one in sent]
        for rank, layout in enumerate(self.ranks):
            if self.fault == "stale" and rank == self.at:
                continue
            for piece in layout.gets:
                whole = self.held[rank][piece.start : piece.start + piece.length]
                if piece.source == BOTH:
                    parts = [self._part(sent[r], r, piece.target) for r in range(len(sent))]
                    whole.copy_(_added(parts[rank:] + parts[:rank]))  # in another order everywhere
                else:
                    whole.copy_(self._part(sent[piece.source], piece.source, rank))
            if self.fault == "bit" and rank == self.at:
                operands.bits(self.held[rank])[-1] ^= 1

    def _part(self, sent: Tensor, source: int, target: int) -> Tensor:
        gives = self.ranks[source].gives
        own = gives[:1] if len(gives) == 1 else [one for one in gives if one.target == target]
        piece = own[0]
        return sent[piece.start : piece.start + piece.length]


def _added(parts: list[Tensor]) -> Tensor:
    total = parts[0].clone()
    for part in parts[1:]:
        total += part
    return total


def verdict(
    ranks: list[Layout], dtype: torch.dtype, fault: str = "", at: int = 0, first: int = 0
) -> str:
    """The complaint over all ranks, each repetition exchanged between them.

    first: salt of the first one."""
    library = Library(ranks, dtype, fault, at)
    proofs = [Proof(one, dtype) for one in ranks]
    nothing = (0,) * len(ranks)
    seen = [Seen(0, 0, 0, nothing) for _ in ranks]
    for salt in range(first, first + proofs[0].passes):
        for proof, given in zip(proofs, library.given, strict=True):
            proof.fill(given, salt)
        library.run()
        for rank, proof in enumerate(proofs):
            seen[rank] = seen[rank] + proof.wrong(library.held[rank], salt)
    return complaint("x", seen, ranks[0].sums)


def dtypes() -> list[torch.dtype]:
    import torch

    return [torch.float32, torch.bfloat16, torch.float16, torch.int8]


@pytest.mark.parametrize("mode", [*MODES, "dispatch", "combine"])
def test_what_is_right_is_exact_in_every_format_at_any_number_of_ranks(mode: str) -> None:
    import torch

    for ranks in (3,) if mode in ("dispatch", "combine") else (2, 3, 8):
        for dtype in dtypes():
            assert verdict(layouts(mode, ranks, 640, dtype.itemsize), dtype) == ""
    if mode in MODES:
        assert verdict(layouts(mode, 6, 6, 2), torch.bfloat16) == "", "one element for each"
    if mode == "all-reduce":
        assert verdict(layouts(mode, 65, 130, 2), torch.bfloat16) == "", "no rank too many"
    if mode not in SUMS:  # torch has no additions of it on a CPU
        assert verdict(layouts(mode, 3, 96, 1), torch.float8_e4m3fn) == ""


@pytest.mark.parametrize("ranks", [2, 3, 8])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fault", ["lost", "doubled", "stale", "bit"])
def test_a_spoilt_rank_is_named(mode: str, ranks: int, fault: str) -> None:
    at = 0 if mode == "broadcast" and fault in ("lost", "doubled") else ranks - 1
    for dtype in dtypes()[:3]:
        said = verdict(layouts(mode, ranks, 480, dtype.itemsize), dtype, fault, at)
        one_receives = mode == "send-receive" or (mode, ranks) == ("pairs", 2)
        if one_receives and fault in ("lost", "doubled"):
            assert said.endswith(f"only rank 0 has it wrong, in what rank {at} sent"), said
        elif fault in ("lost", "doubled"):
            assert said.endswith(f"what rank {at} gave to it is wrong"), said
        else:
            assert f"only rank {at} has it wrong" in said, said
        assert said.startswith("x: ") and "elements are wrong, on rank" in said


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", [34_000_000, 2**63])
def test_any_seed_has_operands_that_are_proved(mode: str, seed: int) -> None:
    """Each a thousand repetitions further on: beyond what an int64 holds."""
    import torch

    first = 10_000 + seed * 1_000
    assert verdict(layouts(mode, 3, 480, 2), torch.bfloat16, first=first) == ""
    giver = 0 if mode == "broadcast" else 2
    said = verdict(layouts(mode, 3, 480, 2), torch.bfloat16, "lost", giver, first)
    assert said.endswith((f"what rank {giver} gave to it is wrong", f"in what rank {giver} sent"))


@pytest.mark.parametrize("mode", ["dispatch", "combine"])
def test_a_spoilt_rank_is_named_where_parts_are_uneven(mode: str) -> None:
    import torch

    assert "what rank 2 gave" in verdict(layouts(mode, 3), torch.bfloat16, "lost", 2)
    assert "only rank 1 has" in verdict(layouts(mode, 3), torch.bfloat16, "stale", 1)


@pytest.mark.parametrize("mode", ["dispatch", "combine"])
def test_a_rank_may_have_no_token_for_another(mode: str) -> None:
    for dtype in dtypes():
        there = layouts(mode, 3, copies=[[5, 0, 3], [2, 2, 5], [1, 1, 7]])
        assert verdict(there, dtype) == ""
        assert "what rank 2 gave" in verdict(there, dtype, "lost", 2)


@pytest.mark.parametrize("mode", ["dispatch", "combine"])
def test_all_ranks_repeat_as_often_however_few_tokens_they_have(mode: str) -> None:
    import torch

    copies = [[1 + (1 in (source, to)) for to in range(16)] for source in range(16)]
    every = [Proof(uneven(mode, copies, 8, rank), torch.bfloat16) for rank in range(16)]
    assert len({proof.passes for proof in every}) == 1


@pytest.mark.parametrize("ranks", [2, 3, 8])
@pytest.mark.parametrize("mode", MODES)
def test_a_narrower_wire_shows_and_blames_nobody(mode: str, ranks: int) -> None:
    import torch

    said = verdict(layouts(mode, ranks), torch.float32, "narrow")
    assert "elements are wrong" in said
    if mode != "broadcast":  # all of it is the first rank's
        assert said.endswith("no rank stands out, so look at what joins them")


def test_one_element_more_makes_nobody_guilty() -> None:
    both = [Seen(3, 4, 3, (0, 3)), Seen(4, 4, 4, (4, 0))]
    assert complaint("x", both, sums=False).endswith(
        "7 of 8 elements are wrong, on ranks 0, 1; no rank stands out, so look at what joins them"
    )
    one = [Seen(3, 4, 3, (0, 3)), Seen(4, 4, 4, (0, 4))]
    assert complaint("x", one, sums=False).endswith("what rank 1 gave to it is wrong")
    assert complaint("x", [Seen(0, 4, 0, (0, 0))] * 2, sums=True) == ""


def test_every_rank_has_its_turn_in_a_buffer_of_one_element() -> None:
    import torch

    for at in range(8):
        said = verdict(layouts("all-reduce", 8, 1), torch.float32, "lost", at)
        assert said.endswith(f"what rank {at} gave to it is wrong"), said


def test_one_wrong_element_of_many_is_found() -> None:
    import torch

    layout = even("all-reduce", 4 * 200_000, 4, 0, 2)
    proof = Proof(layout, torch.float32)
    held = torch.zeros(200_000)
    operands.spread(held, proof.period(layout.gets[0], 7))
    assert proof.wrong(held, 7) == Seen(0, 200_000, 0, (0, 0))
    held[70_001] += 1
    assert proof.wrong(held, 7).wrong == 1
    assert proof.wrong(held, 8).wrong > 199_000, "of another repetition nearly all differ"


@pytest.mark.parametrize("name", operands.FORMATS)
def test_sums_are_exact_and_stay_finite_as_long_as_is_said(name: str) -> None:
    import torch

    dtype, of = getattr(torch, name), operands.FORMATS[name]
    total = operands.summed(operands.Share(BOTH, 0, 3, 5), 2, of.most)
    small = operands.as_format(total, dtype, of.scale).to(torch.float64)
    assert torch.equal(small, total * 2.0**of.scale), "exact"
    grown = float(small.max()) * 2.0**of.growth
    most = torch.finfo(dtype).max if dtype.is_floating_point else torch.iinfo(dtype).max
    assert most / 2**12 < grown <= most
    marks = operands.marked(operands.Share(1, 2, 3, 0), dtype).to(torch.float64)
    assert bool(torch.isfinite(marks).all())
    if dtype.is_floating_point:
        assert float(marks.abs().min()) >= torch.finfo(dtype).tiny, "no subnormal"


def test_a_buffer_is_filled_by_copies_from_any_place_on() -> None:
    import torch

    period = torch.arange(operands.PERIOD)
    for size, start in ((1, 0), (7, operands.PERIOD - 3), (300_000, 123_456), (65_521, 1)):
        target = torch.zeros(size, dtype=torch.int64)
        operands.spread(target, period, start)
        assert torch.equal(target, (torch.arange(size) + start) % operands.PERIOD)


@pytest.mark.parametrize(
    ("mode", "of_8", "of_2"),
    [
        ("all-reduce", 1.75, 1.0),
        ("all-gather", 0.875, 0.5),
        ("reduce-scatter", 0.875, 0.5),
        ("all-to-all", 0.875, 0.5),
        ("broadcast", 1.0, 1.0),
        ("send-receive", 1.0, 1.0),
    ],
)
def test_bytes_are_counted_as_nccl_tests_counts_them(mode: str, of_8: float, of_2: float) -> None:
    """https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md, by hand."""
    assert (float(bus_factor(mode, 8)), float(bus_factor(mode, 2))) == (of_8, of_2)
    layout = even(mode, 8000, 4, 1, 8)
    assert (layout.counted, layout.crossing) == (2000, 2000 * of_8)
    assert layout.in_place == (mode in IN_PLACE)


def test_what_does_not_divide_is_the_next_smaller_that_does() -> None:
    assert even("all-gather", 1000, 4, 0, 3).counted == 249
    assert even("all-reduce", 1000, 4, 0, 3).counted == 250
    with pytest.raises(Unsupported, match="each of 16 ranks; the smallest size is 64 B"):
        even("all-gather", 8, 4, 0, 16)


def test_experts_tokens_go_there_and_come_back() -> None:
    there = layouts("dispatch", 3)
    back = layouts("combine", 3)
    assert [one.got // 8 for one in there] == [8, 4, 15]
    assert [(t.given, t.got) for t in there] == [(b.got, b.given) for b in back]
    # The third receives 15, of which 7 are its own; it sends 9, of which 2 go elsewhere.
    assert {one.crossing for one in there + back} == {8 * 8}
    with pytest.raises(Unsupported, match="rank 1 would get no token"):
        uneven("dispatch", [[3, 0], [2, 0]], 8, 0)


@pytest.mark.parametrize("ranks", [2, 3, 4, 7, 8, 64])
def test_in_turns_each_meets_each_once(ranks: int) -> None:
    met: list[tuple[int, int]] = []
    for turn in range(turns(ranks)):
        others = [partner(rank, ranks, turn) for rank in range(ranks)]
        assert others.count(None) == ranks % 2, "of an odd number one sits out"
        for rank, other in enumerate(others):
            assert other is None or (others[other] == rank and other != rank)
            met += [(rank, other)] if other is not None and rank < other else []
    assert sorted(met) == [(i, j) for i in range(ranks) for j in range(i + 1, ranks)]


def test_a_map_of_pairs_has_its_limits() -> None:
    with pytest.raises(Unsupported, match="2 B hold no element; the smallest is 4 B"):
        paired(2, 4, 0, 2)
    with pytest.raises(Unsupported, match="129 ranks make 8,256 pairs"):
        paired(1024, 4, 0, MOST_PAIRED + 1)
