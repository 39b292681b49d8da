"""The command: whole outputs, bad input, and real runs that end well, are interrupted or ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import psutil
import pytest

from bench.backend import DeviceInfo
from bench.commands.common import termination_as_interrupt
from bench.errors import DeviceUnavailable
from bench.records.outcome import Measured
from bench.records.run import RunFile
from bench.records.runfile import json_schema, read
from bench.running import probe
from bench.tests.conftest import Accelmark
from bench.tests.scripts.regenerate import GOLDEN, OUTPUTS, RUN, command

# --- Whole outputs -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_whole_output_is_the_golden_one(name: str) -> None:
    """If a change was meant: `python -m bench.tests.scripts.regenerate`, and read the diff."""
    done = command(*OUTPUTS[name])
    assert done.stdout == (GOLDEN / name).read_text(encoding="utf-8")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("width", [80, 120])
def test_the_card_fits_its_width_and_has_no_trailing_blanks(width: int) -> None:
    for line in (GOLDEN / f"report-table-{width}.txt").read_text(encoding="utf-8").splitlines():
        assert len(line) <= width and line == line.rstrip()


def test_the_card_shows_every_case_and_why_it_has_no_number() -> None:
    card = " ".join((GOLDEN / "report-table-80.txt").read_text(encoding="utf-8").split())
    for text in (
        *("gemm-matmul", "llama-decode", "resnet50-train", "bert-infer", "bert-train"),
        *("memory-copy", "memory-triad", "215 GFLOP/s", "TPOT", "3 launches", "NOISY"),
        *("output off by 0.5 (tolerance 0.01)", "no fp16 arithmetic", "it broke"),
        *("the time budget was spent", "1 of 4 launches failed", "Next: "),
    ):
        assert text in card


def test_flat_rows_have_every_key_of_the_issue() -> None:
    rows = json.loads((GOLDEN / "report-json.txt").read_text(encoding="utf-8"))
    assert len(rows) == 7
    needed = (
        "workload, mode, precision, execution, parameters, fingerprint, device, backend, status, "
        "reason, verdict, throughput, unit, ci_low, ci_high, launches, steps, flop_per_second, "
        "ceiling_fraction, peak_memory_bytes"
    )
    for row in rows:
        assert set(needed.split(", ")) <= set(row)
        nested = {key for key, value in row.items() if isinstance(value, dict)}
        assert nested == {"parameters"}, "rows are flat"
    assert [row["status"] for row in rows] == [
        *("measured", "measured", "measured", "void", "skipped", "failed", "skipped"),
    ]
    for row in rows:
        if row["status"] != "measured":
            assert row["throughput"] is None and row["reason"], "null, and never zero"


def test_several_runs_in_one_report(accelmark: Accelmark) -> None:
    code, out, _ = accelmark("report", str(RUN), str(RUN), "--format", "json")
    assert code == 0 and len(json.loads(out)) == 14


def test_listings_as_json(accelmark: Accelmark) -> None:
    code, out, err = accelmark("list", "--json")
    listed = json.loads(out)
    assert (code, err) == (0, "")
    assert set(listed) == {"workloads", "suites", "backends", "reports", "precisions", "chips"}
    assert {"gemm", "memory", "resnet50", "bert", "llama"} <= set(listed["workloads"])
    assert {"smoke", "quick"} <= set(listed["suites"])
    code, out, _ = accelmark("list", "backends", "--json")
    assert set(json.loads(out)) == {"backends"}


def test_the_schema_is_printed(accelmark: Accelmark) -> None:
    code, out, _ = accelmark("schema")
    assert code == 0
    assert json.loads(out) == json.loads(json.dumps(json_schema()))


def test_devices_are_shown_and_the_missing_ones_explained(
    accelmark: Accelmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [
        probe.Found(
            backend="cpu",
            devices=(
                DeviceInfo(
                    backend="cpu", index=0, name="X", memory_bytes=2**34, facts={"cores": "2"}
                ),
            ),
        ),
        probe.Found(
            backend="some",
            devices=(
                DeviceInfo(
                    backend="some",
                    index=1,
                    name="Y",
                    memory_bytes=None,
                    vendor="Z",
                    precisions=("bf16", "fp32"),
                    facts={"driver": "3"},
                    simulated=True,
                ),
            ),
        ),
        probe.Found(backend="cuda", reason="cuda: no driver. Install one."),
    ]
    monkeypatch.setattr(probe, "probe", lambda names, *_: found)
    code, out, _ = accelmark("devices")
    assert code == 0
    assert out == (
        "cpu: X, 16.0 GiB (cores 2)\n"
        "some:1: Y, Z, memory unknown, bf16 fp32, simulated: no measurement (driver 3)\n"
        "no cuda: no driver. Install one.\n"
    )
    code, out, _ = accelmark("devices", "--json")
    assert [one["backend"] for one in json.loads(out)] == ["cpu", "some", "cuda"]


def test_what_only_reads_imports_no_torch() -> None:
    """One process runs them all; a card printed on a laptop without torch is the point."""
    code = f"""if True:
        import contextlib, io, sys
        from bench import cli
        commands = ["--help", "--version", "list", "list workloads", "list suites --json",
                    "report {RUN.name}", "report {RUN.name} --format json", "schema",
                    "run nosuch", "run smoke --only nosuch", "report nosuch"]
        for command in commands:
            sys.argv = ["accelmark", *command.split()]
            with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
                with contextlib.redirect_stderr(io.StringIO()):
                    cli.main()
        heavy = {{"torch", "transformers", "numpy", "scipy", "pynvml"}}
        print(sorted({{name.split(".")[0] for name in sys.modules}} & heavy))
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=GOLDEN
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_help_imports_next_to_nothing() -> None:
    code = """if True:
        import sys
        from bench import cli
        print(sorted({name.split(".")[0] for name in sys.modules} & {"rich", "msgspec", "psutil"}))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_card_on_a_terminal_without_its_characters() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "report", RUN.name],
        cwd=GOLDEN,
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
    )
    assert done.returncode == 0 and done.stderr == b""
    assert "±2.5%" in done.stdout.decode("latin-1")


# --- Bad input -----------------------------------------------------------------------------------


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU is here, and nothing else; no child process is asked."""
    cpu = DeviceInfo(backend="cpu", index=0, name="Fake CPU", memory_bytes=1)
    found = {
        "cpu": probe.Found(backend="cpu", devices=(cpu,)),
        "cuda": probe.Found(backend="cuda", reason="cuda: no CUDA device. Check nvidia-smi."),
    }
    monkeypatch.setattr(probe, "probe", lambda names, *_: [found[n] for n in names if n in found])


