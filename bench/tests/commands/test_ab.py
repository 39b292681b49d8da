"""Two sides on one host: in turns, told apart, and compared."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from unittest.mock import Mock

import pytest

from bench import api
from bench.backend import DeviceInfo
from bench.judging.comparing.verdicts import unanswered
from bench.measuring.messages import Progress, Report, Request
from bench.records.case import Case
from bench.records.outcome import Cold, Failed, Measured, Outcome, Skipped
from bench.records.run import RunFile, Settings
from bench.records.runfile import Writer, read
from bench.running import probe, turns
from bench.running.face import Ahead, Face, Nobody, Start
from bench.running.launcher import Finished
from bench.running.session import EndReason, Session
from bench.running.turns import alternate
from bench.tests.commands.tiny import TINY
from bench.tests.conftest import Accelmark
from bench.tests.fakes import FakeBackend
from bench.tests.scripts.regenerate import command
from bench.tests.values import failed, make_case, make_launch, make_measured, make_run

pytestmark = pytest.mark.usefixtures("forked")

ONE, TWO = make_case(precision="bf16"), make_case(precision="fp32")
FINE = make_measured(0.01)
Script = dict[str, list[Outcome | type[BaseException]]]


class Log:
    """Whose launch of which case came when: `A1 B1 A2 ...`."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self.words: list[str] = []
        self._cases = list(cases)

    def launcher(self, side: str, script: Script) -> Callable[..., Generator[Finished, None, None]]:
        def launch(
            requests: Sequence[Request],
            variables: dict[str, str],
            listen: Callable[[Progress], None],
        ) -> Generator[Finished, None, None]:
            for request in requests:
                case = str(1 + self._cases.index(request.case))
                outcomes = script.get(side + case, [FINE])
                done = self.words.count(side + case)
                self.words.append(side + case)
                outcome = outcomes[min(done, len(outcomes) - 1)]
                if isinstance(outcome, type):
                    raise outcome
                report = Report(outcome=outcome, cold=Cold(), environment={})
                yield Finished(report=report, seconds=1.0, stderr_tail="")

        return launch


