"""The session with a scripted launcher: order, stopping, failures, budget, interruption."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from unittest.mock import Mock

import pytest

from bench import stats
from bench.errors import HostsError
from bench.measuring.messages import Progress, Report, Request
from bench.records.case import Case
from bench.records.outcome import Cold, FailureKind, Outcome, Skipped, Void
from bench.records.run import Launch, RunFile, Settings
from bench.records.runfile import Writer, read
from bench.running.face import Ahead, Nobody, Start
from bench.running.launcher import Finished
from bench.running.rehearsals import Rehearsals
from bench.running.session import EndReason, Session
from bench.running.stems import Stems
from bench.running.time_left import Span
from bench.tests.fakes import FakeBackend
from bench.tests.values import failed, make_case, make_measured, make_run

A, B, C = (make_case(parameters={"shape": f"{n}x{n}x{n}"}) for n in (1, 2, 3))
NAMES = {A.fingerprint: "A", B.fingerprint: "B", C.fingerprint: "C"}

Script = Mapping[str, Sequence[Outcome | type[BaseException]]]
"""What each launch of a case comes to, by the case's letter; the last one repeats."""


class Stage(Nobody):
    """A launcher, a face and a clock that follow a script."""

    def __init__(self, script: Script, seconds: Mapping[str, float] | None = None) -> None:
        self.script = script
        self.seconds = {"A": 10.0, "B": 10.0, "C": 10.0, **(seconds or {})}
        self.now = 100.0
        self.requests: list[Request] = []
        self.variables: list[dict[str, str]] = []
        self.plan = ""
        self.ahead: list[Ahead] = []
        self.started: list[str] = []
        self.finished = ""
        self.ended: list[tuple[str, int]] = []
        self.groups: list[str] = []

    # The launcher and the clock.

    def launch(
        self,
        requests: Sequence[Request],
        variables: dict[str, str],
        listen: Callable[[Progress], None],
    ) -> Generator[Finished, None, None]:
        self.groups.append("".join(NAMES[r.case.fingerprint] for r in requests))
        for request in requests:
            yield self.launch_one(request, variables, listen)

    def launch_one(
        self, request: Request, variables: dict[str, str], listen: Callable[[Progress], None]
    ) -> Finished:
        name = NAMES[request.case.fingerprint]
        outcomes = self.script[name]
        done = sum(NAMES[r.case.fingerprint] == name for r in self.requests)
        outcome = outcomes[min(done, len(outcomes) - 1)]
        self.requests.append(request)
        self.variables.append(variables)
        seconds = self.seconds.get(f"{name}{done + 1}", self.seconds[name])
        self.now += seconds
        listen(Progress(phase="measure"))
        if isinstance(outcome, type):
            raise outcome
        report = Report(outcome=outcome, cold=Cold(build_seconds=1.0), environment={"torch": "2"})
        return Finished(report=report, seconds=seconds, stderr_tail="said")

    def clock(self) -> float:
        return self.now

    @property
    def order(self) -> str:
        return "".join(NAMES[r.case.fingerprint] for r in self.requests)

    # The face.

    def begins(self, plan: Sequence[Case], ahead: Ahead) -> None:
        self.plan = "".join(NAMES.get(case.fingerprint, "?") for case in plan)
        self.ahead.append(ahead)

    def starts(self, start: Start, ahead: Ahead) -> None:
        here, following = (
            "" if case is None else NAMES.get(case.fingerprint, "?")
            for case in (start.case, start.next)
        )
        self.started.append(f"{here}{start.number}/{start.of}{'+' * start.more}{following}")
        self.ahead.append(ahead)

    def ends(self, launch: Launch, rates: Sequence[float], finished: bool) -> None:
        self.ended.append((NAMES[launch.fingerprint], len(rates)))
        self.finished += NAMES[launch.fingerprint] * finished


def play(
    folder: Path,
    script: Script,
    settings: Settings | None = None,
    budget_seconds: float | None = None,
    seconds: Mapping[str, float] | None = None,
    together: int = 1,
    stems: Stems | None = None,
    rehearsals: Rehearsals | None = None,
    done: Sequence[Launch] = (),
) -> tuple[Stage, EndReason, RunFile]:
    """Runs the cases of a script to the end, and reads the record."""
    settings = settings or Settings(launches=2)
    cases = [case for case in (A, B, C) if NAMES[case.fingerprint] in script]
    stage = Stage(script, seconds)
    backend = FakeBackend()
    (writer := Writer(folder / "run.jsonl")).append(make_run(cases, settings=settings))
    session = Session(
        cases,
        settings,
        backend.devices()[0],
        backend,
        writer,
        stage,
        stage.launch,
        budget_seconds,
        together,
        stage.clock,
        stems=stems,
        rehearsals=rehearsals,
        done=done,
    )
    try:
        reason = session.run()
    finally:
        writer.close()
    return stage, reason, read(folder / "run.jsonl")


