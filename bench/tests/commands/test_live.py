"""What a person sees during a run, on a terminal of any width."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from bench.commands.live import LiveFace, shown
from bench.measuring.messages import Progress
from bench.records.case import Case
from bench.records.outcome import Failed
from bench.records.run import Launch, Settings
from bench.running.face import Ahead, Start
from bench.running.time_left import Span
from bench.tests.values import failed, make_case, make_launch, make_measured

SETTINGS = Settings(launches=3)
LLAMA = make_case(workload="llama", mode="decode", parameters={"model": "toy", "batch_size": 1})
SWEEP = [
    make_case(
        workload="llama", mode="decode", parameters={"model": "llama-3.1-8b", "batch_size": n}
    )
    for n in (1, 2, 4, 8, 16, 32, 64, 128)
]
WIDTHS = (20, 40, 60, 80, 120)
LONG = "RuntimeError: \x1b[2Jan operator\nis not there,\tand this goes on " + "for long " * 60


def ahead(done: int, left: int, least: float = 0.0, most: float | None = None) -> Ahead:
    return Ahead(done, left, False, Span(least, most))


def start(
    case: Case = LLAMA, number: int = 1, next_case: Case | None = None, **changes: object
) -> Start:
    first = Start(case, number, 3, False, None, False, 0.0, next_case)
    return first._replace(**changes)  # type: ignore[arg-type]


def make_face(width: int = 120, height: int = 40, clock: float = 0.0) -> LiveFace:
    console = Console(
        file=io.StringIO(), force_terminal=True, width=width, height=height, legacy_windows=False
    )
    return LiveFace(console, SETTINGS, lambda: clock)


def screen(face: LiveFace) -> list[str]:
    """The display as it is now."""
    return [line.plain for line in face.screen()]


def written(face: LiveFace) -> str:
    assert isinstance(face.console.file, io.StringIO)
    return face.console.file.getvalue()


class Terminal:
    """What stands on a terminal of that width after what was written to it: lines, and the most
    that there ever were. Knows what the display needs, and fails at anything else."""

    WORD = re.compile(r"\x1b\[(\d*);?\d*([A-Za-z])|\x1b\[\?25([lh])|([\r\n])|([^\x1b\r\n])")

    def __init__(self, width: int) -> None:
        self.width = width
        self.lines = [""]
        self.row = self.column = 0
        self.cursor = True

    def feed(self, text: str) -> None:
        end = 0
        for found in self.WORD.finditer(text):
            assert found.start() == end, f"unknown: {text[end : found.start()]!r}"
            end = found.end()
            self._act(*found.groups())
        assert end == len(text), f"unknown: {text[end:]!r}"

    def _act(self, number: str, code: str, cursor: str, newline: str, letter: str) -> None:
        line = self.lines[self.row].ljust(self.column)
        if letter:
            assert self.column < self.width - 1, "the last column is left free: nothing wraps"
            self.lines[self.row] = line[: self.column] + letter + line[self.column + 1 :]
            self.column += 1
        elif newline == "\n":
            self.row, self.column = self.row + 1, 0
            self.lines += [""] * (self.row + 1 - len(self.lines))
        elif code == "A":
            self.row -= int(number)
            assert self.row >= 0, "above what the display has written"
        elif code == "G" or newline == "\r":
            self.column = 0
        elif code == "K":
            self.lines[self.row] = line[: self.column]
        elif cursor:
            self.cursor = cursor == "h"
        else:
            assert code == "m", f"unknown: {code}"


# --- What it says --------------------------------------------------------------------------------


def test_it_shows_what_runs_now_what_comes_and_the_time_left() -> None:
    with make_face() as face:
        face.begins([LLAMA, *SWEEP[:1]], ahead(0, 6))
        assert screen(face)[:2] == [
            "0 of 6 launches, time left unknown",
            "now   the first launch starts",
        ]
        face.starts(start(number=2, next=SWEEP[0]), ahead(2, 4, 90.0, 100.0))
        face.progress(Progress(phase="measure", samples=7, throughput=123.4, unit="token"))
        assert screen(face) == [
            "2 of 6 launches, about 2 min left",
            "now   llama-decode bf16 (toy, batch 1)",
            "      launch 2 of 3: measures, 7 samples, 123 token/s",
            "next  llama-decode bf16 (llama-3.1-8b, batch 1)",
            "",
            "llama-decode bf16 (toy, batch 1)           under way",
            "llama-decode bf16 (llama-3.1-8b, batch 1)  waiting",
        ]


def test_a_worker_of_an_older_version_does_not_say_what_it_counts() -> None:
    with make_face() as face:
        face.begins([LLAMA], ahead(0, 3))
        face.starts(start(), ahead(0, 3))
        face.progress(Progress(phase="measure", samples=1, throughput=123.4))
        assert "      launch 1 of 3: measures, 1 sample, 123 item/s" in screen(face)


def test_a_case_keeps_its_row_and_has_one() -> None:
    with make_face() as face:
        face.begins([LLAMA, SWEEP[0]], ahead(0, 6))
        for k in range(3):
            face.starts(start(number=k + 1), ahead(k, 6 - k))
            face.ends(make_launch(make_measured(0.01), LLAMA, launch=k), [100.0] * (k + 1), k == 2)
            face.ends(make_launch(failed(message="killed"), SWEEP[0], launch=k), [], False)
        rows = screen(face)[5:]
    assert rows == [
        "llama-decode bf16 (toy, batch 1)           100 image/s (±0.0%)",
        "llama-decode bf16 (llama-3.1-8b, batch 1)  FAILED (crash in measure): killed",
    ]


def test_the_time_left_falls_while_a_launch_goes_on_but_not_below_what_follows_it() -> None:
    now = [0.0]
    face = make_face()
    face.clock = lambda: now[0]
    face.begins([LLAMA], ahead(0, 3))
    face.starts(start(seconds=40.0), ahead(1, 2, 80.0, 80.0))
    said = []
    for now[0] in (0.0, 30.0, 400.0):
        said.append(screen(face)[0])
    assert said == [f"1 of 3 launches, about {n} s left" for n in (80, 50, 40)]


def test_both_sides_are_counted_and_stand_together() -> None:
    with make_face() as face:
        for side in "AB":
            face.turn(side)
            face.begins([LLAMA, SWEEP[0]], ahead(0, 6))
        face.turn("A")
        face.starts(start(), ahead(0, 6, 60.0, 60.0))
        assert screen(face)[0] == "0 of 12 launches, at least 60 s left", "B has not begun"
        face.turn("B")
        face.starts(start(), ahead(0, 6, 60.0, 60.0))
        shown = screen(face)
    assert shown[0] == "0 of 12 launches, about 2 min left"
    assert shown[1] == "now   B: llama-decode bf16 (toy, batch 1)"
    assert [row[:2] for row in shown[5:]] == ["A:", "B:", "A:", "B:"]


def test_a_batch_beyond_one_that_does_not_fit_says_so_in_its_row() -> None:
    with make_face() as face:
        face.begins(SWEEP, ahead(0, 8))
        face.starts(start(SWEEP[2]), ahead(0, 8))
        full = Failed(kind="oom", phase="build", message="out of memory")
        face.ends(make_launch(make_measured(0.01), SWEEP[1]), [100.0], False)
        face.ends(make_launch(full, SWEEP[2]), [], True)
        rows = screen(face)[5:]
    assert rows[0].endswith("waiting") and "FAILED (oom in build)" in rows[2]
    assert rows[3].endswith("SKIPPED: beyond the largest batch that fits: 2")


def test_a_long_plan_shows_the_page_on_which_it_works() -> None:
    plan = [make_case(parameters={"shape": f"{n}x1x1"}) for n in range(1, 31)]
    with make_face(height=40) as face:
        face.begins(plan, ahead(0, 30))
        firsts = []
        for case in (plan[0], plan[13], plan[14], plan[29]):
            face.starts(start(case), ahead(0, 30))
            rows = screen(face)[5:]
            assert len(rows) == 14 and any(case.label in row for row in rows)
            firsts.append(rows[0].split("(")[1].split("x")[0])
    assert firsts == ["1", "1", "15", "17"]


def test_of_a_name_too_long_the_end_stays_which_tells_a_sweep_apart() -> None:
    assert shown("llama-decode bf16 (toy, batch 1)", 32) == "llama-decode bf16 (toy, batch 1)"
    assert shown("llama-decode bf16 (toy, batch 1)", 21) == "llama-decode b…tch 1)"
    assert [shown("abc", n) for n in (3, 2, 1)] == ["abc", "a…", "…"]


# --- How it stands -------------------------------------------------------------------------------


def play(face: LiveFace) -> list[int]:
    """A run with all that makes lines long; how many lines the display had at each step."""
    counts = []
    space = make_case(
        workload="resnet50",
        mode="infer",
        execution="tuned",
        parameters={"image_size": 64},
        tuned={"batch_size": (1, 2), "execution": ("compile", "eager")},
    )
    plan = [LLAMA, space, *SWEEP]
    launches: list[tuple[Start, Launch]] = []
    for case in (LLAMA, *SWEEP):
        fine = make_measured(0.01, flags=("DRIFT", "CONTENDED", "NO_STEADY_STATE"))
        launches.append((start(case, 1, next=plan[0]), make_launch(fine, case)))
        launches.append((start(case, 2, next=plan[0]), make_launch(failed(message=LONG), case)))
    choice = {"batch_size": 2, "execution": "compile"}
    tried = make_launch(make_measured(0.01), space, choice=choice, search=True)
    launches.append((start(space, choice=choice, search=True, of=1000), tried))
    with face:
        for side in "AB":
            face.turn(side)
            face.begins(plan, ahead(0, 1000, 90.0))
            counts.append(len(screen(face)))
        for side in "AB":
            face.turn(side)
            for k, (one, launch) in enumerate(launches):
                face.starts(one, ahead(k, 1000 - k, 45.0, 7e4))
                face.progress(Progress(phase="warm-up", samples=k))
                face.progress(
                    Progress(phase="measure", samples=200, throughput=1.5e12, unit="audio second")
                )
                face.ends(launch, [1e9, 2e9, 3e9], True)
                counts.append(len(screen(face)))
    return counts


@pytest.mark.parametrize("height", [5, 10, 24])
@pytest.mark.parametrize("width", WIDTHS)
def test_no_line_is_too_wide_and_the_display_stands_still(width: int, height: int) -> None:
    face = make_face(width, height)
    counts = play(face)
    assert set(counts[1:]) == {max(counts)}, "from both plans on, no line comes or goes"
    assert max(counts) < height, "the cursor has a line of its own"
    terminal = Terminal(width)
    terminal.feed(written(face))
    assert not any(terminal.lines), "nothing is left of it"
    assert len(terminal.lines) == max(counts) + 1 and terminal.row == 0
    assert terminal.cursor


@pytest.mark.parametrize("width", WIDTHS)
def test_what_stands_on_the_terminal_is_the_display(width: int) -> None:
    face = make_face(width, 24)
    face.begins([LLAMA, *SWEEP], ahead(0, 27, 200.0))
    face.starts(start(number=2, next=SWEEP[0]), ahead(1, 26, 2000.0, 3000.0))
    face.ends(make_launch(failed(message=LONG), SWEEP[0]), [], False)
    face.progress(Progress(phase="warm-up", samples=7))
    terminal = Terminal(width)
    terminal.feed(written(face))
    assert [line.rstrip() for line in terminal.lines[:-1]] == [s.rstrip() for s in screen(face)]


def test_no_line_is_wiped_before_it_is_written() -> None:
    """Which would flicker: after a line only what is right of it is erased."""
    face = make_face(80, 24)
    play(face)
    codes = set(re.findall(r"\x1b\[[0-9;]*[A-Za-ln-z]", written(face)))
    assert codes <= {"\x1b[0K", "\x1b[1G", *(f"\x1b[{n}A" for n in range(1, 24))}


def test_it_is_drawn_when_something_is_said() -> None:
    """And by no timer, which would take a core from the job."""
    with make_face() as face:
        face.begins([LLAMA], ahead(0, 3))
        face.starts(start(), ahead(0, 3))
        before = written(face)
        face.progress(Progress(phase="warm-up", samples=12))
        drawn = written(face)[len(before) :]
    assert "warms up, 12 samples" in drawn