class Sides(Nobody):
    """Whose turn it was at each call."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def turn(self, side: str) -> None:
        self.side = side

    def begins(self, plan: Sequence[Case], ahead: Ahead) -> None:
        self.heard.append(f"{self.side} plans {ahead.left}")

    def starts(self, start: Start, ahead: Ahead) -> None:
        self.heard.append(f"{self.side}{start.number}")


def play(
    folder: Path,
    script: Script,
    settings: Settings,
    face: Face | None = None,
    cases: Sequence[Case] = (ONE, TWO),
) -> tuple[str, EndReason, list[RunFile]]:
    """Two sessions of the same cases to their end; who launched what, and both records."""
    log = Log(cases)
    backend = FakeBackend()
    sessions = []
    for side in "AB":
        writer = Writer(folder / f"{side}.jsonl")
        writer.append(make_run(cases, settings=settings, run_id=side))
        sessions.append(
            Session(
                cases,
                settings,
                backend.devices()[0],
                backend,
                writer,
                face or Nobody(),
                log.launcher(side, script),
            )
        )
    reason = alternate(*sessions)
    for session in sessions:
        session.writer.close()
    files = [read(folder / f"{side}.jsonl") for side in "AB"]
    return " ".join(log.words), reason, files


def test_the_sides_take_turns_and_the_first_changes(tmp_path: Path) -> None:
    words, reason, files = play(tmp_path, {}, Settings(launches=3))
    assert words == "A1 B1 A2 B2 B1 A1 B2 A2 A1 B1 A2 B2"
    assert reason == "complete"
    for file in files:
        assert file.end is not None and file.end.reason == "complete"
        assert [x.launch for x in file.launches] == [0, 0, 1, 1, 2, 2]
        assert [x.seed for x in file.launches] == [0, 0, 1, 1, 2, 2], "equal seeds on both sides"


def test_no_point_of_a_sweep_beyond_memory_has_a_turn(tmp_path: Path) -> None:
    """As of a run: it is left out, and the comparison has its answer."""
    cases = [make_case(parameters={"batch_size": batch}) for batch in (1, 2, 4)]
    full: list[Outcome | type[BaseException]] = [
        Failed(kind="oom", phase="build", message="out of memory")
    ]
    script = dict.fromkeys(("A2", "B2", "A3", "B3"), full)
    words, _, (base, other) = play(tmp_path, script, Settings(launches=2), cases=cases)
    assert words == "A1 B1 A2 B2 B1 A1"
    assert not unanswered(api.compare_runs(base, other))


def test_each_side_says_its_plan_before_the_first_launch(tmp_path: Path) -> None:
    sides = Sides()
    play(tmp_path, {}, Settings(launches=1), sides)
    assert sides.heard == ["A plans 2", "B plans 2", "A1", "B1", "A1", "B1"]


def test_a_side_that_is_sure_goes_on_with_one_that_is_not(tmp_path: Path) -> None:
    """Both have then as many launches, and what drifted hit both."""
    wild: list[Outcome | type[BaseException]] = [
        make_measured(0.01 * (1 + k % 2)) for k in range(5)
    ]
    words, _, _ = play(
        tmp_path, {"B1": [*wild, FINE]}, Settings(launches="auto", target_half_width=0.02)
    )
    assert words.count("A1") == words.count("B1") == 20
    assert words.count("A2") == words.count("B2") == 5


def test_one_launch_that_was_slowed_on_one_side_keeps_no_case_going(tmp_path: Path) -> None:
    """A has five launches in its figure when B has six, and ten when B has eleven: each has enough
    at a look, and the two are never at one together."""
    slowed = make_measured(0.01, flags=("CONTENDED",), causes={"CONTENDED": "another process"})
    settings = Settings(launches="auto", target_half_width=0.02)
    words, reason, _ = play(tmp_path, {"A1": [FINE, slowed, FINE]}, settings)
    assert words.count("A1") == words.count("B1") == 6
    assert words.count("A2") == words.count("B2") == 5
    assert reason == "complete"


def test_a_side_that_finds_another_choice_has_not_had_enough() -> None:
    one, other = (Mock(finished=True, hopeless=False, launches=[1] * 5) for _ in "AB")
    enough: set[int] = set()
    other.finished = False
    assert turns._goes_on((one, other), enough)
    one.finished, one.launches, other.finished = False, [], True
    assert turns._goes_on((one, other), enough)
    one.launches = [1]
    assert turns._goes_on((one, other), enough)
    one.finished, other.finished = True, False
    assert not turns._goes_on((one, other), enough)


def test_a_side_that_cannot_ends_the_case_for_both(tmp_path: Path) -> None:
    words, reason, _ = play(tmp_path, {"B1": [Skipped(reason="no bf16")]}, Settings(launches=3))
    assert words.count("A1") == words.count("B1") == 1
    assert words.count("A2") == words.count("B2") == 3
    assert reason == "complete"


def test_an_accident_costs_a_launch_and_no_more(tmp_path: Path) -> None:
    words, _, files = play(tmp_path, {"B1": [failed(), FINE]}, Settings(launches=3))
    measured = [x for x in files[1].launches if isinstance(x.outcome, Measured)]
    assert len(measured) == 6
    assert words.count("A1") == words.count("B1") == 4


def test_an_interruption_keeps_both_records(tmp_path: Path) -> None:
    _, reason, files = play(tmp_path, {"B2": [KeyboardInterrupt]}, Settings(launches=3))
    assert reason == "interrupted"
    assert [len(file.launches) for file in files] == [2, 1]
    for file in files:
        assert file.end is not None and file.end.reason == "interrupted"


# --- The command ---------------------------------------------------------------------------------


def tiny(folder: Path) -> None:
    (folder / "tiny.toml").write_text(TINY.format(launches=1))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], ["the two sides are the same", "--device twice", "--env", "--python", "A/A"]),
        (["--device", "cpu"], ["the two sides are the same"]),
        (["--device", "cpu"] * 3, ["--device is given 3 times", "at most twice"]),
        (["--env", "OMP_NUM_THREADS"], ["--env OMP_NUM_THREADS", "NAME=VALUE"]),
        (["--env", "1X=2"], ["--env 1X=2", "NAME=VALUE"]),
        (["--python", "no-such-python"], ["--python no-such-python", "there is no such program"]),
        (["--device", "cpu", "--device", "cpu:7"], ["--device cpu:7", "Here: cpu"]),
    ],
)
def test_bad_sides_are_one_message(
    accelmark: Accelmark,
    tmp_path: Path,
    arguments: list[str],
    said: list[str],
) -> None:
    tiny(tmp_path)
    code, out, err = accelmark("ab", "tiny.toml", *arguments)
    assert (code, out) == (2, "")
    for text in said:
        assert text in err
    assert "Traceback" not in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_what_it_prints_is_no_wider_than_asked(
    accelmark: Accelmark, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, width: int
) -> None:
    """Two sides that are scripted: no worker is started."""

    def alternate(*sessions: Session) -> EndReason:
        for side, session in enumerate(sessions):
            for k in range(10):
                outcome = make_measured(0.01 * (1 + side / 5) + k / 1e5)
                case = session.states[0].case
                session.writer.append(make_launch(outcome, case, launch=k, order=k))
            session.end("complete")
            session.close()
        return "complete"

    device = DeviceInfo(backend="cpu", index=0, name="A CPU of some length", memory_bytes=1)
    monkeypatch.setattr(probe, "probe", lambda *_: [probe.Found(backend="cpu", devices=(device,))])
    monkeypatch.setattr(turns, "alternate", alternate)
    monkeypatch.setenv("COLUMNS", str(width))
    tiny(tmp_path)
    code, out, err = accelmark("ab", "tiny.toml", "--device", "cpu", "--device", "cpu")
    assert code == 0 and "SLOWER" in out
    assert max(map(len, out.splitlines())) <= width
    assert err.count("record: runs/tiny-cpu-") == 2 and "budget" not in err


LARGER = """
[[case]]
workload = "gemm"
precision = "fp32"
shape = "64x64x64"
"""
NONE = Skipped(reason="no fp32")


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        ((FINE, FINE), (FINE, FINE), 0),
        ((FINE, NONE), (FINE, NONE), 0),  # as of `run`: neither device can do it
        ((FINE, FINE), (FINE, NONE), 0),
        ((FINE, FINE), (FINE, failed()), 1),
        ((FINE, failed()), (FINE, NONE), 1),
        ((FINE, None), (FINE, NONE), 0),  # skipped before the other side's turn came
        ((FINE, None), (FINE, None), 1),
        ((FINE, make_measured(0.01, unit="token")), (FINE, FINE), 1),  # measured, not comparable
        ((NONE, NONE), (FINE, FINE), 1),  # nothing was compared
    ],
)
def test_a_case_that_a_device_cannot_do_is_no_fault(
    accelmark: Accelmark,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    first: Sequence[Outcome | None],
    second: Sequence[Outcome | None],
    code: int,
) -> None:
    def alternate(*sessions: Session) -> EndReason:
        for session, outcomes in zip(sessions, (first, second), strict=True):
            for state, outcome in zip(session.states, outcomes, strict=True):
                if outcome is not None:
                    session.writer.append(make_launch(outcome, state.case))
            session.end("complete")
            session.close()
        return "complete"

    device = DeviceInfo(backend="cpu", index=0, name="A CPU", memory_bytes=2**34)
    monkeypatch.setattr(probe, "probe", lambda *_: [probe.Found(backend="cpu", devices=(device,))])
    monkeypatch.setattr(turns, "alternate", alternate)
    (tmp_path / "two.toml").write_text(TINY.format(launches=1) + LARGER)
    found, _, err = accelmark("ab", "two.toml", "--device", "cpu", "--device", "cpu")
    assert found == code, err


def test_a_case_is_named_by_what_is_measured_in_its_place_too(
    accelmark: Accelmark, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def alternate(*sessions: Session) -> EndReason:
        for session in sessions:
            (state,) = session.states
            assert state.case.precision == "fp32"
            session.writer.append(make_launch(FINE, state.case))
            session.end("complete")
            session.close()
        return "complete"

    device = DeviceInfo(
        backend="cpu",
        index=0,
        name="A CPU",
        memory_bytes=2**34,
        precisions=("bf16", "fp32"),
        slow={"bf16": "by reference code"},
    )
    monkeypatch.setattr(probe, "probe", lambda *_: [probe.Found(backend="cpu", devices=(device,))])
    monkeypatch.setattr(turns, "alternate", alternate)
    text = '[instead]\nbf16 = "fp32"\n\n' + TINY.format(launches=1).replace('"fp32"', '"bf16"')
    (tmp_path / "mine.toml").write_text(f"budget_minutes = 12\n{text}")
    sides = ("--device", "cpu", "--device", "cpu", "--only", "gemm-matmul-fp32")
    code, _, err = accelmark("ab", "mine.toml", *sides)
    assert code == 0, err
    assert "budget of 12 minutes ends a `run`, and no `ab`" in err


def test_its_help_speaks_of_no_hosts(accelmark: Accelmark) -> None:
    """It refuses to run on several."""
    code, out, _ = accelmark("ab", "--help")
    assert code == 0 and "Spread over N devices the cases" in " ".join(out.split())
    assert "hosts" not in out


def test_an_interpreter_without_accelmark_says_so(
    accelmark: Accelmark,
    tmp_path: Path,
) -> None:
    tiny(tmp_path)
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o755)
    code, _, err = accelmark("ab", "tiny.toml", "--device", "cpu", "--python", str(bare))
    assert code == 2 and f"{bare} has no msgspec. Install it there: " in err


def test_a_variable_on_one_side_is_set_recorded_and_named(tmp_path: Path) -> None:
    tiny(tmp_path)
    done = command(
        *("ab", "tiny.toml", "--device", "cpu", "--env", "OMP_NUM_THREADS=1"),
        *("--env", "MINE=x", "--launches", "1", "--out", "out"),
        *("--env", "HF_TOKEN=planted-one", "--env=my_password=planted-two"),
        folder=tmp_path,
        AWS_SECRET_ACCESS_KEY="planted-three",
        UNASKED="planted-four",
    )
    assert done.returncode == 0, done.stderr
    assert "HF_TOKEN: absent | (not recorded)" in done.stdout
    for path in (tmp_path / "out").glob("*.jsonl"):
        text = path.read_text(encoding="utf-8")
        assert "planted" not in text and "UNASKED" not in text and "AWS" not in text
        assert '"HF_TOKEN=(not recorded)","--env=my_password=(not recorded)"' in text
    assert "OMP_NUM_THREADS: absent | 1" in done.stdout
    assert "MINE: absent | x" in done.stdout
    assert "no interval" in done.stdout and "Geometric mean of the ratios of 1 of 1" in done.stdout
    a, b = (read(path) for path in sorted((tmp_path / "out").glob("*.jsonl")))
    assert a.path.endswith("-a.jsonl") and b.path.endswith("-b.jsonl")
    assert [x.environment["threads"] for x in b.launches] == [1]
    assert "MINE" not in json.dumps([x.environment for x in a.launches])
    assert b.launches[0].environment["variables_compared"][0] == "OMP_NUM_THREADS"
    assert "COMPARED OMP_NUM_THREADS: " in done.stdout and "SETTINGS DIFFER" not in done.stdout
    assert a.run.device["facts"]["threads_used"] and "threads_used" in b.run.device["facts"]
    assert "A: gemm-matmul fp32" in done.stderr and "B: gemm-matmul fp32" in done.stderr
