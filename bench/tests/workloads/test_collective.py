"""The job of a collective: every step the same work, its values finite, its proof at hand.

The library between the ranks is a function here; `test_exchange_proof` has what ranks send.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from bench.measuring.gates.numerics import gate
from bench.measuring.proving.watch import Watch
from bench.measuring.ranks.edges import Edges
from bench.measuring.timing.block_size import BlockSize
from bench.precision import PRECISIONS, REFERENCE
from bench.records.outcome import Block
from bench.records.run import Settings
from bench.tests.fakes import FakeDevice, ScriptedClock
from bench.workload import Site, Unsupported, Wrong
from bench.workloads.collective import WORKLOAD, Chained, Exchanged, Paired, Routed
from bench.workloads.exchange import exchange
from bench.workloads.exchange.layout import Layout, routed

if TYPE_CHECKING:
    from torch import Tensor

RING_BYTES = 2**16


class Alike(msgspec.Struct):
    """Ranks of which all others have what this one has, and say the same."""

    rank: int = 0
    size: int = 4
    group: Any = None
    control: Any = None

    def told(self, value: Any) -> list[Any]:
        return [value] * self.size

    def arrive(self) -> None:
        """Nobody is waited for."""


def site(precision: str = "fp32", **changes: Any) -> Site:
    import torch

    ranks: Any = Alike(**changes)
    return Site(device=torch.device("cpu"), precision=PRECISIONS[precision], seed=0, ranks=ranks)


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """An all-reduce among ranks whose results are alike; what it was called with."""
    import torch

    calls: list[Tensor] = []
    gave: dict[int, Tensor] = {}

    def operation(layout: Layout, ranks: Any) -> Callable[..., None]:
        def call(given: Tensor, held: Tensor, turn: int) -> None:
            calls.append(held)
            before = gave.get(held.data_ptr())
            if before is not None and torch.equal(before, held):  # all have it by now
                held.mul_(ranks.size)
            else:  # where it gives nothing the others do
                held[held == 0] = held.max()
            gave[held.data_ptr()] = held.clone()

        return call

    monkeypatch.setattr(exchange, "operation", operation)
    monkeypatch.setattr(exchange, "RING_BYTES", RING_BYTES)
    return calls


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor, int]]:
    """A ring in which the left neighbour has what this rank has."""
    calls: list[tuple[Tensor, Tensor, int]] = []

    def operation(layout: Layout, ranks: Any) -> Callable[..., None]:
        def call(given: Tensor, held: Tensor, turn: int) -> None:
            calls.append((given, held, turn))
            held.copy_(given)

        return call

    monkeypatch.setattr(exchange, "operation", operation)
    return calls


def all_reduce(precision: str = "fp32", chained: int = 1, size_bytes: int = 4096) -> Any:
    parameters = Chained(size_bytes=size_bytes, chained=chained)
    return WORKLOAD.build("all-reduce", parameters, site(precision))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "int8"])
def test_sums_in_place_stay_finite_for_as_many_steps_as_a_block_may_have(
    added: list[Tensor], precision: str
) -> None:
    import torch

    size = 4096
    job = all_reduce(precision, size_bytes=size)
    assert job.most_steps is not None and job.most_steps % (RING_BYTES // size) == 0
    for _ in range(2):
        job.refill()
        for _ in range(job.most_steps):
            job.step()
        (held,) = job.outputs()["output"]
        assert bool(torch.isfinite(held).all()) and bool((held != 0).any())
        last = held.clone()
        assert job.again() and torch.equal(held, last), "the same computed again"
    fresh = job._ring.clone()
    job.refill()
    assert not torch.equal(job._ring, fresh) and not job._steps
    first = job._ring.clone()
    job.step()
    job.refill()
    assert torch.equal(job._ring, first)


def test_a_block_has_no_more_steps_than_that(added: list[Tensor]) -> None:
    job = all_reduce("fp16", size_bytes=RING_BYTES)
    assert job.most_steps == 10, "of two doublings each, of 18"
    device = FakeDevice(ScriptedClock(), synchronous=True)
    size = BlockSize(device, Settings(block_seconds=1.0), lambda: 0, most=job.most_steps)
    assert size.steps([Block(wall_ns=1000, step_ns=(1000,))] * 3) == 10
    free = BlockSize(device, Settings(block_seconds=1.0), lambda: 0)
    assert free.steps([Block(wall_ns=1000, step_ns=(1000,))] * 3) == 100_000


def test_steps_go_round_a_ring_of_buffers(added: list[Tensor]) -> None:
    job = all_reduce()
    added.clear()
    for _ in range(RING_BYTES // 4096 + 1):
        job.step()
    places = [held.data_ptr() for held in added]
    assert len(set(places)) == RING_BYTES // 4096 and places[0] == places[-1]


def test_a_chain_goes_on_with_what_it_gave(
    moved: list[tuple[Tensor, Tensor, int]],
) -> None:
    import torch

    for chained in (2, 3):
        job: Any = WORKLOAD.build(
            "send-receive", Chained(size_bytes=64, chained=chained), site(rank=1)
        )
        moved.clear()
        job.step()
        assert [turn for _, _, turn in moved] == list(range(chained))
        assert all(before[1] is after[0] for before, after in itertools.pairwise(moved))
        assert moved[0][0] is job.inputs()[0] and moved[-1][1] is job.outputs()["output"][0]
        assert torch.equal(moved[-1][1], job.inputs()[0])
        assert job.own_work.operations == chained
        assert job.own_work.items == job.own_work.bus_bytes == 64 * chained


def test_a_chain_that_outgrows_its_format_is_skipped(added: list[Tensor]) -> None:
    with pytest.raises(Unsupported, match="a chain of 64 sums over 4 ranks outgrows float16"):
        all_reduce("fp16", chained=64)
    job = all_reduce("bf16", chained=8)
    added.clear()
    job.step()
    assert len(added) == 8 and len({held.data_ptr() for held in added}) == 1


def test_the_watch_believes_a_sum_in_place(added: list[Tensor]) -> None:
    """Read after the first steps, computed again from an altered input, and back."""
    job = all_reduce()
    device = FakeDevice(ScriptedClock(), synchronous=True)
    watch = Watch(job, device, PRECISIONS["fp32"], 0, thorough=True, edges=Edges())  # of ranks
    watch.start()
    for step in (1, 2, 3):
        job.refill()
        job.step()
        watch.after(step)
    for _ in range(2):
        watch.before(1, last=False)
        job.refill()
        for _ in range(RING_BYTES // 4096 + 5):  # some are summed up twice
            job.step()
    watch.finish(1.0)
    assert (watch.complaint, watch.proof.absent) == ("", "")
    assert watch.proof.recomputed == 0.0


def test_the_gate_compares_each_piece_with_the_formula(
    moved: list[tuple[Tensor, Tensor, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where all ranks have the same, a ring gives what it must but for who it says it is of."""
    parameters = Chained(size_bytes=4096)
    with pytest.raises(Wrong, match=r"^send-receive of 4 KiB in fp32: .* elements are wrong"):
        gate(WORKLOAD, "send-receive", parameters, site())
    monkeypatch.setattr(exchange.Exchange, "_complaint", lambda self: "")
    assert not gate(WORKLOAD, "send-receive", parameters, site()).passed, "rank 3's, not rank 0's"
    exact = msgspec.structs.replace(site(), precision=REFERENCE)
    found = WORKLOAD.build("all-gather", Exchanged(size_bytes=4096), exact).probe()["output"]
    assert found.shape == (4 * 64,)
    with pytest.raises(ValueError, match="needs the ranks of its launch"):
        WORKLOAD.build("all-gather", Exchanged(), msgspec.structs.replace(exact, ranks=None))


