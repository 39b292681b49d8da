"""MindSpore itself, where there is one: its launches pass the gate, and their work is torch's.

Skipped, with the reason, where no Python with MindSpore is named.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench import catalogue
from bench.conformance.worker import checks
from bench.errors import DeviceUnavailable
from bench.frameworks._hand_over import handed_over
from bench.judging.comparing.compare import compare
from bench.judging.comparing.equal_work import of_launches
from bench.measuring.launch import Launch
from bench.measuring.messages import Answer, Channel, Order, Report, Request
from bench.measuring.proving.watch import READ_AFTER
from bench.precision import PRECISIONS
from bench.records.case import Case
from bench.records.outcome import Failed, Measured, Skipped, Void
from bench.records.run import Settings
from bench.report import Canvas
from bench.reports.terminal.comparison import render
from bench.running import reached
from bench.running.elsewhere import Elsewhere, elsewhere, named_after
from bench.tests.frameworks.mindspore_launches import Trial, launched
from bench.tests.measuring.proving.watching import proof_of
from bench.tests.values import make_file, make_launch

NAME = "mindspore"
BRIEF = Settings(
    launches=1,
    block_seconds=1e-3,
    warmup_seconds=0.0,
    warmup_limit_seconds=1.0,
    steady_limit_seconds=0.2,
)
WORK: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gemm": ("gemm", "matmul", {"shape": "64x48x32"}),
    "attention": (
        "attention",
        "forward",
        {"batch_size": 1, "heads": 2, "head_dim": 16, "sequence_length": 32},
    ),
    "copy": ("memory", "copy", {"size_bytes": 2**16}),
    "scale": ("memory", "scale", {"size_bytes": 2**16}),
    "triad": ("memory", "triad", {"size_bytes": 2**16}),
    "read": ("memory", "read", {"size_bytes": 2**16}),
    "to-device": ("transfer", "to-device", {"size_bytes": 2**16}),
    "to-host": ("transfer", "to-host", {"size_bytes": 2**16}),
    "queue": ("launch", "queue", {"kernels": 10}),
    "single": ("launch", "single", {}),
}
COMPILED = ("gemm", "attention", "copy", "scale", "triad", "read")


def case(what: str, precision: str, execution: str = "eager") -> Case:
    workload, mode, parameters = WORK[what]
    return Case(
        workload=workload,
        version=1,
        mode=mode,
        precision=precision,
        execution=execution,
        parameters=parameters,
    )


HONEST = {
    f"{what} {precision} {execution}": case(what, precision, execution)
    for what, precision in [*((what, "fp32") for what in WORK), ("gemm", "fp16")]
    for execution in ("eager", "compile")
    if execution == "eager" or what in COMPILED
} | {"attention fp16 eager": case("attention", "fp16")}
KIT = [name for name, check in checks(NAME).items() if not check.absent]
BY_NUMPY = "numpy for MindSpore"
OFF = "compiler off"
FAULTS = [
    (fault, what, execution)
    for fault, what in [
        ("wrong weights", "gemm"),
        ("fp16 for fp32", "gemm"),
        ("wrong scale", "attention"),
        ("wrong scalar", "triad"),
    ]
    for execution in ("eager", "compile")
]


@pytest.fixture(scope="module")
def there() -> Elsewhere:
    """Its interpreter."""
    try:
        where = elsewhere(NAME, None)
    except DeviceUnavailable as error:
        pytest.skip(str(error))
    if os.environ.get(named_after(NAME)) is None:
        pytest.skip(f"{named_after(NAME)} names no Python that has MindSpore")
    return where


@pytest.fixture(scope="module")
def reports(there: Elsewhere, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of one process, which imports it once: each launch by what it is."""
    folder = tmp_path_factory.mktemp("handed")
    trials: dict[str, Trial] = {}
    for name, one in HONEST.items():
        trials[name] = Trial(request=handed(one, folder))
    for fault, what, execution in FAULTS:
        request = handed(case(what, "fp32", execution), folder)
        trials[f"{fault} {what} {execution}"] = Trial(request=request, fault=fault)
    trials[BY_NUMPY] = Trial(request=handed(case("gemm", "fp32"), folder), fault=BY_NUMPY)
    compiled = case("gemm", "fp32", "compile")
    for fault in (OFF, BY_NUMPY):
        trials[f"{fault}, compile"] = Trial(request=handed(compiled, folder), fault=fault)
    trials["bf16"] = Trial(request=handed(case("gemm", "bf16"), folder))
    trials |= {f"check {name}": Trial(check=name) for name in KIT}
    return dict(zip(trials, launched(there, trials.values(), folder), strict=True))


def handed(one: Case, folder: Path) -> Request:
    request = Request(
        case=one,
        backend="cpu",
        index=0,
        framework=NAME,
        settings=BRIEF,
        samples=10,
        seed=1,
        thorough=True,
    )
    order = Order(request=request, seeds=(1,), folder=str(folder))
    assert handed_over(order) == Answer()
    return msgspec.structs.replace(request, handed=str(folder / order.file(1)))


