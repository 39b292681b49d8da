"""Files of pytest-benchmark: what is saved, and what it is compared with."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.exchange import benchmark_json
from bench.exchange.benchmark_json import read_any, round_seconds
from bench.records.outcome import Measured
from bench.tests.pytest_plugin.inner import NAME, Run, anonymous, saved, scripted
from bench.tests.values import make_case


def test_saved_files_hold_the_whole_run(real: Run) -> None:
    """The same as the record, bit by bit; and the rounds are its launches', unrounded."""
    (autosaved,) = (real.folder / ".benchmarks").rglob("*.json")
    expected = anonymous(real.record)
    for path in (autosaved, real.folder / "run.json"):
        assert anonymous(read_any(path)) == expected
    (benchmark,) = saved(real.folder / "run.json")["benchmarks"]
    outcomes = [x.outcome for x in real.record.launches]
    rounds = [round_seconds(o) for o in outcomes if isinstance(o, Measured)]
    assert benchmark["stats"]["data"] == rounds
    ours = benchmark_json.to_document(real.record)["benchmarks"][0]
    for key in ("name", "fullname", "group", "params", "param", "extra_info"):
        assert benchmark[key] == json.loads(json.dumps(ours[key]))
    assert benchmark["stats"] == ours["stats"]


def test_both_compare_commands_read_the_saved_file(real: Run) -> None:
    (autosaved,) = (real.folder / ".benchmarks").rglob("*.json")
    (own,) = (real.folder / "out").glob("*.jsonl")

    def output(module: str, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", module, "compare", *arguments],
            cwd=real.folder,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    between = output("pytest_benchmark", "run.json", str(autosaved), "--between=ops")
    assert NAME in between and "+0.0%" in between and "2 sources" in between
    content = own.read_text(encoding="utf-8")
    renamed = own.with_name("renamed")  # a run is not compared with a copy of itself
    renamed.write_text(content.replace(read_any(own).run.run_id, "another", 1), encoding="utf-8")
    (comparison,) = json.loads(output("bench", "run.json", str(renamed), "--json"))
    assert [case["ratio"] for case in comparison["cases"]] == [1.0]


def test_a_saved_session_holds_every_case_and_the_strangers_apart(mixed: Run) -> None:
    document = saved(mixed.folder / "run.json")
    names = [benchmark["name"] for benchmark in document["benchmarks"]]
    assert sorted(names) == [
        "gemm-matmul-fp32[12x12x12]",
        "gemm-matmul-fp32[8x8x8]",
        "test_own",
    ]
    assert document["benchmarks"][names.index("test_own")]["extra_info"] == {}
    assert anonymous(read_any(mixed.folder / "run.json")) == anonymous(mixed.record)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved run of 10 ms a step, which is a GFLOP."""
    folder = tmp_path_factory.mktemp("base")
    run = scripted(folder, {"8x8x8": [0.01] * 5}, "--benchmark-json=base.json", launches=5)
    assert run.code == 0, run.out
    return folder / "base.json"


FAIL = "--benchmark-compare-fail=mean:5%"


def compare(folder: Path, with_: Path, launch: float | str, *arguments: str) -> Run:
    script = {"8x8x8": [launch] * 5}
    return scripted(folder, script, f"--benchmark-compare={with_}", *arguments, launches=5)


def test_a_regression_fails_the_run_and_an_equal_one_does_not(base: Path, tmp_path: Path) -> None:
    same = compare(tmp_path, base, 0.0104, FAIL)
    assert same.code == 0, same.out + same.err
    assert "(NOW)" in same.out and "(base)" in same.out.replace("/base)", "(base)")
    slower = compare(tmp_path, base, 0.0106, FAIL)
    assert slower.code != 0
    assert "Performance has regressed" in slower.out + slower.err
    assert "PercentageRegressionCheck: 6.0000" in slower.out + slower.err
    assert "= accelmark =" in slower.out, "the card is printed all the same"


def test_a_saved_run_is_compared_by_its_launches_whatever_it_says_of_them(
    base: Path, tmp_path: Path
) -> None:
    """Earlier versions left out other launches, and gave seconds per FLOP."""
    document = saved(base)
    (benchmark,) = document["benchmarks"]
    benchmark["group"] = "gemm-matmul, per FLOP"
    benchmark["stats"] = dict.fromkeys(benchmark["stats"], 1.0)
    (tmp_path / "older.json").write_text(json.dumps(document))
    slower = compare(tmp_path, tmp_path / "older.json", 0.0106, FAIL)
    assert "PercentageRegressionCheck: 6.0000" in slower.out + slower.err


def test_a_disturbed_case_is_no_change_of_speed(base: Path, tmp_path: Path) -> None:
    """`accelmark compare` does not rank it, and `--fail-if-slower` does not let it pass."""
    failed = compare(tmp_path, base, "hot", FAIL)
    assert failed.outcomes == {"failed": 1}, failed.out
    assert "not judged: THROTTLED: 5 of 5 launches throttled" in failed.out
    assert "Performance has regressed" not in failed.out + failed.err
    shown = compare(tmp_path, base, "hot")
    assert shown.outcomes == {"passed": 1}, "without a limit nothing is judged"


def test_what_turns_out_not_to_be_comparable_has_no_number(base: Path, tmp_path: Path) -> None:
    """Here a device for good, in the saved run, and for a moment."""
    document = saved(base)
    for launch in launches_of(document):
        launch["outcome"]["step_clock"] = "device event"
        for block in launch["outcome"]["warmup"]:
            block["wall_ns"] = 6 * 10**9
    path = tmp_path / "sustained.json"
    path.write_text(json.dumps(document))
    run = compare(tmp_path, path, "brief")
    assert run.outcomes == {"failed": 1}, run.out
    assert "not comparable: time under load differs (12.0 s, 40.0 ms)" in run.out


def test_what_the_saved_run_has_no_number_of_is_not_held_against_it(tmp_path: Path) -> None:
    script: dict[str, list[Any]] = {"8x8x8": [0.01] * 5, "9x9x9": ["void"]}
    assert scripted(tmp_path, script, "--benchmark-json=base.json", launches=5).code == 1
    script |= {"9x9x9": [0.01] * 5, "10x10x10": [0.01] * 5}
    now = scripted(tmp_path, script, "--benchmark-compare=base.json", FAIL, launches=5)
    assert now.outcomes == {"passed": 3}, now.out
    said = [line for line in now.out.splitlines() if line.startswith("not compared: ")]
    assert said == [
        f"not compared: gemm-matmul-fp32[{shape}]: no saved run has a figure of it"
        for shape in ("9x9x9", "10x10x10")
    ]
    script["10x10x10"] = ["void"]  # there neither
    again = scripted(tmp_path, script, "--benchmark-compare=base.json", launches=5)
    assert "[9x9x9]: no saved run" in again.out and "[10x10x10]: no saved run" not in again.out


def test_what_is_beyond_the_limit_by_noise_alone_passes(base: Path, tmp_path: Path) -> None:
    """Twice as slow in one launch of five is 20 % on average, and no verdict of `compare`."""
    script = {"8x8x8": [0.01, 0.01, 0.02, 0.01, 0.01]}
    given = (f"--benchmark-compare={base}", FAIL)
    noisy = scripted(tmp_path, script, *given, launches=5)
    assert noisy.code == 0 and noisy.outcomes == {"passed": 1}, noisy.out + noisy.err
    assert "not compared" not in noisy.out
    spread = scripted(tmp_path, script, given[0], FAIL.replace("mean", "stddev"), launches=5)
    assert "Performance has regressed" in spread.out + spread.err, "a limit of the spread stays"
    few = scripted(tmp_path, script, *given, launches=3)
    assert few.code == pytest.ExitCode.USAGE_ERROR
    assert "3 launches of a case: a verdict needs 5" in few.err and "launch 1" not in few.out


def test_what_cannot_run_any_more_is_not_judged(base: Path, tmp_path: Path) -> None:
    now = compare(tmp_path, base, "skipped", FAIL)
    assert now.outcomes == {"failed": 1}, now.out
    assert "not judged: a saved run measured it: no such arithmetic" in now.out


def launches_of(document: Any) -> Any:
    return document["benchmarks"][0]["extra_info"]["accelmark"]["launches"]


def impossible(document: Any) -> None:
    """By what is known of the chip today."""
    document["accelmark"]["run"]["device"].update(name="NVIDIA A100-SXM4-80GB")
    for launch in launches_of(document):
        launch["outcome"]["work"]["flop"] = 10**15


def throttled(document: Any) -> None:
    for launch in launches_of(document):
        launch["outcome"] |= {"flags": ["THROTTLED"], "causes": {"THROTTLED": "thermal"}}


def few(document: Any) -> None:
    del launches_of(document)[3:]
    order = document["accelmark"]["order"]
    del order[3:]


def edited(change: Callable[[Any], object]) -> Callable[[Any], Any]:
    def edit(document: Any) -> Any:
        change(document)
        return document

    return edit


def with_another_version(document: Any) -> None:
    """The same work by name, whose step has changed its meaning."""
    (case,) = document["accelmark"]["run"]["plan"]
    case["version"] += 1
    fingerprint = msgspec.convert(case, type(make_case())).fingerprint
    for launch in launches_of(document):
        launch |= {"case": case, "fingerprint": fingerprint}
    for pair in document["accelmark"]["order"]:
        pair[0] = fingerprint


REFUSED = [
    ("foreign", edited(lambda d: d.pop("accelmark")), "not a pytest-benchmark run of accelmark"),
    (
        "schema",
        edited(lambda d: d["accelmark"]["run"].update(schema=99)),
        "schema 99; this version reads schema 1",
    ),
    (
        "cut short",
        edited(lambda d: d["accelmark"].update(damage="run.jsonl, line 9: cut short")),
        "run.jsonl, line 9: cut short",
    ),
    (
        "timing",
        edited(lambda d: d["accelmark"]["run"]["settings"].update(timing="step")),
        "timing mode differs (step, block)",
    ),
    (
        "version",
        edited(with_another_version),
        "gemm-matmul-fp32[8x8x8]: workload version differs (2, 1)",
    ),
    (
        "simulated",
        edited(lambda d: d["accelmark"]["run"]["device"].update(simulated=True)),
        "gemm-matmul-fp32[8x8x8]: a simulated device",
    ),
    (
        "disturbed",
        edited(throttled),
        "gemm-matmul-fp32[8x8x8]: it is THROTTLED: 5 of 5 launches throttled",
    ),
    (
        "impossible",
        edited(impossible),
        "gemm-matmul-fp32[8x8x8]: it is void: ",
    ),
    (
        "nothing in common",
        edited(lambda d: d["benchmarks"][0].update(fullname="test_own.py::test_own")),
        "it measured none of these cases",
    ),
    (
        "few",
        edited(few),
        "gemm-matmul-fp32[8x8x8]: 3 launches: a verdict needs 5",
    ),
]


@pytest.mark.parametrize(("edit", "reason"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_a_saved_run_that_is_not_comparable_is_refused(
    base: Path, tmp_path: Path, edit: Callable[[Any], Any], reason: str
) -> None:
    path = tmp_path / "other.json"
    path.write_text(json.dumps(edit(saved(base))))
    run = compare(tmp_path, path, 0.01, FAIL)
    assert run.code == pytest.ExitCode.USAGE_ERROR, run.out
    (message,) = [line for line in run.err.splitlines() if line.startswith("ERROR: ")]
    assert message.startswith("ERROR: not comparable: --benchmark-compare, run of 20")
    assert reason in message
    assert "Traceback" not in run.out + run.err and "launch 1" not in run.out
