"""What is said below a card: the gravest first, each thing once, and no more than eight lines."""

from __future__ import annotations

import re

import msgspec
import pytest

from bench import api
from bench.judging.row import Limit
from bench.judging.summary import summarize
from bench.records.outcome import Flag, Measured, Outcome, Skipped, Void
from bench.records.run import RunFile
from bench.report import Canvas
from bench.reports.table import REPORT
from bench.reports.wording.card_notes import unseen
from bench.reports.wording.labels import labels
from bench.tests.values import failed, make_case, make_file, make_launches, make_measured

ALL_FLAGS: tuple[Flag, ...] = ("DRIFT", "HOST_GAP", "POWER_CAPPED", "SHARED_DEVICE")
WHY = "of a reason that is told at some length, so that it takes more than a line of a card " * 5


def trouble() -> RunFile:
    """Nine that failed, each by its own reason; six without arithmetic; three that are flagged."""
    broken = [make_case(workload=f"broken{k}") for k in range(9)]
    absent = [make_case(workload=f"absent{k}") for k in range(6)]
    flagged = [make_case(workload=f"fine{k}") for k in range(3)]
    launches = [
        *(
            x
            for k, c in enumerate(broken)
            for x in make_launches(c, [failed(message=f"{k} {WHY}")])
        ),
        *(x for c in absent for x in make_launches(c, [Skipped(reason="no such arithmetic")])),
        *(x for c in flagged for x in make_launches(c, [make_measured(flags=ALL_FLAGS)] * 3)),
    ]
    return make_file([*broken, *absent, *flagged], launches)


def test_the_best_of_a_sweep_is_of_the_batches_that_were_measured() -> None:
    """Three were, the fourth does not fit, and two were never tried."""
    sizes = (1, 2, 4, 8, 16, 32)
    cases = [make_case(workload="bert", mode="infer", parameters={"batch_size": n}) for n in sizes]
    launches = [
        *(x for c in cases[:3] for x in make_launches(c, [make_measured(0.01)] * 3)),
        *make_launches(cases[3], [failed("oom", "no memory")]),
    ]
    for wide in (False, True):
        card = REPORT.render([make_file(cases, launches)], Canvas(width=200, wide=wide))
        assert re.findall("best of [0-9]+", card) == ["best of 3"]


def notes(card: str) -> list[str]:
    """The lines between the table and the legend."""
    lines = card.splitlines()
    start = len(lines) - lines[::-1].index("")
    (end,) = (k for k, line in enumerate(lines) if line.startswith("OK: 95% interval"))
    return lines[start:end]


@pytest.mark.parametrize("width", [80, 99, 100, 160, 400])
def test_there_are_at_most_eight_lines_and_the_rest_is_counted(width: int) -> None:
    found = notes(REPORT.render([trouble()], Canvas(width=width)))
    assert len(found) <= 8
    assert found[0].startswith("FAILED broken0-matmul bf16: crash in measure: 0 of a reason")
    said = sum(line.startswith("FAILED") for line in found)
    left = 9 - said + 1 + len(ALL_FLAGS)
    assert found[-1] == f"{left} more notes: --wide"


def test_wide_says_all_of_them_each_once() -> None:
    card = REPORT.render([trouble()], Canvas(width=400, wide=True))
    found = notes(card)
    assert sum(line.startswith("FAILED broken") for line in found) == 9
    assert "SKIPPED 6 cases: no such arithmetic" in found, "one reason, one line"
    for flag in ALL_FLAGS:
        (line,) = (line for line in found if line.startswith(f"{flag} "))
        assert line.endswith("fine0-matmul bf16, fine1-matmul bf16, fine2-matmul bf16")
    assert "more notes" not in card


def test_a_reason_that_two_kinds_share_is_said_of_each() -> None:
    cases = [make_case(workload=name) for name in ("a", "b")]
    outcomes: list[Outcome] = [Void(reason="wrong"), Skipped(reason="wrong")]
    launches = [x for c, o in zip(cases, outcomes, strict=True) for x in make_launches(c, [o])]
    run = make_file(cases, launches)
    lines = REPORT.render([run], Canvas(width=100)).splitlines()
    assert "VOID a-matmul bf16: wrong" in lines and "SKIPPED b-matmul bf16: wrong" in lines


