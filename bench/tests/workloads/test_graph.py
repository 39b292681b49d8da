"""Execution `graph`: a step is recorded once and replayed, its tokens and its numbers the same."""

from __future__ import annotations

import io
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar

import msgspec
import pytest
import torch

from bench import catalogue
from bench.backends import _graphs
from bench.backends.cpu import CpuDevice
from bench.measuring import messages
from bench.measuring.gates import numerics
from bench.measuring.launch import Launch
from bench.records.case import Case
from bench.records.outcome import Measured, Outcome, Skipped
from bench.records.run import Settings
from bench.tests.replay import FakeRecorder
from bench.tests.small_workloads import (
    MODES,
    WORKLOADS,
    NoQuestions,
    build,
    one_thread,
    site,
    small,
)
from bench.workload import ALL_EXECUTIONS, DECODE_EXECUTIONS, Site, Unsupported

__all__ = ["one_thread"]  # a fixture, used by being here
DECODERS = [("llama", "tiny"), ("deepseek", "tiny"), ("deepseek", "tiny-v3"), ("gpt-oss", "tiny")]


def graph_site(recorder: FakeRecorder | None) -> Site:
    return msgspec.structs.replace(site(), execution="graph", recorder=recorder)


def decode(name: str, model: str, at: Site) -> Any:
    parameters = small(name, "decode", model=model, batch_size=2, prompt_length=9, new_tokens=5)
    return WORKLOADS[name].build("decode", parameters, at)


@pytest.mark.parametrize(("name", "model"), DECODERS)
def test_replayed_decode_picks_the_tokens_of_eager_decode(name: str, model: str) -> None:
    recorder = FakeRecorder()
    eager, replayed = decode(name, model, site()), decode(name, model, graph_site(recorder))
    assert recorder.recordings == 0, "recording is part of the first step, a cold figure"
    seen = []
    for _ in range(12):  # into the third window
        eager.step()
        replayed.step()
        assert torch.equal(replayed.token, eager.token)
        torch.testing.assert_close(replayed._output, eager._output)
        seen.append(replayed._output.clone())
    assert not torch.equal(seen[0], seen[1]), "the place in the window moves on"
    assert torch.equal(seen[0], seen[5]) and torch.equal(seen[1], seen[11])
    assert (recorder.recordings, recorder.replays) == (1, 12)
    assert replayed.facts["replayed"] and "replayed" not in eager.facts


ANSWERING = [
    (name, mode)
    for name, mode in MODES
    if mode in ("infer", "prefill", "embed", "rerank")
    and "compile" in WORKLOADS[name].modes[mode].executions
]
SLOW = ("vit-b16", "diffusion")
"""Of the same code as `bert` and `dlrm`."""


@pytest.mark.usefixtures("small_vision")
@pytest.mark.parametrize(("name", "mode"), [one for one in ANSWERING if one[0] not in SLOW])
def test_a_replayed_answer_is_that_of_the_step(name: str, mode: str) -> None:
    """Of each input, and of one that was changed where it lies, as `bench.measuring` does."""
    recorder = FakeRecorder()
    eager, replayed = (build(name, mode, at) for at in (site(), graph_site(recorder)))
    assert recorder.recordings == 0, "recording is part of the first step, a cold figure"
    seen = []
    for _ in range(3):
        eager.step()
        replayed.step()
        seen.append(replayed.outputs()["output"][0].clone())
        torch.testing.assert_close(seen[-1], eager.outputs()["output"][0])
    assert not torch.equal(seen[1], seen[2]), "each input is another"
    catalogue.framework("torch").tensors.turn(replayed.inputs()[0])
    assert replayed.again()
    assert not torch.equal(replayed.outputs()["output"][0], seen[2])
    catalogue.framework("torch").tensors.turn(replayed.inputs()[0])
    replayed.again()
    torch.testing.assert_close(replayed.outputs()["output"][0], seen[2])
    assert (recorder.recordings, recorder.replays) == (1, 5)
    assert replayed.facts["replayed"] == "one graph a step" and "replayed" not in eager.facts


@pytest.mark.parametrize(("name", "mode"), ANSWERING)
def test_every_answer_can_be_recorded(name: str, mode: str) -> None:
    assert WORKLOADS[name].modes[mode].executions == ALL_EXECUTIONS


def test_given_text_is_recorded_apart_from_chosen_text() -> None:
    """Whose tokens are fed is the host's choice, which no recording hears of."""
    recorder = FakeRecorder()
    eager, replayed = (build("whisper", "infer", at) for at in (site(), graph_site(recorder)))
    for forcing in (True, False):
        for job in (eager, replayed):
            assert job.force(forcing)
            job.step()
        torch.testing.assert_close(replayed.outputs()["output"], eager.outputs()["output"])
    assert recorder.recordings == 2


def test_a_replayed_step_never_asks_the_device() -> None:
    job = decode("llama", "tiny", graph_site(FakeRecorder()))
    no_questions: Any = NoQuestions
    with no_questions():
        for _ in range(7):
            job.step()


def test_the_gate_runs_the_replay() -> None:
    recorder = FakeRecorder()
    parameters = small("llama", "decode")
    verdict = numerics.gate(WORKLOADS["llama"], "decode", parameters, graph_site(recorder))
    assert verdict.passed, verdict.complaint
    assert recorder.replays == parameters.new_tokens  # type: ignore[attr-defined]


