"""Explained runs as a card, as rows, as a trace; and two beside each other."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import msgspec
import pytest

from bench import catalogue
from bench.commands.explain import explained
from bench.judging.explaining.explained import explain_run
from bench.judging.explaining.explained_pairs import (
    ClassPair,
    ExplainedPair,
    OperatorPair,
    explained_pairs,
)
from bench.judging.interval import Interval
from bench.records.encoding import encoded
from bench.records.explained import Tried
from bench.records.run import RunFile
from bench.records.runfile import Writer, read
from bench.report import Canvas
from bench.reports.flat import explained as flat_explained
from bench.reports.page.explained import bar, roofline
from bench.reports.terminal import explained as explained_card
from bench.reports.terminal import explained_pairs as pairs_card
from bench.tests.conftest import Accelmark
from bench.tests.judging.explaining.accounts import MM, REFUSED, account, explained_file, operator
from bench.tests.values import make_case, make_run

CARD = """\
accelmark explains fake on Fake CPU (cpu), 1 thread

gemm-matmul bf16 (64x64x64)
step 100.0 ms (no interval) = operators 86.0 + freeing 4.000 + host 10.0 (90.0%
  explained; 1 launch, tape in order)
ceilings: read 20.0 GB/s, copy 40.0 GB/s, write 10.0 GB/s, matmul bf16 1.00
  TFLOP/s, launch 1.00 us
