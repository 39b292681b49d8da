"""Pages, cards and documents of one comparison tell the same, and no more than `compare` would."""

from __future__ import annotations

import itertools
import re
from typing import Any, Literal

import msgspec
import pytest

from bench import api
from bench.exchange.benchmark_json import to_document
from bench.judging.comparing.at_tpot import compare_at_tpot
from bench.judging.comparing.compare import compare
from bench.judging.comparing.reasons import Code
from bench.judging.summary import summarize
from bench.records.case import Case
from bench.records.observed import Reading, Telemetry
from bench.records.run import End, Launch, RunFile, Settings
from bench.report import Canvas
from bench.reports._compared import compared
from bench.reports.page import plots
from bench.reports.page.side import Side
from bench.tests.judging.two_runs import AUTO, FAST, SLOW, run
from bench.tests.served_runs import SPEEDS, serve_case, served, served_run
from bench.tests.values import another, make_case, make_file, make_launch, make_measured

GEMM = make_case(parameters={"shape": "64x64x64"})
SECONDS = [0.0100, 0.0101, 0.0102, 0.0103, 0.0104]


def training(devices: int) -> Case:
    return make_case(
        workload="gpt",
        mode="train",
        parameters={"batch_size": 16},
        devices=devices,
        parallelism=f"dp{devices}",
    )


def of_several(case: Case, *, shared_host: bool, faster: float = 1.0, **other: Any) -> RunFile:
    """100 GFLOP/s of one device's product, and half of it for each device that trains."""
    world = {"devices": case.devices, "shared_host": shared_host}
    environment = {"world": world, "variables": {}, "variables_looked_for": []}
    launches = [
        make_launch(
            make_measured(seconds, unit="FLOP", items=10**9, flop=10**9),
            GEMM,
            launch=k,
            order=k,
            environment=environment,
        )
        for k, seconds in enumerate(SECONDS)
    ]
    launches += [
        make_launch(
            make_measured(
                seconds / faster, items=16, flop=case.devices * 5 * 10**8, moved_bytes=10**8
            ),
            case,
            launch=k,
            order=5 + k,
            environment=environment,
        )
        for k, seconds in enumerate(SECONDS)
    ]
    return make_file([GEMM, case], launches, settings=Settings(launches=5), **other)


def test_what_several_devices_do_is_held_against_the_ceiling_of_one_each() -> None:
    base = of_several(training(8), shared_host=False)
    other = of_several(training(8), shared_host=False, faster=1.2, run_id="another")
    (_, row) = summarize(base)
    assert row.ceiling_fraction == pytest.approx(0.5)
    (split,) = (c.split for c in compare(base, other).cases if c.case.devices == 8)
    assert split is not None and split.shares == pytest.approx((0.5, 0.6))
    assert split.chip * split.software == pytest.approx(1.2)
    roofline = plots.roofline([Side(1, base)])
    (point,) = (p for p in roofline["points"] if p["label"].startswith("gpt"))
    (roof,) = roofline["roofs"]
    assert point["flop"] == pytest.approx(roof["matmul"] / 2)
    assert any(" a device at " in line for line in point["hover"])


def test_ranks_that_share_a_host_have_no_share_and_take_no_roof_away() -> None:
    """They come last of their arithmetic, and have no ceiling themselves."""
    run = of_several(training(2), shared_host=True)
    roofline = plots.roofline([Side(1, run)])
    assert roofline["roofs"][0]["matmul"] is not None
    assert not [line for line in roofline["missing"] if "matmul ceiling" in line]
    assert not [p for p in roofline["points"] if p["label"].startswith("gpt")]
    whys = {one["why"] for one in roofline["unplaced"]}
    assert "its ranks share a host: no roof is that of one" in whys
    pair = compare(run, another(run))
    assert [c.split is None for c in pair.cases if c.case.devices == 2] == [True]


@pytest.mark.parametrize("format_name", ["html", "markdown"])
@pytest.mark.parametrize("broken", [0, 1])
def test_a_damaged_record_is_given_no_verdict_in_any_document(
    format_name: str, broken: int
) -> None:
    files = [run(SLOW), run(FAST, run_id="another")]
    assert "FASTER" in api.render(files, format_name).upper()
    damage = "run.jsonl, line 7: damaged"
    files[broken] = msgspec.structs.replace(files[broken], damage=damage)
    text = api.render(files, format_name)
    assert "An incomplete run is not compared" in text
    assert not re.search(r"(?i)faster in \d|\| *faster", text)


@pytest.mark.parametrize(("settings", "level"), [(AUTO, 98), (None, 95)])
def test_the_page_says_at_what_level_verdicts_are(settings: Settings | None, level: int) -> None:
    given: dict[str, Any] = {} if settings is None else {"settings": settings}
    files = [run(FAST, **given), run(SLOW, run_id="another", **given)]
    page = api.render(files, "html")
    assert f"with the {level} % Welch interval over launches" in page
    assert "significant at 5 % over all cases together" in page
    card = compared([compare(files[0], files[1])], "table", Canvas(width=100))
    assert "significant at 5%" in card


