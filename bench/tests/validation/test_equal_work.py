"""The script that counts both error rates of the proof of equal work."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench import catalogue
from bench.judging.comparing.equal_work import Finding
from bench.measuring import operators
from bench.precision import PRECISIONS
from bench.records import environment
from bench.records.proof import Proof, StepReading, Vector
from bench.tests.released import workloads
from bench.tests.scripts.equal_work import stand_ins
from bench.tests.small_workloads import build, one_thread, site
from bench.tests.validation import equal_work, planted
from bench.tests.validation.equal_work import Counted, cases, exact, honest, sentence
from bench.tests.validation.launches import (
    GATE_ONLY,
    STACKS,
    Ask,
    Launches,
    Stack,
    Told,
    _compiled,
    watched,
)
from bench.tests.validation.matching import matching
from bench.tests.validation.planted import FAULTS, NOT_TOLD, Absent

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
    counted.add(["eager", "threads"], "gemm", "", worth_saying=True)
    counted.add(["eager", "avx2"], "gemm", "", worth_saying=True)
    counted.add(["threads", "avx2"], "bert", "it differs", worth_saying=True)
    counted.add(["eager", "avx2"], "bert", "", worth_saying=True)
    assert [*counted.lines()] == [
        "  eager: 0 of 3",
        "  threads: 1 of 2",
        "  avx2: 1 of 3",
        "  threads/avx2: bert: it differs",
    ]
    assert counted.draws == {"gemm": False, "bert": True}


def test_how_near_a_tolerance_was_is_said_once_a_quantity() -> None:
    counted = Counted()
    for where, errors in (("one", (0.1, 0.02)), ("two", (0.3, 0.0)), ("three", (0.2, 0.01))):
        found = [
            Finding(quantity=name, seed=1, step=1, error=error, most=0.4)
            for name, error in zip(("outputs", "losses"), errors, strict=True)
        ]
        counted.note(found, where)
    assert [*counted.lines()] == [
        "  nearest: outputs at 75% of their tolerance (two)",
        "  nearest: losses at 5% of their tolerance (one)",
    ]


def test_the_cases_are_those_of_the_suite_at_every_precision() -> None:
    found = [case.label for case in cases("smoke", "gemm-matmul*")]
    names = [name for name, precision in PRECISIONS.items() if precision.autocast is None]
    assert found == [f"gemm-matmul {name} (256x256x256)" for name in names]
    chosen = cases("smoke", "gemm-matmul fp32,nothing,bert-* bf16-amp")
    assert [f"{c.name} {c.precision}" for c in chosen] == [
        "gemm-matmul fp32",
        "bert-train bf16-amp",
    ]
    modes = {name: catalogue.workload(name).modes for name in workloads()}
    alone = {
        name
        for name, of in modes.items()
        if not all(mode.together or mode.serves for mode in of.values())
    }
    assert {case.workload for case in cases("smoke", "*")} == alone


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


@pytest.mark.parametrize("name", ["llama", "qwen3", "deepseek", "gpt-oss"])
@pytest.mark.parametrize("fault", ["a layer dropped", "dropout left on"])
def test_a_fault_of_a_layer_reaches_a_token_s_step(name: str, fault: str) -> None:
    """Our own step calls no whole layer of the library's: a hook there changes the prompt alone."""
    steps: list[Any] = []
    for plant in (None, FAULTS[fault]):
        job: Any = build(name, "decode", site(PRECISIONS["fp32"]))
        if plant is not None:
            plant(job)
        job.step()
        (output,) = job.outputs()["output"]
        steps.append(output.double())
    one, other = steps
    assert (one - other).norm() > 0.05 * one.norm()