class                          ms   share  x bound  above bound    seen
matmul                       60.0   60.0%      3.0      40.0 ms   66.7%
elementwise                  20.0   20.0%      1.3     5.000 ms   27.8%
optimizer                   4.000    4.0%      0.8  BEATS-BOUND    5.6%
other                       2.000    2.0%        —            —    0.0%
operator                            calls       ms   share  x bound  above bound
mm bf16[64,64]                          2     60.0   60.0%      3.0      40.0 ms
add_ bf16[64,64]                        1     20.0   20.0%      1.3     5.000 ms
_fused_sgd_ bf16[64,64]                 1    4.000    4.0%      0.8  BEATS-BOUND
view                                  500    2.000    2.0%        —            —
BEATS-BOUND 1 operator, 4.0% of the step (faster than its bound: a cache held
  its operands, and the bound is memory's)
"""


@pytest.fixture(scope="module")
def run() -> RunFile:
    return explained_file(account())


def test_the_card(run: RunFile) -> None:
    card = explained(run, "table", 80, wide=False)
    assert card.startswith(CARD)
    assert "savings" not in card and "save it need" in card


def test_a_run_that_was_interrupted_says_so_and_that_it_cannot_go_on() -> None:
    file = explained_file(account(), account())
    planned = msgspec.structs.replace(file.run, explanations=5)
    assert file.end is not None
    ended = msgspec.structs.replace(file.end, reason="interrupted")
    early = msgspec.structs.replace(file, run=planned, end=ended)
    card = explained(early, "table", 120, wide=False)
    assert card.splitlines()[0].endswith(", 1 thread, INTERRUPTED")
    assert "(90.0% explained; 2 of 5 launches, tape" in card
    assert card.endswith("\nNext: this cannot go on; run the same command again.\n")
    page = catalogue.load("reports", "html").render([early], Canvas())
    assert "INTERRUPTED" in page and "64x64x64), 2 of 5 launches" in page
    beside = msgspec.structs.replace(planned, only_explained=False)
    card = explained(msgspec.structs.replace(early, run=beside), "table", 120, wide=False)
    assert "Next" not in card, "which the run's own card says"


def test_a_tuned_case_says_which_of_its_choices_is_explained(run: RunFile) -> None:
    (one,) = run.explanations
    chosen = {"batch_size": 16, "execution": "compile"}
    tuned = msgspec.structs.replace(one, choice=chosen)
    file = msgspec.structs.replace(run, explanations=(tuned,))
    assert "best: batch 16, compile\n" in explained(file, "table", 80, wide=False)
    (step, *_) = json.loads(explained(file, "json", 80, wide=False))
    assert step["choice"] == chosen


def test_a_case_in_another_precision_than_its_suites_says_so(run: RunFile) -> None:
    why = "fp32 instead of bf16: by reference code"
    other = msgspec.structs.replace(run.run, instead={run.run.plan[0].fingerprint: why})
    card = explained(msgspec.structs.replace(run, run=other), "table", 80, wide=False)
    assert card.splitlines()[1] == f"PRECISION {why}"


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_no_line_is_wider_than_the_card(run: RunFile, width: int) -> None:
    for wide in (False, True):
        card = explained(run, "table", width, wide=wide)
        assert max(map(len, card.splitlines())) <= width


def test_rows_have_the_same_keys_and_add_up(run: RunFile) -> None:
    rows = json.loads(explained(run, "json", 80, wide=False))
    assert len({tuple(row) for row in rows}) == 1
    assert [row["level"] for row in rows] == ["step", *["class"] * 4, *["operator"] * 4]
    assert sum(row["ms"] for row in rows if row["level"] == "class") == rows[0]["operators_ms"]
    header, *lines = explained(run, "csv", 80, wide=False).splitlines()
    assert len(lines) == len(rows) and header.startswith("case,fingerprint")


def test_a_trace_has_every_call_in_its_order(run: RunFile) -> None:
    trace = json.loads(explained(run, "trace", 80, wide=False))
    calls = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert [(e["name"], e["ts"], e["dur"]) for e in calls] == [
        ("aten::mm", 0.0, 30_000.0),
        ("aten::add_", 30_000.0, 20_000.0),
        ("aten::mm", 50_000.0, 30_000.0),
    ]


def test_a_trace_shows_the_account_that_is_the_answer() -> None:
    """And says of one that is none what it is worth."""
    kernels = (operator("kernel", "matmul", 100.0),)
    blind = account(profiled_operators=kernels, step_ns=(200_000_000,))
    for one, names, said in (
        (blind, ["kernel"], "profiler, EXPLAINED"),
        (account(step_ns=(80_000_000,)), ["aten::mm", "aten::add_", "aten::mm"], "order, VOID"),
        (REFUSED, [], ""),
    ):
        trace = json.loads(explained(explained_file(REFUSED, one), "trace", 80, wide=False))
        events = trace["traceEvents"]
        assert [event["name"] for event in events if event["ph"] == "X"] == names
        threads = [event["args"]["name"] for event in events if event["ph"] == "M"]
        assert len(threads) == bool(names) and all(f"{said})" in one for one in threads)


def test_two_runs_beside_each_other() -> None:
    base, other = explained_file(account()), explained_file(account(0.5))
    card = pairs_card.card(base, other, explained_pairs(base, other), 80)
    lines = card.splitlines()
    step = "step 100.0 -> 50.0 ms: -50.0 ms (-50.0%, no interval; 1 and 1 launches)"
    assert step in lines
    assert max(map(len, lines)) <= 80
    (matmul,) = (line for line in lines if line.startswith("matmul"))
    assert matmul.split() == ["matmul", "60.0", "30.0", "-30.0", "1.00", "2.00"]


def test_a_narrow_card_cuts_no_figure_and_tells_products_apart() -> None:
    """At 60 columns names have lines of their own; a class of 18 letters moves no column."""
    gathers = operator("aten::index", "gather and scatter", 30.0)
    both = [account(scale, operators=(MM, gathers), order=(), call_ns=()) for scale in (1.0, 0.95)]
    base, other = (explained_file(one) for one in both)
    card = explained(base, "table", 60, wide=False).splitlines()
    lines = pairs_card.card(base, other, explained_pairs(base, other), 60).splitlines()
    assert max(map(len, [*card, *lines])) <= 60
    assert "mm bf16[64,64]" in card and "mm bf16[64,64]" in lines
    for heading, begun, table in (("class", 2, card), ("part", 2, lines)):
        (top,) = (line for line in table if line.startswith(heading))
        rows = [line for line in table if line.startswith(("matmul", "gather"))]
        assert len(rows) == begun and {len(line) for line in (top, *rows)} == {len(top)}
        assert rows[-1].startswith("gather and scatter ")
    assert any(line.startswith("part") and line.endswith(" software") for line in lines)


def written(folder: Path, name: str, file: RunFile) -> str:
    path = folder / f"{name}.jsonl"
    writer = Writer(path)
    writer.append(file.run)
    for explanation in file.explanations:
        writer.append(explanation)
    if file.end is not None:
        writer.append(file.end)
    writer.close()
    return str(path)


def test_a_record_is_shown_and_compared_again(accelmark: Accelmark, tmp_path: Path) -> None:
    good = written(tmp_path, "good", explained_file(account()))
    bad = written(tmp_path, "bad", explained_file(REFUSED))
    assert read(good).explanations == explained_file(account()).explanations
    code, out, _ = accelmark("explain", good, "--width", "80")
    assert code == 0 and out.startswith(CARD)
    code, out, _ = accelmark("explain", bad)
    assert code == 1 and "REFUSED: tape and replay need 8.0 GiB" in out
    code, _, err = accelmark("explain", good, "--launches", "3")
    assert code == 2 and "leave out --launches" in err
    code, out, _ = accelmark("compare", good, bad, "--explain")
    assert code == 0 and "not held together: other REFUSED" in out
    for option in ("--fail-if-slower", "--tpot-ms"):
        code, out, err = accelmark("compare", good, bad, "--explain", option, "2")
        assert (code, out) == (2, "") and "--explain says where" in err and option in err
    code, out, _ = accelmark("report", good)
    assert "explained, not measured" in out, "and no throughput is made of it"
    assert f"accelmark explain {good}" in " ".join(out.split())


def test_an_old_record_has_no_word_of_it() -> None:
    bare = explained_file()
    text = encoded(bare.run).decode()
    assert "explanations" not in text, "a header says only what is not as ever"
    assert b"tried" not in encoded(REFUSED), "older versions refuse a field that they do not know"


def test_an_unknown_case_says_what_there_is(accelmark: Accelmark) -> None:
    code, _, err = accelmark("explain", "resnet51-train")
    assert code == 2 and "resnet51-train: no shipped suite and no case of one" in err


def test_a_page_has_a_bar_of_the_step_and_operators_under_their_roofs(run: RunFile) -> None:
    (case,) = explain_run(run)
    parts = list(bar(case))
    assert [part["words"].split()[0] for part in parts] == [
        *("matmul", "elementwise", "optimizer", "other", "freeing", "host"),
    ]
    assert sum(float(part["width"].rstrip("%")) for part in parts) == pytest.approx(100, abs=0.01)
    drawn = roofline(msgspec.structs.replace(case, operators=case.operators[1:]))
    assert drawn == {}, "none of the rest has FLOP"
    product = msgspec.structs.replace(case.operators[0], least_bytes=2_000_000)
    drawn = roofline(msgspec.structs.replace(case, operators=(product, *case.operators[1:])))
    (dot,) = drawn["dots"]
    assert dot["words"] == "mm bf16[64,64]: 60.0% of the step, 3.0 times its bound"
    assert drawn["unplaced"] == 3 and [line["words"] for line in drawn["lines"]] == ["matmul bf16"]
    page = catalogue.load("reports", "html").render([run], Canvas())
    assert page.count('<rect x="') == len(parts) and "Where a step goes" in page
    bare = msgspec.structs.replace(run, explanations=(), run=make_run(run.run.plan))
    assert "Where a step goes" not in catalogue.load("reports", "html").render([bare], Canvas())


@pytest.mark.parametrize("width", range(40, 81))
def test_no_figure_is_cut(run: RunFile, width: int) -> None:
    """What does not fit is left out whole: of 40.0 ms a 4 would be another figure."""
    other = explained_file(account(0.5))
    pairs = explained_pairs(run, other)

    def cards(columns: int) -> tuple[str, str]:
        alone = explained(run, "table", columns, wide=True)
        return alone, pairs_card.card(run, other, pairs, columns)

    for whole, card in zip(cards(120), cards(width), strict=True):
        figures = {word for word in card.split() if word.replace(".", "").lstrip("+-").isdigit()}
        assert figures and figures <= set(whole.split()), figures
        assert max(map(len, card.splitlines())) <= width


@pytest.mark.parametrize("width", [60, 79, 80, 120])
def test_no_figure_runs_into_the_one_beside_it(width: int) -> None:
    """A host beside an accelerator, of which one is almost a million times as fast."""
    parts = tuple(
        ClassPair(name=name, base_ms=1_234_567_890.0, other_ms=other, chip=chip, software=1.0)
        for name, other, chip in (("matmul", 1.2, 938_571.2), ("elementwise", 9.9, 11.32))
    )
    pair = ExplainedPair(
        case=make_case(),
        base_ms=2_469_135_780.0,
        other_ms=11.1,
        launches=(5, 5),
        ratio=Interval(value=0.01),
        parts=parts,
        operators=(OperatorPair(name="mm", operands="x", base_ms=1e9, other_ms=1.0),),
    )
    run = explained_file(account())
    card = pairs_card.card(run, run, [pair], width)
    matmul = next(line for line in card.splitlines() if line.startswith("matmul"))
    figures = ["1,234,567,890.0", "1.200", "-1,234,567,888.8", "9.4e+05", "1.00"]
    found = matmul.split()[1:]
    assert found == figures[: len(found)] and len(found) > 2

    card = explained(explained_file(account(1e7)), "table", width, wide=False)
    rows = [line.split() for line in card.splitlines() if "600,000,000.0" in line]
    assert rows[0][:3] == ["matmul", "600,000,000.0", "60.0%"]
    assert " 2 600,000,000.0 60.0% " in f" {' '.join(rows[1])} "


def test_nothing_of_anothers_record_moves_the_screen() -> None:
    bad = "x\x1b[2Ky"
    op = msgspec.structs.replace(MM, name=bad, operands=bad)
    file = explained_file(account(operators=(op, *account().operators[1:])))
    device = {**file.run.device, "name": bad}
    file = msgspec.structs.replace(file, run=msgspec.structs.replace(file.run, device=device))
    other = explained_file(account())
    cards = (
        explained(file, "table", 100, wide=True),
        pairs_card.card(file, other, explained_pairs(file, other), 100),
    )
    for card in cards:
        assert "\x1b" not in card and "x [2Ky" in card


def test_a_damaged_record_is_not_shown_as_whole(
    run: RunFile, accelmark: Accelmark, tmp_path: Path
) -> None:
    path = tmp_path / "cut.jsonl"
    with contextlib.closing(Writer(path)) as writer:
        writer.append(run.run)
        for one in run.explanations:
            writer.append(one)
    path.write_bytes(path.read_bytes() + b'{"line": "expl')
    code, out, err = accelmark("explain", str(path))
    assert code == 2 and "accelmark explains" in out
    assert "error: " in err and "What is above is of the lines before it." in err


def test_a_run_that_was_interrupted_long_ago_interrupts_nobody(
    run: RunFile, accelmark: Accelmark, tmp_path: Path
) -> None:
    path = tmp_path / "old.jsonl"
    assert run.end is not None
    end = msgspec.structs.replace(run.end, reason="interrupted")
    with contextlib.closing(Writer(path)) as writer:
        writer.append(run.run)
        for one in run.explanations:
            writer.append(one)
        writer.append(end)
    assert accelmark("explain", str(path))[0] == 0


@pytest.mark.parametrize(("times", "held"), [(4, True), (5, None)])
def test_a_remedy_is_judged_beside_all_that_were_measured(times: int, held: bool | None) -> None:
    """With one of ten turns slower, four are the most; what could not be tried counts for none."""
    one = Tried(remedy="x", before_ns=(260,) * 10, after_ns=(200,) * 9 + (300,))
    run = explained_file(account(tried=(*[one] * times, *[Tried(remedy="y", absent="no")] * 2)))
    found = explain_run(run)
    (step,) = (row for row in flat_explained.rows(run, found) if row["level"] == "step")
    assert [row["helped"] for row in step["tried"]] == [*[held] * times, False, False]
    assert explained_card.card(run, found, 80).count("held in one launch") == (times if held else 0)


def test_a_remedy_is_shown_though_the_step_is_not_explained() -> None:
    one = Tried(remedy="x", before_ns=(260,) * 10, after_ns=(200,) * 10)
    run = explained_file(msgspec.structs.replace(REFUSED, tried=(one,)), REFUSED)
    found = explain_run(run)
    (step,) = flat_explained.rows(run, found)
    assert [row["helped"] for row in step["tried"]] == [True]
    assert explained_card.card(run, found, 80).splitlines()[3:] == [
        f"REFUSED: {REFUSED.reason}",
        "tried x: 0.00026 -> 0.0002 ms, held in one launch",
    ]
    run = explained_file(msgspec.structs.replace(REFUSED, tried=(one,)), account())
    assert "held in one launch" in explained_card.card(run, explain_run(run), 80)
