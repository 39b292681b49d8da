"""Explanations of a run: after all launches, never among them, and gone on with by the record."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import msgspec
import pytest

from bench.commands.run import _finish
from bench.errors import EXIT_INCOMPLETE, EXIT_OK
from bench.judging.explaining.explained import explain_run
from bench.judging.summary import summarize
from bench.measuring.messages import Progress, Report, Request
from bench.records.case import Case
from bench.records.explained import Account, Explanation, Unexplained
from bench.records.outcome import Cold, Failed, Outcome, Skipped, Void
from bench.records.run import RunFile, Settings
from bench.records.runfile import Writer, read
from bench.running.explanations import Explaining
from bench.running.face import Nobody
from bench.running.launcher import Finished
from bench.running.session import Session
from bench.tests.commands.tiny import TINY
from bench.tests.conftest import Accelmark
from bench.tests.fakes import FakeBackend
from bench.tests.judging.explaining.accounts import REFUSED, account, explained_file
from bench.tests.planning.tuned_runs import tuned_case
from bench.tests.values import make_case, make_launches, make_measured, make_run

pytestmark = pytest.mark.usefixtures("forked")

A, B = (make_case(parameters={"shape": f"{n}x{n}x{n}"}) for n in (1, 2))
TUNED = tuned_case(batch_size=[1, 2])
MANY = make_case(parallelism="dp", devices=2)
NAMES = {A.fingerprint: "A", B.fingerprint: "B", MANY.fingerprint: "M"}


class Stage(Nobody):
    """Workers of known outcome; what was asked of each, explanations in small letters."""

    def __init__(self, found: Account | None, outcome: Outcome) -> None:
        self.found, self.outcome = found, outcome
        self.asked = ""
        self.seeds: list[int] = []
        self.limits: list[float] = []
        """Seconds that each launch may take."""
        self.seconds = 0.0
        self.takes = 10.0
        """Seconds that an explanation takes; a launch takes ten."""
        self.told: list[int] = []
        self.tried = ""
        """Which of those explanations try remedies: 1, or 0."""

    def launch(
        self,
        requests: Sequence[Request],
        variables: dict[str, str],
        listen: Callable[[Progress], None],
    ) -> Generator[Finished, None, None]:
        for request in requests:
            name = NAMES[request.case.fingerprint]
            self.asked += name.lower() if request.explain else name
            self.tried += str(int(request.try_remedies)) if request.explain else ""
            self.seeds.append(request.seed)
            self.limits.append(request.settings.launch_limit_seconds)
            seconds = self.takes if request.explain else 10.0
            self.seconds += seconds
            found = self.found if request.explain else None
            report = Report(outcome=self.outcome, cold=Cold(), environment={}, account=found)
            yield Finished(report=report, seconds=seconds, stderr_tail="said")

    def explained(self, explanation: Explanation) -> None:
        self.told.append(explanation.number)


def play(
    folder: Path,
    explaining: Explaining,
    found: Account | None = None,
    outcome: Outcome | None = None,
    cases: Sequence[Case] = (A, B),
    budget: float | None = None,
    takes: float = 10.0,
) -> tuple[Stage, RunFile]:
    stage, backend = Stage(found, outcome or make_measured(0.01)), FakeBackend()
    stage.takes = takes
    writer = Writer(folder / "run.jsonl")
    settings = Settings(launches=2, launch_limit_seconds=300.0)
    each, only = explaining[:2]
    writer.append(make_run(cases, settings=settings, explanations=each, only_explained=only))
    device = backend.devices()[0]
    session = Session(
        *(cases, settings, device, backend, writer, stage, stage.launch, budget),
        clock=lambda: stage.seconds,
        explaining=explaining,
    )
    try:
        session.run()
    finally:
        writer.close()
    return stage, read(folder / "run.jsonl")


def test_each_case_is_explained_when_all_launches_are_done(tmp_path: Path) -> None:
    stage, file = play(tmp_path, Explaining(1), account())
    assert stage.asked == "ABABab" and stage.seeds == [0, 0, 1, 1, 0, 0]
    assert len(file.launches) == 4 and [one.number for one in file.explanations] == [0, 0]
    assert {row.launches for row in summarize(file)} == {2}, "none of them makes a figure"
    assert [case.verdict for case in explain_run(file)] == ["EXPLAINED", "EXPLAINED"]


def test_a_run_that_only_explains_has_no_launches(tmp_path: Path) -> None:
    stage, file = play(tmp_path, Explaining(3, only=True), account())
    assert stage.asked == "ababab" and not file.launches
    assert [one.number for one in file.explanations] == [0, 0, 1, 1, 2, 2]
    assert stage.told == [0, 0, 1, 1, 2, 2] and file.end is not None


def test_what_cannot_be_explained_is_not_asked_again(tmp_path: Path) -> None:
    stage, file = play(tmp_path, Explaining(3, only=True), REFUSED, cases=[A])
    assert stage.asked == "a"
    assert file.explanations[0].account == REFUSED


@pytest.mark.parametrize(
    ("falls", "asked", "tried"),
    [((0,), "aaaaa", "10001"), ((1,), "aaaaa", "10000"), ((0, 1), "aa", "10")],
)
def test_an_accident_of_one_worker_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, falls: Sequence[int], asked: str, tried: str
) -> None:
    """As of launches: two, and more than a third.

    Where one ended the first, the last tries remedies.
    """
    killed = Failed(kind="crash", phase="explain", message="its worker was killed by signal 9")
    monkeypatch.setattr(
        Stage,
        "outcome",
        property(
            lambda stage: killed if len(stage.asked) - 1 in falls else make_measured(0.01),
            lambda stage, outcome: None,
        ),
        raising=False,
    )
    stage, file = play(tmp_path, Explaining(5, True, trying=True), account(), cases=[A])
    assert (stage.asked, stage.tried) == (asked, tried)
    (case,) = explain_run(file)
    assert (case.verdict, case.launches) == (("REFUSED", 0) if len(falls) > 1 else ("EXPLAINED", 4))


def test_remedies_have_their_turn_in_a_record_that_is_gone_on_with(tmp_path: Path) -> None:
    """Whose first explanation an accident ended: they may be what ended it."""
    _, file = play(tmp_path, Explaining(1, only=True), REFUSED, cases=[A])
    _, whole = play(tmp_path / "whole", Explaining(1, only=True), account(), cases=[A])
    for done, tried in ((file.explanations, "01"), (whole.explanations, "00")):
        there = Explaining(3, True, trying=True, done=done)
        stage, _ = play(tmp_path / tried, there, account(), cases=[A])
        assert (stage.asked, stage.tried) == ("aa", tried)


def test_a_load_is_refused_without_a_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be measured whole, and then not taken apart."""
    load = make_case(workload="serve", mode="load", parameters={})
    monkeypatch.setitem(NAMES, load.fingerprint, "S")
    stage, file = play(tmp_path, Explaining(2, only=True), account(), cases=[load])
    (case,) = explain_run(file)
    assert (stage.asked, case.verdict, len(file.explanations)) == ("", "REFUSED", 1)
    assert "prefill and decode" in case.reason


