"""Which ranks count as standing still, by what they say and use."""

from __future__ import annotations

import pytest

from bench.records.outcome import Phase
from bench.running.blame import LATE_SECONDS, QUIET_SECONDS, Suspect, Watched, late


@pytest.mark.parametrize(
    ("used", "share", "quiet"),
    [(1 / 32, 1 / 32, False), (0.0, 1 / 32, True), (1 / 32, 1.0, True), (0.3, 1.0, False)],
    ids=["one of 64 on two cores", "idle among 64", "alone and idle", "alone"],
)
def test_a_rank_is_at_work_that_uses_its_part_of_the_cores(
    used: float, share: float, quiet: bool
) -> None:
    """64 ranks that import on two cores use both, and none a fifth of one."""
    now = 0.0
    watch = Watched(lambda: used * now, now, share)
    watch.heard("import", now)
    while now <= 1.5 * QUIET_SECONDS:
        now += 1.0
        found = watch.quiet(now)
    assert found == quiet


@pytest.mark.parametrize(
    ("phase", "used", "over", "named"),
    [
        ("numerics", 1.0, False, False),
        ("import", 1.0, False, False),
        ("numerics", 0.01, False, True),
        ("numerics", 1.0, True, True),
        ("measure", 1.0, False, True),
    ],
    ids=["it compiles", "it imports", "it is idle", "its time is over", "its steps are known"],
)
def test_a_late_rank_that_may_compile_is_waited_for(
    phase: Phase, used: float, over: bool, named: bool
) -> None:
    """The other host may have kept what an earlier launch compiled there."""
    now = 0.0
    watches = [Watched(lambda: 0.0, now), Watched(lambda: used * now, now)]
    for watch in watches:
        watch.heard(phase, now)
    watches[0].heard(phase, 6.0, arrivals=1)
    found: dict[float, Suspect | None] = {}
    while now < 6.0 + 2 * LATE_SECONDS:
        now += 1.0
        last = now >= 6.0 + 2 * LATE_SECONDS
        found[now] = late(watches, {0: phase, 1: phase}, now, over=over and last)
    assert [suspect.rank for suspect in found.values() if suspect][-1:] == [1] * named
    assert not any(suspect for then, suspect in found.items() if then <= 6.0 + LATE_SECONDS)
