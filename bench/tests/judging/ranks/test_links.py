"""A collective's times over sizes: latency and bandwidth read back, with their intervals."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence

import msgspec
import pytest

from bench.judging.ranks.links import in_words, line, link_of, with_links
from bench.judging.row import Row
from bench.judging.summary import summarize
from bench.records.case import Case
from bench.records.outcome import Measured, Work
from bench.records.run import Settings
from bench.report import Canvas
from bench.reports.flat import row as flat_row
from bench.reports.html import REPORT as HTML
from bench.reports.table import REPORT
from bench.tests.values import make_case, make_file, make_launches, make_measured

LATENCY, BANDWIDTH = 20e-6, 50e9
SIZES = (8, 65_536, 2**20, 2**24, 2**30)
CHAINED = 4


def case_of(size: int, **changes: object) -> Case:
    parameters = {"size_bytes": size, "chained": CHAINED, **changes}
    return make_case(
        workload="collective",
        mode="all-reduce",
        precision="fp32",
        version=1,
        parameters=parameters,
        devices=8,
    )


def outcome(size: int, error: float = 0.0) -> Measured:
    crossing = round(size * 1.75)
    seconds = CHAINED * (LATENCY + crossing / BANDWIDTH) * math.exp(error)
    work = Work(items=size * CHAINED, unit="B", bus_bytes=crossing * CHAINED, operations=CHAINED)
    return make_measured(seconds, work=work)


def rows(
    sizes: Sequence[int] = SIZES, launches: int = 5, error: float = 0.0, seed: int = 1
) -> list[Row]:
    drawn = random.Random(seed)
    cases = [case_of(size) for size in sizes]
    made = [
        launch
        for case, size in zip(cases, sizes, strict=True)
        for launch in make_launches(
            case, [outcome(size, drawn.gauss(0, error)) for _ in range(launches)]
        )
    ]
    return summarize(make_file(cases, made, settings=Settings(launches=launches)))


def test_bus_bandwidth_and_the_time_of_one_operation() -> None:
    large = rows()[-1]
    assert large.operation_seconds is not None
    assert large.operation_seconds == pytest.approx(LATENCY + 1.75 * 2**30 / BANDWIDTH, rel=1e-6)
    assert large.bus_bytes_per_second == pytest.approx(
        1.75 * 2**30 / large.operation_seconds, rel=1e-9
    )
    assert large.throughput == pytest.approx(2**30 / large.operation_seconds, rel=1e-9)
    other = summarize(make_file([make_case()], make_launches(make_case(), [make_measured()])))
    assert (other[0].bus_bytes_per_second, other[0].operation_seconds) == (None, None)


def test_latency_and_bandwidth_are_read_back() -> None:
    for row in rows():
        assert row.link is not None
        assert row.link.latency.value == pytest.approx(LATENCY, rel=1e-3)
        assert row.link.bandwidth.value == pytest.approx(BANDWIDTH, rel=1e-3)
        assert row.link.miss < 1e-3
        assert (row.link.least_bytes, row.link.most_bytes, row.link.launches) == (8, 2**30, 5)


def test_the_intervals_cover_the_truth() -> None:
    (link,) = {id(row.link): row.link for row in rows(launches=20, error=0.03)}.values()
    assert link is not None
    for found, truth in ((link.latency, LATENCY), (link.bandwidth, BANDWIDTH)):
        assert found.low is not None and found.high is not None
        assert found.low < truth < found.high
        assert 0.005 < (found.high - found.low) / truth < 0.1
    of_two = rows(launches=2)[0].link
    assert of_two is not None and of_two.latency.low is None, "two launches have no interval"
    assert "latency 20.0 us, bus bandwidth 50.0 GB/s (" in in_words(of_two)


def test_noise_pulls_neither_figure_one_way() -> None:
    """A launch that happened to be fast weighs no more: at 20 % noise that was 4 %, always."""
    links = [rows(launches=20, error=0.2, seed=seed)[0].link for seed in range(8)]
    noise = math.exp(0.2**2 / 2)
    for name, truth in (("latency", LATENCY * noise), ("bandwidth", BANDWIDTH / noise)):
        found = [getattr(link, name) for link in links]
        assert statistics.fmean(one.value for one in found) == pytest.approx(truth, rel=0.03)
        assert sum(one.low < truth < one.high for one in found) >= 7, name


def test_a_line_needs_three_sizes_and_rises() -> None:
    assert rows(SIZES[:2])[0].link is None
    falling = [
        msgspec.structs.replace(row, bus_bytes_per_second=10.0 ** (20 - 3 * k))
        for k, row in enumerate(rows())
    ]
    assert link_of(falling) is None
    mixed = rows()
    other = [msgspec.structs.replace(mixed[0], case=case_of(8, chained=1), link=None)]
    assert with_links([*mixed, *other])[-1].link is None, "another chain is another sweep"


def test_a_line_that_starts_below_no_time_is_none() -> None:
    """Twice the bytes in thrice the time."""
    steep = [
        msgspec.structs.replace(row, operation_seconds=3.0**k, bus_bytes_per_second=(2 / 3) ** k)
        for k, row in enumerate(rows())
    ]
    assert link_of(steep) is None


def test_the_farthest_miss_is_said_be_it_above_the_line_or_below() -> None:
    cases = [case_of(size) for size in SIZES]
    late = [outcome(size, math.log(3) if size == 2**20 else 0.0) for size in SIZES]
    made = [x for c, o in zip(cases, late, strict=True) for x in make_launches(c, [o] * 3)]
    link = summarize(make_file(cases, made))[0].link
    assert link is not None and link.missed_bytes == 2**20
    assert link.miss == pytest.approx(1 - 1 / 3, abs=0.15), "it took thrice as long"


def test_a_slope_that_may_be_none_has_no_highest_bandwidth() -> None:
    link = rows(launches=3, error=1.0, seed=2)[0].link
    assert link is not None and link.bandwidth.low is not None and link.bandwidth.low > 0
    assert link.bandwidth.high is None
    assert "(0 us to 64" in in_words(link) and " to ?)" in in_words(link)


def test_a_disturbed_size_is_no_point_of_the_line() -> None:
    sound = rows()
    slow = msgspec.structs.replace(sound[0], operation_seconds=1.0, verdict="NO_STEADY_STATE")
    link = with_links([slow, *sound[1:]])[1].link
    assert link is not None and link.least_bytes == SIZES[1]
    assert link.latency.value == pytest.approx(LATENCY, rel=1e-3)
    few = link_of([*sound[1:], msgspec.structs.replace(sound[0], rates=sound[0].rates[:3])])
    assert few is not None and few.launches == 3, "those that every size has"


def test_the_line_is_that_of_relative_residuals() -> None:
    assert line([(0.0, 2.0), (10.0, 7.0)], [2.0, 7.0]) == pytest.approx((2.0, 0.5))
    # A tenth too much at a time a thousand times as long weighs as much.
    points = [(0.0, 1.0), (1.0, 2.0), (1000.0, 1101.0)]
    latency, slope = line(points, [t for _, t in points])
    assert latency == pytest.approx(1.0, rel=0.06) and slope == pytest.approx(1.05, rel=0.05)


def test_the_card_says_it_and_so_do_json_and_page() -> None:
    cases = [case_of(size) for size in SIZES]
    made = [
        x for c, s in zip(cases, SIZES, strict=True) for x in make_launches(c, [outcome(s)] * 3)
    ]
    run = make_file(cases, made, settings=Settings(launches=3))
    short = " ".join(REPORT.render([run], Canvas(width=120)).split())
    name = "collective-all-reduce fp32 8 devices"
    assert f"LINK latency and bus bandwidth over sizes: {name} 20.0 us, 50.0 GB/s" in short
    card = REPORT.render([run], Canvas(width=160, wide=True))
    assert "LINK collective-all-reduce fp32" in card
    assert "8 devices; " in card and "each" not in card and "shared host" not in card
    assert "latency 20.0 us (20.0 us to 20.0 us), bus bandwidth 50.0 GB/s" in card
    assert "(8 B to 1.0 GiB; off by 0% at" in card
    assert " bus " in card.splitlines()[4] or "bus" in card
    assert "Collectives: throughput is algorithm bandwidth" in " ".join(card.split())
    row = summarize(run)[0]
    assert row.throughput_per_device is None, "it is of one buffer already"
    flat = flat_row.flat(run, row)
    assert flat["link_latency_seconds"] == pytest.approx(LATENCY, rel=1e-3)
    assert flat["link_bus_bytes_per_second"] == pytest.approx(BANDWIDTH, rel=1e-3)
    assert flat["operation_seconds"] == row.operation_seconds
    assert row.link is not None
    page = HTML.render([run], Canvas())
    assert "What joins the devices" in page and f"<figcaption>{in_words(row.link)}<" in page
    assert "What joins the devices" not in HTML.render([make_file([make_case()], [])], Canvas())
