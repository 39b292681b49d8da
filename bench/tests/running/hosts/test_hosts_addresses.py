"""By which address and port hosts meet, and what is said of those that are no use."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

import pytest

from bench.errors import EXIT_OK, HostsError
from bench.running.hosts import door, follower, greeting, wire
from bench.running.hosts.leader import leading
from bench.tests.running.hosts.two_hosts import FACTS, Following, placed, refused


def test_a_leader_elsewhere_than_its_address_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "TELL_SECONDS", 0.1)
    told = refused(placed(0)._replace(address="192.0.2.7"))
    assert "MASTER_ADDR=192.0.2.7 (192.0.2.7) is no address of this host" in told
    assert "Either two hosts have rank 0, or" in told


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses of `node1`, as a test gives them."""
    asked = socket.getaddrinfo
    given: list[str] = []

    def found(host: str, port: int, *rest: object, **named: object) -> list[object]:
        if host != "node1":
            return asked(host, port, *rest, **named)  # type: ignore[arg-type, return-value]
        tcp = (socket.SOCK_STREAM, 6, "")
        return [(wire.family(where), *tcp, (where, port)) for where in given]

    monkeypatch.setattr(socket, "getaddrinfo", found)
    return given


class WithoutIPv6(socket.socket):
    """As on a host whose kernel has none."""

    def __init__(self, family: int = -1, *rest: Any, **named: Any) -> None:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        super().__init__(family, *rest, **named)


@pytest.mark.parametrize(
    "addresses",
    [
        ["192.0.2.7", "127.0.0.1"],
        ["192.0.2.7", "fd00::7", "127.0.0.1"],
        ["fe80::7%eth0", "127.0.0.1"],
    ],
)
def test_of_a_name_with_several_addresses_the_one_that_serves_is_taken(
    addresses: list[str], named: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each host may be told them in another order."""
    named += addresses
    if "fd00::7" in addresses:
        monkeypatch.setattr(socket, "socket", WithoutIPv6)
    monkeypatch.setattr(greeting, "CONNECT_SECONDS", 0.1)
    placement = placed(0)._replace(address="node1")
    other = Following(placement._replace(rank=1))
    with leading(placement, FACTS, lambda text: None) as leader:
        assert leader.address == "127.0.0.1"
    assert other.end() == EXIT_OK


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("fe80::7%eth0", "MASTER_ADDR=node1 (fe80::7%eth0) is an address of one link, which"),
        ("fd00::7", "no host has this name here (Address family not supported"),
    ],
)
@pytest.mark.parametrize("rank", [0, 1])
def test_an_address_that_is_no_use_is_said_on_each_host(
    rank: int, address: str, said: str, named: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    named.append(address)
    if said.startswith("no host"):
        monkeypatch.setattr(socket, "socket", WithoutIPv6)
    placement = placed(rank)._replace(address="node1")
    with pytest.raises(HostsError) as caught:
        greeting.joined(placement, FACTS, 0.0) if rank else door.Door(placement, 0.0)
    assert said in str(caught.value)


def test_only_of_a_port_that_cannot_be_had_another_is_advised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nothing(*_: object) -> socket.socket:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(door, "_listening", nothing)
    told = refused(placed(0))
    assert "(Invalid argument). Give MASTER_ADDR another address of this host" in told


def test_a_port_that_is_taken_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "TELL_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        told = refused(placed(0, port=taken.getsockname()[1]))
    assert "cannot listen there (Address already in use). Set ACCELMARK_PORT" in told


@pytest.mark.parametrize("rank", [0, 1])
def test_a_name_that_nobody_has_is_said_on_each_host(
    rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    monkeypatch.setattr(greeting, "JOIN_SECONDS", 0.0)
    placement = placed(rank)._replace(address="node1")
    with pytest.raises(HostsError, match="MASTER_ADDR=node1: no host has this name here"):
        if rank:
            follower.follow(placement, FACTS, lambda text: None)
        else:
            refused_by = leading(placement, FACTS, lambda text: None)
            refused_by.__enter__()