def held(*words: Limit) -> RunFile:
    """Cases held back by each of these, beside the ceilings of matmul and memory."""
    gemm, triad = make_case(), make_case(workload="memory", mode="triad")
    made = {
        "kernels": make_measured(flop=300),
        "matmul": make_measured(flop=900),
        "power": make_measured(flop=700, flags=("POWER_CAPPED",)),
        "memory": make_measured(moved_bytes=800),
        "host": make_measured(flop=300, queue_ns=(15_000_000,)),
    }
    cases = [make_case(workload=f"work-{word}") for word in words]
    launches = [
        *make_launches(gemm, [make_measured(flop=1000, unit="FLOP")] * 3),
        *make_launches(triad, [make_measured(moved_bytes=1000, unit="B")] * 3),
        *(x for c, w in zip(cases, words, strict=True) for x in make_launches(c, [made[w]] * 3)),
    ]
    return make_file([gemm, triad, *cases], launches)


def test_the_summary_says_how_many_are_good_and_how_far_all_are_from_what_they_could_do() -> None:
    lines = REPORT.render([held("kernels", "host", "power")], Canvas(width=120)).splitlines()
    assert lines[1] == "5 of 5 cases OK"
    assert lines[2] == (
        "Held back by kernels below their ceilings in 1 case (30%), by host in 1 case (100%), "
        "by power in 1 case (70%)"
    )
    one = REPORT.render([held("memory")], Canvas(width=120)).splitlines()
    assert one[2] == "Held back by memory in 1 case (80%)", "the yardsticks are none of the cases"


def test_each_case_has_one_word_and_one_figure_for_what_holds_it_back() -> None:
    words: tuple[Limit, ...] = ("kernels", "matmul", "power", "memory", "host")
    card = REPORT.render([held(*words)], Canvas(width=100))
    shares = {"kernels": "30%", "matmul": "90%", "power": "70%", "memory": "80%", "host": "100%"}
    for word in words:
        (line,) = (x for x in card.splitlines() if x.startswith(f"work-{word}-") and "±" in x)
        assert f" {word} {shares[word]} " in line
        assert line.count("%") == 2, "its own, and that of the interval"


@pytest.mark.parametrize("width", [80, 100, 160])
def test_published_peaks_stand_in_one_place(width: int) -> None:
    """A third and two thirds of an H100's arithmetic."""
    cases = [make_case(parameters={"shape": shape}) for shape in ("1x1x1", "2x2x2")]
    flops = [int(989.4e12 * share / 300) for share in (1, 2)]
    launches = [
        x
        for case, flop in zip(cases, flops, strict=True)
        for x in make_launches(case, [make_measured(0.01, items=flop, unit="FLOP", flop=flop)] * 3)
    ]
    device = {"backend": "cuda", "index": 0, "name": "NVIDIA H100 80GB HBM3"}
    run = make_file(cases, launches, device=device)
    card = REPORT.render([run], Canvas(width=width))
    said = "Peaks of H100 SXM (trust high): at best MFU 67% (gemm-matmul bf16)"
    assert card.count("MFU") == 1 and said in card
    wide = REPORT.render([run], Canvas(width=width, wide=True))
    assert "MFU 33% of H100 SXM (trust high)" in wide
    assert api.summarize_run(run)[0].mfu == pytest.approx(1 / 3)


def summed_up(*work: tuple[str, Measured]) -> str:
    """What the card says of a run as a whole; three launches of each workload."""
    cases = [make_case(workload=name) for name, _ in work]
    pairs = zip(cases, work, strict=True)
    launches = [x for case, (_, outcome) in pairs for x in make_launches(case, [outcome] * 3)]
    device = {"backend": "cuda", "index": 0, "name": "NVIDIA H100 80GB HBM3"}
    card = REPORT.render([make_file(cases, launches, device=device)], Canvas(width=200))
    return "\n".join(card.splitlines()[1:4])


def test_only_what_lacks_a_ceiling_is_told_which_workload_measures_it() -> None:
    plain, flop = make_measured(), make_measured(flop=1000)
    both, stream = make_measured(flop=300, moved_bytes=10), make_measured(moved_bytes=1000)
    unknown, add = "What holds them back is not known: ", " in the suite, this machine's ceilings"
    assert unknown + "with the workloads gemm and memory" + add in summed_up(("bert", both))
    assert unknown + "with the workload memory" + add in summed_up(("gemm", flop), ("bert", both))
    assert unknown not in summed_up(("launch", plain), ("gemm", flop), ("memory", stream))
    assert unknown not in summed_up(("launch", plain)), "it counts nothing that has a ceiling"
    hot = make_measured(flop=1000, flags=("THROTTLED",))
    lost = summed_up(("gemm", hot), ("bert", make_measured(flop=300)))
    assert unknown + "gemm gave no ceiling for them" in lost


