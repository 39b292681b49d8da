"""What becomes of an item: the rows of the table, or the reason why there is no number."""

from __future__ import annotations

import statistics

import pytest

from bench.pytest_plugin.replay import ItemClock
from bench.records.outcome import Measured
from bench.tests.pytest_plugin.inner import NAME, Run


def test_a_clock_gives_each_round_its_time_exactly() -> None:
    clock = ItemClock()
    rounds = [0.1, 1e-15, 3e7]
    clock.load(rounds)
    seen = []
    for _ in range(4):
        clock.start()
        before = clock()
        clock.replay()
        seen.append(clock() - before)
    assert seen == [*rounds, rounds[0]], "a profiler's fourth call starts again"


def test_the_table_gives_launches_and_items_per_second(real: Run) -> None:
    """Rounds are launches; OPS is one over the mean of their seconds per GFLOP."""
    assert real.code == 0, real.out + real.err
    assert real.outcomes == {"passed": 1}
    assert "benchmark 'gemm-matmul, per GFLOP': 1 tests" in real.out
    outcomes = [x.outcome for x in real.record.launches]
    measured = [o for o in outcomes if isinstance(o, Measured)]
    assert len(measured) == 2
    mean = statistics.mean(1e9 / outcome.throughput for outcome in measured)
    row = real.row(NAME)
    assert row["rounds"] == 2
    assert row["mean"] == pytest.approx(mean, rel=1e-4)
    assert row["ops"] == pytest.approx(1 / mean, rel=1e-4, abs=6e-5), "four decimals are printed"


def test_rows_are_those_of_the_script(mixed: Run) -> None:
    """A GFLOP a step of 10 and of 20 ms: 15 ms on average."""
    table = mixed.out[mixed.out.index("'gemm-matmul, per GFLOP'") : mixed.out.index("Legend:")]
    rows = {line.split()[0]: line for line in table.splitlines() if line.startswith("gemm-")}
    assert list(rows) == ["gemm-matmul-fp32[8x8x8]", "gemm-matmul-fp32[12x12x12]"]
    assert "Name (time in ms)" in table and "OPS " in table
    assert rows["gemm-matmul-fp32[8x8x8]"].split()[1] == "15.0000"


def test_an_item_without_a_number_fails_or_is_skipped_with_the_reason(mixed: Run) -> None:
    assert mixed.code == 1, mixed.out + mixed.err
    assert mixed.outcomes == {"passed": 3, "failed": 2, "skipped": 1}
    assert "failed: crash in measure: it broke" in mixed.out
    assert "void: numerics: output off by 0.5" in mixed.out
    assert "no such arithmetic" in mixed.out
    assert "Traceback" not in mixed.out and "replay.py:" not in mixed.out.split("SKIPPED")[0]
    assert "other: none here, or pass --accelmark-device cpu" in mixed.out
    assert "accelmark run tiny.toml --only" in mixed.out, "the suite as it was typed"