def test_the_best_of_two_loads_is_of_requests_that_were_drawn_alike() -> None:
    base = served_run([(serve_case(1), [served(1, ms, load="abc") for ms in SPEEDS])])
    points = [(serve_case(1), [served(1, ms / 1.3, load="xyz") for ms in SPEEDS])]
    other = served_run(points, run_id="another")
    (case,) = compare_at_tpot(base, other, 0.02).cases
    assert case.verdict == "INCOMPARABLE" and case.codes == (Code.PARAMETER,)
    assert case.reasons == ("requests differ (abc; xyz): drawn otherwise",)
    (case,) = compare_at_tpot(base, another(base), 0.02).cases
    assert case.ratio == pytest.approx(1.0)


def test_a_kind_of_load_that_neither_side_does_in_time_leaves_a_card() -> None:
    """Beside one that is undecided."""

    def loads(steps: list[float], **other: Any) -> RunFile:
        slow = [served(1, 100 * ms) for ms in steps]
        return served_run(
            [(serve_case(1), [served(1, ms) for ms in steps]), (serve_case(1, slots=8), slow)],
            **other,
        )

    base = loads(list(SPEEDS))
    other = loads([9.0, 11.0, 10.5, 9.4, 10.3], run_id="another")
    found = compare_at_tpot(base, other, 0.013)
    assert {(c.base is None, c.other is None) for c in found.cases} == {
        (False, False),
        (True, True),
    }
    card = compared([found], "table", Canvas(width=100))
    assert "no load of the base keeps a median TPOT of 13 ms" in " ".join(card.split())
    assert "Next: narrower intervals" in card


def test_a_launch_that_a_low_clock_slowed_makes_no_round() -> None:
    """As on the card: the device gives no reason, and only the other launches show it."""

    def launch(number: int, seconds: float, mhz: float) -> Launch:
        readings = [Reading(at_seconds=1 + 0.2 * k, clock_mhz=mhz) for k in range(11)]
        telemetry = Telemetry(
            source="fake",
            scope="board",
            interval_seconds=0.2,
            first_step_seconds=1.0,
            readings=tuple(readings),
        )
        outcome = make_measured([seconds] * 10)
        ends = itertools.accumulate(block.wall_ns for block in outcome.steady)
        steady = [
            msgspec.structs.replace(block, start_ns=end - block.wall_ns)
            for block, end in zip(outcome.steady, ends, strict=True)
        ]
        outcome = msgspec.structs.replace(outcome, steady=tuple(steady))
        return make_launch(outcome, launch=number, order=number, telemetry=telemetry)

    launches = [*(launch(k, 0.1, 1400.0) for k in range(9)), launch(9, 0.2, 700.0)]
    run = make_file([make_case()], launches, settings=Settings(launches=10))
    (row,) = summarize(run)
    assert row.hindered == 1 and row.throughput == pytest.approx(10.0)
    (benchmark,) = to_document(run)["benchmarks"]
    assert benchmark["stats"]["rounds"] == 9
    assert benchmark["stats"]["ops"] == pytest.approx(row.throughput)


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (None, "UNFINISHED"),
        ("interrupted", "INTERRUPTED"),
        ("budget", "ended by its time budget"),
        ("complete", ""),
    ],
)
def test_how_a_run_ended_is_said_in_the_same_words_everywhere(
    reason: Literal["interrupted", "budget", "complete"] | None, said: str
) -> None:
    end = None if reason is None else End(reason=reason, finished_at="")
    base, other = run(FAST), run(SLOW, end=end)
    told = [api.render([other], name) for name in ("table", "markdown", "html")]
    told.append(api.render(compare(base, other)).splitlines()[1])
    words = {"UNFINISHED", "INTERRUPTED", "ended by its time budget"}
    for text in told:
        assert {word for word in words if word in text} == ({said} if said else set())
        assert "unfinished" not in text


@pytest.mark.parametrize("flaw", ["damaged", "cut short", "newer", "two runs"])
def test_what_is_wrong_with_a_record_has_one_word_everywhere(
    flaw: Literal["damaged", "cut short", "newer", "two runs"],
) -> None:
    """And what to do about it: of a file that was cut short, not what one would of another."""
    bad = msgspec.structs.replace(run(FAST), damage="line 9: no", flaw=flaw, remedy="Do this")
    for name in ("table", "markdown", "html"):
        text = api.render([bad], name)
        words = {word for word in ("DAMAGED", "CUT SHORT", "NEWER", "TWO RUNS") if word in text}
        assert words == {flaw.upper()}, name
        assert "line 9: no" in text and "do this" in text.lower()
    both = api.render([run(SLOW), bad], "html")
    assert f"{flaw.upper()}: line 9: no. Do this" in both