FINE = make_measured(0.01)


# --- Order and number ----------------------------------------------------------------------------


def test_what_each_round_needs_is_said_before_it(tmp_path: Path) -> None:
    play(tmp_path, {"A": [FINE], "B": [Skipped(reason="no")]}, stems=(them := Mock(spec=Stems)))
    calls = [call.args for call in them.expect.mock_calls]
    heard = [([NAMES[case.fingerprint] for case in cases], rounds) for cases, rounds in calls]
    assert heard == [(["A", "B"], 2), (["A"], 1)]


def test_launches_go_round_robin(tmp_path: Path) -> None:
    stage, reason, file = play(
        tmp_path, {"A": [FINE], "B": [FINE], "C": [FINE]}, Settings(launches=3)
    )
    assert stage.order == "ABCABCABC"
    assert reason == "complete" and file.end is not None and file.end.reason == "complete"
    assert [launch.order for launch in file.launches] == list(range(9))
    assert [launch.launch for launch in file.launches] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_workers_that_import_together_are_of_different_cases(tmp_path: Path) -> None:
    script: Script = {"A": [FINE], "B": [FINE], "C": [FINE]}
    stage, _, file = play(tmp_path, script, Settings(launches=2), together=2)
    assert stage.groups == ["AB", "C", "AB", "C"], "a round is not mixed with the next"
    assert stage.order == "ABCABC"
    assert [launch.seed for launch in file.launches] == [0, 0, 0, 1, 1, 1]


def test_an_interruption_of_the_second_of_two_keeps_the_first(tmp_path: Path) -> None:
    script: Script = {"A": [FINE], "B": [KeyboardInterrupt]}
    _, reason, file = play(tmp_path, script, together=2)
    assert reason == "interrupted"
    assert [NAMES[x.fingerprint] for x in file.launches] == ["A"]


def test_a_host_that_is_gone_ends_the_run_which_can_go_on(tmp_path: Path) -> None:
    _, reason, file = play(tmp_path, {"A": [FINE], "B": [HostsError]})
    assert reason == "interrupted"
    assert [NAMES[x.fingerprint] for x in file.launches] == ["A"]
    assert file.end is not None and file.end.reason == "interrupted"


@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_fixed_number_of_launches(tmp_path: Path, count: int) -> None:
    stage, _, _ = play(tmp_path, {"A": [FINE], "B": [FINE]}, Settings(launches=count))
    assert stage.order == "AB" * count


def rates(*step_seconds: float) -> list[Outcome]:
    return [make_measured(s) for s in step_seconds]


def test_auto_stops_at_the_first_look_where_the_interval_is_narrow(tmp_path: Path) -> None:
    """A at 5. B varies by 3 % and needs 10 looks' worth; C by 30 % and never gets there."""
    b = rates(*[0.0100, 0.0102] * 10)
    c = rates(*[0.010, 0.013] * 10)
    # B: logs apart by 0.0198; SD about 0.0108 at five launches, so 3.747 * 0.0108 / sqrt(5) =
    # 0.0182 at 5 would do for 2 %, not for 1.5 %; at ten 2.821 * 0.0104 / sqrt(10) = 0.0093.
    settings = Settings(launches="auto", target_half_width=0.015)
    stage, reason, _ = play(tmp_path, {"A": [FINE], "B": b, "C": c}, settings)
    assert stage.order == "ABC" * 5 + "BC" * 5 + "C" * 10
    assert reason == "complete"


def test_auto_never_stops_between_looks(tmp_path: Path) -> None:
    """Narrow at 4, and wide at the look at 5 by one launch of half the speed; narrow again at 6.

    Logs 0 0 0 0 -0.693: SD 0.310, error 0.139, times 3.747 is 0.519 > 0.5. With a sixth of 0: SD
    0.283, error 0.1155, times 3.365 is 0.389 < 0.5, but there is no look at 6.
    """
    outcomes = rates(*[0.01] * 4, 0.02, *[0.01] * 15)
    settings = Settings(launches="auto", target_half_width=0.5)
    stage, _, _ = play(tmp_path, {"A": outcomes}, settings)
    assert len(stage.order) == 10


