"""What was asked for and not done is void, with what was asked, what was seen and what to do."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
import torch
from torch.overrides import TorchFunctionMode

from bench.backends.cpu import CpuBackend, CpuDevice
from bench.measuring import asked, compilers, messages, operators, worker
from bench.measuring.launch import Launch
from bench.measuring.messages import Request
from bench.precision import PRECISIONS
from bench.records import environment
from bench.records.case import Case
from bench.records.executed import Executed
from bench.records.outcome import Measured, Outcome, Skipped, Void
from bench.records.run import Settings
from bench.tests.launching import launch as launch_process
from bench.tests.replay import FakeRecorder
from bench.tests.small_workloads import WORKLOADS, one_thread, small
from bench.workload import Look, Unsupported
from bench.workloads import gemm
from bench.workloads.decoding.replayed_decode import ReplayedDecodeJob
from bench.workloads.jobs import optimizers

__all__ = ["one_thread"]  # a fixture, used by being here

SETTINGS = Settings(
    launches=1,
    block_seconds=0.001,
    warmup_seconds=0.0,
    warmup_limit_seconds=5.0,
    steady_limit_seconds=0.5,
    launch_limit_seconds=120.0,
)


def request(workload: str, mode: str, precision: str = "fp32", execution: str = "eager") -> Request:
    case = Case(
        workload=workload,
        version=WORKLOADS[workload].version,
        mode=mode,
        precision=precision,
        execution=execution,
        parameters=msgspec.to_builtins(small(workload, mode)),
    )
    return Request(case=case, backend="cpu", index=0, settings=SETTINGS, samples=10, seed=0)


def launch(*names: str, thorough: bool = False) -> Outcome:
    asked_for = msgspec.structs.replace(request(*names), thorough=thorough)
    return Launch(asked_for, messages.Channel(io.BytesIO())).run().outcome


@pytest.fixture(autouse=True)
def nothing_asked_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def test_a_thorough_launch_records_what_ran_and_holds_it_to_what_was_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outcome = launch("bert", "infer", thorough=True)
    assert isinstance(outcome, Measured) and outcome.executed is not None
    assert [*outcome.executed.operators] == ["attention"]

    def none_seen(step: Callable[[], object], device_type: str) -> Executed:
        step()
        return Executed()

    monkeypatch.setattr(operators, "executed", none_seen)
    outcome = launch("bert", "infer", thorough=True)
    assert isinstance(outcome, Void)
    assert "attention: asked for sdpa, got no operator of that kind in a step" in outcome.reason
    outcome = launch("bert", "infer")
    assert isinstance(outcome, Measured) and outcome.executed is None


# --- Executions ----------------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="the launcher wants process groups")
def test_a_compiler_that_is_switched_off_voids_what_was_to_be_compiled() -> None:
    compiled = request("bert", "infer", execution="compile")
    finished = launch_process(
        compiled, {"TORCHDYNAMO_DISABLE": "1"}, command=(sys.executable, "-m", worker.__name__)
    )
    outcome = finished.report.outcome
    assert isinstance(outcome, Void), outcome
    for words in ("asked for compile", "TORCHDYNAMO_DISABLE=1", "it ran eagerly", "Unset"):
        assert words in outcome.reason
    assert finished.report.environment["compiler"]["graphs"] == 0


@pytest.mark.parametrize(
    ("compiler", "seen"),
    [
        ({"graphs": 2, "graph_breaks": 0, "limits": 0}, ""),
        ({"graphs": 2, "graph_breaks": 7, "limits": 0}, ""),  # shown, not void
        ({"graphs": 0, "graph_breaks": 0, "limits": 0}, "no graph"),
        ({"graphs": 8, "graph_breaks": 0, "limits": 1}, "too many recompilations"),
    ],
)
def test_a_compilers_counts(compiler: dict[str, int], seen: str) -> None:
    said = asked.complaint(asked.compiled(compiler))
    assert (seen in said) if seen else said == ""


def test_a_function_that_the_compiler_gives_up_is_counted() -> None:
    class Scaled(torch.nn.Module):
        def forward(self, x: torch.Tensor, factor: int) -> torch.Tensor:
            return x * factor + float(factor)

    torch._dynamo.reset()
    model = Scaled()
    model.compile(backend="eager", dynamic=False)
    before = environment.compiler()["limits"]
    for factor in range(12):
        model(torch.ones(3 + factor), factor + 2)
    assert environment.compiler()["limits"] == before + 1
    torch._dynamo.reset()


def test_a_step_that_was_not_recorded_is_no_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CpuDevice, "recorder", lambda device: FakeRecorder())
    assert isinstance(launch("llama", "decode", "fp32", "graph"), Measured)

    def eager(job: Any) -> None:
        job._work() if job._index < job._new_tokens else job._rewind()
        job._index += 1

    monkeypatch.setattr(ReplayedDecodeJob, "step", eager)
    outcome = launch("llama", "decode", "fp32", "graph")
    assert isinstance(outcome, Void) and "0 recordings" in outcome.reason


def test_a_recording_that_nothing_replays_is_no_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CpuDevice, "recorder", lambda device: FakeRecorder())

    def eager(job: Any, forced: torch.Tensor | None) -> None:
        if job._replay is None:
            job._replay = job._recorder(job._work, job._rewind)
        if job._index % job._new_tokens == 0:
            job._rewind()
        if forced is not None:
            job.token.copy_(forced)
        job._work()
        job._index += 1

    monkeypatch.setattr(ReplayedDecodeJob, "_replay_of", eager)
    outcome = launch("llama", "decode", "fp32", "graph")
    assert isinstance(outcome, Void), outcome
    assert "asked for graph, got 1 recordings and 0 replays" in outcome.reason


def test_a_recording_of_what_ran_as_it_was_written_is_void(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """torch compiles nothing under a mode that sees every operator, as this recorder has one: what
    it records is no compiled code, though the runs before it were."""
    monkeypatch.setattr(CpuDevice, "recorder", lambda device: FakeRecorder())
    monkeypatch.setattr(CpuBackend, "compilers", ("eager",))  # takes no time
    torch._dynamo.reset()
    outcome = launch("dlrm", "infer", "fp32", "compile-graph")
    assert isinstance(outcome, Void), outcome
    assert "asked for compile-graph, got 1 recordings of code that ran as it was" in outcome.reason
    torch._dynamo.reset()


def test_a_compiler_that_does_not_work_here_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several the first that works is taken, and where none does the case is skipped."""
    here = torch.device("cpu")
    assert compilers.chosen(("absent", "eager"), here) == "eager"
    assert environment.compiler()["graphs"] == 0, "the trial's own is not counted"
    words = "torch.compile does not work here with absent: InvalidBackend: Invalid backend"
    with pytest.raises(Unsupported, match=f"{words}.*with missing"):
        compilers.chosen(("absent", "missing"), here)
    monkeypatch.setattr(CpuBackend, "compilers", ("absent",))
    outcome = launch("dlrm", "infer", "fp32", "compile")
    assert isinstance(outcome, Skipped), outcome
    assert outcome.reason.startswith(words)


