"""The script that counts both error rates of the proof of equal work."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from bench import catalogue
from bench.precision import PRECISIONS
from bench.tests.small_workloads import build, one_thread, site
from bench.validation import equal_work, planted
from bench.validation.equal_work import Counted, cases, exact, sentence
from bench.validation.planted import FAULTS, NOT_TOLD, Absent

__all__ = ["one_thread"]


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [
        (0, 100, 0.0, 0.036217),  # 1 - 0.025^(1/100)
        (100, 100, 0.963783, 1.0),
        (3, 3000, 0.000206, 0.002919),
        (5, 10, 0.187086, 0.812914),
    ],
)
def test_exact_intervals(count: int, total: int, low: float, high: float) -> None:
    """Those of tables (Clopper and Pearson; Altman, Statistics with Confidence)."""
    assert exact(count, total) == pytest.approx((low, high), abs=2e-6)


def test_a_rate_has_its_counts() -> None:
    assert sentence("refused", 0, 100) == "refused: 0 of 100 = 0.00% (95 % 0.00% to 3.62%)"
    counted = Counted()
    counted.add("threads", "gemm", "", worth_saying=True)
    counted.add("threads", "bert", "it differs", worth_saying=True)
    assert [*counted.lines()] == ["  threads: 1 of 2", "  threads: bert: it differs"]


def test_the_cases_are_those_of_the_suite_at_every_precision() -> None:
    found = [case.label for case in cases("smoke", "gemm*")]
    names = [name for name in PRECISIONS if "-" not in name]
    assert found == [f"gemm-matmul {name} (256x256x256)" for name in names]
    assert {case.workload for case in cases("smoke", "*")} == set(catalogue.plug_ins("workloads"))


@pytest.mark.parametrize("fault", [*FAULTS, *NOT_TOLD])
def test_every_fault_can_be_planted_somewhere(fault: str) -> None:
    """In a small Llama's training, or its inference; and nothing else raises than `Absent`."""
    done = 0
    for mode, name in (("train", "llama"), ("infer", "bert")):
        job: Any = build(name, mode, site(PRECISIONS["fp32"]))
        try:
            {**FAULTS, **NOT_TOLD}[fault](job)
            job.step()
        except Absent:
            continue
        done += 1
    assert done


def test_the_script_prints_both_rates(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One case, in this process: all is told apart, and the exit code says so."""
    given = ["--only", "gemm-matmul fp32", "--pairs", "2", "--stacks", "again,threads"]
    monkeypatch.setattr(sys, "argv", ["equal_work", *given])
    with pytest.raises(SystemExit) as left:
        equal_work.main()
    said = capsys.readouterr().out
    assert "honest pairs refused: 0 of 2 = 0.00% (95 % 0.00% to 84.19%)" in said
    assert "faults caught: 5 of 5 = 100.00%" in said and "  a cached output: 1 of 1" in said
    assert left.value.code == 0

    def nothing(job: Any) -> None:
        """A fault that is none."""

    monkeypatch.setattr(equal_work, "FAULTS", {"none": nothing})
    with pytest.raises(SystemExit) as left:
        equal_work.main()
    assert left.value.code == 1 and "none: gemm-matmul fp32" in capsys.readouterr().out


def test_a_lazy_device_gives_the_right_output_and_is_found() -> None:
    """Llama's prefill: a step of some milliseconds, of which a block does the last only."""
    (case,) = cases("smoke", "llama-prefill fp32")
    ask = equal_work.Ask(case=case, seed=1, stack=equal_work.Stack(), device="cpu")
    told = equal_work.watched(ask, lazy=True)
    assert "s in a block: not every step of a block was done" in told.complaint
    honest = equal_work.watched(ask)
    assert honest.proof.readings == told.proof.readings and honest.complaint == ""


def test_a_job_without_the_part_has_not_the_fault() -> None:
    with pytest.raises(Absent):
        planted.rate_doubled(build("gemm", "matmul", site(PRECISIONS["fp32"])))
