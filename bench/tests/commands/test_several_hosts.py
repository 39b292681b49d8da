"""The command on several hosts, with scripted workers: one card, one record, one exit code."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from bench.backend import DeviceInfo
from bench.errors import EXIT_BAD_INPUT, EXIT_INCOMPLETE, EXIT_OK
from bench.measuring.messages import Progress
from bench.records.outcome import Failed, Measured
from bench.records.runfile import read
from bench.running import blame, child, launcher, probe, world
from bench.running.hosts import alike, follower, greeting, wire
from bench.running.hosts.placement import placement
from bench.tests.conftest import Accelmark
from bench.tests.running.hosts.test_hosts_launches import WAITS, command
from bench.tests.running.hosts.two_hosts import Following, free_port

CPU = DeviceInfo(backend="cpu", index=0, name="CPU", memory_bytes=None)
SUITE = """
[settings]
launches = 2

[[case]]
workload = "collective"
mode = "all-reduce"
precision = "fp32"
size_bytes = 8
"""
MEASURES = command('say("measure"); report()')


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """What torchrun says on the host of rank 0; devices are not looked for."""
    given = {
        "RANK": "0",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port() - 1),
        "TORCHELASTIC_RUN_ID": "x",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(probe, "choose_of", lambda address: probe.Chosen(CPU, [], 1))
    monkeypatch.setattr(
        follower, "_look", lambda backend: wire.Found((CPU,), alike.conditions("cpu"))
    )
    monkeypatch.setattr(launcher, "COMMAND", MEASURES)
    monkeypatch.setattr(world, "GRACE_SECONDS", 0.2)
    monkeypatch.setattr(child, "GRACE_SECONDS", 0.3)
    (tmp_path / "suite.toml").write_text(SUITE)
    return given


def facts() -> dict[str, object]:
    return alike.software("suite.toml", {"--device": "cpu"})


def test_one_record_of_both_hosts(
    accelmark: Accelmark, launched: dict[str, str], tmp_path: Path
) -> None:
    found = placement({**launched, "RANK": "1"})
    assert found is not None
    other = Following(found, MEASURES, facts())
    code, out, err = accelmark("run", "suite.toml", "--device", "cpu")
    assert (code, other.end()) == (EXIT_OK, EXIT_OK), err
    assert len(other.said) == 1
    assert "hosts: 2 (torchrun) on 1 machine: host 0 (" in err and "accelmark suite on CPU" in out
    (path,) = tmp_path.glob("runs/*.jsonl")
    outcomes = [launch.outcome for launch in read(path).launches]
    for outcome in outcomes:
        assert isinstance(outcome, Measured)
        assert [(share.rank, share.host) for share in outcome.ranks] == [(0, 0), (1, 1)]
    assert len(outcomes) == 2
    assert read(path).run.plan[0].devices == 2, "one rank a host goes without saying"


def test_a_host_that_is_lost_leaves_a_record_that_can_go_on(
    accelmark: Accelmark,
    launched: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launcher, "COMMAND", WAITS)
    monkeypatch.setattr(blame, "QUIET_SECONDS", 1e6)
    found = placement({**launched, "RANK": "1"})
    assert found is not None

    def follow() -> None:
        line = greeting.joined(found, facts(), 20.0)
        while True:
            for order in line.receive():
                if isinstance(order, wire.Look):
                    line.send(wire.Found((CPU,), alike.conditions("cpu")))
                if isinstance(order, wire.Start):
                    line.send(wire.Said(order.worker, Progress(phase="open")))
                    line.close()
                    return

    thread = threading.Thread(target=follow)
    thread.start()
    code, out, err = accelmark("run", "suite.toml", "--device", "cpu")
    thread.join(10)
    (path,) = tmp_path.glob("runs/*.jsonl")
    file = read(path)
    assert code == EXIT_INCOMPLETE
    assert f"go on with: accelmark run --resume {path.relative_to(tmp_path)}" in err
    assert "host 1 (" in err and "accelmark suite on CPU" in out
    assert file.end is not None and file.end.reason == "interrupted"
    (launch,) = file.launches
    assert isinstance(launch.outcome, Failed)
    assert launch.outcome.message.startswith("rank 1 (host 1, cpu): its host is gone: ")


@pytest.mark.parametrize(
    ("changed", "words", "said"),
    [
        ({"RANK": "2"}, ("run", "suite.toml"), "error: torchrun: RANK=2 and WORLD_SIZE=2 contra"),
        ({"LOCAL_WORLD_SIZE": "8"}, ("run", "suite.toml"), "One process a host"),
        (
            {},
            ("ab", "suite.toml", "--device", "cpu", "--device", "cpu"),
            "error: accelmark ab goes over one host, and torchrun has started it on 2.",
        ),
        (
            {},
            ("serve-bench", "--endpoint", "http://x", "--weights", "."),
            "serve-bench goes over one",
        ),
        ({}, ("explain", "suite.toml", "--device", "cpu"), "error: this goes over one host, and"),
    ],
)
def test_what_cannot_be_is_said_at_once(
    changed: dict[str, str],
    words: tuple[str, ...],
    said: str,
    accelmark: Accelmark,
    launched: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in changed.items():
        monkeypatch.setenv(name, value)
    code, _, err = accelmark(*words)
    assert code == EXIT_BAD_INPUT
    assert said in err


def test_a_worker_does_not_hear_of_the_launcher(launched: dict[str, str]) -> None:
    """A fresh group would take its variables for its own, and its job's id is another each time."""
    from bench.records import environment

    given = environment.worker_variables({}, {"RANK": "forced"})
    assert not given.keys() & (launched.keys() - {"RANK"})
    assert given["RANK"] == "forced"
