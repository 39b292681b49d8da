"""What a log gets of a run: the plan, a line a case, a sign of life."""

from __future__ import annotations

from bench.commands.plain import PlainFace
from bench.measuring.messages import Progress
from bench.records.run import Settings
from bench.running.face import Ahead, Start
from bench.running.time_left import Span
from bench.tests.values import failed, make_case, make_launch, make_measured

LLAMA = make_case(workload="llama", mode="decode", parameters={"model": "toy", "batch_size": 1})
LABEL = "llama-decode bf16 (toy, batch 1)"


class Log:
    """Lines, and a clock that is set."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.now = 0.0
        self.face = PlainFace(self.lines.append, Settings(launches=3), lambda: self.now)


def ahead(done: int, seconds: Span) -> Ahead:
    return Ahead(done, 3 - done, False, seconds)


def start(number: int) -> Start:
    return Start(LLAMA, number, 3, False, None, False, 0.0, None)


def test_a_line_per_case() -> None:
    log = Log()
    measured = make_measured(0.01, unit="token", flags=("DRIFT",))
    log.face.begins([LLAMA], ahead(0, Span(130.0, None)))
    for k in range(3):
        log.face.starts(start(k + 1), ahead(k, Span(20.0, 20.0)))
        log.face.progress(Progress(phase="measure", samples=3, throughput=99.0))
        log.face.ends(
            make_launch(measured, LLAMA, launch=k), [100.0, 100.0, 101.0][: k + 1], k == 2
        )
    assert log.lines == [
        "1 case, 0 of 3 launches, at least 2 min left",
        # logs 0 0 0.00995: SD 0.005745, error 0.003317, times 4.302653
        f"{LABEL}, 3 launches: 100 token/s (±1.4%) [DRIFT in the last]",
    ]


def test_a_failure_is_said_at_once_and_what_follows_from_it() -> None:
    log = Log()
    log.face.ends(make_launch(failed(message="killed"), LLAMA), [], False)
    log.face.ends(make_launch(failed(message="killed"), LLAMA, launch=1), [], True)
    assert log.lines == [
        f"{LABEL}, launch 1: FAILED (crash in measure): killed. It is tried again",
        f"{LABEL}, 2 launches: FAILED (crash in measure): killed",
    ]


def test_a_choice_that_fails_is_no_news() -> None:
    log = Log()
    space = make_case(
        workload="resnet50", mode="infer", parameters={}, tuned={"batch_size": (1, 2)}
    )
    tried = make_launch(failed(), space, choice={"batch_size": 2}, search=True)
    log.face.ends(tried, [], False)
    assert log.lines == []


def test_a_case_has_one_line_although_a_side_goes_on_with_the_other() -> None:
    log = Log()
    for side in ("A", "B", "A"):
        log.face.turn(side)
        log.face.ends(make_launch(make_measured(), LLAMA), [100.0], True)
    assert log.lines == [
        f"{side}: {LABEL}, 1 launch: 100 image/s (no interval yet)" for side in "AB"
    ]


def test_a_minute_without_a_line_is_worth_one() -> None:
    log = Log()
    log.face.begins([LLAMA], ahead(0, Span(0.0, None)))
    log.now = 59.0
    log.face.starts(start(1), ahead(0, Span(0.0, None)))
    log.now = 61.0
    log.face.progress(Progress(phase="warm-up", samples=12))
    log.now = 90.0
    log.face.progress(Progress(phase="measure", samples=3, throughput=99.0, unit="token"))
    log.now = 121.0
    log.face.starts(start(2), ahead(1, Span(120.0, 200.0)))
    assert log.lines[1:] == [
        f"0 of 3 launches, time left unknown; now {LABEL}, launch 1 of 3: warms up, 12 samples",
        f"1 of 3 launches, 2 to 3 min left; now {LABEL}, launch 2 of 3",
    ]
