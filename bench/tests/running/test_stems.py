"""Launches that are forked: independent of one another, and processes as any other."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import msgspec
import psutil
import pytest

from bench import catalogue
from bench.lifeline import Lifeline
from bench.measuring.messages import Progress, Request
from bench.measuring.stem import AVAILABLE, Born, Ended, Order
from bench.records.outcome import Failed, Measured
from bench.records.run import Settings
from bench.running import child, launcher, rehearsals, stems
from bench.running.stems import Stems
from bench.tests.running.scripted_workers import alive, request, wait_until
from bench.tests.values import make_case

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="Linux")
CPU = catalogue.backend("cpu")


def of(workload: str, number: int) -> Request:
    parameters = {"shape": f"{number}x8x8"} if workload == "gemm" else {"batch_size": number}
    mode = "matmul" if workload == "gemm" else "infer"
    case = make_case(workload=workload, mode=mode, precision="fp32", parameters=parameters)
    settings = Settings(block_seconds=1e-4, warmup_limit_seconds=1.0)
    return msgspec.structs.replace(request(), case=case, settings=settings)


class Still:
    """A stem without a process."""

    made: ClassVar[list[Still]] = []
    absent: ClassVar[str] = ""

    def __init__(self, order: Order, before: Still | None = None) -> None:
        self.order, self.before, self.ended = order, before, False
        self.made.append(self)

    @classmethod
    def first(cls, order: Order, python: str, given: Mapping[str, str]) -> Still:
        return cls(order)

    def grown(self, order: Order) -> Still:
        return Still(order, self)

    def ready(self) -> bool:
        self.waited = len(self.made)
        return self.order.libraries[0] != self.absent

    def end(self) -> None:
        self.ended = True

    @property
    def chain(self) -> tuple[str, ...]:
        return (*(self.before.chain if self.before else ()), *self.order.libraries)


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> list[Still]:
    monkeypatch.setattr(Still, "made", [])
    monkeypatch.setattr(stems, "Stem", Still)
    return Still.made


def test_no_two_launches_of_a_case_come_from_one_stem(still: list[Still]) -> None:
    """Nor from two that grew from one. Those of different cases do."""
    them = Stems(sys.executable, "folder")
    asked = [of("gemm", 1), of("gemm", 2), of("bert", 1), of("gemm", 1), of("bert", 1)]
    given: list[Any] = [them.stem(one, {}) for one in asked]
    assert [still.index(one) for one in given] == [0, 0, 2, 3, 5]
    assert [one.ended for one in still] == [True] * 3 + [False] * 3
    torch, bert = ("torch",), ("torch", "torch._dynamo", "transformers.modeling_utils")
    assert [one.chain for one in given] == [torch, torch, bert, torch, bert]
    assert given[2].before.before is given[0]
    them.close()
    assert all(one.ended for one in still)


def test_what_a_round_needs_is_imported_side_by_side(still: list[Still]) -> None:
    """Before its first launch: nothing imports while one measures."""
    them = Stems(sys.executable, None)
    asked = [of("gemm", 1), of("bert", 1), of("diffusion", 1)]
    them.expect(one.case for one in asked)
    first: Any = them.stem(asked[0], {})
    assert [one.chain[-1] for one in still] == [
        "torch",
        "torch._dynamo",
        "diffusers.models.transformers.dit_transformer_2d",
        "transformers.modeling_utils",
    ]
    assert [one.waited for one in still] == [1, 2, 4, 4]
    given: list[Any] = [first, *(them.stem(one, {}) for one in asked[1:])]
    assert given == [still[0], still[3], still[2]] and len(still) == 4
    them.expect([asked[0].case])
    them.stem(asked[0], {})
    assert len(still) == 5, "and what it does not need is not imported"


@pytest.mark.parametrize(("cores", "rounds", "made"), [(2, 3, 2), (1, 3, 1), (2, 1, 1), (9, 9, 2)])
def test_two_rounds_import_side_by_side_where_there_are_cores(
    still: list[Still], monkeypatch: pytest.MonkeyPatch, cores: int, rounds: int, made: int
) -> None:
    """Each is its own draw; the second waits for its turn."""
    monkeypatch.setattr(stems, "usable_cores", lambda: cores)
    them = Stems(sys.executable, None)
    asked = [of("gemm", 1), of("bert", 1)]
    them.expect([one.case for one in asked], rounds)
    given: list[Any] = [them.stem(one, {}) for one in asked]
    assert [one.chain[-1] for one in still] == [
        *["torch"] * made,
        *["torch._dynamo"] * made,
        *["transformers.modeling_utils"] * made,
    ]
    assert [one.waited for one in still] == [made * (1 + n // made) for n in range(3 * made)]
    given += [them.stem(one, {}) for one in asked]
    assert len({*map(id, given)}) == 4 and len(still) == 6
    assert [one.ended for one in still if one in given[:2]] == [True, True]
    assert given[3].before.before is given[2] and not given[2].ended
    them.close()
    assert all(one.ended for one in still)


def test_what_a_rehearsal_is_forked_from_has_the_compiler(still: list[Still]) -> None:
    """And what a launch of the same case is forked from need not have it."""
    them = Stems(sys.executable, None)
    rehearsed: list[Any] = [them.rehearsing(of(name, 1), {}) for name in ("gemm", "gemm", "bert")]
    assert [one.chain[-1] for one in rehearsed] == [
        *["torch._dynamo"] * 2,
        "transformers.modeling_utils",
    ]
    launched: Any = them.stem(of("gemm", 1), {})
    assert launched.chain == ("torch",) and len(still) == 3, "nor does one count as a launch"


@pytest.mark.parametrize(
    ("absent", "tried", "forked"),
    [
        ("torch", 1, []),
        ("transformers.modeling_utils", 3, ["gemm"]),
        ("torch._dynamo", 2, ["gemm"]),
    ],
)
def test_where_none_can_be_had_launches_import_by_themselves(
    still: list[Still],
    monkeypatch: pytest.MonkeyPatch,
    absent: str,
    tried: int,
    forked: list[str],
) -> None:
    monkeypatch.setattr(Still, "absent", absent)
    them = Stems(sys.executable, None)
    for number in (1, 2):
        asked = [of("gemm", number), of("bert", number)]
        assert [one.case.workload for one in asked if them.stem(one, {})] == forked
    assert len(still) == tried, "it was tried once"
    assert sum(one.ended for one in still) == 1
    them.give_up()
    assert them.stem(of("gemm", 3), {}) is None and all(one.ended for one in still)


def test_what_imports_next_to_nothing_is_not_forked(still: list[Still]) -> None:
    nothing = msgspec.structs.replace(
        request(), case=make_case(workload="small", mode="infer", parameters={})
    )
    with mock.patch.object(catalogue, "workload", lambda name: Small()):
        assert Stems(sys.executable, None).stem(nothing, {}) is None
    assert not still


class Small:
    libraries = ()
    modes: ClassVar = {"infer": mock.Mock(libraries=())}


def test_a_fork_that_answers_late_is_no_other_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else every launch that follows is taken for the one before it: its end is never seen."""
    monkeypatch.setattr(child, "GRACE_SECONDS", 0.1)
    theirs: list[socket.socket] = []

    def start(held: Lifeline, descriptor: int) -> child.Process:
        theirs.append(socket.socket(fileno=os.dup(descriptor)))
        return mock.Mock(spec=child.Process)

    stem = stems.Stem(Order(backend="cpu", libraries=()), start)
    (its,) = theirs
    with its, tempfile.TemporaryFile() as stderr:
        with pytest.raises(TimeoutError):
            stem.fork((), stderr)
        said = [Born(pid=1001), Ended(pid=1001, code=-9), Born(pid=1002), Born(pid=1003)]
        for word in said:
            its.send(msgspec.json.encode(word))
        for pid in (1002, 1003):
            fork = stem.fork((), stderr)
            assert fork.pid == pid
            for stream in (fork.stdin, fork.stdout):
                assert stream is not None
                stream.close()
    stem._socket.close()


