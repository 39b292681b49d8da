"""The pytest plugin: one real run, and scripted ones for what a real one does not do on demand."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from bench import catalogue, pytest_plugin
from bench.exchange import benchmark_json
from bench.exchange.benchmark_json import read_any, seconds_per_item
from bench.planning.plan import plan
from bench.planning.suite_file import read_suite
from bench.records import runfile
from bench.records.outcome import Measured
from bench.records.run import RunFile
from bench.report import Canvas
from bench.tests.fakes import make_case

SUITE = """
[settings]
launches = {launches}
block_seconds = 0.001
warmup_seconds = 0.0
warmup_limit_seconds = 5.0
steady_limit_seconds = 1.0

[[case]]
workload = "gemm"
precision = "fp32"
shape = {shapes}
"""

SCRIPTED = '''
"""No worker is started: launch k of a case does what the script says."""
import json, os

from bench.running import launcher, probe
from bench.backend import DeviceInfo
from bench.running.launcher import Finished
from bench.records.outcome import Cold, Skipped, Void
from bench.tests.fakes import failed, make_measured
from bench.measuring.worker import Report

SCRIPT = json.loads(os.environ["SCRIPT"])
WORDS = {
    "failed": failed(message="it broke"),
    "void": Void(reason="numerics: output off by 0.5"),
    "skipped": Skipped(reason="no such arithmetic"),
}


def launch_together(requests, variables, listen, **_):
    for request in requests:
        what = SCRIPT[request.case.parameters["shape"]][request.seed]
        if what == "interrupt":
            raise KeyboardInterrupt
        outcome = WORDS.get(what) or make_measured(what, items=1000, unit="FLOP", flop=1000)
        report = Report(outcome=outcome, cold=Cold(), environment={})
        yield Finished(report=report, seconds=1.0, stderr_tail="")


launcher.launch_together = launch_together
info = DeviceInfo(backend="cpu", index=0, name="Fake CPU", memory_bytes=None)
probe.choose = lambda address: (info, ["cuda: none here, or pass --device cpu"])
'''.replace("cuda", "other")


QUICK = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-p", "no:anyio")
"""Without plugins that are nothing to us and slow to load."""


class Run:
    """An inner pytest that has ended."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *QUICK, *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            encoding="utf-8",
            env={
                **{k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")},
                "COLUMNS": "100",
                "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]),
                **environment,
            },
            timeout=300,
        )
        self.folder = folder
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr

    @property
    def record(self) -> RunFile:
        (path,) = (self.folder / "out").glob("*.jsonl")
        return runfile.read(path)

    @property
    def outcomes(self) -> dict[str, int]:
        """The last line: `1 failed, 2 passed in 0.1s`."""
        last = self.out.splitlines()[-1]
        return {
            word: int(count) for count, word in re.findall(r"(\d+) (\w+)", last.split(" in ")[0])
        }

    def row(self, name: str) -> dict[str, float]:
        """Mean (s), OPS (items/s) and rounds of a row of the table, its unit undone."""
        table = self.out[self.out.index("Name (time in ") :]
        time_unit, ops_unit = re.search(
            r"Name \(time in (\w?)s\) .* OPS(?: \((\w)ops/s\))? ", table
        ).groups()  # type: ignore[union-attr]
        factor = {"": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9, "p": 1e-12, "f": 1e-15}
        times = {None: 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
        line = next(text for text in table.splitlines() if text.startswith(name))
        mean, ops, rounds = (
            float(word.replace(",", ""))
            for word in re.sub(r"\([^()]*\)", "", line.removeprefix(name)).split()
        )
        return {"mean": mean * factor[time_unit], "ops": ops * times[ops_unit], "rounds": rounds}


COLUMNS = "--benchmark-columns=mean,ops,rounds"


def suite(folder: Path, *shapes: str, launches: int = 2) -> Path:
    path = folder / "tiny.toml"
    path.write_text(SUITE.format(launches=launches, shapes=json.dumps(shapes)))
    return path


def scripted(
    folder: Path, script: dict[str, list[Any]], *arguments: str, launches: int = 2, **extra: str
) -> Run:
    """Runs the ready suite over the script's shapes; its record lies in `out`."""
    suite(folder, *script, launches=launches)
    (folder / "scripted.py").write_text(SCRIPTED)
    return Run(
        folder,
        *("-p", "scripted", "--pyargs", "bench.suite", "--accelmark-suite", "tiny.toml"),
        *arguments,
        SCRIPT=json.dumps(script),
        **extra,
    )


def anonymous(run: RunFile) -> RunFile:
    """Without what is of its file, not of the run."""
    return msgspec.structs.replace(run, path="", whole_bytes=0)


def saved(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


# --- A real run ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two launches of one small product on this CPU, by the real engine."""
    folder = tmp_path_factory.mktemp("real")
    suite(folder, "32x32x32")
    return Run(
        folder,
        *("-W", "error", "--pyargs", "bench.suite", "--accelmark-suite=tiny.toml"),
        *("--accelmark-device", "cpu", "--accelmark-out", "out", COLUMNS),
        *("--benchmark-autosave", f"--benchmark-json={folder / 'run.json'}"),
    )


NAME = "gemm-matmul-fp32[32x32x32]"


def test_the_table_gives_launches_and_items_per_second(real: Run) -> None:
    """Rounds are launches; OPS is one over the mean of their seconds per item."""
    assert real.code == 0, real.out + real.err
    assert real.outcomes == {"passed": 1}
    assert "benchmark 'gemm-matmul, per FLOP': 1 tests" in real.out
    outcomes = [x.outcome for x in real.record.launches]
    measured = [o for o in outcomes if isinstance(o, Measured)]
    assert len(measured) == 2
    mean = statistics.mean(1 / outcome.throughput for outcome in measured)
    row = real.row(NAME)
    assert row["rounds"] == 2
    assert row["mean"] == pytest.approx(mean, rel=1e-4)
    assert row["ops"] == pytest.approx(1 / mean, rel=1e-4)


def test_the_run_is_announced_line_by_line_and_ends_in_the_card(real: Run) -> None:
    lines = real.out.splitlines()
    assert any(line.startswith("device: cpu, ") for line in lines)
    launches = [line for line in lines if line.startswith("gemm-matmul fp32 (32x32x32) launch ")]
    assert len(launches) == 2 and all("FLOP/s (no interval yet)" in line for line in launches)
    card = catalogue.load("reports", "table").render([real.record], Canvas(width=100))
    assert card in real.out
    assert "record: out/tiny-cpu-" in real.out
    assert real.out.index("Legend:") < real.out.index("= accelmark =")


def test_the_record_says_what_was_typed_and_no_folder(real: Run) -> None:
    run = real.record.run
    assert run.command[:3] == ("pytest", "-p", "no:cacheprovider")
    assert "--benchmark-json=run.json" in run.command
    assert run.suite == "tiny"
    (path,) = (real.folder / "out").glob("*.jsonl")
    assert str(real.folder) not in path.read_text()


def test_saved_files_hold_the_whole_run(real: Run) -> None:
    """The same as the record, bit by bit; and the rounds are its launches', unrounded."""
    (autosaved,) = (real.folder / ".benchmarks").rglob("*.json")
    expected = anonymous(real.record)
    for path in (autosaved, real.folder / "run.json"):
        assert anonymous(read_any(path)) == expected
    (benchmark,) = saved(real.folder / "run.json")["benchmarks"]
    outcomes = [x.outcome for x in real.record.launches]
    rounds = [seconds_per_item(o) for o in outcomes if isinstance(o, Measured)]
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
    (comparison,) = json.loads(output("bench", "run.json", str(own), "--json"))
    assert [case["ratio"] for case in comparison["cases"]] == [1.0]


# --- What becomes of cases -----------------------------------------------------------------------

SHAPES = ("8x8x8", "9x9x9", "10x10x10", "11x11x11", "12x12x12")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two good cases, one that breaks, one that is wrong, one that cannot run; and a stranger."""
    folder = tmp_path_factory.mktemp("mixed")
    (folder / "test_own.py").write_text("def test_own(benchmark): benchmark(len, '')\n")
    times: list[list[Any]] = [
        [0.010, 0.020],
        ["failed", "failed"],
        ["void"],
        ["skipped"],
        [0.5, 0.5],
    ]
    return scripted(
        folder,
        dict(zip(SHAPES, times, strict=True)),
        *("test_own.py", "-W", "error", "--accelmark-out", "out", COLUMNS, "-rfs"),
        *("--benchmark-json=run.json", "--benchmark-max-time=0.01"),
    )


def test_an_item_without_a_number_fails_or_is_skipped_with_the_reason(mixed: Run) -> None:
    assert mixed.code == 1, mixed.out + mixed.err
    assert mixed.outcomes == {"passed": 3, "failed": 2, "skipped": 1}
    assert "failed: crash in measure: it broke" in mixed.out
    assert "void: numerics: output off by 0.5" in mixed.out
    assert "no such arithmetic" in mixed.out
    assert "Traceback" not in mixed.out and "pytest_plugin.py:" not in mixed.out.split("SKIPPED")[0]
    assert "other: none here, or pass --accelmark-device cpu" in mixed.out
    assert "accelmark run tiny.toml --only" in mixed.out, "the suite as it was typed"


def test_launches_of_different_cases_take_turns(mixed: Run) -> None:
    shapes = [x.case.parameters["shape"] for x in mixed.record.launches]
    assert shapes == [*SHAPES, SHAPES[0], SHAPES[1], SHAPES[4]]


def test_rows_are_those_of_the_script(mixed: Run) -> None:
    """1000 items a step of 10 and of 20 ms: 15 us an item on average."""
    table = mixed.out[mixed.out.index("'gemm-matmul, per FLOP'") : mixed.out.index("Legend:")]
    rows = {line.split()[0]: line for line in table.splitlines() if line.startswith("gemm-")}
    assert list(rows) == ["gemm-matmul-fp32[8x8x8]", "gemm-matmul-fp32[12x12x12]"]
    assert "Name (time in us)" in table and "OPS (Kops/s)" in table
    assert rows["gemm-matmul-fp32[8x8x8]"].split()[1] == "15.0000"


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


def test_what_was_not_selected_is_not_measured(tmp_path: Path) -> None:
    script = {"8x8x8": [0.01], "9x9x9": [0.01], "10x10x10": [0.01]}
    run = scripted(
        tmp_path,
        script,
        *("-k", "fp32[9x9x9] or 8x8x8", "--accelmark-launches", "1", "--accelmark-out", "out"),
        *("--benchmark-only", "-W", "error"),
    )
    assert run.outcomes == {"passed": 2, "deselected": 1}, run.out
    assert [x.case.parameters["shape"] for x in run.record.launches] == ["8x8x8", "9x9x9"]
    assert [case.parameters["shape"] for case in run.record.run.plan] == ["8x8x8", "9x9x9"]


def test_disabled_benchmarks_run_once_without_a_table(tmp_path: Path) -> None:
    run = scripted(tmp_path, {"8x8x8": [0.01]}, "--benchmark-disable", "-W", "error")
    assert run.code == 0 and run.outcomes == {"passed": 1}, run.out
    assert "Name (time" not in run.out and "1 launch of 1 case" in run.out
    assert "record:" not in run.out, "kept only where --accelmark-out says so"


def test_skipped_benchmarks_measure_nothing(tmp_path: Path) -> None:
    run = scripted(tmp_path, {"8x8x8": []}, "--benchmark-skip", "--accelmark-out", "out")
    assert run.code == 0 and run.outcomes == {"skipped": 1}, run.out
    assert not (tmp_path / "out").exists()


def test_an_interrupted_run_keeps_what_was_measured(tmp_path: Path) -> None:
    """In a folder that it names, though none was asked for."""
    run = scripted(tmp_path, {"8x8x8": [0.01, "interrupt"], "9x9x9": [0.02, 0.02]})
    assert run.code == pytest.ExitCode.INTERRUPTED, run.out
    assert "INTERRUPTED" in run.out and "KeyboardInterrupt" in run.out
    path = Path(run.out.split("record: ")[1].split()[0])
    found = runfile.read(path)
    assert [x.case.parameters["shape"] for x in found.launches] == ["8x8x8", "9x9x9"]
    assert found.end is not None and found.end.reason == "interrupted"
    path.unlink()
    path.parent.rmdir()


# --- Comparing with a saved run ------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved run of 10 ms a step: 10 us an item."""
    folder = tmp_path_factory.mktemp("base")
    run = scripted(folder, {"8x8x8": [0.01, 0.01]}, "--benchmark-json=base.json")
    assert run.code == 0, run.out
    return folder / "base.json"


def compare(folder: Path, with_: Path, seconds: float, *arguments: str) -> Run:
    return scripted(
        folder,
        {"8x8x8": [seconds, seconds]},
        *(f"--benchmark-compare={with_}", "--benchmark-compare-fail=mean:5%", *arguments),
    )


def test_a_regression_fails_the_run_and_an_equal_one_does_not(base: Path, tmp_path: Path) -> None:
    same = compare(tmp_path, base, 0.0104)
    assert same.code == 0, same.out + same.err
    assert "(NOW)" in same.out and "(base)" in same.out.replace("/base)", "(base)")
    slower = compare(tmp_path, base, 0.0106)
    assert slower.code != 0
    assert "Performance has regressed" in slower.out + slower.err
    assert "PercentageRegressionCheck: 6.0000" in slower.out + slower.err
    assert "= accelmark =" in slower.out, "the card is printed all the same"


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
    for launch in document["benchmarks"][0]["extra_info"]["accelmark"]["launches"]:
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
        "nothing in common",
        edited(lambda d: d["benchmarks"][0].update(fullname="test_own.py::test_own")),
        "it measured none of these cases",
    ),
]