@pytest.mark.parametrize("execution", ["graph", "compile-graph"])
def test_a_host_has_no_graphs(execution: str) -> None:
    outcome = launch("dlrm", "infer", "fp32", execution)
    assert outcome == Skipped(reason="no graph replay is known of this device")


def test_a_device_without_graphs_replays_nothing() -> None:
    assert "0 recordings" in asked.complaint(asked.replayed(None))


def test_a_timed_replay_is_the_devices_own() -> None:
    """Nothing of ours around it while it is timed."""

    def replay() -> None:
        """The device's."""

    watched = asked.Watched(lambda work, prepare: replay)
    watched(lambda: None, lambda: None)()
    assert (watched.recordings, watched.replays) == (1, 1)
    watched.timed()
    assert watched(lambda: None, lambda: None) is replay
    assert asked.replayed(watched) == []


# --- Switches of the process ---------------------------------------------------------------------


@contextmanager
def switched(switch: Callable[[bool], object]) -> Iterator[None]:
    switch(True)
    try:
        yield
    finally:
        switch(False)


class Seeing(TorchFunctionMode):
    """Sees every call of torch's."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@contextmanager
def hooked() -> Iterator[None]:
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *_: None)
    yield
    handle.remove()


@contextmanager
def wide() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@contextmanager
def traced() -> Iterator[None]:
    sys.setprofile(lambda *_: None)
    yield
    sys.setprofile(None)


SWITCHES: dict[str, Callable[[], Any]] = {
    "deterministic algorithms": lambda: switched(torch.use_deterministic_algorithms),
    "anomaly detection": lambda: torch.autograd.set_detect_anomaly(True),
    "the autograd profiler": torch.autograd.profiler.profile,
    "autocast around the step": lambda: torch.autocast("cpu", torch.bfloat16),
    "gradients outside the step": torch.no_grad,
    "inference mode around the step": torch.inference_mode,
    "the default dtype": wide,
    "the default device": lambda: torch.device("meta"),
    "modes that see every operator": Seeing,
    "hooks of every module": hooked,
    "Python tracing": traced,
}


def test_a_process_as_it_should_be_has_nothing_to_say() -> None:
    assert asked.complaint(asked.process("cpu")) == ""


@pytest.mark.parametrize("what", SWITCHES)
def test_a_switch_that_nothing_asks_for_is_seen(what: str) -> None:
    with SWITCHES[what]():
        looks = asked.process("cpu")
    said = asked.complaint(look for look in looks if look.what == what)
    assert said.startswith(f"{what}: ") and "remove it" in said
    assert asked.complaint(asked.process("cpu")) == ""


def test_every_switch_has_its_test() -> None:
    assert {look.what for look in asked.process("cpu")} == set(SWITCHES)


def test_a_launch_under_a_switch_is_void_before_it_measures() -> None:
    with switched(torch.use_deterministic_algorithms):
        outcome = launch("gemm", "matmul")
    assert isinstance(outcome, Void) and outcome.numerics is None
    assert outcome.reason.startswith("deterministic algorithms: asked for off, got on")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda: torch.set_num_threads(3), "threads, as before the measurement: asked for 1"),
        (lambda: torch.set_float32_matmul_precision("high"), "a short mantissa"),
        (lambda: torch.autograd.set_detect_anomaly(True), "anomaly detection: asked for off"),
    ],
)
def test_what_changes_while_it_is_measured_voids_it(
    change: Callable[[], None], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_float32_matmul_precision()
    witness = gemm.MatmulJob.witness

    def changing(job: gemm.MatmulJob) -> float:
        change()
        return witness(job)

    monkeypatch.setattr(gemm.MatmulJob, "witness", changing)
    try:
        outcome = launch("gemm", "matmul")
    finally:
        torch.set_num_threads(1)
        torch.set_float32_matmul_precision(before)
        torch.autograd.set_detect_anomaly(False)
    assert isinstance(outcome, Void), outcome
    assert words in outcome.reason


@pytest.mark.parametrize(
    ("variables", "seen", "said"),
    [
        ({}, 2, False),
        ({"OMP_NUM_THREADS": "2"}, 2, False),
        ({"OMP_NUM_THREADS": "2,1"}, 2, False),
        ({"OMP_NUM_THREADS": "4"}, 2, True),
        ({"OMP_NUM_THREADS": "4", "MKL_NUM_THREADS": "2"}, 2, False),
        ({"OMP_NUM_THREADS": "4", "OMP_THREAD_LIMIT": "2"}, 2, False),
        ({"OMP_NUM_THREADS": "all"}, 2, False),
        ({"OMP_NUM_THREADS": "0"}, 2, False),
    ],
)
def test_threads_are_those_that_were_asked_for(
    variables: dict[str, str], seen: int, said: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MKL_NUM_THREADS", "OMP_THREAD_LIMIT", "OMP_DYNAMIC", "MKL_DYNAMIC"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    words = asked.complaint(asked.threads(seen))
    assert words.startswith("threads: asked for 4, got 2") is said
    assert bool(words) is said


@pytest.mark.parametrize(
    ("precision", "reduced", "said"),
    [
        ("fp32", False, ""),
        ("fp32", True, "asked for a full mantissa, got a short mantissa"),
        ("tf32", True, ""),
        ("tf32", False, "asked for a short mantissa, got a full mantissa"),
        ("bf16", True, ""),
        ("bf16-amp", True, ""),
    ],
)
def test_products_of_float32_are_as_long_as_asked(precision: str, reduced: bool, said: str) -> None:
    words = asked.complaint(asked.float32(PRECISIONS[precision], reduced))
    assert (said in words) if said else words == ""


@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
@pytest.mark.parametrize("summed", [False, True])
def test_products_of_float16_are_summed_in_float32(
    precision: str, summed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CpuDevice, "float16_sums", lambda device: summed)
    device = CpuBackend().open(0, PRECISIONS[precision])
    words = asked.complaint(asked.switches(device, PRECISIONS[precision]))
    said = "sums of fp16: asked for float32, got float16. Unset the switch of torch for that"
    assert (said in words) is (precision == "fp16" and summed)


def test_each_look_says_what_was_asked_what_was_seen_and_what_to_do() -> None:
    same = Look(what="colour", asked="red", seen="red")
    other = Look(what="shape", asked="round", seen="flat", then="Inflate it")
    assert asked.complaint([same, other]) == ("shape: asked for round, got flat. Inflate it")
    assert asked.complaint([same]) == ""


def test_an_optimizer_that_is_wrong_however_it_is_made_voids_the_launch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    off = optimizers.Trial(2.0, 1.0)
    monkeypatch.setattr(optimizers, "trial", lambda *_: off)
    outcome = launch("dlrm", "train")
    assert isinstance(outcome, Void), outcome
    assert outcome.reason.startswith("numerics: fused SGD is wrong here in float")
