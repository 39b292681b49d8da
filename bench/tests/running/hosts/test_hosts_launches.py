"""Launches over two hosts, scripted: who is named, where, and that none is left on either."""

from __future__ import annotations

import contextlib
import os
import textwrap
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import pytest

from bench import catalogue
from bench.backend import DeviceInfo
from bench.errors import EXIT_INCOMPLETE, HostsError
from bench.measuring.messages import Place, Progress
from bench.records.outcome import Failed, Measured, Skipped, Void
from bench.running import blame, child, world
from bench.running.hosts import follower, remote, seating, wire
from bench.running.hosts.leader import Leader
from bench.running.hosts.seating import Hosts, Seat
from bench.running.launcher import Finished, launch_together
from bench.running.resume import other_hosts
from bench.running.sampler import Order
from bench.tests.running.hosts.two_hosts import led, placed, played
from bench.tests.running.scripted_workers import alive, scripted, wait_until
from bench.tests.running.test_world import HEAD, MEASURED, of
from bench.tests.running.watching import Watching
from bench.tests.values import make_launch

pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX signals and process groups")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder of its own, short patience, and no process left behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(blame, "QUIET_SECONDS", 0.8)
    monkeypatch.setattr(blame, "STACK_SECONDS", 0.2)
    monkeypatch.setattr(world, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(world, "GRACE_SECONDS", 0.4)
    monkeypatch.setattr(child, "GRACE_SECONDS", 0.3)
    monkeypatch.setattr("bench.running.hosts.follower.BEAT_SECONDS", 0.1)
    yield
    for path in tmp_path.glob("pid*"):
        wait_until(lambda path=path: not alive(int(path.read_text())))  # type: ignore[misc]


NAMES = """
    open(f"names{rank}", "w").write(" ".join({"HIDES", "SHOWS"} & {*os.environ}))
    say("measure"); report()
"""


def command(code: str) -> tuple[str, ...]:
    return scripted("import faulthandler\n" + textwrap.dedent(HEAD) + textwrap.dedent(code))


def launched(
    leader: Leader, words: tuple[str, ...], ranks: int = 4, heard: list[Progress] | None = None
) -> Finished:
    listen = (lambda progress: None) if heard is None else heard.append
    asked = of(ranks, 30.0, here=ranks)
    made = launch_together([asked], {}, listen, words, leader=leader)
    with contextlib.closing(made) as finished:
        return next(finished)


def run(code: str, ranks: int = 4) -> Finished:
    """A launch over two hosts whose ranks are this code."""
    words = command(code)
    with led(words) as (leader, _):
        return launched(leader, words, ranks)


def test_no_rank_of_either_has_what_would_hide_a_fallback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = type(catalogue.backend("cpu"))
    monkeypatch.setattr(backend, "silencing_variables", lambda _: ("HIDES",))
    monkeypatch.setenv("HIDES", "1")
    monkeypatch.setenv("SHOWS", "1")
    assert isinstance(run(NAMES).report.outcome, Measured)
    assert [(tmp_path / f"names{rank}").read_text() for rank in range(4)] == ["SHOWS"] * 4


def test_one_launch_goes_over_both(tmp_path: Path) -> None:
    heard: list[Progress] = []
    words = command(
        """
        said = {name: os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE",
            "GLOO_SOCKET_IFNAME")}
        open(f"place{rank}", "w").write(json.dumps([place, said]))
        if rank == 3: os.write(2, b"fell back to run on the CPU\\n")
        say("measure"); report()
        """
    )
    with led(words) as (leader, others):
        first = launched(leader, words, heard=heard)
        second = launched(leader, words)
    assert others[0].code == 0
    for finished in (first, second):
        assert isinstance(finished.report.outcome, Measured), finished
        shares = finished.report.outcome.ranks
        assert [(s.rank, s.host, s.device) for s in shares] == [
            *((0, 0, 0), (1, 0, 0), (2, 1, 0), (3, 1, 0))
        ]
        assert [share.busy_ns[0] for share in shares] == [9_000_000 + rank for rank in range(4)]
    assert [progress.phase for progress in heard] == ["import", "open", "numerics", "measure"]
    kind = tuple[Place, dict[str, str | None]]
    told = [
        msgspec.json.decode((tmp_path / f"place{rank}").read_bytes(), type=kind)
        for rank in range(4)
    ]
    assert [(p.host, p.local_rank, p.local_size, p.hosts) for p, _ in told] == [
        *((0, 0, 2, 2), (0, 1, 2, 2), (1, 0, 2, 2), (1, 1, 2, 2))
    ]
    assert [(v["RANK"], v["LOCAL_RANK"], v["LOCAL_WORLD_SIZE"]) for _, v in told] == [
        *(("0", "0", "2"), ("1", "1", "2"), ("2", "0", "2"), ("3", "1", "2"))
    ]
    assert {v["GLOO_SOCKET_IFNAME"] for _, v in told} == {"lo"}  # by which they reach each other
    assert len({(p.address, p.port) for p, _ in told}) == 1
    assert all(p.launcher == "torchrun" and p.machines == 1 for p, _ in told)


def test_all_ranks_have_the_threads_of_the_host_with_fewest_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("bench.running.hosts.leader.usable_cores", lambda: 64)
    monkeypatch.setattr("bench.running.hosts.alike.conditions", lambda backend: {})
    device = DeviceInfo(backend="cpu", index=0, name="x", memory_bytes=1)
    monkeypatch.setattr(follower, "_look", lambda backend: wire.Found((device,), {}, cores=48))
    monkeypatch.setattr(follower, "Monitor", lambda *_: Watching("there"))
    words = command(
        """
        open(f"threads{rank}", "w").write(os.environ["OMP_NUM_THREADS"])
        say("measure"); report()
        """
    )
    with led(words) as (leader, _):
        leader.agree(device, 1)
        launched(leader, words)
    assert {(tmp_path / f"threads{rank}").read_text() for rank in range(4)} == {"24"}


def test_each_host_watches_its_own_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From before the first of its workers is let go until the last has reported; both launches."""
    here, there = Watching("here"), Watching("there")
    orders: list[Order] = []

    def made(order: Order, environment: Mapping[str, str]) -> Watching:
        orders.append(order)
        return there

    device = DeviceInfo(backend="cuda", index=0, name="x", memory_bytes=1)
    monkeypatch.setattr("bench.running.hosts.alike.conditions", lambda backend: {})
    monkeypatch.setattr(follower, "_look", lambda backend: wire.Found((device,) * 2, {}))
    monkeypatch.setattr(follower, "Monitor", made)
    words = command(MEASURED)
    asked = of(4, 30.0, backend="cuda", here=4)
    with led(words) as (leader, _):
        assert leader.agree(device, 2) == 4
        for _ in range(2):
            launches = launch_together([asked], {}, command=words, monitor=here, leader=leader)
            (found,) = launches
    outcome = found.report.outcome
    assert isinstance(outcome, Measured), outcome
    seen = [share.watched and share.watched.absent_because for share in outcome.ranks]
    assert seen == ["here 0", "here 1", "there 0", "there 1"]
    assert orders == [Order(backend="cuda", indices=(0, 1))], "one process a host"
    pids = [int((tmp_path / f"pid{rank}").read_text()) for rank in range(4)]
    assert here.asked[1] == (set(pids[:2]), {0: 100, 1: 101})
    assert there.asked[1] == (set(pids[2:]), {0: 102, 1: 103}) and len(there.asked) == 2
    assert there.said == [*["start", "start", "lets go"] * 2, "close"]


def test_a_rank_that_dies_elsewhere_is_named_with_its_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(world, "GRACE_SECONDS", 20.0)  # all report, however slowly
    peers = 'time.sleep(0.1); fail("Connection closed by peer", peer=True)'
    finished = run(
        'os.write(2, b"I am %d\\n" % rank)\n'
        f"if rank == 3: os.kill(os.getpid(), signal.SIGKILL)\nelse: {peers}"
    )
    assert isinstance(finished.report.outcome, Failed)
    assert finished.report.outcome.message.startswith(
        "rank 3 (host 1, cpu): the worker was killed by SIGKILL"
    )
    assert finished.stderr_tail == "I am 3\n"


def test_a_rank_that_stands_still_elsewhere_is_named_by_its_stack() -> None:
    finished = run('say("measure")\nif rank == 2: wait_for_nobody()\nelse: wait_for_others()')
    assert isinstance(finished.report.outcome, Failed)
    assert finished.report.outcome.message.startswith(
        "rank 2 of 4 (host 1, cpu) hangs: stands where no other does; it stands at "
    )


def test_work_on_a_host_elsewhere_voids(monkeypatch: pytest.MonkeyPatch) -> None:
    def fallbacks(self: object, lines: Iterator[str]) -> tuple[str, ...]:
        return tuple(line.split()[1] for line in lines if line.startswith("fallback "))

    monkeypatch.setattr(catalogue.backend("cpu").__class__, "fallbacks", fallbacks)
    noise = 'os.write(2, b"fallback aten::sort\\n" + b"x" * 9000 + b"\\n")'
    finished = run(f"if rank == 1: {noise}\nreport()", ranks=2)
    assert finished.report.outcome == Void(
        reason="host fallback: aten::sort",
        numerics=finished.report.outcome.numerics,  # type: ignore[union-attr]
    )


# --- A host is gone -------------------------------------------------------------------------------

WAITS = command('say("measure")\nwait_for_others()')


@pytest.mark.parametrize(
    ("leaves", "said"),
    [
        (True, "the connection was closed"),
        (False, "nothing heard for 2 s"),
    ],
)
def test_a_host_that_is_gone_is_named_and_ends_the_launch(
    leaves: bool, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "SILENT_SECONDS", 2.0)
    monkeypatch.setattr(blame, "QUIET_SECONDS", 1e6)
    with pytest.raises(HostsError, match="is gone"), played(placed(0)) as (leader, line):

        def follow() -> None:
            while not any(isinstance(order, wire.LetGo) for order in line.receive()):
                line.send(wire.Said(1, Progress(phase="open")))
            line.send(wire.Said(1, Progress(phase="measure")))
            if leaves:
                line.close()

        thread = threading.Thread(target=follow)
        thread.start()
        finished = launched(leader, WAITS, ranks=2)
        thread.join(10)
        assert finished.report.outcome == Failed(
            kind="crash",
            phase="measure",
            message=f"rank 1 (host 1, cpu): its host is gone: {said}",
        )
        launched(leader, WAITS, ranks=2)


def test_a_host_that_does_not_take_a_word_is_news_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is heard of it any more, so nobody would be woken until the time limit."""
    monkeypatch.setattr(blame, "QUIET_SECONDS", 1e6)
    real, orders = wire.Connection.send, 0

    def send(self: wire.Connection, message: wire.Message) -> None:
        nonlocal orders
        orders += isinstance(message, wire.LetGo)
        if orders == 2:
            raise wire.Gone("the connection was reset")
        real(self, message)

    monkeypatch.setattr(wire.Connection, "send", send)
    with pytest.raises(HostsError, match="is gone"), led(WAITS) as (leader, _):
        outcome = launched(leader, WAITS).report.outcome
        assert isinstance(outcome, Failed) and outcome.kind == "crash"
        said = "rank 2 (host 1, cpu): its host is gone: the connection was reset"
        assert outcome.message == said
        launched(leader, WAITS)


def test_workers_end_with_the_leader(tmp_path: Path) -> None:
    """It is killed: no word, the line just ends. Until then it hears what they use of their cores,
    without which a silent one that compiles would be taken for one that hangs."""
    place = Place(
        rank=1,
        size=2,
        local_rank=0,
        local_size=1,
        parallelism="dp2",
        address="127.0.0.1",
        port=1,
    )
    with led(WAITS) as (leader, (other,)):
        (host,) = leader.others
        worker = host.start(msgspec.structs.replace(of(2), place=place))
        wait_until((tmp_path / "pid1").exists)
        host.wait_for(lambda: worker.cpu_seconds() > 0, 10.0)
        assert worker.cpu_seconds() > 0
        host.lose("killed")
        assert other.end() == EXIT_INCOMPLETE
    assert other.said[1].startswith("error: the leader is gone: the connection was closed")


# --- Who is where ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "hosts", "own", "expected"),
    [
        (3, Hosts(), True, [(0, 3)]),
        (16, Hosts(2, 8), True, [(0, 8), (1, 8)]),
        (8, Hosts(2, 8), True, [(0, 8)]),  # no more hosts than are needed
        (12, Hosts(2, 8), True, [(0, 6), (1, 6)]),
        (9, Hosts(2, 8), True, []),
        (17, Hosts(2, 8), True, []),
        (2, Hosts(2, 1), False, [(0, 1), (1, 1)]),
        (2, Hosts(4, 1), False, [(0, 1), (1, 1)]),
        (8, Hosts(4, 1), False, [(0, 2), (1, 2), (2, 2), (3, 2)]),
        (3, Hosts(2, 1), False, []),
    ],
)
def test_ranks_fill_hosts_evenly(
    count: int, hosts: Hosts, own: bool, expected: list[tuple[int, int]]
) -> None:
    wanted = [Seat(host, rank, size) for host, size in expected for rank in range(size)]
    assert seating.seats(count, hosts, own_devices=own) == wanted


