"""The judgement of the scripts that measure the client and a real server."""

from __future__ import annotations

import pytest

from bench.tests.scripts import real_server
from bench.tests.scripts.client_check import Figures, complaints, verdict
from bench.tests.scripts.real_server import Run

GOOD = Figures(256, 51200, 31.0, 0.4, 1.0, (20.5, 23.0), (20.0, 21.0))


def test_the_client_check_can_fail() -> None:
    assert complaints(GOOD, GOOD) == []
    assert complaints(GOOD._replace(microseconds=61.0), GOOD) == ["61.0 us a chunk at 256 streams"]
    late = GOOD._replace(streams=64, ttft=(20.5, 27.0))
    assert complaints(GOOD, late) == ["p99 TTFT 27.0 ms at 64 streams, in truth 21.0"]
    assert len(complaints(GOOD, GOOD._replace(ttft=(26.0, 27.0)))) == 2


def test_on_a_busy_machine_only_what_is_wall_time_is_not_judged() -> None:
    """What a chunk costs is the client's whatever else runs."""
    late = GOOD._replace(streams=64, ttft=(27.0, 27.0))
    assert verdict(GOOD, GOOD)[0] == 0 and verdict(GOOD, late)[0] == 1
    code, words = verdict(GOOD, late._replace(waiting=0.2))
    assert code == 2 and "not judged on a busy machine: median TTFT 27.0 ms" in words
    assert verdict(GOOD._replace(microseconds=61.0), late._replace(waiting=0.2))[0] == 1
    assert verdict(GOOD._replace(waiting=0.2), GOOD._replace(waiting=0.2))[0] == 0


def test_the_comparison_with_another_client_can_fail() -> None:
    ours = [Run(900.0, 3.9), Run(500.0, 7.8), Run(910.0, 3.8)]
    same = [Run(890.0, 3.8), Run(510.0, 7.8), Run(500.0, 7.0)]
    assert real_server.complaints(ours, same) == [], "one turn of three says nothing"
    slower = [Run(run.throughput / 1.1, run.tpot) for run in ours]
    said = "throughput: ours over theirs 1.100 (1.100 1.100 1.100)"
    assert real_server.complaints(ours, slower) == [said]
    later = [Run(run.throughput, run.tpot / 1.06) for run in ours]
    assert real_server.complaints(ours, later)[0].startswith("tpot: ours over theirs 1.060 (")


def test_the_other_client_is_judged_by_the_time_of_our_load() -> None:
    """Its first request began before, its last ended after: their tokens count as far as they came
    in between, and their TPOT not at all."""
    said = {
        "start_times": [9.0, 10.0, 11.0],
        "ttfts": [0.5, 0.5, 0.5],
        "itls": [[1.0], [0.25, 0.25], [1.0]],
        "output_lens": [2, 3, 2],
    }
    assert real_server.within(said, 10.0, 12.0) == Run((1 + 3 + 1) / 2, 250.0)
    for begin, end in ((8.0, 12.0), (10.0, 13.0), (10.6, 12.0)):
        with pytest.raises(SystemExit, match="did not last"):
            real_server.within(said, begin, end)
