"""The card of a comparison, and its flat rows."""

from __future__ import annotations

import json
import math
from typing import get_args

import msgspec
import pytest

from bench.judging.comparing.at_tpot import compare_at_tpot
from bench.judging.comparing.compare import Prices, compare
from bench.judging.comparing.comparison import CompareVerdict
from bench.records.run import End, RunFile
from bench.report import Canvas
from bench.reports import html, markdown
from bench.reports.flat.comparison import flat
from bench.reports.terminal.comparison import render
from bench.reports.wording.comparison_notes import WORDS
from bench.tests import scaled, served_runs
from bench.tests.judging.comparing.test_at_tpot import near
from bench.tests.judging.two_runs import (
    CASE,
    FAST,
    GEMM,
    NEAR,
    REFUSED,
    SLOW,
    run,
    runs,
    steps,
    ten,
)
from bench.tests.scripts.regenerate import GOLDEN
from bench.tests.values import another, failed, make_case, make_file, make_launch

FIGURES = ("ratio", "ratio_low", "ratio_high", "level", "p_value_adjusted", "not_excluded")


def test_flat_rows_have_nulls_and_never_zeros() -> None:
    (found,) = json.loads((GOLDEN / "compare-json.txt").read_text(encoding="utf-8"))
    assert found["cases_compared"] == 7 and len(found["cases"]) == 10
    assert {c["verdict"] for c in found["cases"]} == set(get_args(CompareVerdict))
    for case in found["cases"]:
        assert case["verdict"] in WORDS and isinstance(case["reasons"], list)
        have = {name for name in FIGURES if case[name] is not None}
        assert have == {
            "INCOMPARABLE": set(),
            "NO_INTERVAL": {"ratio"},
            "UNRANKED": set(FIGURES) - {"p_value_adjusted"},
        }.get(case["verdict"], set(FIGURES))
        assert bool(case["reasons"]) == (
            case["verdict"] in ("INCOMPARABLE", "NO_INTERVAL", "UNRANKED")
        )
        for name in (*FIGURES, "chip_ratio", "software_ratio", "per_joule_ratio"):
            assert case[name] is None or 0 < case[name] < math.inf
        for side in ("base", "other"):
            if case[side] is not None and case[side]["status"] != "measured":
                assert case[side]["throughput"] is None and case[side]["ci_low"] is None


def test_the_cards_have_every_word_and_fit() -> None:
    for width in (80, 120):
        card = (GOLDEN / f"compare-{width}.txt").read_text(encoding="utf-8")
        text = " ".join(card.split())
        for word in WORDS.values():
            assert word in text or word.split()[0] in text, word
        may, table = text.index("MAY EXPLAIN IT"), text.index(" ratio ")
        assert may < text.index("driver: 580.1 | 7.2") < table, "what may explain it comes first"
        assert text.index("SETTINGS DIFFER OMP_NUM_THREADS: 8 | absent") < may
        assert "MFU" not in text, "one figure a case for what holds it back"
        for line in card.splitlines():
            assert len(line) <= width and line == line.rstrip()
    assert "per price" in text


@pytest.mark.parametrize("width", [60, 80, 100])
def test_no_figure_is_cut_off(width: int) -> None:
    """Long rates and long names: lines are folded."""
    long = make_case(workload="w" * 30, mode="train", parameters={"name": "n" * 50})
    quick = ten(8.12e-7, 0.05)
    base, other = (runs((long, steps(quick, unit="sequence"))) for _ in range(2))
    found = compare(base, other)
    for wide in (False, True):
        text = render([found], Canvas(width=width, wide=wide))
        assert max(map(len, text.splitlines())) <= width
        assert " 1.000" in text and "undecided" in text
    assert text.count("1,23") >= 2 and " ".join(text.split()).count(" sequence/s") >= 2