def test_what_is_forked_too_late_goes(living: Stems) -> None:
    stem = living.stem(of("gemm", 30), {})
    assert stem is not None
    process = psutil.Process(stem._process.pid)
    with (
        tempfile.TemporaryFile() as stderr,
        mock.patch.object(child, "GRACE_SECONDS", 0.0),
        mock.patch.object(stem, "_hear", lambda seconds: None),
        pytest.raises(TimeoutError),
    ):
        Lifeline().lend(lambda ends: stem.fork(ends, stderr))
    wait_until(lambda: stem._hear(0.0) is not None and stem._answered == stem._asked)
    wait_until(lambda: not any(alive(one.pid) for one in process.children()))
    (found,) = launcher.launch_together([of("gemm", 31)], {}, stems=living)
    assert isinstance(found.report.outcome, Measured)
    assert found.report.environment["imports_shared"] is True


STEM = """
import os, socket, sys
from bench.measuring import stem
stem.imported, stem.file_pages, stem.become = lambda order: 0.0, list, lambda *_: os._exit(7)
stem.serve(socket.socket(fileno=int(sys.argv[1])), (), {}, 0.0)
"""


@pytest.mark.usefixtures("reaper")
def test_one_that_goes_leaves_no_zombie() -> None:
    """PID 1 of a container, which would have it, may be a program that reaps nobody else's."""

    def start(held: Lifeline, descriptor: int) -> child.Process:
        code = (sys.executable, "-c", STEM, str(descriptor))
        return held.start(code, os.environ, pass_fds=(descriptor,))

    stem = stems.Stem(Order(backend="cpu", libraries=()), start)
    assert stem.ready()
    with tempfile.TemporaryFile() as stderr:
        forked = stem.fork((), stderr)
    assert forked.wait(20.0) == 7
    child.end(forked)
    stem.end()
    assert not psutil.pid_exists(forked.pid)


