"""Tuned cases, and sessions that measure them by a script."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path

from bench.commands.under_way import chosen, describe, which
from bench.judging.row import Row
from bench.judging.summary import summarize
from bench.measuring.messages import Report, Request
from bench.records.case import SEARCHED, Case
from bench.records.outcome import Cold, Failed, Outcome, Skipped, Void
from bench.records.run import Launch, RunFile, Settings
from bench.records.runfile import Writer, read
from bench.running.face import Ahead, Nobody, Start
from bench.running.launcher import Finished
from bench.running.session import Session
from bench.running.time_left import Span
from bench.tests.fakes import FakeBackend
from bench.tests.values import BAD_NUMERICS, failed, make_case, make_measured, make_run

OOM = Failed(kind="oom", phase="warm-up", message="out of memory")
CRASH = failed()
VOID = Void(reason="numerics: logits is off", numerics=BAD_NUMERICS)
NO_COMPILER = Skipped(reason="no C++ compiler")


def tuned_case(**space: Sequence[int | str]) -> Case:
    """ResNet-50's inference with something left open."""
    chosen = space or {"batch_size": (1, 2, 4), "execution": ("compile", "eager")}
    return make_case(
        workload="resnet50",
        mode="infer",
        execution="tuned" if "execution" in chosen else "eager",
        parameters={"image_size": 64} | ({} if "batch_size" in chosen else {"batch_size": 8}),
        tuned={name: tuple(values) for name, values in chosen.items()},
    )


def fixed_case(batch: int, execution: str = "eager") -> Case:
    """The same, of the fixed track."""
    return make_case(
        workload="resnet50",
        mode="infer",
        execution=execution,
        parameters={"batch_size": batch, "image_size": 64},
    )


def rated(images_per_second: float, batch: int = 1) -> Outcome:
    """A launch of that throughput."""
    return make_measured(batch / images_per_second, items=batch)


Script = Mapping[tuple[int, str], Outcome | Sequence[Outcome]]
"""Outcomes of the launches by batch and execution, memory format or search; the last repeats."""


class Stage(Nobody):
    """A launcher and a face that follow a script."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[Request] = []
        self.left: list[Span] = []
        self.said: list[str] = []

    def launch(
        self, requests: Sequence[Request], variables: dict[str, str], listen: Callable[..., None]
    ) -> Generator[Finished, None, None]:
        for request in requests:
            key = self.key(request)
            done = sum(self.key(one) == key for one in self.requests)
            self.requests.append(request)
            outcomes = self.script[key]
            series = [outcomes] if isinstance(outcomes, Outcome) else outcomes
            outcome = series[min(done, len(series) - 1)]
            report = Report(outcome=outcome, cold=Cold(), environment={})
            yield Finished(report=report, seconds=1.0, stderr_tail="")

    @staticmethod
    def key(request: Request) -> tuple[int, str]:
        batch = request.case.parameters["batch_size"]
        assert isinstance(batch, int)
        searched = SEARCHED if request.searches else ""
        return batch, request.memory_format or searched or request.case.execution

    def starts(self, start: Start, ahead: Ahead) -> None:
        self.left.append(ahead.seconds)
        self.said.append(which(start) + chosen(start))

    def ends(self, launch: Launch, rates: Sequence[float], finished: bool) -> None:
        assert describe(launch, rates, Settings(launches=3))


def play(
    folder: Path,
    script: Script,
    case: Case | None = None,
    launches: int = 3,
    done: Sequence[Launch] = (),
    budget_seconds: float | None = None,
    why: str = "",
) -> tuple[Stage, RunFile]:
    """Runs one tuned case, and reads the record. why: it is left out."""
    cases = [case or tuned_case()]
    left_out = {cases[0].fingerprint: why} if why else {}
    settings = Settings(launches=launches)
    stage, backend = Stage(script), FakeBackend()
    writer = Writer(folder / "run.jsonl")
    writer.append(make_run(cases, settings=settings, left_out=left_out))
    for launch in done:
        writer.append(launch)
    Session(
        cases,
        settings,
        backend.devices()[0],
        backend,
        writer,
        stage,
        stage.launch,
        budget_seconds,
        clock=lambda: float(len(stage.requests)),
        done=done,
        left_out=left_out,
    ).run()
    writer.close()
    return stage, read(folder / "run.jsonl")


SCRIPT: Script = {
    (1, "compile"): rated(10),
    (2, "compile"): rated(18, 2),
    (4, "compile"): rated(16, 4),
    (1, "eager"): rated(9),
    (2, "eager"): [rated(30, 2), rated(20, 2), rated(21, 2), rated(22, 2)],
    (4, "eager"): rated(19, 4),
}
"""The best by its trial is batch 2, eager; measured again it gives 21."""
KEYS = list(SCRIPT)


def only_row(file: RunFile) -> Row:
    (row,) = summarize(file)
    return row