def test_what_a_library_refuses_on_all_ranks_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    said = ["Invalid scalar type"]

    def operation(layout: Layout, ranks: Any) -> Callable[..., None]:
        def refuse(*_: object) -> None:
            raise RuntimeError(said[0])

        return refuse

    monkeypatch.setattr(exchange, "operation", operation)
    with pytest.raises(Unsupported, match="does not take it: Invalid scalar type"):
        all_reduce()
    monkeypatch.setattr(Alike, "told", lambda self, value: [value, ""])
    with pytest.raises(RuntimeError, match="Invalid scalar type"):
        all_reduce()
    said[0] = "Connection closed by peer"
    with pytest.raises(RuntimeError, match="closed by peer"):
        all_reduce()


def test_tokens_are_routed_by_zipfs_law_and_always_alike() -> None:
    even = routed(4, 512, 64, 8, 0)
    assert [sum(row) for row in even] == [512 * 8] * 4
    assert even == routed(4, 512, 64, 8, 0)
    uneven = routed(4, 512, 64, 8, 150)

    def most(copies: list[list[int]]) -> float:
        received = [sum(row[d] for row in copies) for d in range(4)]
        return max(received) / (sum(received) / 4)

    assert most(even) < 1.1 < 1.4 < most(uneven)
    with pytest.raises(Unsupported, match="64 experts do not divide over 3 ranks"):
        routed(3, 512, 64, 8, 0)


