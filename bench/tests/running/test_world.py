"""Ranks of one launch, scripted: who is named when one goes wrong, and that none is left."""

from __future__ import annotations

import os
import re
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import msgspec
import pytest

from bench import catalogue
from bench.measuring.messages import Place, Progress, Request
from bench.planning.sweep import too_large
from bench.records.outcome import Block, Failed, Measured, Skipped, Void
from bench.running import blame, child, world
from bench.running.launcher import Finished, launch_together
from bench.tests.launching import launch
from bench.tests.running.scripted_workers import (
    REPORT,
    alive,
    request,
    scripted,
    suspend,
    wait_until,
)
from bench.tests.running.watching import Watching
from bench.tests.values import make_case

pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX signals and process groups")

HEAD = """
    asked = json.loads(sys.stdin.readline())
    place = asked["place"]
    rank, size = place["rank"], place["size"]
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    def say(phase): os.write(1, b'{"line":"progress","phase":"%s"}\\n' % phase.encode())
    def report(**outcome):
        made = json.loads(REPORT)
        made.update({"busy_ns": [9_000_000 + rank] * 10})
        if outcome:
            made.update({"outcome": outcome, "blames_peer": outcome.pop("peer", False)})
        os.write(1, json.dumps(made).encode() + b"\\n")
    def fail(message, peer=False):
        report(status="failed", kind="error", phase="measure", message=message, peer=peer)
        os._exit(0)
    def wait_for_nobody(): time.sleep(600)
    def wait_for_others(): time.sleep(600)
    open(f"pid{rank}", "w").write(str(os.getpid()))
    say("import")
    say("open")
    sys.stdin.readline()
    say("numerics")
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder of its own, short patience, and no process left behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(blame, "QUIET_SECONDS", 0.8)
    monkeypatch.setattr(blame, "LATE_SECONDS", 0.8)
    monkeypatch.setattr(blame, "STACK_SECONDS", 0.3)
    monkeypatch.setattr(world, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(world, "GRACE_SECONDS", 0.6)
    monkeypatch.setattr(child, "GRACE_SECONDS", 0.3)
    yield
    for path in tmp_path.glob("pid*"):
        wait_until(lambda path=path: not alive(int(path.read_text())))  # type: ignore[misc]


@pytest.fixture
def all_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every rank reports, and whoever is slow to is waited for."""
    monkeypatch.setattr(world, "GRACE_SECONDS", 20.0)


@pytest.fixture
def all_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank that starts slowly does not stand still yet."""
    monkeypatch.setattr(blame, "QUIET_SECONDS", 3.0)
    monkeypatch.setattr(blame, "LATE_SECONDS", 1e6)
    monkeypatch.setattr(blame, "BUSY", 0.02)


def of(devices: int, limit_seconds: float = 30.0, **fields: object) -> Request:
    case = msgspec.structs.replace(make_case(), devices=devices, parallelism=f"dp{devices}")
    asked = msgspec.structs.replace(request(limit_seconds), case=case)
    return msgspec.structs.replace(asked, **fields)


def run(code: str, devices: int = 3, limit_seconds: float = 30.0) -> Finished:
    """A launch whose ranks are this code."""
    body = textwrap.dedent(HEAD) + textwrap.dedent(code)
    command = scripted("import faulthandler\n" + body)
    return launch(of(devices, limit_seconds), {}, command=command)


def failed(finished: Finished) -> Failed:
    assert isinstance(finished.report.outcome, Failed), finished
    return finished.report.outcome


# --- All is well ----------------------------------------------------------------------------------


MEASURED = """
    say("measure")
    made = json.loads(REPORT)
    made.update(busy_ns=[9_000_000 + rank] * 10, first_step_ns=100 + rank)
    made["outcome"]["silent"] = {"steps": 1, "real_ns": [9, 9], "silent_ns": [8, 7]}
    made["silent_ns"] = [8, min(5 + rank, 7)]
    if rank:
        made["outcome"].update(flags=["STOPPED"], causes={"STOPPED": f"it stood {rank} s"})
    os.write(1, json.dumps(made).encode() + b"\\n")