SUITES = {
    "key": '[[case]]\nworkload = "gemm"\nshap = "1x1x1"\n',
    "workload": '[[case]]\nworkload = "gem"\n',
    "precision": '[[case]]\nworkload = "gemm"\nprecision = "fp61"\n',
    "value": '[[case]]\nworkload = "gemm"\nshape = 3\n',
    "empty": "",
    "toml": "[[case]\n",
}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        # Suites.
        (["run", "quik"], ["unknown suite `quik`", "Did you mean `quick`?", "smoke"]),
        (["run", "nowhere.toml"], ["nowhere.toml: no such suite file", "quick"]),
        (["run", "key.toml"], ["key.toml, case 1: unknown key `shap`", "Did you mean `shape`?"]),
        (["run", "workload.toml"], ["workload.toml, case 1", "`gem`", "Did you mean `gemm`?"]),
        (["run", "precision.toml"], ["precision.toml, case 1", "`fp61`", "bf16"]),
        (["run", "value.toml"], ["value.toml, case 1", "Expected `str`, got `int`", "$.shape"]),
        (["run", "empty.toml"], ["empty.toml: no case", "[[case]]"]),
        (["run", "toml.toml"], ["toml.toml: not valid TOML", "line 1"]),
        (["run", "smoke", "--only", "lama-*"], ["--only lama-*: matches no case", "llama-train"]),
        # Options.
        (["run", "smoke", "--launches", "many"], ["--launches many", "1 to 1000", "auto"]),
        (["run", "smoke", "--launches", "0"], ["--launches 0", "1 to 1000"]),
        (["run", "smoke", "--launches", "-3"], ["--launches -3", "1 to 1000"]),
        (["run", "smoke", "--budget-minutes", "0"], ["--budget-minutes", "x>0"]),
        (["run", "smoke", "--budget-minutes", "long"], ["--budget-minutes", "'long'"]),
        (["run", "smoke", "extra"], ["unexpected extra argument", "extra"]),
        (["run", "smoke", "--lunches", "3"], ["No such option", "--lunches", "--launches"]),
        (
            ["walk"],
            ["accelmark walk: unknown command. Allowed: ab, check-backend, compare, devices, list"],
        ),
        # Devices.
        (["run", "smoke", "--device", "gpu"], ["--device gpu", "unknown backend", "cpu, cuda"]),
        (["run", "smoke", "--device", "cpu:3"], ["--device cpu:3", "no such device", "Here: cpu"]),
        (["run", "smoke", "--device", "cuda"], ["--device cuda", "Check nvidia-smi"]),
        # Output.
        (
            ["run", "smoke", "--out", "file"],
            ["file/smoke-cpu-", "cannot write", "Name a folder", "--out"],
        ),
        # Records.
        (["report"], ["Missing argument 'RUN...'"]),
        (["report", "nowhere.jsonl"], ["nowhere.jsonl: cannot be read", "No such file"]),
        (["report", "."], [".: a folder with one run file", "found none"]),
        (["report", "key.toml"], ["key.toml, line 1: not an accelmark record"]),
        (["report", "foreign.jsonl"], ["foreign.jsonl, line 1: JSON, but not the start of a run"]),
        (["report", "newer.jsonl"], ["newer.jsonl, line 1: schema 99", "reads schema 1"]),
        (["report", str(RUN), "--format", "tabel"], ["`tabel`", "Did you mean `table`?", "json"]),
        (["report", str(RUN), "--width", "5"], ["--width", "60<=x<=500"]),
        (["list", "workload"], ["list workload", "Did you mean `workloads`?", "suites"]),
    ],
    ids=lambda value: " ".join(v for v in value if v != str(RUN)) if value[0].islower() else None,
)
def test_bad_input_is_one_message(
    accelmark: Accelmark, tmp_path: Path, arguments: list[str], parts: list[str]
) -> None:
    for name, text in SUITES.items():
        (tmp_path / f"{name}.toml").write_text(text, encoding="utf-8")
    (tmp_path / "file").write_text("")
    if arguments[-1].endswith(".jsonl"):
        (tmp_path / "foreign.jsonl").write_text('{"machine_info": {}, "benchmarks": []}\n')
        (tmp_path / "newer.jsonl").write_text('{"line": "run", "schema": 99}\n')
    code, out, err = accelmark(*arguments)
    assert code == 2
    assert out == ""
    assert "Traceback" not in err
    for part in parts:
        assert part in err
    messages = [line for line in err.splitlines() if line.lower().startswith("error: ")]
    assert len(messages) == 1
    assert err.splitlines()[-1] == messages[0], "the message is the last thing said"
    assert not [p for p in tmp_path.rglob("*") if p.name.startswith("smoke-")]