def test_each_reason_is_said_once_with_the_cases_that_it_is_of() -> None:
    """Six cases of another batch, one of which is not in the other run at all."""
    cases = [make_case(workload=f"work{k}", parameters={"batch_size": 1}) for k in range(6)]
    theirs = [msgspec.structs.replace(case, parameters={"batch_size": 8}) for case in cases[:-1]]
    both = make_case(workload="both")
    found = compare(
        runs(*((case, steps(FAST)) for case in (*cases, both))),
        runs(*((case, steps(FAST)) for case in (*theirs, both))),
    )
    card = render([found], Canvas(width=100))
    assert card.count("batch_size differs (1, 8)") == 1
    assert "INCOMPARABLE batch_size differs (1, 8): 5 cases\n" in card
    assert "INCOMPARABLE no such case in the other run: work5-matmul bf16\n" in card
    for line in card.splitlines():
        if line.endswith("INCOMPARABLE"):
            assert "/s" not in line, "other work's figures are not put side by side"
    wide = render([found], Canvas(width=100, wide=True))
    assert wide.count("batch_size differs (1, 8)") == 6, "and with each case"


def test_flags_of_one_side_alone_stand_beside_its_verdict() -> None:
    """A device that others had open too is no slower one; what both have explains nothing."""
    base = runs((CASE, steps(FAST, flags=("DRIFT",))))
    other = runs((CASE, steps(SLOW, flags=("DRIFT", "SHARED_DEVICE"))))
    found = compare(base, other)
    card = render([found], Canvas(width=120))
    said = "SHARED_DEVICE of the other alone: others had the device open too: bert-train bf16"
    assert " SLOWER" in card and said in card and "DRIFT" not in card
    (case,) = flat(found)["cases"]
    assert (case["base"]["flags"], case["other"]["flags"]) == (
        ["DRIFT"],
        ["DRIFT", "SHARED_DEVICE"],
    )


def test_what_differs_and_explains_nothing_comes_after_the_table() -> None:
    other = msgspec.structs.replace
    first, second = run(FAST), run(SLOW)
    hosts = [{**one.run.host, "python": name} for one, name in ((first, "3.11"), (second, "3.12"))]
    first, second = (
        other(one, run=other(one.run, host=host))
        for one, host in zip((first, second), hosts, strict=True)
    )
    card = render([compare(first, second)], Canvas(width=100))
    assert card.index(" SLOWER") < card.index("host python: 3.11 | 3.12")
    assert "MAY EXPLAIN IT" not in card and "\nThe runs differ in\n" in card


def test_what_a_model_is_made_of_may_explain_a_ratio_where_both_have_it() -> None:
    def of(**packages: str) -> RunFile:
        launch = make_launch(case=CASE, environment={"packages": packages})
        return make_file([CASE], [launch])

    card = render([compare(of(diffusers="0.36"), another(of(diffusers="0.37")))], Canvas(width=100))
    assert "MAY EXPLAIN IT diffusers: 0.36 | 0.37" in card
    card = render([compare(of(), another(of(diffusers="0.37", peft="1")))], Canvas(width=100))
    assert "MAY EXPLAIN IT" not in card and "diffusers: absent | 0.37" in card


def test_how_a_device_stands_explains_nothing_where_an_older_version_did_not_ask() -> None:
    def of(**state: str) -> RunFile:
        environment = {"device_state": state, "driver": "570"}
        return make_file([CASE], [make_launch(case=CASE, environment=environment)])

    newer = another(of(bf16_reduced="False"))
    card = render([compare(of(bf16_reduced="True"), newer)], Canvas(width=100))
    assert "MAY EXPLAIN IT bf16_reduced: True | False" in card
    for base, other in ((of(), newer), (newer, of())):
        card = render([compare(base, other)], Canvas(width=100))
        assert "MAY EXPLAIN IT" not in card and "bf16_reduced: " in card, card


def test_the_next_step_names_what_lies_in_a_file_and_no_pipe() -> None:
    base = msgspec.structs.replace(run(FAST), path="a.json", passing=True)
    other = msgspec.structs.replace(run(SLOW), path="stdin", passing=True)
    last = render([compare(base, other)], Canvas(width=100)).splitlines()[-1]
    assert "accelmark report a.json RUN --format html" in last