def test_the_gate_notices_a_replay_that_stands_still() -> None:
    """A recorder whose replay does nothing: every logit is that of the recording."""

    def still(work: Any, prepare: Any) -> Any:
        prepare()
        work()
        return lambda: None

    at = msgspec.structs.replace(site(), execution="graph", recorder=still)
    verdict = numerics.gate(WORKLOADS["llama"], "decode", small("llama", "decode"), at)
    assert not verdict.passed


def test_a_recording_takes_nothing_from_the_host() -> None:
    """The fake is strict: a row that the host chose while it recorded stays chosen."""
    rows, out, chosen = torch.arange(6.0).reshape(3, 2), torch.zeros(2), [0]

    def show(row: torch.Tensor) -> None:
        out.copy_(row)

    replay = FakeRecorder()(lambda: show(rows[chosen[0]]), lambda: None)
    chosen[0] = 2
    rows += 10
    replay()
    assert out.tolist() == [10.0, 11.0]


def launch(execution: str) -> Outcome:
    case = Case(
        workload="llama",
        version=WORKLOADS["llama"].version,
        mode="decode",
        precision="fp32",
        execution=execution,
        parameters=msgspec.to_builtins(small("llama", "decode")),
    )
    settings = Settings(block_seconds=0.001, warmup_limit_seconds=5.0, steady_limit_seconds=0.5)
    request = messages.Request(
        case=case, backend="cpu", index=0, settings=settings, samples=10, seed=0
    )
    return Launch(request, messages.Channel(io.BytesIO())).run().outcome


def test_without_graphs_it_is_skipped() -> None:
    assert launch("graph") == Skipped(reason="no graph replay is known of this device")
    with pytest.raises(Unsupported):
        decode("llama", "tiny", graph_site(None))


def test_a_worker_gives_the_devices_recorder_to_graphs_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorder = FakeRecorder()
    monkeypatch.setattr(CpuDevice, "recorder", lambda device: recorder)
    assert isinstance(launch("eager"), Measured)
    assert recorder.recordings == 0
    assert isinstance(launch("graph"), Measured)
    assert recorder.recordings == 2, "the gate's twin and the timed job"


def test_decode_says_how_it_can_be_executed() -> None:
    for name in ("llama", "deepseek"):
        assert catalogue.workload(name).modes["decode"].executions == ALL_EXECUTIONS
    assert [*DECODE_EXECUTIONS] == ["eager", "compile", "graph"]
    assert [*ALL_EXECUTIONS] == [*DECODE_EXECUTIONS, "compile-graph"]


# --- Which of torch's graphs ---------------------------------------------------------------------


class Lane:
    """A stream. Writes down who waits for whom, and which stream is current."""

    def __init__(self, log: list[str], name: str) -> None:
        self.log, self.name = log, name

    def wait_stream(self, other: Lane) -> None:
        self.log.append(f"{self.name} waits for {other.name}")

    def synchronize(self) -> None:
        self.log.append(f"{self.name} is done")

    def __enter__(self) -> None:
        self.log.append(f"on {self.name}")

    def __exit__(self, *error: object) -> None:
        self.log.append(f"off {self.name}")


class Graph:
    """A context that records, as `torch.accelerator.Graph` is one."""

    log: ClassVar[list[str]] = []

    def __enter__(self) -> None:
        self.log.append("begin")

    def __exit__(self, *error: object) -> None:
        self.log.append("end")

    def replay(self) -> None:
        self.log.append("replay")


EXPECTED = [
    *("side waits for main", "on side", *(["prepare", "work"] * 3), "prepare", "off side"),
    *("side is done", "on main", "on side", "begin", "work", "end", "off side", "off main"),
    *("main waits for side", "replay", "replay"),
]


def record_and_replay(recorder: Any, log: list[str]) -> None:
    replay = recorder(lambda: log.append("work"), lambda: log.append("prepare"))
    replay()
    replay()


def test_the_vendors_own_graphs_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    monkeypatch.setattr(Graph, "log", log)

    class Module:
        OwnGraph = Graph

        @staticmethod
        def Stream() -> Lane:  # noqa: N802 - torch's name
            return Lane(log, "side")

        @staticmethod
        def current_stream() -> Lane:
            return Lane(log, "main")

        @staticmethod
        def stream(stream: Lane) -> Any:
            return stream

        @staticmethod
        @contextmanager
        def graph(graph: Graph, stream: Lane) -> Any:
            with stream, graph:
                yield

    found = _graphs.recorder(Module, "OwnGraph", torch.device("cpu"))
    record_and_replay(found, log)
    assert log == EXPECTED


def test_else_the_graphs_of_torch_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    monkeypatch.setattr(Graph, "log", log)
    monkeypatch.setattr(torch.accelerator, "Graph", Graph, raising=False)
    monkeypatch.setattr(torch, "Stream", lambda device: Lane(log, "side"))
    monkeypatch.setattr(torch.accelerator, "current_stream", lambda: Lane(log, "main"))
    record_and_replay(_graphs.recorder(nullcontext, "Absent", torch.device("cpu")), log)
    assert log == EXPECTED


def test_no_graphs_where_torch_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise RuntimeError("no graphs on this device")

    monkeypatch.setattr(torch.accelerator, "Graph", refuse, raising=False)
    assert _graphs.recorder(nullcontext, "", torch.device("cpu")) is None
    monkeypatch.delattr(torch.accelerator, "Graph")
    assert _graphs.recorder(nullcontext, "", torch.device("cpu")) is None
