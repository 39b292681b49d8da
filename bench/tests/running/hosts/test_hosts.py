"""Several hosts find each other, or each says why not: both values, and the same exit code."""

from __future__ import annotations

import socket
import threading
from typing import Any

import msgspec
import pytest

from bench.backend import DeviceInfo
from bench.errors import EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_OK, HostsError
from bench.records.cpu_limits import usable_cores
from bench.running import probe
from bench.running.hosts import alike, follower, greeting, wire
from bench.running.hosts.alike import Host, differences
from bench.running.hosts.leader import leading
from bench.running.hosts.placement import Placement
from bench.running.hosts.seating import Hosts
from bench.running.hosts.wire import Connection, Gone
from bench.tests.running.hosts.two_hosts import FACTS, Following, led, placed, played, refused

CPU = DeviceInfo(backend="cpu", index=0, name="CPU", memory_bytes=None)


@pytest.mark.parametrize(
    ("cores", "few"), [(64, ""), (2, "; of this host's 64 cores its workers may use 2 in all. Un")]
)
def test_a_follower_says_one_line_and_ends_as_its_leader_does(
    cores: int, few: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setattr("bench.running.hosts.placement.affinity_cores", lambda: cores)
    said: list[str] = []
    placement = placed(0)
    other = Following(placement._replace(rank=1))
    with leading(placement, FACTS, said.append) as leader:
        assert leader.address == "127.0.0.1" and len(set(leader.machines)) == 1
    assert other.end() == EXIT_OK
    (line,) = other.said
    shown = "the run is shown and recorded there"
    assert line.startswith(f"host 1 of 2 (torchrun): follows 127.0.0.1; {shown}{few or '.'}")
    both = f"host 0 ({_name()}), host 1 ({_name()})"
    (line,) = said
    assert line.startswith(f"hosts: 2 (torchrun) on 1 machine: {both}{few}")
    assert line.endswith("--cpus-per-task`" if few else both)


def test_hosts_of_their_own_machines_are_not_told_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    machines = iter("abc")
    monkeypatch.setattr(greeting, "machine", lambda: next(machines))
    monkeypatch.setattr("bench.running.hosts.leader.machine", lambda: next(machines))
    said: list[str] = []
    placement = placed(0)
    other = Following(placement._replace(rank=1))
    with leading(placement, FACTS, said.append):
        pass
    assert said[0].startswith("hosts: 2 (torchrun): host 0 ") and other.end() == EXIT_OK


def _name() -> str:
    return socket.gethostname()


@pytest.mark.parametrize(
    ("leaving", "code", "said"),
    [
        (SystemExit(1), 1, []),
        (SystemExit(EXIT_INTERRUPTED), EXIT_INTERRUPTED, ["error: interrupted"]),
        (KeyboardInterrupt(), EXIT_INTERRUPTED, ["error: interrupted"]),
        (HostsError("planted"), EXIT_BAD_INPUT, ["error: planted"]),
    ],
)
def test_however_the_leader_ends_the_others_hear_it(
    leaving: BaseException, code: int, said: list[str]
) -> None:
    placement = placed(0)
    other = Following(placement._replace(rank=1))
    with pytest.raises(type(leaving)), leading(placement, FACTS, lambda text: None):
        raise leaving
    assert other.end() == code
    assert other.said[1:] == said


def test_unequal_software_is_refused_everywhere_with_both_values() -> None:
    placement = placed(0)
    other = Following(placement._replace(rank=1), facts={**FACTS, "torch": "2.12.0"})
    told = refused(placement)
    assert f"torch: host 1 ({_name()}) has 2.12.0, host 0 ({_name()}) 2.13.0" in told
    assert "accelmark:" not in told
    assert other.end() == EXIT_BAD_INPUT
    assert other.said[1] == f"error: {told}"


def test_of_many_hosts_the_one_that_differs_is_named() -> None:
    told = [(Host(k, f"n{k}"), {"torch": "2.13.0"}) for k in range(3)]
    told[1] = (Host(1, "n1"), {})
    told[2] = (Host(2, "n2"), {"torch": "2.13.0", "--only": "a*"})
    assert differences(told) == [
        "torch: host 1 (n1) has nothing, the others 2.13.0",
        "--only: host 2 (n2) has a*, the others nothing",
    ]


def test_what_is_compared_is_what_would_run(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = alike.software("smoke", {"--only": None, "--devices": 4})
    assert facts["accelmark"] and facts["Python"] and facts["torch"]
    assert facts["suite"].startswith("smoke (SHA-256 ") and facts["--devices"] == "4"
    assert "--only" not in facts
    assert alike.software("nosuch.toml", {})["suite"] == "nosuch.toml (not here)"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "7a")
    monkeypatch.setenv("TORCH_NPU_WARNING_DISABLE", "1")
    assert "TORCH_NPU_WARNING_DISABLE" not in alike.conditions("ascend"), "no worker has it"
    found = alike.conditions("cpu")
    assert found["OMP_NUM_THREADS"] == "3" and int(found["usable cores"]) > 0
    assert "TORCHELASTIC_RUN_ID" not in found


def test_which_of_its_devices_a_host_gives_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pod is given GPUs by their names, which no other pod has."""
    monkeypatch.setenv("NVIDIA_VISIBLE_DEVICES", "GPU-4")
    monkeypatch.setenv("NCCL_ALGO", "Ring")
    monkeypatch.setenv("UCX_NET_DEVICES", "mlx5_0:1")
    found = alike.conditions("cuda")
    assert found["NCCL_ALGO"] == "Ring"
    assert not {"NVIDIA_VISIBLE_DEVICES", "UCX_NET_DEVICES"} & {*found}


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"devices": (CPU,) * 2}, "devices: host 1 ({}) has 2 x CPU, host 0 ({}) 1 x CPU"),
        (
            {"devices": (msgspec.structs.replace(CPU, name="Other"),)},
            "devices: host 1 ({}) has 1 x Other, host 0 ({}) 1 x CPU",
        ),
        (
            {"devices": (CPU,), "conditions": {"OMP_NUM_THREADS": "3"}},
            "OMP_NUM_THREADS: host 1 ({}) has 3, host 0 ({}) 1",
        ),
        ({"devices": (), "problem": "no runtime"}, "host 1 ({}): cpu: no runtime"),
    ],
)
def test_unequal_devices_and_variables_are_refused(
    found: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "bench.running.hosts.alike.conditions", lambda backend: {"OMP_NUM_THREADS": "1"}
    )
    given = {"conditions": {"OMP_NUM_THREADS": "1"}, **found}
    monkeypatch.setattr(follower, "_look", lambda backend: wire.Found(**given))
    with pytest.raises(HostsError) as caught, led() as (leader, _):
        leader.agree(CPU, 1)
    assert said.format(_name(), _name()) in str(caught.value)


def test_equal_ones_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.running.hosts.alike.conditions", lambda backend: {"X": "1"})
    monkeypatch.setattr(follower, "_look", lambda backend: wire.Found((CPU,) * 4, {"X": "1"}))
    with led(hosts=3) as (leader, _):
        assert leader.agree(CPU, 4) == 12
        assert leader.hosts == Hosts(3, 4)


@pytest.mark.parametrize(("cores", "fewest"), [((64, 64), None), ((48, 96), 48), ((96, 128), 64)])
def test_the_fewest_cores_of_unequal_hosts_are_known(
    monkeypatch: pytest.MonkeyPatch, cores: tuple[int, int], fewest: int | None
) -> None:
    there = iter(cores)
    monkeypatch.setattr("bench.running.hosts.leader.usable_cores", lambda: 64)
    monkeypatch.setattr("bench.running.hosts.alike.conditions", lambda backend: {})
    monkeypatch.setattr(
        follower, "_look", lambda backend: wire.Found((CPU,), {}, cores=next(there))
    )
    with led(hosts=3) as (leader, _):
        leader.agree(CPU, 1)
        assert leader.hosts.cores == fewest


def test_a_host_says_how_many_cores_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "probe", lambda names: [probe.Found(backend="cpu", devices=(CPU,))])
    assert follower._look("cpu").cores == usable_cores()


# --- Who is not of this job -----------------------------------------------------------------------


def test_strangers_are_sent_away_and_the_others_come_in() -> None:
    placement = placed(0)
    answers: list[bytes] = []

    def strangers() -> None:
        for said in (b"GET / HTTP/1.1\r\n\r\n", b'{"wire":"over","code":0}\n', b"x" * 70000):
            with greeting_socket(placement) as line:
                line.sendall(said)
                answers.append(_all(line))
        Following(placement._replace(rank=1)).end()

    thread = threading.Thread(target=strangers)
    thread.start()
    with leading(placement, FACTS, lambda text: None) as leader:
        assert [other.host.number for other in leader.others] == [1]
    thread.join(20)
    assert len(answers) == 3
    assert all(answer.startswith(b'{"wire":"challenge"') for answer in answers)
    assert not any(b"welcome" in answer for answer in answers)


def greeting_socket(placement: Placement) -> socket.socket:
    while True:
        try:
            return socket.create_connection((placement.address, placement.port), timeout=10)
        except ConnectionRefusedError:
            pass


def _all(line: socket.socket) -> bytes:
    read = b""
    try:
        while chunk := line.recv(1000):
            read += chunk
    except ConnectionError:
        pass
    return read


def test_a_follower_of_another_job_is_not_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greeting, "JOIN_SECONDS", 3.0)
    placement = placed(0)
    other = Following(placement._replace(rank=1, secret="of another"))
    told = refused(placement)
    assert "of 2 hosts 1 did not come within 3 s" in told
    assert "Somebody else came from 127.0.0.1: it is of another job." in told
    other.end()
    assert other.refused.startswith("host 1: nobody of this job leads at 127.0.0.1")


def test_a_leader_that_does_not_prove_itself_is_not_followed() -> None:
    ours, theirs = socket.socketpair()
    said: list[str] = []

    def play() -> None:
        line = Connection(theirs)
        line.send(wire.Challenge("n"))
        said.append(type(line.receive_one(5.0)).__name__)
        line.send(wire.Welcome("0" * 64))
        line.close()

    thread = threading.Thread(target=play)
    thread.start()
    with pytest.raises(Gone, match="does not prove"):
        greeting.greet(Connection(ours), placed(1), FACTS, 5.0)
    thread.join()
    ours.close()
    assert said == ["Hello"]


def test_proofs_are_of_one_side_and_one_greeting() -> None:
    made = wire.proof("s", "follower", "a", "b")
    assert wire.proves(made, "s", "follower", "a", "b")
    others = [("t", "follower", "a", "b"), ("s", "leader", "a", "b"), ("s", "follower", "a", "c")]
    assert not any(wire.proves(made, *other) for other in others)
    assert not wire.proves("\u00e4", "s", "follower", "a", "b")


# --- Who does not come, or comes twice ------------------------------------------------------------


def test_two_followers_with_one_rank_are_named() -> None:
    placement = placed(0, hosts=3)
    others = [Following(placement._replace(rank=1)) for _ in range(2)]
    told = refused(placement)
    assert told.startswith(f"two hosts have rank 1: {_name()} and {_name()}. Give each host")
    for other in others:
        other.end()
    assert sorted([other.code or 0 for other in others]) in ([0, 2], [2, 2])


def test_a_follower_that_is_started_again_takes_its_place_again() -> None:
    placement = placed(0, hosts=3)
    lines: list[Connection] = []

    def come() -> None:
        greeting.joined(placement._replace(rank=1), FACTS, 10.0).close()
        lines.extend(greeting.joined(placement._replace(rank=k), FACTS, 10.0) for k in (1, 2))

    coming = threading.Thread(target=come)
    coming.start()
    with leading(placement, FACTS, lambda text: None) as leader:
        leader.require_all()
    coming.join(10)
    for line in lines:
        line.close()
    assert len(lines) == 2


def test_hosts_that_were_told_other_numbers_are_refused() -> None:
    placement = placed(0)
    other = Following(placement._replace(rank=1, hosts=4))
    told = refused(placement)
    assert f"host 1 ({_name()}) was told of 4 hosts, host 0 ({_name()}) of 2" in told
    other.end()
    assert other.refused == told


def test_of_two_leaders_both_say_it(monkeypatch: pytest.MonkeyPatch) -> None:
    placement = placed(0)
    told: list[str] = []
    first = threading.Thread(target=lambda: told.append(refused(placement)))
    first.start()
    greeting_socket(placement).close()
    second = refused(placement)
    first.join(20)
    assert "leads at 127.0.0.1" in second and "two have rank 0" in second
    assert told[0].startswith(f"two hosts have rank 0: {_name()} and {_name()}")


def test_nobody_waits_longer_than_a_minute_unless_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    assert greeting.join_seconds({}) < 60
    assert greeting.join_seconds({"ACCELMARK_JOIN_SECONDS": "600"}) == 600
    with pytest.raises(HostsError, match="ACCELMARK_JOIN_SECONDS=soon: give a whole number"):
        greeting.join_seconds({"ACCELMARK_JOIN_SECONDS": "soon"})
    vanished = wire.IDLE_SECONDS + wire.AGAIN_SECONDS * wire.TIMES
    assert vanished < 60


def test_a_host_that_left_between_launches_ends_the_run() -> None:
    with (
        pytest.raises(HostsError, match=r"host 1 \(.*\) is gone: the connection was closed"),
        played(placed(0)) as (leader, line),
    ):
        leader.require_all()
        line.close()
        while not leader.lost:
            leader.require_all()