"""


def test_reports_become_one() -> None:
    heard: list[Progress] = []
    code = textwrap.dedent(HEAD) + textwrap.dedent(MEASURED)
    command = scripted("import faulthandler\n" + code)
    outcome = launch(of(3), {}, heard.append, command).report.outcome
    assert isinstance(outcome, Measured)
    assert [share.rank for share in outcome.ranks] == [0, 1, 2]
    assert [share.busy_ns[0] for share in outcome.ranks] == [9_000_000, 9_000_001, 9_000_002]
    assert [share.silent_ns for share in outcome.ranks] == [(8, 5), (8, 6), (8, 7)]
    assert [share.flags for share in outcome.ranks] == [(), ("STOPPED",), ("STOPPED",)]
    assert outcome.causes == {"STOPPED": "rank 1: it stood 1 s; rank 2 too"}
    assert outcome.ranks[2].causes == {"STOPPED": "it stood 2 s"}
    assert [progress.phase for progress in heard] == ["import", "open", "numerics", "measure"]


@pytest.mark.parametrize(("backend", "devices"), [("cuda", 3), ("cpu", 1)])
def test_each_device_is_asked_for_with_its_own_first_step(
    backend: str, devices: int, tmp_path: Path
) -> None:
    """And ranks that share a device are asked for once."""
    monitor = Watching()
    command = scripted("import faulthandler\n" + textwrap.dedent(HEAD + MEASURED))
    asked = of(3, backend=backend, here=3)
    (found,) = launch_together([asked], {}, command=command, monitor=monitor)
    pids = {int((tmp_path / f"pid{rank}").read_text()) for rank in range(3)}
    assert monitor.asked == [(pids, {index: 100 + index for index in range(devices)})]
    assert found.telemetry == "dark 0"
    outcome = found.report.outcome
    assert isinstance(outcome, Measured)
    dark = [share.watched and share.watched.absent_because for share in outcome.ranks]
    assert dark == (["dark 0", "dark 1", "dark 2"] if devices == 3 else [None] * 3)


def test_each_rank_has_its_place(tmp_path: Path) -> None:
    run('open(f"place{rank}", "w").write(json.dumps(place)); report()', devices=2)
    first, second = (
        msgspec.json.decode((tmp_path / f"place{rank}").read_bytes(), type=Place) for rank in (0, 1)
    )
    assert (first.rank, second.rank, first.size, first.parallelism) == (0, 1, 2, "dp2")
    assert first.port == second.port
    assert first.listener is not None
    assert second.listener is None


def test_rank_0_holds_the_socket_that_all_meet_at() -> None:
    finished = run(
        """
        import socket
        if rank == 0:
            held = socket.socket(fileno=place["listener"])
            met, _ = held.accept()
            met.sendall(b"here")
        else:
            with socket.create_connection((place["address"], place["port"])) as met:
                assert met.recv(4) == b"here"
        report()
        """,
        devices=2,
    )
    assert isinstance(finished.report.outcome, Measured)


# --- One goes wrong -------------------------------------------------------------------------------

PEERS = 'time.sleep(0.1); fail("Connection closed by peer [127.0.0.1]:1", peer=True)'
"""What the others see of a rank that is gone."""


@pytest.mark.usefixtures("all_heard")
@pytest.mark.parametrize("bad", [0, 2])
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "was killed by SIGKILL"),
        ("os._exit(137)", "left with exit code 137 and no report"),
        ("time.sleep(0.2); os.abort()", "was killed by SIGABRT"),
        ('time.sleep(0.3); fail("RuntimeError: planted")', "RuntimeError: planted"),
        ('os.write(1, b"garbage\\n"); time.sleep(9)', "report is garbled"),
    ],
)
def test_the_rank_that_ends_is_named(bad: int, fault: str, said: str) -> None:
    """Whoever's words come first: the others' are of its closed connections."""
    finished = run(f"if rank == {bad}:\n    {fault}\nelse:\n    {PEERS}")
    assert failed(finished).message.startswith(f"rank {bad} (cpu): ")
    assert said in failed(finished).message


def test_a_rank_that_dies_while_it_imports_is_named() -> None:
    """The others wait for their turn, which never comes."""
    code = 'if asked["place"]["rank"] == 1: os._exit(7)'
    command = scripted("import faulthandler\nasked = json.loads(sys.stdin.readline())\n" + code)
    outcome = launch(of(2), {}, command=command).report.outcome
    assert isinstance(outcome, Failed)
    assert "left with exit code" in outcome.message


def test_what_all_say_is_no_ranks_fault() -> None:
    finished = run('report(status="skipped", reason="bf16: not here")')
    assert finished.report.outcome == Skipped(reason="bf16: not here")


def test_what_one_says_alone_has_its_name() -> None:
    finished = run(
        'if rank == 2: report(status="void", reason="numerics: loss off", numerics=None)\n'
        "else: wait_for_others()"
    )
    assert finished.report.outcome == Void(reason="rank 2 (cpu): numerics: loss off")


def test_what_does_not_fit_ends_a_sweep_though_each_rank_has_other_figures() -> None:
    """They look at the memory of one host one after the other."""
    code = 'report(status="skipped", reason=f"does not fit: the device has {13 + rank} GiB")'
    outcome = run(code, devices=2).report.outcome
    assert isinstance(outcome, Skipped) and too_large(outcome)
    assert re.fullmatch(r"does not fit: rank (\d) \(cpu\): the device has 1\d GiB", outcome.reason)


@pytest.mark.parametrize("slow", [0, 1])
def test_one_that_had_no_time_to_say_what_would_fit_is_not_at_fault(slow: int) -> None:
    code = f"""more = ". Over 4 devices it would fit" if rank != {slow} else ""