def test_bytes_that_a_busy_link_carries_are_counted() -> None:
    parameters = Routed(tokens=64, hidden=16, experts=16, top_k=4, skew_percent=200)
    copies = routed(4, 64, 16, 4, 200)
    received = [sum(row[d] for s, row in enumerate(copies) if s != d) for d in range(4)]
    sent = [sum(n for d, n in enumerate(row) if s != d) for s, row in enumerate(copies)]
    busiest = max(received + sent) * 16 * 2
    work = WORKLOAD.work("dispatch", parameters, PRECISIONS["bf16"])
    assert work.items == 64 * 4 * 16 * 2
    from bench.workloads.collective import _layout

    layout = _layout("dispatch", parameters, site("bf16"), 2)
    assert (layout.counted * 2, layout.crossing * 2) == (work.items, busiest)


def test_memory_is_that_of_its_buffers() -> None:
    def needed(mode: str, size: int) -> int:
        return WORKLOAD.peak_bytes(mode, Exchanged(size_bytes=size), site())

    period = 65_521 * 4
    assert needed("all-gather", 2**30) == 2**30 + 2**28 + period, "of one of the four"
    assert needed("broadcast", 2**30) == 2**30 + period
    assert needed("all-reduce", 2**20) == 2**26 + period, "a ring of 64"


@pytest.mark.parametrize("message_bytes", [8, 64, 128])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_the_gate_compares_as_much_of_small_messages_as_there_is(
    moved: list[tuple[Tensor, Tensor, int]],
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    message_bytes: int,
) -> None:
    monkeypatch.setattr(exchange.Exchange, "_complaint", lambda self: "")
    parameters = Paired(message_bytes=message_bytes)
    exact = msgspec.structs.replace(site(), precision=REFERENCE)
    found = [
        WORKLOAD.build("pairs", parameters, at).probe()["output"].shape
        for at in (site(precision), exact)
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("precision", "size_bytes", "buffers"),
    [
        ("int8", 2**22, 1024),
        ("fp8", 2**22, 256),  # four sums each
        ("fp16", 2**22, 147),  # seven
        ("bf16", 2**22, 16),  # 71, so 64 MiB are enough
        ("int8", 2**26, 64),  # 4 GiB
        ("fp32", 2**26, 16),
        ("int8", 2**33, 1),
    ],
)
def test_a_narrow_format_has_as_many_buffers_as_a_block_needs(
    precision: str, size_bytes: int, buffers: int
) -> None:
    """On a device; a host takes longer for a step, and has less memory."""
    import torch

    def needed(device: str) -> int:
        at = msgspec.structs.replace(site(precision, size=8), device=torch.device(device))
        of = WORKLOAD.peak_bytes("all-reduce", Chained(size_bytes=size_bytes), at)
        return of - 65_521 * PRECISIONS[precision].matrix_bytes

    assert needed("meta") == buffers * size_bytes
    assert needed("cpu") == max(2**26, size_bytes)