def script(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Its exit code."""
    monkeypatch.setattr(sys, "argv", ["equal_work", "--only", "gemm-matmul fp32", *arguments])
    with pytest.raises(SystemExit) as left:
        equal_work.main()
    assert isinstance(left.value.code, int)
    return left.value.code


def test_the_script_prints_both_rates(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """One case, in this process: all is told apart, and the exit code says so. What is kept is not
    done again."""
    monkeypatch.setitem(STACKS, "again", Stack(threads=2))
    kept = str(tmp_path / "kept")
    asked = ("--pairs", "3", "--stacks", "eager,again", "--keep", kept)
    for _ in range(2):
        assert script(monkeypatch, *asked) == 0
        said = capsys.readouterr().out
        assert "honest pairs refused: 0 of 3 = 0.00% (95 % 0.00% to 70.76%)" in said
        assert "alike to the last digit that is kept: 3; launches void: 0" in said
        assert "cases and seeds of which one was: 0 of 3 = " in said and "again: 0 of 3" in said
        # On a busy machine a block may have one step: then none of it is left out.
        assert re.search(r"faults caught: ([56]) of \1 = 100.00%", said), said
        assert "  a cached output: 1 of 1" in said
        monkeypatch.setattr("bench.tests.validation.launches.watched", None)

    monkeypatch.undo()
    monkeypatch.setattr(equal_work, "FAULTS", {"none": nothing})
    monkeypatch.setitem(planted.FAULTS, "none", nothing)
    assert script(monkeypatch, "--pairs", "0") == 1
    assert "none: gemm-matmul fp32" in capsys.readouterr().out


def test_a_script_that_looked_at_nothing_has_found_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script(monkeypatch, "--only", "lama-*") == 1
    said = capsys.readouterr().out
    assert "no honest pair was looked at" in said and "no fault was looked at" in said
    assert script(monkeypatch, "--pairs", "0", "--faults", "0") == 0, "nothing was asked for"


def test_a_pattern_that_matches_nothing_is_said_with_what_there_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    parser, names = argparse.ArgumentParser(), ("llama-train", "bert-train", "llama-train")
    assert matching(parser, "--only", "l*", names, str) == ["llama-train"] * 2
    with pytest.raises(SystemExit):
        matching(parser, "--only", "lama*", names, str)
    said = capsys.readouterr().err
    assert "--only 'lama*' matches nothing; there are: llama-train, bert-train" in said


def nothing(job: Any) -> None:
    """A fault that is none."""


class Scripted(Launches):
    """Three stacks: one that the gate makes void, and two of which one is other work."""

    def told(self, ask: Ask) -> Told:
        """By the number of threads."""
        if ask.gate:
            said = "products off by 0.055" if ask.stack.threads == 3 else ""
            return Told(proof=Proof(absent="gate"), gate=said)
        output = {"output": Vector(size=1, norm=1.0 + (ask.stack.threads == 2))}
        return Told(proof=Proof(readings=(StepReading(step=1, quantities=output),)))


class Unread(Scripted):
    """Faults of which one has no proof of its work; a case may have none either."""

    def told(self, ask: Ask) -> Told:
        """By its fault."""
        if ask.gate:
            return Told(proof=Proof(absent="gate"))
        if ask.fault == "unread" or ask.case.precision == "bf16":
            return Told(proof=Proof(absent="not finite"))
        return super().told(
            msgspec.structs.replace(ask, stack=Stack(threads=2 if ask.fault else 1))
        )


def test_a_fault_that_leaves_no_proof_is_not_caught() -> None:
    (case,), (unread,) = (cases("smoke", f"gemm-matmul {name}") for name in ("fp32", "bf16"))
    found = equal_work.planted([case, unread], ["other", "unread"], 1, 5, "cpu", Unread())
    assert (found.told, found.total) == (1, 1)
    assert found.unproved == {
        f"unread: {case.label} seed 5": "work not proved: other has no witness (not finite)",
        unread.label: "not finite",
    }
    assert f"  neither: {unread.label}: not finite" in found.lines()


def scripted(pairs: int, minutes: float = 1.0, gated: bool = True) -> Counted:
    stacks = {name: Stack(threads=n) for n, name in enumerate(("one", "two", "void"), start=1)}
    (case,) = cases("smoke", "gemm-matmul fp32")
    return honest([case], stacks, pairs, 5, Scripted(), minutes, gated)


def test_what_the_gate_makes_void_is_no_pair(capsys: pytest.CaptureFixture[str]) -> None:
    """Of each two of three stacks: two launches of one pair are compared, of two pairs none is."""
    found = scripted(pairs=2)
    assert (found.told, found.total, found.voided) == (2, 2, 2)
    said = [*found.lines()]
    assert said[2].startswith("  nearest: outputs at ")
    assert "one/two: gemm-matmul fp32 (256x256x256) seed 6: not the same" in said[4]
    assert said[-1] == (
        "  no pair: gemm-matmul fp32 (256x256x256) is void on void: products off by 0.055"
    )
    assert "seed 5: 2 of 2 pairs" in capsys.readouterr().err


def test_what_the_gate_would_make_void_counts_where_it_is_not_asked() -> None:
    found = scripted(pairs=6, gated=False)
    assert (found.told, found.total, found.voided) == (4, 6, 0) and found.void == {}
    assert found.kinds == {"one": 4, "two": 4, "void": 4}


def test_pairs_end_where_they_were_asked_to() -> None:
    """In the middle of a run by their number, and before one by the time; every one is a seed's."""
    assert scripted(pairs=3).total == 3
    assert scripted(pairs=3, minutes=0).total == 0


def test_a_stack_of_other_instructions_answers_from_a_process_of_its_own() -> None:
    """Without the instructions that are made for it an int8 product saturates (oneDNN, which adds
    pairs in 16 bits there), and the gate says so."""
    (case,) = cases("smoke", "gemm-matmul int8")
    with Launches() as launches:
        told, other = (
            [
                launches.told(Ask(case=case, seed=1, stack=stack, gate=gate))
                for gate in (False, True)
            ]
            for stack in (Stack(), STACKS["plain"])
        )
    assert told[0] is not None and other[0] is not None and told[1] == GATE_ONLY
    if other[0].proof.readings != told[0].proof.readings:
        assert other[1] is not None and other[1].gate.startswith("output off by ")


def test_a_process_beside_that_ends_is_said() -> None:
    """With the case, the seed and what was set, and not as an answer that cannot be read."""
    (case,) = cases("smoke", "gemm-matmul fp32")
    gone = Stack(environment={"PYTHONHOME": "/nowhere"})
    with Launches() as launches, pytest.raises(RuntimeError, match=r"nowhere.* ended .1. in gemm-"):
        launches.told(Ask(case=case, seed=1, stack=gone))


def test_a_compiled_side_that_made_no_graph_is_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a worker makes void: the compiler left it eager."""
    made = iter([{"graphs": 5, "graph_breaks": 0, "limits": 1}] * 2)
    monkeypatch.setattr(environment, "compiler", lambda: next(made))
    with _compiled(STACKS["compile"]) as complaints:
        pass
    assert "execution: asked for compile, got no graph from torch.compile" in complaints[0]
    with _compiled(Stack()) as complaints:
        pass
    assert complaints == []


def test_the_stand_ins_are_two_more_stacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of a process with the simulated device; and one that replays what it recorded: the same
    work as eager, to the last digit. As in a worker, nobody looks into what is replayed."""
    (case,) = cases("smoke", "llama-decode fp32")
    with stand_ins():
        assert "simulated/path" in STACKS["simulated"].environment["PYTHONPATH"]
        with monkeypatch.context() as patch:
            patch.setattr(operators, "executed", None)
            replayed = watched(Ask(case=case, seed=1, stack=STACKS["replay"], thorough=True))
    assert "replay" not in STACKS and replayed.complaint == ""
    assert replayed.proof.readings == watched(Ask(case=case, seed=1)).proof.readings


def test_a_lazy_device_gives_the_right_output_and_is_found() -> None:
    """Llama's prefill: a step of some milliseconds, of which a block does the last only."""
    (case,) = cases("smoke", "llama-prefill fp32")
    told = watched(Ask(case=case, seed=1, fault=planted.LAZY))
    assert "s in a block: not every step of a block was done" in told.complaint
    honest = watched(Ask(case=case, seed=1))
    assert honest.proof.readings == told.proof.readings and honest.complaint == ""


def test_a_job_without_the_part_has_not_the_fault() -> None:
    with pytest.raises(Absent):
        planted.rate_doubled(build("gemm", "matmul", site(PRECISIONS["fp32"])))
    (case,) = cases("smoke", "gemm-matmul fp32")
    assert Launches().told(Ask(case=case, seed=1, fault="learning rate doubled")) is None
