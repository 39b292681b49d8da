"""A leader and its followers in one process, over the loopback: each follower is a thread."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from bench.errors import HostsError
from bench.running.hosts import greeting
from bench.running.hosts.follower import follow
from bench.running.hosts.leader import Leader, leading
from bench.running.hosts.placement import Placement
from bench.running.hosts.wire import Connection

FACTS: Mapping[str, Any] = {"accelmark": "1.0", "torch": "2.13.0"}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


def placed(rank: int, hosts: int = 2, port: int | None = None, secret: str = "s") -> Placement:
    return Placement(rank, hosts, "127.0.0.1", port or free_port(), "torchrun", secret)


def refused(placement: Placement, facts: Mapping[str, Any] = FACTS) -> str:
    """Why a leader refuses."""
    with pytest.raises(HostsError) as caught, leading(placement, facts, lambda text: None):
        pass
    return str(caught.value)


class Following(threading.Thread):
    """`follow`, in a thread: what it said, and its exit code, or why it refused."""

    def __init__(
        self,
        placement: Placement,
        command: tuple[str, ...] = (),
        facts: Mapping[str, Any] = FACTS,
    ) -> None:
        super().__init__(daemon=True)
        self.said: list[str] = []
        self.code: int | None = None
        self.refused = ""
        self._asked = (placement, facts, self.said.append, command)
        self.start()

    def run(self) -> None:
        try:
            self.code = follow(*self._asked)
        except HostsError as error:
            self.refused = str(error)

    def end(self) -> int | None:
        """Its exit code."""
        self.join(30)
        assert not self.is_alive()
        return self.code


@contextlib.contextmanager
def led(command: tuple[str, ...] = (), hosts: int = 2) -> Iterator[tuple[Leader, list[Following]]]:
    """A leader whose followers have come."""
    first = placed(0, hosts)
    others = [Following(first._replace(rank=rank), command) for rank in range(1, hosts)]
    with leading(first, FACTS, lambda text: None) as leader:
        yield leader, others
    for other in others:
        other.end()


@contextlib.contextmanager
def played(placement: Placement) -> Iterator[tuple[Leader, Connection]]:
    """A leader, and the line of a follower whose part the test plays."""
    lines: list[Connection] = []

    def come() -> None:
        lines.append(greeting.joined(placement._replace(rank=1), FACTS, 10.0))

    coming = threading.Thread(target=come)
    coming.start()
    try:
        with leading(placement, FACTS, lambda text: None) as leader:
            coming.join(10)
            yield leader, lines[0]
    finally:
        for line in lines:
            line.close()
