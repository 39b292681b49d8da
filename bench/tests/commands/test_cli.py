"""The command as a whole: its outputs, what it imports, and bad input, of every subcommand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench import __main__, guide
from bench.backend import DeviceInfo
from bench.running import probe
from bench.tests.conftest import Accelmark
from bench.tests.scripts.regenerate import GOLDEN, OUTPUTS, RUN, command

# --- Whole outputs -------------------------------------------------------------------------------


@pytest.mark.usefixtures("forked_here")
@pytest.mark.parametrize("name", OUTPUTS)
def test_the_whole_output_is_the_golden_one(name: str) -> None:
    """If a change was meant: `python -m bench.tests.scripts.regenerate`, and read the diff."""
    done = command(*OUTPUTS[name])
    assert done.stdout == (GOLDEN / name).read_text(encoding="utf-8")
    assert (done.returncode, done.stderr) == (0, "")


# --- What is imported ----------------------------------------------------------------------------


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


@pytest.mark.parametrize("loaded", [False, True])
def test_an_interruption_before_the_command_looks_is_no_traceback(
    loaded: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While its modules are loaded, or as it has barely begun."""

    class Interrupting:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "bench.cli":
                raise KeyboardInterrupt

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bench.commands.streams.prepare", interrupted)
    if not loaded:
        monkeypatch.delitem(sys.modules, "bench.cli", raising=False)
        monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
    with pytest.raises(SystemExit) as caught:
        __main__.main()
    assert (caught.value.code, capsys.readouterr().err) == (130, "interrupted\n")


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
    "bare": "[[case]]\nworkload = gemm\n",
    "setting": '[settings]\nlaunches = "ten"\n[[case]]\nworkload = "gemm"\n',
}


def test_help_says_of_exit_code_1_what_the_guide_says(accelmark: Accelmark) -> None:
    (said,) = re.findall(r"^\| 1 \| (.+) \|$", guide.page("trouble").text, re.MULTILINE)
    code, out, _ = accelmark("--help")
    clauses = said.replace("`", "").split("; ")
    assert code == 0 and len(clauses) == 7
    assert [clause for clause in clauses if clause not in " ".join(out.split())] == []


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        # Suites.
        (["run", "quik"], ["unknown suite `quik`", "Did you mean `quick`?", "smoke"]),
        (["run", "nowhere.toml"], ["nowhere.toml: there is no such file", "quick"]),
        (["run", "key.toml"], ["key.toml, case 1: unknown key `shap`", "Did you mean `shape`?"]),
        (["run", "workload.toml"], ["workload.toml, case 1", "`gem`", "Did you mean `gemm`?"]),
        (["run", "precision.toml"], ["precision.toml, case 1", "`fp61`", "bf16"]),
        (["run", "value.toml"], ["value.toml, case 1", "`shape` must be a text, not 3"]),
        (["run", "empty.toml"], ["empty.toml: it has no case", "[[case]]"]),
        (["run", "toml.toml"], ["toml.toml: not valid TOML", "line 1"]),
        (
            ["run", "bare.toml"],
            ["bare.toml: not valid TOML", "A text stands in quotes: mode ="],
        ),
        (["run", "setting.toml"], ["setting.toml, settings: `launches` must be a whole number or"]),
        (["run", "smoke", "--only", "lama-*"], ["--only lama-*: matches no case", "llama-train"]),
        # Options.
        (["run", "smoke", "--launches", "many"], ["--launches many", "1 to 1000", "auto"]),
        (["run", "smoke", "--launches", "0"], ["--launches 0", "1 to 1000"]),
        (["run", "smoke", "--launches", "-3"], ["--launches -3", "1 to 1000"]),
        (
            ["run", "smoke", "--budget-minutes", "0"],
            ["--budget-minutes 0: give a number above 0", "run --help"],
        ),
        (["run", "smoke", "--budget-minutes", "long"], ["--budget-minutes long: give a number"]),
        (
            ["run", "smoke", "--only", "gemm*", "--only", "llama*"],
            ["--only is given 2 times", "globs go with commas between", "run --help"],
        ),
        (["report", "--width", "80", "r.jsonl", "--width=90"], ["--width is given 2 times"]),
        (["run", "smoke", "extra"], ["unexpected extra argument", "extra"]),
        (
            ["run", "smoke", "--lunches", "3"],
            ["no such option '--lunches'", "'--launches'", "run --help"],
        ),
        (["report", "r.jsonl", "--out", "x"], ["'--output'?) See `accelmark report --help`"]),
        (["run", "--resume"], ["'--resume' requires an argument. See `accelmark run --help`"]),
        (
            ["walk"],
            ["accelmark walk: unknown command. Allowed: ab, check-backend, compare, devices, "],
        ),
        # Devices.
        (
            ["run", "smoke", "--device", "gpu"],
            ["--device gpu", "unknown backend `gpu`. Allowed", "cpu, cuda"],
        ),
        (["run", "smoke", "--device", "cpu:3"], ["--device cpu:3", "no such device", "Here: cpu"]),
        (["run", "smoke", "--device", "cuda"], ["--device cuda", "Check nvidia-smi"]),
        # Output.
        (
            ["run", "smoke", "--out", "file"],
            ["file/smoke-cpu-", "cannot be written", "Give a folder", "--out"],
        ),
        # Records.
        (["report"], ["missing argument 'RUN...'", "report --help"]),
        (["report", "nowhere.jsonl"], ["nowhere.jsonl: there is no such file", "`accelmark run`"]),
        (["report", "."], [".: this folder has no record (*.jsonl)", "`accelmark run`"]),
        (["run", "--resume", "nowhere.jsonl"], ["nowhere.jsonl: there is no such file"]),
        (["compare", str(RUN), str(RUN)], ["are the same run", "Give two runs", "accelmark ab"]),
        (["verify", "nowhere"], ["nowhere: there is no such folder"]),
        (["report", "key.toml"], ["key.toml, line 1: not an accelmark record"]),
        (
            ["report", "foreign.jsonl"],
            ["foreign.jsonl, line 1: JSON, but not the start of a record"],
        ),
        (["report", "newer.jsonl"], ["newer.jsonl, line 1: schema 99", "reads schema 1"]),
        (["report", str(RUN), "--format", "tabel"], ["`tabel`", "Did you mean `table`?", "json"]),
        (["report", str(RUN), "--width", "5"], ["--width 5: give a whole number from 40 to 500"]),
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