def test_only_a_backend_that_says_so_is_forked() -> None:
    assert Stems.of(CPU, sys.executable, None) is not None
    assert Stems.of(catalogue.backend("cuda"), sys.executable, None) is None


@pytest.fixture(scope="module")
def living(forked: None) -> Iterator[Stems]:
    them = Stems(sys.executable, None)
    with contextlib.closing(them):
        yield them


def test_a_forked_launch_measures_and_says_that_it_was(living: Stems) -> None:
    (found,) = launcher.launch_together([of("gemm", 8)], {}, stems=living)
    assert isinstance(found.report.outcome, Measured), found
    assert found.report.environment["imports_shared"] is True
    assert found.report.cold.import_seconds is not None
    assert found.stderr_tail == ""


def test_a_forked_launch_that_is_killed_says_so_and_the_next_one_measures(living: Stems) -> None:
    def kill(progress: Progress) -> None:
        if progress.phase == "warm-up":
            (stem,) = living._stems.values()
            for one in psutil.Process(stem._process.pid).children():
                one.send_signal(signal.SIGKILL)

    endless = of("gemm", 9)
    settings = msgspec.structs.replace(endless.settings, block_seconds=30.0)
    endless = msgspec.structs.replace(endless, settings=settings)
    (found,) = launcher.launch_together([endless], {}, kill, stems=living)
    assert isinstance(found.report.outcome, Failed)
    assert "killed by SIGKILL" in found.report.outcome.message
    (found,) = launcher.launch_together([of("gemm", 10)], {}, stems=living)
    assert isinstance(found.report.outcome, Measured)


def test_memory_is_counted_in_forks_and_what_cannot_be_is_left_out(
    living: Stems, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stems, "common", lambda libraries: ("torch",))
    monkeypatch.setattr(rehearsals, "usable_cores", lambda: 2)
    asked = [of("gemm", 20), of("gemm", -1), of("gemm", 22)]
    only = [msgspec.structs.replace(one, rehearse=True, rehearsal_only=True) for one in asked]
    found = rehearsals.counted(only, {}, living)
    # In float32: three operands each of a few inputs.
    assert found.keys() == {asked[0].case.fingerprint, asked[2].case.fingerprint}
    assert found[asked[0].case.fingerprint] < found[asked[2].case.fingerprint]


def file_bytes(pid: int) -> int:
    """Memory of a process that files are mapped into."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssFile:"))


def test_a_stem_that_grew_forks_launches_and_goes_when_it_is_let_go(
    living: Stems, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds nothing of what it grew from but what is imported: no socket, no lifeline."""
    monkeypatch.setattr(stems, "common", lambda libraries: ("torch", "wave"))
    (found,) = launcher.launch_together([of("gemm", 13)], {}, stems=living)
    assert isinstance(found.report.outcome, Measured), found
    assert found.report.environment["imports_shared"] is True
    first, grown = (living._stems[chain] for chain in (("torch",), ("torch", "wave")))
    process = psutil.Process(grown._process.pid)
    assert process.parent() == psutil.Process(first._process.pid)
    assert os.getpgid(process.pid) == process.pid, "so that it ends with what it forked"
    sockets = [str(x.readlink()) for x in Path(f"/proc/{process.pid}/fd").iterdir()]
    assert sum(x.startswith("socket:") for x in sockets) == 1, sockets
    assert file_bytes(process.pid) > 0.9 * file_bytes(first._process.pid), "as of its own process"
    living._stems.pop(("torch", "wave")).end()
    wait_until(lambda: not alive(process.pid))


def test_a_launch_whose_stem_is_gone_does_not_stay(living: Stems, tmp_path: Path) -> None:
    """And the next one imports by itself."""
    stem = living.stem(of("gemm", 11), {})
    assert stem is not None
    with (tmp_path / "stderr").open("wb") as stderr:
        launch = stem.fork((), stderr)
    assert launch.poll() is None
    os.kill(stem._process.pid, signal.SIGKILL)
    assert launch.wait(10.0) == -signal.SIGKILL
    wait_until(lambda: not alive(launch.pid))
    for stream in (launch.stdin, launch.stdout):
        assert stream is not None
        stream.close()
    (found,) = launcher.launch_together([of("gemm", 12)], {}, stems=living)
    assert isinstance(found.report.outcome, Measured)
    assert found.report.environment["imports_shared"] is False
