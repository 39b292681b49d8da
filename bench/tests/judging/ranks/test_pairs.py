"""The map of links: the quicker side of each pair, the slowest named with its share."""

from __future__ import annotations

import msgspec
import pytest

from bench.judging.measured import measured_row
from bench.judging.ranks.pairs import Pairs, pairs
from bench.records.outcome import Measured, Share, Work
from bench.records.run import Settings
from bench.tests.telemetry.launches import steady
from bench.tests.values import make_case, make_launches

MIB = 2**20


def launch(*seen: tuple[int, ...], each: int = 8) -> Measured:
    """seen: of each rank ns with each other one; each: ranks of a host."""
    outcome = steady()
    busy = tuple(block.wall_ns for block in outcome.steady)
    shares = tuple(
        Share(
            rank=rank,
            device=rank % each,
            host=rank // each,
            busy_ns=busy,
            memory=outcome.memory,
            peer_ns=ns,
        )
        for rank, ns in enumerate(seen)
    )
    work = Work(items=MIB * (len(seen) - 1), unit="B")
    return msgspec.structs.replace(outcome, ranks=shares, work=work)


def mapped(*launches: Measured) -> Pairs:
    found = pairs(launches)
    assert found is not None
    return found


def test_the_slowest_pair_is_named_with_its_share_of_the_median() -> None:
    quick, usual, late = (
        launch((0, ns, 2000), (ns + 500, 0, 4000), (2000, 4000, 0)) for ns in (700, 1000, 9000)
    )
    found = mapped(quick, usual, late)
    assert found.message_bytes == MIB and found.launches == 3
    assert found.bytes_per_second[0][1] == pytest.approx(MIB / 1e-6), "the quicker side, the median"
    assert found.bytes_per_second[0][1] == found.bytes_per_second[1][0]
    assert found.bytes_per_second[1][1] is None
    assert found.slowest == (1, 2) and found.slowest_share == pytest.approx(0.5)
    assert "1 MiB at 524 GB/s each way (median); slowest: ranks 1 and 2, 262 GB/s (50% of it)" in (
        found.words
    )


def test_two_ranks_have_one_link_and_no_map_is_none() -> None:
    assert mapped(launch((0, 1000), (1000, 0))).words == (
        "ranks 0 and 1 exchange 1 MiB at 1.05 TB/s each way"
    )
    assert pairs([steady()]) is None
    assert pairs([launch((), ())]) is None


def test_links_between_hosts_are_told_from_those_within_one() -> None:
    near, far = 1000, 8000
    seen = (0, near, far), (near, 0, 2 * far), (far, 2 * far, 0)
    assert mapped(launch(*seen, each=2)).words == (
        "two ranks exchange 1 MiB at 131 GB/s each way (median; within a host 1.05 TB/s; "
        "between hosts 98.3 GB/s); slowest: ranks 1 and 2 (hosts 0 and 1), 65.5 GB/s (50% of it)"
    )
    assert mapped(launch((0, far), (far, 0), each=1)).words == (
        "ranks 0 and 1 (hosts 0 and 1) exchange 1 MiB at 131 GB/s each way"
    )


def test_links_between_containers_of_one_machine_are_said_to_be_that() -> None:
    near, far = 1000, 8000
    seen = (0, near, far), (near, 0, 2 * far), (far, 2 * far, 0)
    three = pairs([launch(*seen, each=2)], 1)
    two = pairs([launch((0, far), (far, 0), each=1)], 1)
    assert three is not None and two is not None
    assert "; between hosts on 1 machine 98.3 GB/s); slowest" in three.words
    assert two.words.endswith("(hosts 0 and 1) exchange 1 MiB at 131 GB/s each way on 1 machine")
    some = pairs([launch(*seen, each=1)], 2)
    assert some is not None and "between hosts on 2 machines 131 GB/s" in some.words


@pytest.mark.parametrize("world", [{"hosts": 2}, {"hosts": 2, "machines": 1}])
def test_a_record_says_on_how_many_machines_its_hosts_are(world: dict[str, int]) -> None:
    case = make_case(workload="collective", mode="pairs", devices=2)
    (measured,) = make_launches(case, [launch((0, 1000), (1000, 0), each=1)])
    measured = msgspec.structs.replace(measured, environment={"world": world})
    found = measured_row(case, [measured], 0, Settings(launches=1)).pairs
    assert found is not None and found.machines == world.get("machines")


def test_a_rank_has_one_time_with_each() -> None:
    with pytest.raises(ValueError, match="rank 1: one time with each rank"):
        launch((0, 1000), (1000,))
    with pytest.raises(ValueError, match="no less than no time"):
        launch((0, 1000), (-1, 0))
