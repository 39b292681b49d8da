"""The leader's door: hosts come in one by one, and prove that they are of this job."""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import time
from typing import Any

from bench.errors import EXIT_BAD_INPUT, EXIT_INTERRUPTED, HostsError
from bench.running.hosts import greeting, wire
from bench.running.hosts.alike import Host
from bench.running.hosts.greeting import WAIT
from bench.running.hosts.placement import PORT, Placement
from bench.running.hosts.remote import RemoteHost
from bench.running.hosts.wire import Connection, Gone, Hello

BACKLOG = 1024
"""Hosts that come at one moment."""
TELL_SECONDS = 5.0
"""For another leader to hear that there are two."""
HEAR_SECONDS = 0.01
"""For what has come from a host that is there, as the end of its connection."""


class Door:
    """Where followers come in."""

    def __init__(self, placement: Placement, seconds: float) -> None:
        """Listens; raises `HostsError` where this is not the host that the others know as rank 0's,
        or where somebody listens there already."""
        self.placement = placement
        self.address = ""
        self._socket = self._opened(seconds)
        self._guests: dict[Connection, str] = {}
        """Who has come, with what they were asked to prove."""
        self._known: dict[int, RemoteHost] = {}
        self._last_stranger = ""

    def __enter__(self) -> Door:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        for guest in self._guests:
            guest.close()

    def _opened(self, seconds: float) -> socket.socket:
        address, port = self.placement.address, self.placement.port
        known = greeting.resolved(address, port, seconds)
        for number, (family, where) in enumerate(known):
            try:
                return _listening(address, family, where)
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL and number + 1 < len(known):
                    continue  # a name of several addresses, of which another is this host's
                self._refuse(error, family, where)
        raise AssertionError("a name without an address is not resolved")

    def _refuse(self, error: OSError, family: int, where: tuple[Any, ...]) -> None:
        """Raises `HostsError` with why nobody can listen there."""
        address, port = self.placement.address, self.placement.port
        if error.errno == errno.EADDRNOTAVAIL:
            self._tell_the_other(where, family)
            raise HostsError(
                f"rank 0 is here, on {socket.gethostname()}, and MASTER_ADDR={address} "
                f"({where[0]}) is no address of this host. Either two hosts have rank 0, or "
                "MASTER_ADDR names another one: give each host a rank of its own, and the address "
                "of the host of rank 0."
            ) from error
        if error.errno == errno.EADDRINUSE and self._tell_the_other(where, family):
            raise HostsError(
                f"rank 0 is here, on {socket.gethostname()}, and another process of this job leads "
                f"at {address}, port {port}: two have rank 0. Give each host a rank of its own."
            ) from error
        advice = "Give MASTER_ADDR another address of this host"
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            advice = f"Set {PORT} to a free port"
        raise HostsError(
            f"{address}, port {port}: accelmark cannot listen there "
            f"({os.strerror(error.errno or 0)}). {advice}, the same on all hosts."
        ) from error

    def _tell_the_other(self, where: tuple[Any, ...], family: int) -> bool:
        """Whether a leader of this job is there already; it then hears of us, and ends as well."""
        try:
            with socket.socket(family) as sock:
                sock.settimeout(TELL_SECONDS)
                sock.connect(where)
                greeting.greet(Connection(sock), self.placement, {}, TELL_SECONDS)
        except (OSError, Gone):
            return False
        except HostsError:
            return True
        return False

    def greet(self, seconds: float) -> list[RemoteHost]:
        """All others, in their order. Who does not prove that they are of this job is sent away."""
        end = time.monotonic() + seconds
        wanted = self.placement.hosts - 1
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ, None)
            while len(self._known) < wanted:
                left = end - time.monotonic()
                if left <= 0:
                    self._complain(seconds)
                for key, _ in selector.select(left):
                    if key.data is None:
                        self._let_in(selector)
                    else:
                        self._hear(selector, key.data)
        return [self._known[rank] for rank in sorted(self._known)]

    def refuse_all(self, said: str) -> None:
        """Tells those who came that there will be no run."""
        for host in self._known.values():
            host.over(EXIT_BAD_INPUT if said else EXIT_INTERRUPTED, said)

    def _complain(self, seconds: float) -> None:
        absent = [str(rank) for rank in range(1, self.placement.hosts) if rank not in self._known]
        stranger = f" {self._last_stranger}" if self._last_stranger else ""
        raise HostsError(
            f"of {self.placement.hosts} hosts {', '.join(absent)} did not come within "
            f"{seconds:.0f} s to {self.placement.address}, port {self.placement.port}.{stranger} "
            f"Start accelmark on all of them, see that this port and those above "
            f"1024 are open between them, or give them longer: {WAIT}=600."
        )

    def _let_in(self, selector: selectors.BaseSelector) -> None:
        with contextlib.suppress(OSError):
            sock, _ = self._socket.accept()
            guest = Connection(sock)
            nonce = wire.drawn()
            try:
                guest.send(wire.Challenge(nonce))
            except Gone:
                guest.close()
                return
            self._guests[guest] = nonce
            selector.register(guest, selectors.EVENT_READ, guest)

    def _hear(self, selector: selectors.BaseSelector, guest: Connection) -> None:
        try:
            said = guest.receive()
            if not said:
                return
            hello = said[0]
            if not isinstance(hello, Hello):
                raise Gone("it does not greet")
        except Gone as why:
            self._send_away(selector, guest, str(why))
            return
        secret, nonce = self.placement.secret, self._guests[guest]
        if not wire.proves(hello.proof, secret, "follower", nonce, hello.nonce):
            self._send_away(selector, guest, "it is of another job")
            return
        selector.unregister(guest)
        del self._guests[guest]
        guest.trust()
        self._seat(guest, hello, nonce)

    def _send_away(self, selector: selectors.BaseSelector, guest: Connection, why: str) -> None:
        self._last_stranger = f"Somebody else came from {guest.other_address}: {why}."
        selector.unregister(guest)
        del self._guests[guest]
        guest.close()

    def _seat(self, guest: Connection, hello: Hello, nonce: str) -> None:
        placement = self.placement
        host = RemoteHost(Host(hello.rank, hello.name), guest, hello.facts, hello.machine)
        wrong = ""
        if hello.hosts != placement.hosts:
            wrong = (
                f"{host.host} was told of {hello.hosts} hosts, host 0 ({socket.gethostname()}) of "
                f"{placement.hosts}. Give all hosts the same number."
            )
        elif hello.rank == 0 or self._is_seated(hello.rank):
            first = socket.gethostname() if hello.rank == 0 else self._known[hello.rank].host.name
            wrong = (
                f"two hosts have rank {hello.rank}: {first} and {hello.name}. Give each host a "
                "rank of its own."
            )
        with contextlib.suppress(Gone):
            guest.send(wire.Welcome(wire.proof(placement.secret, "leader", hello.nonce, nonce)))
        if wrong:
            host.over(EXIT_BAD_INPUT, wrong)
            raise HostsError(wrong)
        host.send(wire.Seated())
        self.address = guest.own_address
        self._known[hello.rank] = host

    def _is_seated(self, rank: int) -> bool:
        """Whether such a host is there: one whose process has ended may have been started again."""
        host = self._known.get(rank)
        if host is not None:
            host.wait_for(lambda: False, HEAR_SECONDS)
        return host is not None and not host.lost


def _listening(address: str, family: int, where: tuple[Any, ...]) -> socket.socket:
    """A socket at that address of this host. Raises OSError."""
    if not wire.is_loopback(where[0]) or address == where[0]:
        return socket.create_server(where[:2], family=family, backlog=BACKLOG)
    # A name that is this host's own word for itself: the others know another address by it.
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    return socket.create_server(("", where[1]), family=family, backlog=BACKLOG, dualstack_ipv6=both)