@pytest.mark.parametrize("name", HONEST)
def test_its_work_passes_the_gate_and_is_torchs(reports: dict[str, Report], name: str) -> None:
    report, one = reports[name], HONEST[name]
    outcome = report.outcome
    assert isinstance(outcome, Measured), outcome
    assert all(check.passed for check in outcome.numerics.checks)
    assert report.environment["framework"] == NAME and outcome.step_clock == "block"
    assert outcome.proof is not None
    torchs = proof_of(one, seed=1)
    found = of_launches([(1, torchs)], [(1, outcome.proof)], one.precision)
    assert found.proved, found.words
    assert {reading.step for reading in outcome.proof.readings} == {*READ_AFTER}


@pytest.mark.parametrize(("fault", "what", "execution"), FAULTS)
def test_planted_faults_are_void(
    reports: dict[str, Report], fault: str, what: str, execution: str
) -> None:
    outcome = reports[f"{fault} {what} {execution}"].outcome
    quantity = "attention" if what == "attention" else "output"
    assert isinstance(outcome, Void), outcome
    assert outcome.reason.startswith(f"numerics: {quantity} off by "), outcome


KERNELS = {
    "gemm": {"MatMul"},
    "attention": {"BatchMatMul", "Softmax"},
    "copy": {"InplaceCopy"},
    "triad": {"AddExt"},
    "queue": {"AssignAdd"},
}
"""Of each work some that must be there."""


@pytest.mark.parametrize("name", HONEST)
def test_its_kernels_are_seen_on_the_host(reports: dict[str, Report], name: str) -> None:
    outcome = reports[name].outcome
    assert isinstance(outcome, Measured) and outcome.executed is not None
    seen = outcome.executed
    assert seen.absent == "" and seen.kernels is not None and [*seen.kernels] == ["host"]
    assert {*seen.kernels["host"]} >= KERNELS.get(name.partition(" ")[0], set())
    assert ("attention" in seen.operators) is name.startswith("attention")


def test_what_something_else_computes_is_void(reports: dict[str, Report]) -> None:
    outcome = reports[BY_NUMPY].outcome
    assert isinstance(outcome, Void), outcome
    assert "kernels of a step: asked for some, got none" in outcome.reason


def test_what_the_compiler_was_to_make_and_did_not_is_void(reports: dict[str, Report]) -> None:
    outcome = reports[f"{OFF}, compile"].outcome
    assert isinstance(outcome, Void), outcome
    assert "execution: asked for compile, got eager" in outcome.reason


def test_what_a_graph_cannot_hold_is_left_to_nobody(reports: dict[str, Report]) -> None:
    """Of a step that was to be compiled whole."""
    outcome = reports[f"{BY_NUMPY}, compile"].outcome
    assert isinstance(outcome, Failed), outcome
    assert reports["gemm fp32 compile"].environment["job"]["jit_level"] == "O1"


def test_a_precision_without_a_kernel_is_skipped_and_named(reports: dict[str, Report]) -> None:
    outcome = reports["bf16"].outcome
    assert isinstance(outcome, Skipped), outcome
    assert outcome.reason.startswith("bf16: MindSpore has no such product here (")


@pytest.mark.parametrize("check", KIT)
def test_the_conformance_kit_finds_no_fault(reports: dict[str, Any], check: str) -> None:
    found = reports[f"check {check}"]
    assert found and not [finding for finding in found if finding.verdict == "fail"]


def test_a_precision_that_is_refused_denies_no_other(reports: dict[str, Any]) -> None:
    """Of a device that queues, the next product would be told of the failure."""
    verdicts = {finding.title: finding.verdict for finding in reports["check formats"]}
    assert verdicts["bf16 matmul keeps 7 bits"] == "not observable"
    assert verdicts["fp16 matmul keeps 10 bits"] == "pass"


def test_its_devices_are_found_where_it_is(there: Elsewhere) -> None:
    found = {one.backend: one for one in reached.ask(there)}
    absent, (device,) = found["ascend"], found["cpu"].devices
    assert absent.devices or "sees no Ascend (" in absent.reason, "what did not load"
    assert (
        found["cpu"].framework == NAME and device.address == "cpu" and "mindspore" in device.facts
    )
    assert {"fp32", "fp16"} <= {*device.precisions} <= {*PRECISIONS} - {"bf16", "tf32"}


def test_without_it_the_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    framework = catalogue.framework(NAME)
    with pytest.raises(DeviceUnavailable, match="--framework mindspore --python PATH"):
        framework.devices(catalogue.backend("cpu"))


def test_one_device_by_both_frameworks_is_compared(reports: dict[str, Report]) -> None:
    """Two launches as they were, torch's in this process: a ratio, of equal work."""
    one = HONEST["gemm fp32 eager"]
    asked = Request(
        case=one, backend="cpu", index=0, settings=BRIEF, samples=10, seed=1, thorough=True
    )
    torchs = Launch(asked, Channel(io.BytesIO())).run()
    base, other = (
        make_file(
            [one],
            [make_launch(told.outcome, one, seed=1, environment=told.environment)],
            settings=BRIEF,
            device={"backend": "cpu", "index": 0, "name": "a CPU"},
            framework=framework,
        )
        for framework, told in (("torch", torchs), (NAME, reports["gemm fp32 eager"]))
    )
    found = compare(base, other)
    (case,) = found.cases
    assert case.same_work is not None and case.same_work.proved, case
    assert case.ratio is not None and case.ratio > 0
    card = " ".join(render([found], Canvas()).split())
    assert "framework: torch | mindspore" in card