# --- What does not end well ----------------------------------------------------------------------


def test_a_failed_launch_is_tried_once_more(tmp_path: Path) -> None:
    stage, _, file = play(tmp_path, {"A": [failed(), FINE], "B": [FINE]}, Settings(launches=3))
    assert stage.order == "ABABABA"
    assert [x.outcome.__class__.__name__ for x in file.launches if x.case == A] == [
        "Failed",
        "Measured",
        "Measured",
        "Measured",
    ]


def test_a_case_that_fails_twice_is_given_up(tmp_path: Path) -> None:
    stage, reason, _ = play(tmp_path, {"A": [failed()], "B": [FINE]}, Settings(launches=5))
    assert stage.order == "ABABBBB"
    assert reason == "complete"


def test_two_failures_give_up_even_after_measured_launches(tmp_path: Path) -> None:
    stage, _, _ = play(tmp_path, {"A": [FINE, failed(), FINE, failed()]}, Settings(launches=9))
    assert stage.order == "AAAA"


@pytest.mark.parametrize("kind", ["crash", "timeout", "device_lost", "error"])
def test_kinds_of_failure_that_may_be_accidents(tmp_path: Path, kind: FailureKind) -> None:
    stage, _, _ = play(tmp_path, {"A": [failed(kind), FINE]})
    assert stage.order == "AAA"


@pytest.mark.parametrize(
    "outcome",
    [failed("oom"), Void(reason="wrong"), Skipped(reason="cannot")],
    ids=lambda outcome: type(outcome).__name__,
)
def test_what_would_only_happen_again_is_not_tried_again(tmp_path: Path, outcome: Outcome) -> None:
    stage, reason, _ = play(tmp_path, {"A": [outcome], "B": [FINE]}, Settings(launches=3))
    assert stage.order == "ABBB"
    assert reason == "complete"


# --- Budget and interruption ---------------------------------------------------------------------


@pytest.mark.parametrize("together", [1, 2])
def test_no_launch_is_started_that_would_end_after_the_budget(
    tmp_path: Path, together: int
) -> None:
    """Launches of 10 s in 35 s: the fourth would end at 40, whoever imports beside whom."""
    script: Script = {"A": [FINE], "B": [FINE]}
    stage, reason, file = play(tmp_path, script, Settings(launches=9), 35, together=together)
    assert stage.order == "ABA"
    assert reason == "budget" and file.end is not None and file.end.reason == "budget"


def test_a_budget_that_just_suffices(tmp_path: Path) -> None:
    stage, reason, _ = play(tmp_path, {"A": [FINE], "B": [FINE]}, budget_seconds=40)
    assert (stage.order, reason) == ("ABAB", "complete")


def test_an_interrupted_run_keeps_all_that_was_measured(tmp_path: Path) -> None:
    stage, reason, file = play(tmp_path, {"A": [FINE], "B": [FINE, KeyboardInterrupt]})
    assert stage.order == "ABAB"
    assert reason == "interrupted" and file.end is not None and file.end.reason == reason
    assert [NAMES[x.fingerprint] for x in file.launches] == ["A", "B", "A"]
    assert file.damage is None


def test_every_launch_is_on_disk_before_the_next_begins(tmp_path: Path) -> None:
    """A parent that dies between two launches loses none: here by an error of the harness."""
    with pytest.raises(ZeroDivisionError):
        play(tmp_path, {"A": [FINE], "B": [FINE, ZeroDivisionError]})
    file = read(tmp_path / "run.jsonl")
    assert [NAMES[x.fingerprint] for x in file.launches] == ["A", "B", "A"]
    assert file.end is None


# --- What is asked of each launch, and what is recorded ------------------------------------------


def test_each_launch_draws_its_own_seed_the_same_for_every_case(tmp_path: Path) -> None:
    stage, _, file = play(tmp_path, {"A": [FINE], "B": [FINE]}, Settings(launches=3, seed=40))
    assert [r.seed for r in stage.requests] == [40, 40, 41, 41, 42, 42]
    assert [x.seed for x in file.launches] == [40, 40, 41, 41, 42, 42]


def test_a_launch_is_recorded_as_it_was(tmp_path: Path) -> None:
    stage, _, file = play(tmp_path, {"A": [FINE]}, Settings(launches=1))
    (launch,) = file.launches
    assert launch.case == A and launch.outcome == FINE
    assert launch.seconds == 10 and launch.stderr_tail == "said"
    assert launch.cold.build_seconds == 1 and launch.environment == {"torch": "2"}
    assert stage.variables == [{"FAKE_BACKEND": "1"}]
    assert (stage.requests[0].backend, stage.requests[0].index) == ("fake", 0)
    assert stage.ended == [("A", 1)]


