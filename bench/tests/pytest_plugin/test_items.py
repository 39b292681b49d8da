"""Which items there are, and which of them are measured."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from bench import catalogue
from bench.exchange import benchmark_json
from bench.planning.plan import plan
from bench.planning.suite_file import read_suite
from bench.pytest_plugin.options import Plan
from bench.tests.pytest_plugin.inner import Run, scripted


def test_a_suite_has_an_item_for_each_case(tmp_path: Path) -> None:
    run = Run(
        tmp_path,
        *("--pyargs", "bench.suite", "--accelmark-suite", "smoke", "--collect-only", "-q"),
    )
    expected = benchmark_json.names(plan(read_suite(catalogue.suites()["smoke"]))).values()
    found = [line.split("::", 1)[1] for line in run.out.splitlines() if "::" in line]
    assert found == list(expected)


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


def test_skipped_benchmarks_measure_nothing(tmp_path: Path) -> None:
    run = scripted(tmp_path, {"8x8x8": []}, "--benchmark-skip", "--accelmark-out", "out")
    assert run.code == 0 and run.outcomes == {"skipped": 1}, run.out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--setup-plan", "--setup-only"])
def test_items_that_are_only_shown_measure_nothing(tmp_path: Path, option: str) -> None:
    run = scripted(tmp_path, {"8x8x8": []}, option, "--accelmark-out", "out")
    assert run.code == 0 and "SETUP" in run.out, run.out
    assert not (tmp_path / "out").exists()


def test_items_that_cannot_all_be_collected_measure_nothing(tmp_path: Path) -> None:
    (tmp_path / "test_broken.py").write_text("import no_such_module")
    run = scripted(tmp_path, {"8x8x8": []}, "test_broken.py", "--accelmark-out", "out")
    assert run.code == pytest.ExitCode.INTERRUPTED, run.out
    assert not (tmp_path / "out").exists()


def test_what_a_sweep_leaves_out_is_not_measured_here_either() -> None:
    """A session takes two devices for what leaves the number open, as a suite is planned."""

    class Config:
        def getoption(self, name: str) -> str | None:
            return "scaling" if name == "accelmark_suite" else None

    chosen = Plan(cast(pytest.Config, Config()))
    few = {c.fingerprint for c in chosen.names.values() if c.devices <= 2}
    assert (
        few and set(chosen.whole.left_out) == {c.fingerprint for c in chosen.names.values()} - few
    )
