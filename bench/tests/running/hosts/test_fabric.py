"""Real launches of collectives on the simulated library; the whole of it is a script.

`python -m bench.tests.scripts.collectives` reads back speeds and plants every fault.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.judging.summary import summarize
from bench.records.outcome import Measured, Void
from bench.tests import forked
from bench.tests.scripts.collectives import LATE, planted_by, run

pytestmark = [
    pytest.mark.usefixtures("forked"),
    pytest.mark.skipif(not forked.AVAILABLE, reason="each launch is forked"),
]


def test_a_collective_takes_what_its_wire_takes(tmp_path: Path) -> None:
    fabric = planted_by(latency=0.02, bandwidth=1e8)
    found = run(tmp_path, "all-reduce", fabric, 2, 1, 2**20)
    (launch,) = found.launches
    outcome = launch.outcome
    assert isinstance(outcome, Measured), outcome
    work = outcome.work
    assert (work.items, work.bus_bytes, work.operations) == (2**20, 2**20, 1)
    (row,) = summarize(found)
    assert row.operation_seconds is not None
    wire = 0.02 + 2**20 / 1e8
    assert row.operation_seconds > 0.95 * wire, "no step was left out"
    assert len(outcome.ranks) == 2
    assert outcome.proof is not None and outcome.proof.recomputed == 0.0
    assert launch.environment["world"]["library"] == "simulated"
    assert launch.environment["job"]["operation"] == "all-reduce"
    for block in outcome.steady:  # the first operation may be queued behind what came before
        assert block.wall_ns / 1e9 > len(block.step_ns) * wire - 2e-3


def test_a_fault_that_begins_in_the_timing_is_found_and_named(tmp_path: Path) -> None:
    planted = planted_by(fault="stale", rank=2, after=LATE)
    (launch,) = run(tmp_path, "all-to-all", planted, 3, 1, 2**16).launches
    outcome = launch.outcome
    assert isinstance(outcome, Void), outcome
    assert "results after the timing: asked for exact ones, got all-to-all" in outcome.reason
    assert "elements are wrong, on rank 2; only rank 2 has it wrong" in outcome.reason


def test_every_root_of_a_chain_of_broadcasts_is_proved(tmp_path: Path) -> None:
    """Its second operation sends from the second rank, which alone shows a fault of that."""
    unrooted = planted_by(fault="unrooted")
    chain = run(tmp_path, "broadcast", unrooted, 2, 1, 2**16, more="chained = 2\n")
    (outcome,) = (launch.outcome for launch in chain.launches)
    assert isinstance(outcome, Void), outcome
    assert outcome.reason.endswith("only rank 0 has it wrong, in what rank 1 sent"), outcome
