"""What is said of the tuned track: beside the fixed one, in comparisons, in every format."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bench.exchange import benchmark_json
from bench.judging.comparing.compare import compare
from bench.judging.summary import summarize
from bench.judging.tracks import tuned
from bench.records.case import SEARCHED, Case
from bench.records.outcome import Outcome, Skipped
from bench.records.run import End, RunFile, Settings
from bench.report import Canvas
from bench.reports import markdown, table
from bench.reports.flat.comparison import flat
from bench.reports.flat.row import flat as flat_row
from bench.reports.terminal.comparison import render
from bench.tests.planning.tuned_runs import (
    CRASH,
    KEYS,
    SCRIPT,
    Script,
    fixed_case,
    only_row,
    play,
    rated,
    tuned_case,
)
from bench.tests.values import another, make_case, make_file, make_launch, make_measured


def side(tmp_path: Path, name: str, script: Script, case: Case | None = None) -> RunFile:
    (tmp_path / name).mkdir()
    run = play(tmp_path / name, script, case, launches=5)[1]
    header = msgspec.structs.replace(run.run, run_id=name)
    return msgspec.structs.replace(run, run=header)


def steady(winner: tuple[int, str], rate: float) -> Script:
    return {key: rated(rate if key == winner else rate / 2, key[0]) for key in KEYS}


def test_tuned_and_fixed_are_never_compared(tmp_path: Path) -> None:
    fast = side(tmp_path, "tuned", steady((2, "eager"), 20))
    launches = [make_launch(rated(10, 2), fixed_case(2), launch=k, order=k) for k in range(5)]
    plain = make_file([fixed_case(2)], launches, settings=Settings(launches=5))
    (found,) = compare(plain, fast).cases
    assert found.verdict == "INCOMPARABLE"
    assert found.ratio is None
    assert "track differs (fixed, tuned)" in found.reasons


def test_the_same_choices_compare_each_at_its_best(tmp_path: Path) -> None:
    base = side(tmp_path, "base", steady((2, "eager"), 20))
    other = side(tmp_path, "other", steady((4, "compile"), 30))
    comparison = compare(base, other)
    (found,) = comparison.cases
    assert found.verdict == "FASTER"
    assert found.ratio == pytest.approx(1.5)
    assert found.witness_gap is None  # other inputs have other outputs
    card = " ".join(render([comparison], Canvas(width=100)).split())
    assert (
        "each side at what its trials found best: base batch 2, eager; other batch 4, compile"
        in card
    )
    (case,) = flat(comparison)["cases"]
    assert case["track"] == "tuned"
    assert case["base"]["choice"] == {"batch_size": 2, "execution": "eager"}


NEAR = {key: rated(rate, key[0]) for key, rate in zip(KEYS, (5, 6, 7, 8, 19.9, 20), strict=True)}


@pytest.mark.parametrize(
    ("there", "verdict"),
    [
        (rated(20.1, 2), "UNDECIDED"),  # its one trial was unlucky: an equal device
        (rated(19.9, 2), "UNDECIDED"),  # as five launches and one trial may differ by chance
        (rated(12, 2), "SLOWER"),  # it is slower at the other's choice, too
        (Skipped(reason="no such kernel"), "SLOWER"),  # it cannot do that
        (CRASH, "UNDECIDED"),  # a process was lost, and nobody knows
        (make_measured(2 / 12, items=2, flags=("CONTENDED",)), "UNDECIDED"),  # nobody knows
    ],
)
def test_equal_devices_whose_trials_favoured_other_choices_are_not_told_apart(
    tmp_path: Path, there: Outcome, verdict: str
) -> None:
    """The base's choice gives 20.4, the other's 20.0; launches vary by 1 %."""
    vary = (1.0, 0.99, 1.01, 1.0, 1.005)
    base = side(
        tmp_path, "base", NEAR | {(2, "eager"): [rated(20.4 * x, 2) for x in (1.01, *vary)]}
    )
    one = NEAR | {(2, "eager"): there, (4, "eager"): [rated(20 * x, 4) for x in (1.01, *vary)]}
    comparison = compare(base, side(tmp_path, "other", one))
    (found,) = comparison.cases
    assert found.base and found.other and found.base.choice != found.other.choice
    assert found.verdict == verdict and found.interval and found.interval.high < 1
    (back,) = compare(comparison.other, comparison.base).cases
    assert back.verdict == {"SLOWER": "FASTER"}.get(verdict, verdict)
    card = " ".join(render([comparison], Canvas(width=100)).split())
    said = "its trials found best, which may be why they differ: base batch 2, eager; other batch 4"
    assert (said in card) == (verdict == "UNDECIDED")
    assert ("Next: measure both at one choice of the two" in card) == (verdict == "UNDECIDED")


def test_of_a_search_of_kernels_elsewhere_the_trials_without_it_tell(tmp_path: Path) -> None:
    """Each has its compiler search at the batch whose trial was the faster one."""
    case = tuned_case(
        batch_size=(2, 4), execution=("compile",), compiler=("default", "max-autotune")
    )
    vary = (1.0, 0.99, 1.01, 1.0, 1.005)

    def run_of(name: str, best: int, at_best: float, rest: float, searched: float) -> RunFile:
        script: Script = {
            (best, "compile"): rated(at_best, best),
            (6 - best, "compile"): rated(rest, 6 - best),
            (best, SEARCHED): [rated(searched * x, best) for x in (1.0, *vary)],
        }
        return side(tmp_path, name, script, case)

    base = run_of("base", 2, 20.6, 20.2, 30.6)
    (found,) = compare(base, run_of("other", 4, 20.4, 20.3, 30.0)).cases
    assert found.base and found.base.choice == {
        "batch_size": 2,
        "execution": "compile",
        "compiler": SEARCHED,
    }
    assert found.interval and found.interval.high < 1 and found.verdict == "UNDECIDED"
    (found,) = compare(base, run_of("slow", 4, 20.4, 18.0, 30.0)).cases
    assert found.verdict == "SLOWER"


def test_bytes_an_item_of_two_batches_are_not_split_into_chip_and_software(tmp_path: Path) -> None:
    """A larger batch moves fewer bytes an item, so shares of bandwidth make no product."""
    stream = make_case(workload="memory", mode="copy", parameters={"size_bytes": 1})

    def run_of(winner: tuple[int, str]) -> RunFile:
        moved = {
            key: make_measured(0.1 if key == winner else 0.2, items=key[0], moved_bytes=10**9)
            for key in KEYS
        }
        (tmp_path / f"{winner}").mkdir()
        file = play(tmp_path / f"{winner}", moved, launches=5)[1]
        ceiling = make_measured(0.1, items=10**10, unit="B", moved_bytes=10**10)
        box = [make_launch(ceiling, stream, launch=k, order=50 + k) for k in range(5)]
        cases, launches = [stream, tuned_case()], [*file.launches, *box]
        return make_file(cases, launches, settings=Settings(launches=5))

    one, other = run_of((2, "eager")), run_of((4, "eager"))
    splits = {c.case.workload: c.split for c in compare(one, other).cases}
    assert splits["resnet50"] is None
    same = {c.case.workload: c.split for c in compare(one, another(one)).cases}
    assert same["resnet50"] is not None


def test_other_choices_are_other_work(tmp_path: Path) -> None:
    base = side(tmp_path, "base", steady((2, "eager"), 20))
    fewer = tuned_case(batch_size=(1, 2), execution=("compile", "eager"))
    other = side(tmp_path, "other", steady((2, "eager"), 20), fewer)
    (found,) = compare(base, other).cases
    assert found.verdict == "INCOMPARABLE"
    assert found.reasons == ("tuned batch_size differs (1 2 4, 1 2)",)


def both_tracks(tmp_path: Path) -> RunFile:
    file = side(tmp_path, "one", SCRIPT)
    fixed = [make_launch(rated(9, 1), fixed_case(1), launch=k, order=20 + k) for k in range(5)]
    cases = [fixed_case(1), tuned_case()]
    launches = [*file.launches, *fixed]
    return make_file(cases, launches, settings=Settings(launches=5))


def test_the_card_shows_both_tracks_side_by_side_and_no_ratio(tmp_path: Path) -> None:
    file = both_tracks(tmp_path)
    for width in (80, 120):
        card = table.REPORT.render([file], Canvas(width=width))
        assert "resnet50-infer bf16 tuned" in card
        found = "TUNED the best choice of resnet50-infer bf16 tuned: batch 2, eager"
        assert f"{found} (when tried: eager 30.0; compile 18.0 image/s)" in " ".join(card.split())
        card = table.REPORT.render([file], Canvas(width=width, wide=True))
        words = " ".join(card.split())
        assert "best: batch 2, eager" in words
        assert "batch 2, eager is the best of 6 choices, of which 6 ran" in words
        assert "eager, image/s at batch 1: 9.00, 2: 30.0, 4: 19.0" in words
        assert "fixed, beside it: 9.00 image/s at batch 1, eager" in words


def test_fixed_figures_of_other_work_are_not_beside_it(tmp_path: Path) -> None:
    file = both_tracks(tmp_path)
    other = make_case(
        workload="resnet50", mode="infer", parameters={"batch_size": 1, "image_size": 128}
    )
    moved = [
        make_launch(x.outcome, other, launch=x.launch, order=x.order) if not x.case.space else x
        for x in file.launches
    ]
    rows = summarize(make_file([other, tuned_case()], moved))
    (found,) = tuned(rows)
    assert "beside it" not in found.words


def test_the_other_formats_say_what_was_chosen(tmp_path: Path) -> None:
    file = both_tracks(tmp_path)
    assert "**Tuned** resnet50-infer" in markdown.REPORT.render([file], Canvas(width=80))
    rows = [flat_row(file, row) for row in summarize(file)]
    assert [row["track"] for row in rows] == ["fixed", "tuned"]
    assert [row["choice"] for row in rows] == [None, {"batch_size": 2, "execution": "eager"}]
    assert rows[1]["tuned"] == {"batch_size": [1, 2, 4], "execution": ["compile", "eager"]}


def test_the_page_says_what_was_chosen(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    from bench.reports import html

    page = html.REPORT.render([both_tracks(tmp_path)], Canvas(width=80))
    assert "batch 2, eager is the best of 6 choices" in page


def test_a_document_of_pytest_benchmark_has_the_best_choice_as_rounds(tmp_path: Path) -> None:
    file = both_tracks(tmp_path)
    document = msgspec.to_builtins(benchmark_json.to_document(file))
    found = {one["name"]: one["stats"]["rounds"] for one in document["benchmarks"]}
    assert found == {
        "resnet50-infer-bf16[batch_1-image_64]": 5,
        "resnet50-infer-bf16-tuned[image_64-batch_1_to_4-compile_or_eager]": 5,
    }
    back = benchmark_json.from_document("x.json", document)
    assert [x.choice for x in back.launches] == [x.choice for x in file.launches]
    assert summarize(back) == summarize(file)


def test_an_interrupted_search_is_told_by_its_record(tmp_path: Path) -> None:
    file = side(tmp_path, "one", SCRIPT)
    end = End(reason="interrupted", finished_at="2026-01-01T00:01:00.000+00:00")
    row = only_row(make_file([tuned_case()], file.launches[:2], end=end))
    assert row.reason == "not reached: the run was interrupted; 2 choices tried, 4 left"
    (found,) = tuned([row])
    assert "no best choice of 6 yet, of which 2 ran" in found.words
