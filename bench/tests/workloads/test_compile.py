"""Execution `compile`: the model is compiled, its numbers are checked, and it says what it did."""

from __future__ import annotations

import functools
import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch

from bench import catalogue
from bench.backends import _graphs
from bench.precision import PRECISIONS
from bench.records import environment
from bench.records.outcome import Measured
from bench.records.runfile import read
from bench.tests.replay import CompiledRecorder
from bench.tests.scripts.regenerate import command
from bench.tests.small_workloads import MODES, WORKLOADS, small
from bench.workload import ALL_EXECUTIONS, EXECUTIONS, Site
from bench.workloads.jobs.executed import executed

SUITE = """
[settings]
launches = 1
block_seconds = 0.001
warmup_limit_seconds = 5.0
steady_limit_seconds = 1.0

[[case]]
workload = "bert"
mode = "infer"
precision = "fp32"
execution = "compile"
model = "tiny"
batch_size = 1
sequence_length = 16
"""


def site(execution: str) -> Site:
    return Site(
        device=torch.device("cpu"), precision=PRECISIONS["fp32"], seed=0, execution=execution
    )


@pytest.mark.parametrize("execution", ALL_EXECUTIONS)
def test_a_model_is_compiled_if_asked_and_only_then(
    execution: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def ask(model: torch.nn.Module, backend: str) -> None:
        asked.append((model, backend))

    monkeypatch.setattr(torch.nn.Module, "compile", ask)
    model = torch.nn.Linear(2, 2)
    at = msgspec.structs.replace(site(execution), compiler="a vendor's")
    assert executed(model, at) is model
    assert asked == ([(model, "a vendor's")] if "compile" in execution else [])


def test_what_can_be_compiled_says_so() -> None:
    for name, mode in (("resnet50", "train-pipeline"), ("dlrm", "train")):
        assert catalogue.workload(name).modes[mode].executions == EXECUTIONS
    for name, mode in (("resnet50", "train"), ("vit-b16", "infer"), ("llama", "lora")):
        assert catalogue.workload(name).modes[mode].executions == ALL_EXECUTIONS
    for name, mode in (("gemm", "matmul"), ("attention", "forward"), ("memory", "copy")):
        assert catalogue.workload(name).modes[mode].executions == EXECUTIONS
    assert catalogue.workload("gemm").modes["grouped"].executions == ("eager",)


@pytest.mark.parametrize(("name", "model"), [("gpt-oss", "tiny"), ("deepseek", "tiny-v3")])
def test_decode_is_one_whole_graph_at_every_place_of_its_window(
    name: str, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced with the compiler's last part left out, which takes a minute and changes no graph."""
    compile_model = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module,
        "compile",
        lambda model, backend: compile_model(model, backend="aot_eager", fullgraph=True),
    )
    torch._dynamo.reset()
    workload = catalogue.workload(name)
    given = {"model": model, "batch_size": 2, "prompt_length": 9, "new_tokens": 4}
    parameters = msgspec.convert(given, workload.modes["decode"].parameters)
    eager, compiled = (
        workload.build("decode", parameters, site(execution)) for execution in EXECUTIONS
    )
    before = environment.compiler()
    for _ in range(9):  # into the third window
        eager.step()
        compiled.step()
        assert torch.equal(eager.token, compiled.token)  # type: ignore[attr-defined]
    after = environment.compiler()
    torch._dynamo.reset()
    assert after["graphs"] - before["graphs"] == 1, "compiled once, for decode and not for prefill"
    assert after["graph_breaks"] == before["graph_breaks"]


def test_what_is_recorded_of_a_token_is_one_compiled_graph() -> None:
    """With the choice of the next token: the recorder leaves out what is not compiled."""
    recorder = CompiledRecorder()
    torch._dynamo.reset()
    torch._dynamo.register_backend(functools.partial(recorder.compiler), name="recorded")
    at = msgspec.structs.replace(site("compile-graph"), compiler="recorded", recorder=recorder)
    build = functools.partial(WORKLOADS["llama"].build, "decode", small("llama", "decode"))
    eager, captured = build(site("eager")), build(at)
    before = environment.compiler()
    for _ in range(6):  # of a text of four tokens, into the second window
        eager.step()
        captured.step()
        torch.testing.assert_close(captured.outputs(), eager.outputs())
    after = environment.compiler()
    torch._dynamo.reset()
    assert after["graphs"] - before["graphs"] == 1
    assert after["graph_breaks"] == before["graph_breaks"]
    assert (recorder.recordings, recorder.replays) == (1, 6)


def test_nothing_is_compiled_within_a_recording() -> None:
    """Not even quietly left as it was written: the fourth time is the one that is recorded."""
    torch._dynamo.reset()
    double = torch.compile(lambda x: x * 2, backend="eager", dynamic=False)
    lengths = iter((3, 3, 3, 4))
    stream = SimpleNamespace(wait_stream=lambda other: None, synchronize=lambda: None)
    with pytest.raises(RuntimeError, match="Detected recompile"):
        _graphs._record(
            SimpleNamespace,
            lambda: stream,
            lambda: stream,
            lambda stream: nullcontext(),
            lambda graph, stream: nullcontext(),
            nullcontext,
            lambda: double(torch.ones(next(lengths))),
            lambda: None,
        )
    assert torch.equal(double(torch.ones(5)), torch.full((5,), 2.0)), "afterwards it may again"
    torch._dynamo.reset()


COMPILED = [
    (name, mode) for name, mode in MODES if "compile" in WORKLOADS[name].modes[mode].executions
]


@pytest.mark.usefixtures("small_vision")
@pytest.mark.parametrize(("name", "mode"), COMPILED)
def test_a_step_runs_what_was_compiled(
    name: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a job went past the module that it compiled, it would be eager and not say so."""
    asked: list[torch.nn.Module] = []
    ran: list[torch.nn.Module] = []

    def record(module: Any, backend: str) -> None:
        def call(*args: Any, **kwargs: Any) -> Any:
            ran.append(module)
            return module._call_impl(*args, **kwargs)

        asked.append(module)
        module._compiled_call_impl = call

    monkeypatch.setattr(torch.nn.Module, "compile", record)
    job = WORKLOADS[name].build(mode, small(name, mode), site("compile"))
    ran.clear()
    job.step()
    assert asked and {id(module) for module in ran} == {id(module) for module in asked}


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile wants a C++ compiler")
def test_a_compiled_case_is_measured_and_says_what_the_compiler_did(
    tmp_path: Path, forked: None
) -> None:
    (tmp_path / "compiled.toml").write_text(SUITE)
    # No pool of compilers: each of them would import torch.
    one = {"TORCHINDUCTOR_COMPILE_THREADS": "1"}
    arguments = ("run", "compiled.toml", "--device", "cpu", "--out", "out")
    done = command(*arguments, folder=tmp_path, **one)
    (path,) = (tmp_path / "out").glob("*.jsonl")
    (launch,) = read(path).launches
    assert isinstance(launch.outcome, Measured), launch.outcome
    assert launch.case.execution == "compile" and "compile" in done.stdout
    assert launch.outcome.numerics.passed
    # The gate's twin and the timed model: at least a graph each, and none broken.
    assert launch.environment["compiler"]["graphs"] >= 2
    assert launch.environment["compiler"]["graph_breaks"] == 0