def test_what_is_beyond_memory_is_refused_without_a_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = [msgspec.structs.replace(A, parameters={"batch_size": batch}) for batch in (8, 16, 32)]
    for case in sweep:
        monkeypatch.setitem(NAMES, case.fingerprint, "A")
    full = Failed(kind="oom", phase="build", message="out of memory")
    stage, file = play(tmp_path, Explaining(2, only=True), None, full, sweep)
    assert stage.asked == "a"
    beyond = "skipped: beyond a batch that does not fit: 8"
    found = [(case.verdict, case.reason) for case in explain_run(file)]
    assert found == [("REFUSED", "failed: oom in build: out of memory"), *[("REFUSED", beyond)] * 2]
    assert len(file.explanations) == 3


@pytest.mark.parametrize(
    ("outcome", "found", "reason"),
    [
        (Skipped(reason="no bf16 here"), None, "skipped: no bf16 here"),
        (None, None, "the worker ended without an account"),
    ],
)
def test_a_worker_without_an_account_says_why(
    tmp_path: Path, outcome: Outcome | None, found: Account | None, reason: str
) -> None:
    _, file = play(tmp_path, Explaining(1, only=True), found, outcome, [A])
    assert file.explanations[0].account == Unexplained(reason=reason)


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (Void(reason="wrong"), "void: wrong"),
        (
            Failed(kind="error", phase="measure", message="it broke"),
            "failed: error in measure: it broke",
        ),
        (Skipped(reason="no bf16 here"), "skipped: no bf16 here"),
    ],
)
def test_what_was_not_measured_is_not_explained_for_the_same_reason(
    tmp_path: Path, outcome: Outcome, reason: str
) -> None:
    stage, file = play(tmp_path, Explaining(1), account(), outcome, [A])
    assert "a" not in stage.asked and not file.explanations
    (case,) = explain_run(file)
    assert (case.verdict, case.reason) == ("REFUSED", reason)


def test_what_failed_too_often_to_be_explained_is_refused_for_that(tmp_path: Path) -> None:
    """It has a figure, which is INVALID, and the run went to its end."""
    broke = Failed(kind="error", phase="measure", message="it broke")
    outcomes: list[Outcome] = [make_measured(0.01), broke, make_measured(0.01), broke]
    launches = tuple(make_launches(A, outcomes))
    file = msgspec.structs.replace(explained_file(account(), case=A), launches=launches)
    (case,) = explain_run(msgspec.structs.replace(file, explanations=()))
    assert case.verdict == "REFUSED" and case.reason.endswith("error in measure: it broke")
    (case,) = explain_run(msgspec.structs.replace(file, explanations=(), end=None))
    assert case.verdict == "UNREACHED"