def test_over_how_many_hosts_devices_are_spread_may_explain_a_ratio() -> None:
    def over(hosts: dict[str, object]) -> RunFile:
        world = {"devices": 8, "library": "nccl", **hosts}
        found = scaled.launches(scaled.training(8), scaled.outcomes(0.01, 16, None))
        environment = {"world": world}
        return scaled.run_of(
            [msgspec.structs.replace(launch, environment=environment) for launch in found]
        )

    card = render([compare(over({}), over({"hosts": 2}))], Canvas(width=100))
    assert "MAY EXPLAIN IT world hosts: absent | 2\n" in card


def test_colour_is_not_needed() -> None:
    found = compare(run(FAST), run(SLOW))
    coloured = render([found], Canvas(width=100, colour=True))
    assert "\x1b[" in coloured and "\x1b" not in render([found], Canvas(width=100))


def test_why_a_clear_interval_may_have_no_verdict() -> None:
    """Two cases: the interval of one excludes 1, and Holm's p does not fall below 5 %."""
    beside = (GEMM, steps(ten(0.01, 0.03)))
    base = runs((CASE, steps(ten(0.01, 0.03))), beside)
    card = render([compare(base, runs((CASE, steps(NEAR)), beside))], Canvas(width=120))
    assert "undecided, p = 0.06" in " ".join(card.split())


def test_a_run_that_did_not_end_by_itself_says_so() -> None:
    half = compare(run(FAST), run(SLOW, end=None))
    first, second = render([half], Canvas(width=120)).splitlines()[:2]
    assert "UNFINISHED" in second and "UNFINISHED" not in first


@pytest.mark.parametrize(
    ("other", "step"),
    [
        (run(SLOW), "the pictures"),
        (run(SLOW[:4]), "for verdicts, on both machines: accelmark run fake --launches 10"),
        (run(ten(0.0101, 0.03)), "narrower intervals, on both machines: accelmark run fake --l"),
        (REFUSED["batch"][0], "run the same suite on both"),
        (runs((CASE, [failed()] * 2)), "see why above, then, on both machines: accelmark run fake"),
        (runs((CASE, steps(SLOW, flags=("NO_STEADY_STATE",)))), "end other work"),
        (runs((CASE, steps(SLOW, flags=("QUOTA",)))), "no more threads than the CPU quota has"),
        (runs((CASE, steps(SLOW, flags=("STOPPED",)))), "find what stops this process"),
        (runs((CASE, steps(SLOW, flags=("CONTENDED",)))), "end other work"),
        (runs((CASE, steps(SLOW, flags=("THROTTLED",)))), "cool the device of what is not ranked"),
        (runs((CASE, [*steps(SLOW), *[failed()] * 9])), "find why launches failed"),
        (runs((CASE, [*steps(SLOW[:4]), *steps(SLOW[:6], flags=("CONTENDED",))])), "end other"),
        (runs((CASE, [*steps(SLOW[:3]), failed(), failed()])), "find why launches failed"),
        (runs((CASE, [*steps(SLOW[:2]), failed(), failed()])), "for verdicts, on both machines"),
    ],
)
def test_the_next_step(other: RunFile, step: str) -> None:
    last = render([compare(run(FAST), other)], Canvas(width=200)).splitlines()[-1]
    assert last.startswith(f"Next: {step}")


def test_a_side_that_has_enough_launches_is_not_what_is_to_be_made_again() -> None:
    """The base is disturbed, and has an interval all the same; the other has four launches."""
    base = runs((CASE, [*steps(FAST), *steps(FAST[:6], flags=("CONTENDED",))]))
    card = render([compare(base, run(SLOW[:4]))], Canvas(width=200))
    assert "\nNext: for verdicts, on both machines" in card


