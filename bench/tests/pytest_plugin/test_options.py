"""The options: what they name, and what cannot be done."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.tests.pytest_plugin.inner import SCRIPTED, Run, scripted, suite

BAD = [
    (["--accelmark-suite", "nonsense"], {}, "unknown suite `nonsense`. Allowed: "),
    (["--accelmark-only", "nix"], {}, "--accelmark-only nix: matches no case."),
    (
        ["--accelmark-launches", "0"],
        {},
        "--accelmark-launches 0: give a number from 1 to 1000 or `a",
    ),
    (["--accelmark-device", "nix"], {}, "--accelmark-device nix: unknown backend `nix`. Allowed:"),
    (
        ["--accelmark-device", "cpu:1", "--accelmark-device", "cpu:0"],
        {},
        "--accelmark-device cpu:0 and cpu:1: one session measures on one device.",
    ),
    (
        ["-p", "scripted", "--accelmark-out", "tiny.toml"],
        {"SCRIPT": "{}"},
        "the record cannot be written there (File exists).",
    ),
    (
        ["-p", "scripted"],
        {"SCRIPT": '{"8x8x8": [0.01, 0.01]}', "ACCELMARK_CHIPS": "none.toml"},
        "none.toml: this file of chips cannot be used",
    ),
    (["-p", "no:benchmark"], {}, "bench.suite needs pytest-benchmark, which is not installed or"),
    (
        ["-p", "scripted", "--benchmark-compare-fail=mean:5%"],
        {"SCRIPT": '{"8x8x8": [0.01, 0.01]}'},
        "--benchmark-compare-fail: there is no saved run to compare with.",
    ),
    (
        ["-p", "scripted"],
        {"SCRIPT": "{}", "RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"},
        "pytest goes over one host, and RANK and WORLD_SIZE has",
    ),
    ([], {"PYTEST_XDIST_WORKER": "gw0"}, "accelmark cannot measure under pytest-xdist: tests"),
]


@pytest.mark.parametrize(("arguments", "variables", "text"), BAD, ids=[b[2][:30] for b in BAD])
def test_what_cannot_be_done_is_said_once(
    tmp_path: Path, arguments: list[str], variables: dict[str, str], text: str
) -> None:
    suite(tmp_path, "8x8x8")
    (tmp_path / "scripted.py").write_text(SCRIPTED)
    chosen = ["--accelmark-suite", "tiny.toml"]
    run = Run(tmp_path, "--pyargs", "bench.suite", *chosen, *arguments, **variables)
    assert run.code == pytest.ExitCode.USAGE_ERROR, run.out
    (message,) = [line for line in run.err.splitlines() if line]
    assert message.startswith("ERROR: ") and text in message
    assert "Traceback" not in run.out and " passed in " not in run.out
    assert "FLOP/s" not in run.out, "nothing was measured for it"


def test_several_devices_are_the_first_ones(tmp_path: Path) -> None:
    """It went over them, and the record named the third."""
    case = 'workload = "collective"\nmode = "all-reduce"\nprecision = "fp32"\nsize_bytes = 4096\n'
    (tmp_path / "pair.toml").write_text(f"[[case]]\n{case}")
    third = SCRIPTED.replace('backend="cpu", index=0', 'backend="cuda", index=2')
    (tmp_path / "scripted.py").write_text(third)
    chosen = ["-p", "scripted", "--accelmark-suite", "pair.toml"]
    run = Run(tmp_path, "--pyargs", "bench.suite", *chosen, SCRIPT="{}")
    assert run.code == pytest.ExitCode.USAGE_ERROR, run.out
    assert "--accelmark-device cuda:2: collective-all-reduce over 2 devices takes the" in run.err


def test_disabled_benchmarks_run_once_without_a_table(tmp_path: Path) -> None:
    """Whatever time they may take."""
    script, arguments = {"8x8x8": [0.01], "9x9x9": [0.01]}, ("--benchmark-disable", "-W", "error")
    run = scripted(tmp_path, {**script}, *arguments, top="budget_minutes = 0.01")
    assert run.code == 0 and run.outcomes == {"passed": 2}, run.out
    assert "Name (time" not in run.out and "2 launches of 2 cases" in run.out
    assert "record:" not in run.out, "kept only where --accelmark-out says so"


def test_a_limit_beside_an_empty_storage_is_refused_before_anything_is_measured(
    tmp_path: Path,
) -> None:
    """Of a run that measures nothing, nothing is held to it."""
    limit = ("--benchmark-compare", "--benchmark-compare-fail=mean:5%")
    run = scripted(tmp_path, {"8x8x8": [0.01, 0.01]}, *limit)
    assert run.code == pytest.ExitCode.USAGE_ERROR, run.out
    assert "Save one with --benchmark-autosave" in run.err and "FLOP/s" not in run.out
    assert scripted(tmp_path, {"8x8x8": [0.01]}, "--benchmark-disable", *limit).code == 0