@pytest.mark.parametrize(("edit", "reason"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_a_saved_run_that_is_not_comparable_is_refused(
    base: Path, tmp_path: Path, edit: Callable[[Any], Any], reason: str
) -> None:
    path = tmp_path / "other.json"
    path.write_text(json.dumps(edit(saved(base))))
    run = compare(tmp_path, path, 0.01)
    assert run.code == pytest.ExitCode.USAGE_ERROR, run.out
    (message,) = [line for line in run.err.splitlines() if line.startswith("ERROR: ")]
    assert message.startswith("ERROR: not comparable: --benchmark-compare, run of 20")
    assert reason in message
    assert "Traceback" not in run.out + run.err and "launch 1" not in run.out


# --- What cannot be done -------------------------------------------------------------------------

BAD = [
    (["--accelmark-suite", "nonsense"], {}, "unknown suite `nonsense`. Allowed: "),
    (["--accelmark-only", "nix"], {}, "--accelmark-only nix: matches no case."),
    (["--accelmark-launches", "0"], {}, "--accelmark-launches 0: a number from 1 to 1000, or `a"),
    (["--accelmark-device", "nix"], {}, "--accelmark-device nix: unknown backend `nix`. Allowed:"),
    (
        ["--accelmark-device", "cpu:1", "--accelmark-device", "cpu:0"],
        {},
        "--accelmark-device cpu:0 and cpu:1: one session measures on one device.",
    ),
    (
        ["--accelmark-out", "tiny.toml", "--accelmark-device", "cpu"],
        {},
        "cannot write the run's record there (File exists).",
    ),
    (["-p", "no:benchmark"], {}, "bench.suite needs pytest-benchmark, and it is not installed or"),
    ([], {"PYTEST_XDIST_WORKER": "gw0"}, "accelmark cannot measure under pytest-xdist: items"),
]


@pytest.mark.parametrize(("arguments", "variables", "text"), BAD, ids=[b[2][:30] for b in BAD])
def test_what_cannot_be_done_is_said_once(
    tmp_path: Path, arguments: list[str], variables: dict[str, str], text: str
) -> None:
    suite(tmp_path, "8x8x8")
    chosen = ["--accelmark-suite", "tiny.toml"]
    run = Run(tmp_path, "--pyargs", "bench.suite", *chosen, *arguments, **variables)
    assert run.code == pytest.ExitCode.USAGE_ERROR, run.out
    (message,) = [line for line in run.err.splitlines() if line]
    assert message.startswith("ERROR: ") and text in message
    assert "Traceback" not in run.out and " passed in " not in run.out


# --- Every other pytest run ----------------------------------------------------------------------

PLAIN = """
import sys

def pytest_unconfigure():
    heavy = [m for m in sys.modules if m.split(".")[0] in ("torch", "transformers", "bench")]
    with open("modules.txt", "w") as file:
        file.write(" ".join(sorted(heavy)))
"""


@pytest.mark.parametrize("off", [(), ("-p", "no:benchmark")], ids=["with", "without"])
def test_a_run_of_something_else_is_left_alone(tmp_path: Path, off: tuple[str, ...]) -> None:
    """No import, no word, nothing in saved files; and no need of pytest-benchmark."""
    (tmp_path / "conftest.py").write_text(PLAIN)
    use = "benchmark" if not off else ""
    (tmp_path / "test_own.py").write_text(
        f"def test_own({use}): {use or 'len'}({'len, ' * (not off)}'')\n"
    )
    options = () if off else ("--benchmark-json=own.json", "--benchmark-max-time=0.01")
    run = Run(tmp_path, "-W", "error", *off, *options)
    assert run.code == 0 and run.outcomes == {"passed": 1}, run.out
    assert (tmp_path / "modules.txt").read_text() == "bench bench.pytest_plugin"
    words = [line for line in run.out.splitlines() if "accelmark" in line]
    assert all(line.startswith("plugins: ") for line in words)
    if not off:
        assert "accelmark" not in (tmp_path / "own.json").read_text()
        again = Run(tmp_path, "--benchmark-compare=own.json", "--benchmark-max-time=0.01")
        assert again.code == 0, again.out + again.err
        assert (tmp_path / "modules.txt").read_text() == "bench bench.pytest_plugin"


# --- Units ---------------------------------------------------------------------------------------


def scale(
    unit: str, best: float, worst: float, extra: dict[str, Any] | None = None, **options: Any
) -> tuple[str, float] | None:
    config = SimpleNamespace(getoption=options.get)
    return pytest_plugin.pytest_benchmark_scale_unit(
        config,  # type: ignore[arg-type]
        unit,
        [{"extra_info": {"accelmark": {}} if extra is None else extra}],
        {"min": best},
        {"ops": worst},
    )


def test_prefixes_reach_from_femtoseconds_to_petaflops() -> None:
    assert scale("seconds", 1.5, 1.0) == ("", 1.0)
    assert scale("seconds", 0.25, 4.0) == ("m", 1e3)
    assert scale("seconds", 1.4e-12, 7e11) == ("p", 1e12)
    assert scale("seconds", 1e-16, 1e16) == ("f", 1e15)
    assert scale("operations", 1.4e-12, 715e9) == ("G", 1e-9)
    assert scale("operations", 1.0, 96.7) == ("", 1.0)
    assert scale("operations", 1.0, 0.5) == ("", 1.0)
    assert scale("operations", 1.0, 2e15) == ("P", 1e-15)


def test_units_of_other_tables_are_left_alone() -> None:
    assert scale("seconds", 1e-12, 1.0, extra={}) is None
    assert scale("seconds", 1e-12, 1.0, benchmark_time_unit="ns") is None
    assert scale("operations", 1e-12, 1e12, benchmark_time_unit="ns") == ("T", 1e-12)
    assert scale("seconds", 1e-12, 1.0, benchmark_histogram=["x"]) is None


def test_a_clock_gives_each_round_its_time_exactly() -> None:
    clock = pytest_plugin.ItemClock()
    rounds = [0.1, 1e-15, 3e7]
    clock.load(rounds)
    seen = []
    for _ in range(4):
        clock.start()
        before = clock()
        clock.replay()
        seen.append(clock() - before)
    assert seen == [*rounds, rounds[0]], "a profiler's fourth call starts again"


def test_a_suite_has_an_item_for_each_case(tmp_path: Path) -> None:
    run = Run(
        tmp_path,
        *("--pyargs", "bench.suite", "--accelmark-suite", "smoke", "--collect-only", "-q"),
    )
    expected = benchmark_json.names(plan(read_suite(catalogue.suites()["smoke"]))).values()
    found = [line.split("::", 1)[1] for line in run.out.splitlines() if "::" in line]
    assert found == list(expected)
