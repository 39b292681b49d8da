"""Which ranks count as standing still, by what they say and use."""

from __future__ import annotations

import pytest

from bench.running.blame import QUIET_SECONDS, Watched


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