def test_a_case_that_does_not_divide_is_skipped() -> None:
    leader = type("", (), {"hosts": Hosts(2, 1), "require_all": lambda self: None})()
    made = launch_together([of(3)], {}, command=("none",), leader=leader)
    outcome = next(made).report.outcome
    assert isinstance(outcome, Skipped)
    assert outcome.reason.startswith("3 ranks do not divide evenly over 2 hosts with 1 device each")


def test_a_record_of_two_hosts_does_not_go_on_over_one() -> None:
    launch = make_launch(case=of(2).case, environment={"world": {"devices": 2, "hosts": 2}})
    assert other_hosts([launch], "cpu", Hosts(2, 1)) == []
    assert other_hosts([launch], "cpu", Hosts())[0].endswith("over 2 hosts, would go over 1")
    old = msgspec.structs.replace(launch, environment={"world": {"devices": 2}})
    assert other_hosts([old], "cpu", Hosts()) == []
    assert other_hosts([old], "cpu", Hosts(2, 1))[0].endswith("over 1 hosts, would go over 2")


def test_a_record_of_hosts_with_few_cores_does_not_go_on_over_others() -> None:
    world = {"devices": 2, "hosts": 2, "cores": 48}
    launch = make_launch(case=of(2).case, environment={"world": world})
    assert other_hosts([launch], "cuda", Hosts(2, 1, 48)) == []
    for now in (Hosts(2, 1, 32), Hosts(2, 1)):
        (said,) = other_hosts([launch], "cuda", now)
        assert said.endswith("went over hosts with other cores")
    alone = msgspec.structs.replace(launch, environment={"world": {"devices": 2}})
    assert other_hosts([alone], "cuda", Hosts(2, 2, 48)) == []


def test_a_record_of_two_devices_does_not_go_on_where_one_is_left() -> None:
    launch = make_launch(case=of(2).case, environment={"world": {"devices": 2}})
    assert other_hosts([launch], "cuda", Hosts(), here=2) == []
    assert other_hosts([launch], "cuda", Hosts(), here=1)[0].endswith("2 devices, 1 are here")
    assert other_hosts([launch], "cpu", Hosts(), here=1) == [], "ranks share the cores of a host"