def test_what_a_run_did_not_come_to_is_not_refused(tmp_path: Path) -> None:
    _, file = play(tmp_path, Explaining(1), account(), cases=[A], budget=25.0)
    (case,) = explain_run(file)
    assert (case.verdict, case.reason) == ("UNREACHED", "the run ended before it")


@pytest.mark.parametrize(
    ("budget", "found", "code"),
    [(25.0, account(), EXIT_INCOMPLETE), (None, account(), EXIT_OK), (None, REFUSED, EXIT_OK)],
)
def test_a_run_that_can_go_on_with_its_explanations_is_not_over(
    tmp_path: Path, budget: float | None, found: Account, code: int
) -> None:
    _, file = play(tmp_path, Explaining(1), found, cases=[A], budget=budget)
    with pytest.raises(SystemExit) as left:
        _finish(file, None, wide=False)
    assert left.value.code == code


def test_what_several_devices_do_together_is_refused_without_a_worker(tmp_path: Path) -> None:
    stage, file = play(tmp_path, Explaining(2, only=True), account(), cases=[MANY])
    (one,) = file.explanations
    assert stage.asked == "" and isinstance(one.account, Unexplained)
    assert "on one device" in one.account.reason


def test_what_was_not_searched_is_not_explained(tmp_path: Path) -> None:
    """A tuned case that is only explained: its first candidate need not be its best."""
    stage, file = play(tmp_path, Explaining(2, only=True), account(), cases=[A, TUNED])
    refused = next(one for one in file.explanations if one.case == TUNED)
    assert stage.asked == "aa" and len(file.explanations) == 3
    assert isinstance(refused.account, Unexplained) and refused.choice is None
    assert "was not searched: `accelmark run SUITE --explain` searches first" in str(refused)


def test_a_run_goes_on_with_what_is_left(tmp_path: Path) -> None:
    _, file = play(tmp_path, Explaining(1), account(), cases=[A])
    (tmp_path / "again").mkdir()
    done = file.explanations
    stage, _ = play(tmp_path / "again", Explaining(1, only=True, done=done), account())
    assert stage.asked == "b"


def test_no_explanation_is_begun_that_would_end_after_the_budget(tmp_path: Path) -> None:
    stage, file = play(tmp_path, Explaining(1), account(), budget=45.0)
    assert stage.asked == "ABAB" and file.end is not None and file.end.reason == "budget"


def test_an_explanation_is_expected_to_take_as_long_as_the_longest_so_far(tmp_path: Path) -> None:
    """The second would end 240 s after the first launch began."""
    stage, file = play(tmp_path, Explaining(1), account(), budget=239.0, takes=100.0)
    assert stage.asked == "ABABa" and file.end is not None and file.end.reason == "budget"
    (tmp_path / "again").mkdir()
    again = Explaining(2, done=file.explanations)
    stage, _ = play(tmp_path / "again", again, account(), budget=139.0, takes=100.0)
    assert stage.asked == "ABAB", "of those that the record holds too"
    (tmp_path / "longer").mkdir()
    stage, _ = play(tmp_path / "longer", again, account(), budget=140.0, takes=100.0)
    assert stage.asked == "ABABb"


@pytest.mark.parametrize(
    ("budget", "limits"),
    [(None, [300, 300, 1800]), (900.0, [300, 300, 900]), (60.0, [120, 120, 120])],
)
def test_an_explanation_has_its_time_whatever_the_suite_gives_a_launch(
    tmp_path: Path, budget: float | None, limits: list[float]
) -> None:
    """A quick suite's limit is meant for the measuring alone; a budget's is no less than 120 s."""
    stage, _ = play(tmp_path, Explaining(1), account(), cases=[A], budget=budget)
    assert stage.asked == "AAa" and stage.limits == limits


def test_a_worker_explains_its_case_last_of_all(accelmark: Accelmark, tmp_path: Path) -> None:
    """Of a real one, which was measured before."""
    suite = tmp_path / "tiny.toml"
    suite.write_text(TINY.format(launches=1), encoding="utf-8")
    code, out, err = accelmark("explain", "tiny.toml", "--device", "cpu", "--launches", "1")
    (path,) = (tmp_path / "runs").glob("*.jsonl")
    file = read(path)
    (one,) = file.explanations
    assert not isinstance(one.account, Unexplained), one.account
    (product,) = [op for op in one.account.operators if op.kind == "matmul"]
    assert product.flop == 2 * 32**3 and product.operands.endswith("fp32[32,32] fp32[32,32]")
    assert not file.launches and "accelmark explains tiny" in out and "mm fp32[32" in out
    verdict = explain_run(file)[0].verdict  # of 32 us of step it may be any
    assert code == (verdict != "EXPLAINED") and "explained (launch 1)" in err