def test_what_is_to_be_done_is_of_the_side_that_was_disturbed() -> None:
    """One launch of the base was held back by a quota; that the other throttled is why."""
    base = runs((CASE, [*steps(FAST), *steps(FAST[:1], flags=("QUOTA",))]))
    card = render([compare(base, runs((CASE, steps(SLOW, flags=("THROTTLED",)))))], Canvas())
    assert "\nNext: cool the device" in card


def test_loads_that_came_too_fast_are_to_come_slower() -> None:
    def late(faster: float) -> RunFile:
        made = served_runs.usual_run(faster)
        return msgspec.structs.replace(
            made,
            launches=tuple(
                msgspec.structs.replace(
                    launch,
                    outcome=msgspec.structs.replace(launch.outcome, flags=("NO_STEADY_STATE",)),
                )
                for launch in made.launches
            ),
        )

    card = render([compare(late(1.0), late(2.0))], Canvas(width=200))
    assert card.splitlines()[-1].startswith("Next: ask at a lower rate")


def test_loads_of_which_the_launches_leave_open_which_keeps_a_limit_need_more() -> None:
    found = compare_at_tpot(near(20, 25, 29.9), near(20, 25, 30.2), 0.03)
    card = render([found], Canvas(width=200))
    assert "whether it keeps 30 ms is not known; measure more launches" in card
    assert card.splitlines()[-1].startswith("Next: narrower intervals, on both machines")


def test_no_ratio_is_rounded_to_nothing() -> None:
    """A machine that is 2,500 times as slow, in every form."""
    base, other = run([0.001] * 5), run([2.5] * 5)
    card = render([compare(base, other)], Canvas(width=120, wide=True))
    pages = [report.REPORT.render([base, other], Canvas()) for report in (markdown, html)]
    for text in (card, *pages):
        assert "0.000400" in text


@pytest.mark.parametrize(("ratio", "said"), [(0.0031, "0.0031"), (0.5, "0.50"), (3e7, "3e+07")])
def test_no_ratio_per_joule_or_price_is_rounded_to_nothing(ratio: float, said: str) -> None:
    found = compare(run(FAST), run(SLOW))
    (case,) = found.cases
    case = msgspec.structs.replace(case, joule_ratio=ratio, price_ratio=ratio)
    card = render([msgspec.structs.replace(found, cases=(case,))], Canvas(width=200))
    assert f"{said} no interval" in card and card.split().count(said) == 2


@pytest.mark.parametrize("width", [60, 80, 99, 100, 140])
def test_what_was_asked_for_is_shown_at_every_width(width: int) -> None:
    """Names without end leave no room; the words of the table and of --wide are the same."""
    base, other = served_runs.usual_run(), served_runs.usual_run(1.3, run_id="another")
    found = compare(base, other, Prices(base=4.0, other=2.0))
    joules = [msgspec.structs.replace(case, joule_ratio=1.7) for case in found.cases]
    found = msgspec.structs.replace(found, cases=tuple(joules))
    text = " ".join(render([found], Canvas(width=width)).split())
    table, legend = text.split(" Ratio: ")
    assert table.count(" 2.60") == len(found.cases)
    assert "per price: other / base items for the same money." in legend
    assert ("per joule: other / base items for the same energy." in legend) == ("1.7" in table)
    assert "per price" not in legend.partition("Not shown")[2]
    wide = " ".join(render([found], Canvas(width=width, wide=True)).split())
    assert "per joule 1.70 no interval; per price 2.60" in wide
    assert "for the same energy. per price: other / base" in wide


def test_a_case_that_a_run_did_not_reach_is_not_one_that_its_device_cannot_do() -> None:
    late = runs((CASE, []), (GEMM, steps(SLOW)), end=End(reason="budget", finished_at="x"))
    found = compare(runs((CASE, steps(FAST)), (GEMM, steps(FAST))), late)
    texts = [render([found], Canvas(width=200, wide=wide)) for wide in (False, True)]
    texts.append(markdown.REPORT.render([found.base, found.other], Canvas()))
    for text in texts:
        assert "UNREACHED" in text and "skipped" not in text.lower()