def test_what_was_disturbed_is_neither_the_best_share_nor_held_back() -> None:
    """The quicker of two was throttled: its figures are not the device's."""
    rate = 989.4e12 / 100
    slow, quick = (make_measured(flop=int(rate * share)) for share in (0.25, 0.5))
    hot = msgspec.structs.replace(quick, flags=("THROTTLED",))
    ceiling = make_measured(flop=int(rate * 0.2))
    lines = summed_up(("gemm", ceiling), ("bert", slow), ("resnet50", hot))
    assert "Peaks of H100 SXM (trust high): at best MFU 25% (bert-matmul bf16)" in lines
    assert "by matmul in 1 case (" in lines
    lines = summed_up(("gemm", ceiling), ("bert", slow), ("resnet50", quick))
    assert "MFU 50%" in lines and "by matmul in 2 cases (" in lines


def test_a_launch_far_from_the_others_is_named_with_how_far() -> None:
    case = make_case()
    run = make_file([case], make_launches(case, [make_measured(s) for s in (0.01, 0.0101, 0.024)]))
    lines = REPORT.render([run], Canvas(width=200)).splitlines()
    assert (
        "FAR_OUT a launch stands far from the others, and nothing was seen that explains it: "
        "gemm-matmul bf16 (launch 3 at 0.421 of the median)"
    ) in lines


def test_a_stream_that_caches_may_hold_is_named() -> None:
    triad = make_case(workload="memory", mode="triad", parameters={"size_bytes": 2**20})
    device = {"name": "Fake CPU", "facts": {"last_level_cache_bytes": str(2**25)}}
    launches = make_launches(triad, [make_measured(0.01, moved_bytes=10)] * 3)
    card = REPORT.render([make_file([triad], launches, device=device)], Canvas(width=200))
    (line,) = (line for line in notes(card) if line.startswith("cache: "))
    assert "memory-triad bf16: arrays of 1 MiB are less than 4 times the 32 MiB of last-l" in line


@pytest.mark.parametrize(("spread", "unsure"), [(0.25, True), (0.01, False)])
def test_a_share_that_is_not_sure_is_told_so(spread: float, unsure: bool) -> None:
    """It reaches three quarters of a product whose launches differ by much, or by little."""
    gemm, bert = make_case(), make_case(workload="bert", mode="infer")
    steps = (0.01 * (1 - spread), 0.01, 0.01 * (1 + spread))
    launches = [
        *make_launches(gemm, [make_measured(s, items=100, flop=100) for s in steps]),
        *make_launches(bert, [make_measured(s, flop=73) for s in (0.00999, 0.01, 0.01001)]),
    ]
    run = make_file([gemm, bert], launches)
    told = [api.render([run], name) for name in ("table", "markdown", "html")]
    told.append(api.render([run], wide=True))
    told[2] = told[2].partition("<main>")[2].partition("</main>")[0]
    for text in told:
        shares = set(re.findall(r"(?<![-+\d])~?7\d%", text))
        assert shares and {share.startswith("~") for share in shares} == {unsure}
        assert "~100%" not in text, "of itself the ceiling is all"
    legend = "~: with an interval wider than \N{PLUS-MINUS SIGN}10%"
    for text in (told[0], *told[2:]):
        assert (legend in " ".join(text.split())) == unsure


@pytest.mark.parametrize(
    ("whys", "words"),
    [
        (("busy (in 1 of 202 looks)", "busy (in 2 of 209 looks)"), "busy (in some looks)"),
        (("busy (in 1 of 202 looks)",) * 2, "busy (in 1 of 202 looks)"),
        (("busy (in 1 of 9 looks)", "idle (in 2 of 9 looks)"), "busy (in 1 of 9 looks)"),
        (("in 1 of 3 launches: busy", "in 2 of 3 launches: busy"), "in some launches: busy"),
    ],
)
def test_reasons_that_differ_in_how_often_alone_are_one(whys: tuple[str, ...], words: str) -> None:
    cases = [make_case(workload=f"w{k}") for k in range(3)]
    launches = [x for case in cases for x in make_launches(case, [make_measured()] * 3)]
    rows = [
        msgspec.structs.replace(row, not_observable={"power": why} if why else {})
        for row, why in zip(summarize(make_file(cases, launches)), (*whys, ""), strict=True)
    ]
    (note,) = unseen(rows, labels("s", cases), wide=True)
    assert f"power ({words})" in note.text
