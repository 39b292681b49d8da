"""What the header of a record says of its run."""

from __future__ import annotations

from bench.running.header import run_id, utc_now


def test_names_of_runs_differ_and_times_are_utc() -> None:
    assert len({run_id() for _ in range(50)}) > 45
    assert utc_now().endswith("+00:00")