def test_the_samples_of_a_launch_come_from_those_before_it(tmp_path: Path) -> None:
    """Ten for the first two; then by the formula, whose worked examples are in test_stats."""
    spread = [
        make_measured([0.009, 0.011] * 5),
        make_measured([0.012, 0.014] * 5),
        make_measured([0.009, 0.011] * 5),
    ]
    stage, _, _ = play(tmp_path, {"A": spread}, Settings(launches=3))
    asked = [r.samples for r in stage.requests]
    assert asked[:2] == [10, 10]
    launched = spread[:2]
    expected = stats.samples_per_launch(
        [o.samples for o in launched],
        [10 - o.steady_seconds for o in launched],
        [o.steady_seconds / 10 for o in launched],
        0.02,
    )
    # Means 10 and 13 ms: variance 4.5 ms^2; within 10/9 ms^2; a launch costs 9.885 s beside its
    # samples of 11.5 ms: sqrt(859.6 * (10/9) / (4.5 - 1/9)) = 14.75.
    assert asked[2] == expected == 15


def test_who_watches_hears_the_plan_and_what_comes_next(tmp_path: Path) -> None:
    script: Script = {"A": [FINE], "B": [failed(), FINE], "C": [FINE]}
    stage, _, _ = play(tmp_path, script, Settings(launches=2))
    assert stage.plan == "ABC"
    # Case, launch, of so many; the next case. What failed is done once more.
    assert stage.started == ["A1/2B", "B1/2C", "C1/2A", "A2/2B", "B2/3C", "C2/2B", "B3/3"]
    assert stage.finished == "ACB"
    assert [(a.done, a.left) for a in stage.ahead] == [
        *[(0, 6), (0, 6), (1, 5), (2, 5), (3, 4), (4, 3), (5, 2), (6, 1)]
    ]


def test_the_time_left_is_never_more_than_the_budget(tmp_path: Path) -> None:
    """Launches of 10 s each; without a budget, 60 s after one of each of two cases."""
    script: Script = {"A": [FINE], "B": [FINE]}
    settings = Settings(launches=4, block_seconds=1.0)
    stage, reason, _ = play(tmp_path, script, settings, budget_seconds=35.0)
    assert (stage.order, reason) == ("ABA", "budget")
    assert [ahead.seconds for ahead in stage.ahead] == [
        # Eight launches of ten samples, each of a second at least.
        *[Span(left, left) for left in (35.0, 35.0, 25.0, 15.0)]
    ]
    stage, _, _ = play(tmp_path / "free", script, settings)
    assert [ahead.seconds for ahead in stage.ahead[:4]] == [
        *[Span(80.0, None), Span(80.0, None), Span(70.0, None), Span(60.0, 60.0)]
    ]


def test_auto_says_that_more_may_follow(tmp_path: Path) -> None:
    wild = [make_measured(0.01 * (1 + k % 2)) for k in range(20)]
    stage, _, _ = play(tmp_path, {"A": wild}, Settings(launches="auto"))
    assert stage.started[:6] == ["A1/5+A", "A2/5+A", "A3/5+A", "A4/5+A", "A5/5+", "A6/10+A"]
    assert stage.started[-1] == "A20/20"
    assert stage.ahead[1].more and not stage.ahead[-1].more


@pytest.mark.parametrize(
    ("budget", "limit"), [(None, 1800.0), (10.0, 120.0), (600.0, 600.0), (9000.0, 1800.0)]
)
def test_a_launch_may_not_take_longer_than_the_budget(
    tmp_path: Path, budget: float | None, limit: float
) -> None:
    """But two minutes, so that a tight budget makes no failure of a slow start."""
    stage, _, _ = play(tmp_path, {"A": [FINE]}, Settings(launches=1), budget)
    assert [r.settings.launch_limit_seconds for r in stage.requests] == [limit]


def test_the_first_launch_of_a_case_counts_its_memory(tmp_path: Path) -> None:
    stage, _, _ = play(tmp_path, {"A": [make_measured()], "B": [make_measured()]})
    asked = [(NAMES[r.case.fingerprint], r.rehearse) for r in stage.requests]
    assert asked == [("A", True), ("B", True), ("A", False), ("B", False)]