def test_a_truncated_record_shows_what_is_whole_and_says_the_rest(
    accelmark: Accelmark, tmp_path: Path
) -> None:
    (tmp_path / "cut.jsonl").write_bytes(RUN.read_bytes()[:20_000])
    code, out, err = accelmark("report", "cut.jsonl")
    assert code == 2
    assert "gemm-matmul" in out and "UNFINISHED" in out and "DAMAGED" in out
    assert err.startswith("error: cut.jsonl, line ") and "cut short" in err
    assert "Traceback" not in err


def test_a_bad_file_of_chips_is_said_before_anything_runs(
    accelmark: Accelmark, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "mine.toml").write_text("chip = 3\n")
    monkeypatch.setenv("ACCELMARK_CHIPS", "mine.toml")
    code, out, err = accelmark("run", "smoke", "--device", "cpu")
    assert (code, out) == (2, "")
    assert err.startswith("error: mine.toml: no usable file of chips")
    assert not (tmp_path / "runs").exists()


def test_a_device_whose_runtime_is_broken(
    accelmark: Accelmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    def choose(address: str | None, *_: object) -> object:
        raise DeviceUnavailable("no device: cpu: torch does not load")

    monkeypatch.setattr(probe, "choose", choose)
    code, out, err = accelmark("run", "smoke")
    assert (code, out, err) == (2, "", "error: no device: cpu: torch does not load\n")


# --- Real runs -----------------------------------------------------------------------------------

TINY = """
[settings]
launches = {launches}
block_seconds = 0.001
warmup_seconds = 0.0

[[case]]
workload = "gemm"
precision = "fp32"
shape = "32x32x32"
"""


def start(folder: Path, launches: int) -> subprocess.Popen[str]:
    """A real `accelmark run` of a tiny case, its record in the folder `out`."""
    (folder / "tiny.toml").write_text(TINY.format(launches=launches))
    return subprocess.Popen(
        [
            *(sys.executable, "-W", "error", "-m", "bench", "run", "tiny.toml"),
            *("--device", "cpu", "--out", "out"),
        ],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        start_new_session=True,
    )


def record(folder: Path) -> RunFile:
    """The run's record, every line of it valid by the schema."""
    (path,) = (folder / "out").glob("tiny-cpu-*.jsonl")
    validator = jsonschema.Draft202012Validator(json_schema())
    for line in path.read_text(encoding="utf-8").splitlines():
        validator.validate(json.loads(line))
    found = read(path)
    assert found.damage is None
    return found


def test_a_real_run_from_suite_to_card(tmp_path: Path) -> None:
    process = start(tmp_path, launches=1)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    found = record(tmp_path)
    (launch,) = found.launches
    assert isinstance(launch.outcome, Measured)
    assert found.end is not None and found.end.reason == "complete"
    assert found.run.command == (
        *("accelmark", "run", "tiny.toml", "--device", "cpu", "--out", "out"),
    )
    assert "gemm-matmul fp32" in out and "no interval" in out and "1 launch" in out
    lines = err.splitlines()
    assert lines[0].startswith("device: cpu, ")
    assert lines[1].startswith("gemm-matmul fp32 (32x32x32) launch 1 (")
    assert lines[-1].startswith("record: out") and len(lines) == 3
    assert str(tmp_path) not in (tmp_path / "out" / Path(found.path).name).read_text()


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_a_terminal_that_goes_may_say_so_twice() -> None:
    """The second time nothing is interrupted: workers are being ended, and the record."""
    before = signal.getsignal(signal.SIGHUP)
    with termination_as_interrupt():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGHUP) == before


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_an_interrupted_run_keeps_what_was_measured(tmp_path: Path, number: signal.Signals) -> None:
    process = start(tmp_path, launches=1000)
    try:
        parent = psutil.Process(process.pid)
        deadline = time.monotonic() + 120
        while (
            not [  # the header and one launch on disk, and the next worker under way
                p for p in tmp_path.glob("out/*.jsonl") if p.read_bytes().count(b"\n") >= 2
            ]
            or not parent.children()
        ):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.5)  # not in the middle of starting it, when it would end by itself
        children = parent.children(recursive=True)
        assert children
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert process.returncode == 130, err
    found = record(tmp_path)
    assert len(found.launches) >= 1
    assert all(isinstance(launch.outcome, Measured) for launch in found.launches)
    assert found.end is not None and found.end.reason == "interrupted"
    assert "INTERRUPTED" in out and "gemm-matmul fp32" in out
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("record: out")
    _, living = psutil.wait_procs(children, timeout=20)
    assert living == [], "no worker outlives its run"
