"""The sides of one `ab` are held together round by round: a drift of the host is no difference."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec
import pytest

from bench.judging.comparing.compare import compare, in_equal_rounds
from bench.judging.comparing.comparison import Comparison
from bench.judging.summary import summarize
from bench.records.observed import Reading
from bench.records.run import RunFile
from bench.report import Canvas
from bench.reports.terminal.comparison import render
from bench.tests.judging.two_runs import CASE, FIXED, TEN, only
from bench.tests.telemetry.launches import seen, steady
from bench.tests.values import make_file, make_launch, make_measured

DRIFT = 0.007
"""By which each round is slower than the one before."""
LAST = (7, 8, 9)


def side(end: str, left_out: Collection[int] = (), clocks: bool = False) -> RunFile:
    """Ten launches that drift, some slowed by other work; with clocks that fall likewise."""
    launches = []
    for k, spread in enumerate(TEN):
        seconds = 0.01 * (1 + DRIFT) ** k * (1 + 0.001 * spread)
        flags: dict[str, Any] = {"energy_joules": 1e3 * seconds, "energy_absent": None}
        if k in left_out:
            seconds *= 1.5
            flags |= {"flags": ("CONTENDED",), "causes": {"CONTENDED": "other work"}}
        telemetry, made = None, make_measured(seconds, **flags)
        if clocks:
            flagged = {name: flags[name] for name in ("flags", "causes") if name in flags}
            made = msgspec.structs.replace(steady(seconds=100 * seconds), **flagged)
            mhz = 1400 / (1 + DRIFT / 10) ** k
            readings = tuple(Reading(at_seconds=16.0 + n, clock_mhz=mhz) for n in range(5))
            telemetry = seen(readings=readings)
        launches.append(make_launch(made, CASE, launch=k, order=k, telemetry=telemetry))
    return make_file([CASE], launches, settings=FIXED, run_id=f"20260101T000000Z-abcd-{end}")


def card(found: Comparison) -> str:
    return " ".join(render([found], Canvas(width=300)).split())


def test_what_is_left_out_of_one_side_is_held_against_nothing() -> None:
    """By all launches side b, whose slow end is left out, would be 1 % faster."""
    found = compare(side("a"), side("b", LAST))
    case = only(found)
    assert case.verdict == "EQUIVALENT" and case.ratio == pytest.approx(1)
    assert case.joule_ratio == pytest.approx(1)
    assert case.base is not None and case.other is not None
    assert (case.base.launches, case.other.launches) == (10, 7)
    assert case.other.throughput == pytest.approx(1.0105 * (case.base.throughput or 0), rel=2e-3)
    assert "EQUAL ROUNDS ratio of the 7 rounds that are in both sides' figures: bert" in card(found)


def test_so_are_clocks() -> None:
    case = only(compare(side("a", clocks=True), side("b", LAST, clocks=True)))
    assert case.per_cycle is not None
    assert case.per_cycle.clock == case.per_cycle.ratio.value == pytest.approx(1)


def test_so_are_the_rates_of_which_a_ratio_is_made() -> None:
    """Chip times software stays the ratio: FLOP and bytes are of the rounds that it is of."""
    files = side("a"), side("b", LAST)
    base, other = (
        msgspec.structs.replace(row, least_flop_per_second=3 * rate, bytes_per_second=2 * rate)
        for row, rate in ((r, r.throughput or 0.0) for f in files for r in summarize(f))
    )
    kept, whole = in_equal_rounds(files, base, other)
    assert whole == other and kept.throughput is not None
    assert kept.throughput == pytest.approx(whole.throughput)
    assert kept.least_flop_per_second == pytest.approx(3 * kept.throughput)
    assert kept.bytes_per_second == pytest.approx(2 * kept.throughput)


def test_too_few_rounds_in_common_are_too_few_launches() -> None:
    """Three launches of each are left out, of other rounds."""
    found = compare(side("a", (0, 1, 2)), side("b", LAST))
    case = only(found)
    assert case.verdict == "NO_INTERVAL" and case.ratio == pytest.approx(1)
    assert case.reasons == ("4 and 4 launches: a verdict needs 5 of each (--launches 10)",)


def test_of_two_runs_and_of_equal_rounds_all_launches_count() -> None:
    apart = compare(side("a"), side("c", LAST))
    assert only(apart).ratio == pytest.approx(1.0105, rel=2e-3)
    assert "EQUAL ROUNDS" not in card(apart) + card(compare(side("a"), side("b")))
    both = compare(side("a", LAST), side("b", LAST))
    assert only(both).ratio == pytest.approx(1) and "EQUAL ROUNDS" not in card(both)


def test_a_tuned_case_begins_after_trials_of_each_side() -> None:
    """Side b tried one choice more: its rounds bear other numbers."""
    files = side("a"), side("b")
    case = msgspec.structs.replace(CASE, parameters={}, tuned={"batch_size": (8, 16)})
    base, other = (
        msgspec.structs.replace(summarize(file)[0], case=case, rounds=tuple(range(k, k + 10)))
        for k, file in enumerate(files, start=2)
    )
    assert in_equal_rounds(files, base, other) == (base, other)
    fixed = (msgspec.structs.replace(row, case=CASE) for row in (base, other))
    assert [row.launches for row in in_equal_rounds(files, *fixed)] == [9, 9]