report(status="skipped", reason="does not fit: 80 GiB" + more)"""
    said = "does not fit: 80 GiB. Over 4 devices it would fit"
    assert run(code, devices=2).report.outcome == Skipped(reason=said)


@pytest.mark.usefixtures("all_heard")
def test_the_words_kept_are_those_of_the_named_rank() -> None:
    finished = run('os.write(2, b"I am %d\\n" % rank)\nif rank == 1: os._exit(3)\n' + PEERS)
    assert finished.stderr_tail == "I am 1\n"


def test_other_numbers_of_blocks_are_no_figure() -> None:
    code = 'made = json.loads(REPORT); made["busy_ns"] = [1] * (10 - rank)\n'
    finished = run(code + 'os.write(1, json.dumps(made).encode() + b"\\n")', devices=2)
    assert "other numbers of blocks" in failed(finished).message


# --- One stands still -----------------------------------------------------------------------------


@pytest.mark.usefixtures("all_come")
@pytest.mark.parametrize(
    ("bad", "fault", "rule"),
    [
        (0, "wait_for_nobody()", "stands where no other does"),
        (2, "os.kill(os.getpid(), signal.SIGSTOP)", "gives no stack"),
    ],
)
def test_who_stands_elsewhere_is_named(bad: int, fault: str, rule: str) -> None:
    finished = run(f'say("measure")\nif rank == {bad}: {fault}\nelse: wait_for_others()')
    assert failed(finished).kind == "timeout"
    assert failed(finished).message.startswith(f"rank {bad} of 3 hangs: {rule}; it stands at ")


def test_who_is_a_phase_behind_is_named_when_its_time_is_over_though_it_is_busy() -> None:
    finished = run(
        'if rank == 1:\n    while True: pass\nsay("build")\nwait_for_others()', limit_seconds=4.0
    )
    assert failed(finished).message.startswith("rank 1 of 3 hangs: still in its numerics phase ")
    assert failed(finished).phase == "numerics"


def test_who_does_not_come_where_all_meet_is_named() -> None:
    """All are in one phase; the others have said that they wait."""
    arrive = b'{"line":"progress","phase":"numerics","arrived":true}\n'
    finished = run(
        f"os.write(1, {arrive!r})\n"
        "if rank == 2: wait_for_nobody()\n"
        f"os.write(1, {arrive!r})\nwait_for_others()"
    )
    assert failed(finished).message.startswith("rank 2 of 3 hangs: still in its numerics phase ")


@pytest.mark.usefixtures("all_come")
def test_of_two_that_wait_for_each_other_both_are_shown() -> None:
    finished = run('say("measure")\nwait_for_others()', devices=2)
    message = failed(finished).message
    assert message.startswith("all ranks stand still, and none can be told from the others: ")
    assert message.count("in wait_for_others") == 2


def test_a_silent_rank_that_computes_is_let_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """It compiles: no step of its is known yet. Of one core each of the two has half."""
    monkeypatch.setattr(blame, "BUSY", 0.02)
    monkeypatch.setattr(world, "usable_cores", lambda: 1)
    monkeypatch.setattr(blame, "Watched", watched := Mock(wraps=blame.Watched))
    finished = run(
        "end = time.monotonic() + 2\nwhile time.monotonic() < end: pass\nreport()", devices=2
    )
    assert isinstance(finished.report.outcome, Measured)
    assert [call.args[2] for call in watched.mock_calls] == [0.5, 0.5]


@pytest.mark.usefixtures("all_come")
def test_ranks_that_read_their_weights_after_the_timing_are_let_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(blame, "QUIET_SECONDS", 1.5)
    finished = run(
        'say("measure")\nfor line in range(7): say("report"); time.sleep(0.3)\nreport()', devices=2
    )
    assert isinstance(finished.report.outcome, Measured), finished


def test_the_launchs_limit_ends_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blame, "QUIET_SECONDS", 1e6)
    monkeypatch.setattr(blame, "LATE_SECONDS", 1e6)
    finished = run('say("measure")\nwait_for_others()', devices=2, limit_seconds=5.0)
    assert failed(finished).message.startswith("no report within 5 s, and none can be told")


@pytest.mark.usefixtures("all_come")
@pytest.mark.parametrize("blocks", [1, 50_000], ids=["short", "longer than a pipe holds"])
def test_what_they_said_while_the_parent_was_held_up_is_heard(blocks: int) -> None:
    code = f"""
        made = json.loads(REPORT)
        made["outcome"]["steady"] += [{{"wall_ns": 10000000, "step_ns": [10000000]}}] * {blocks}
        made["busy_ns"] = [9_000_000] * (10 + {blocks})
        os.write(1, json.dumps(made).encode() + b"\\n")
    """
    command = scripted("import faulthandler\n" + textwrap.dedent(HEAD) + textwrap.dedent(code))
    held_up = {"numerics": 4.5}
    finished = launch(
        of(2, limit_seconds=4.0),
        *({}, lambda progress: time.sleep(held_up.get(progress.phase, 0.0)), command),
    )
    assert isinstance(finished.report.outcome, Measured), finished


@pytest.mark.usefixtures("all_come")
def test_what_all_were_suspended_for_is_not_of_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def heard(progress: Progress) -> None:
        if progress.phase == "measure":
            suspend(monkeypatch, 60.0)

    code = textwrap.dedent(HEAD) + 'say("measure"); time.sleep(0.5); report()'
    command = scripted("import faulthandler\n" + code)
    finished = launch(of(2), {}, heard, command)
    assert isinstance(finished.report.outcome, Measured), finished


# The signal may find Python amid opening a file, of which it then says that nobody closed it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_leaves_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does whatever else comes: the fixture waits for all of them to be gone."""
    monkeypatch.setattr(blame, "QUIET_SECONDS", 1e6)
    monkeypatch.setattr(blame, "LATE_SECONDS", 1e6)

    def interrupt() -> None:
        wait_until(lambda: len(list(tmp_path.glob("pid*"))) == 3)
        os.kill(os.getpid(), 2)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        run("wait_for_others()")


# --- How many -------------------------------------------------------------------------------------


def test_a_case_for_more_devices_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue.backend("cpu").__class__, "is_host", False)
    asked = of(4, here=2)
    outcome = launch(asked, {}, command=scripted("os._exit(1)")).report.outcome
    assert outcome == Skipped(reason="it takes 4 cpu devices; 2 are here")


def test_the_slowest_is_the_figure() -> None:
    """A rank's own time cannot be longer than its block's."""
    outcome = REPORT.outcome
    assert isinstance(outcome, Measured)
    share = run("report()").report.outcome
    assert isinstance(share, Measured)
    late = msgspec.structs.replace(share.ranks[1], busy_ns=(10**12,) * 10)
    with pytest.raises(ValueError, match="no longer than it"):
        msgspec.structs.replace(share, ranks=(share.ranks[0], late, share.ranks[2])).__post_init__()
    assert all(isinstance(block, Block) for block in share.steady)
