"""Blocks without communication: in pairs with real ones, and each rank's own beside the slowest."""

from __future__ import annotations

import msgspec
import pytest

from bench.records.outcome import Measured, Share
from bench.records.silent import Silent
from bench.tests.telemetry.launches import steady


def test_exposed_is_the_real_step_less_the_silent_one() -> None:
    pairs = Silent(steps=2, real_ns=(30_000_000, 28_000_000), silent_ns=(10_000_000, 29_000_000))
    assert pairs.exposed_seconds == pytest.approx([0.01, -0.0005]), "noise may be negative"


@pytest.mark.parametrize(
    ("steps", "walls", "silent"), [(0, (1,), (1,)), (1, (), ()), (1, (1, 2), (1,)), (1, (1,), (0,))]
)
def test_no_other_pairs_than_of_blocks(
    steps: int, walls: tuple[int, ...], silent: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"pairs|above zero"):
        Silent(steps=steps, real_ns=walls, silent_ns=silent)


@pytest.mark.parametrize(
    ("own", "fits"), [((), True), ((9, 8), True), ((9,), False), ((9, 9), False)]
)
def test_a_rank_has_one_time_a_silent_block_no_longer_than_it(
    own: tuple[int, ...], fits: bool
) -> None:
    outcome: Measured = steady()
    busy = tuple(block.wall_ns for block in outcome.steady)
    share = Share(rank=0, device=0, busy_ns=busy, memory=outcome.memory, silent_ns=own)
    silent = Silent(steps=1, real_ns=(20, 20), silent_ns=(9, 8))
    if fits:
        assert msgspec.structs.replace(outcome, ranks=(share,), silent=silent).ranks == (share,)
        return
    with pytest.raises(ValueError, match="rank 0: one time a silent block"):
        msgspec.structs.replace(outcome, ranks=(share,), silent=silent)
