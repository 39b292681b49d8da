"""The real counters of this process."""

from __future__ import annotations

from bench.measuring.timing.usage import process_usage


def test_the_process_says_what_it_uses() -> None:
    usage = process_usage()
    assert usage is not None
    before = usage()
    sum(range(300_000))
    after = usage()
    assert after[0] > before[0] and after[1] >= before[1]
