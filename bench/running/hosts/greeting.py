"""How hosts find each other: names, the time that they wait, and a follower's greeting."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import socket
import time
from collections.abc import Mapping
from typing import Any

from bench.errors import HostsError
from bench.measuring.ranks.joining import machine
from bench.running.hosts import wire
from bench.running.hosts.placement import Placement
from bench.running.hosts.wire import Challenge, Connection, Gone, Hello, Over, Welcome

JOIN_SECONDS = 50.0
"""Within which all hosts must have come."""
WAIT = "ACCELMARK_JOIN_SECONDS"
"""Another number of seconds: of a cluster that starts its hosts one after the other."""
AGAIN_SECONDS = 0.2
"""Between two looks for a name, or for a leader."""
CONNECT_SECONDS = 10.0
"""For one address of several to answer."""
GREETING_SECONDS = 20.0
"""For the leader's part of a greeting: it speaks with one host at a time."""


def join_seconds(given: Mapping[str, str] = os.environ) -> float:
    """How long hosts wait for each other. Raises `HostsError` for what is no number."""
    text = given.get(WAIT, "")
    if text and not (text.isdecimal() and int(text) > 0):
        raise HostsError(f"{WAIT}={text}: give a whole number of seconds from 1 up.")
    return float(text or JOIN_SECONDS)


def resolved(address: str, port: int, seconds: float) -> list[tuple[int, tuple[Any, ...]]]:
    """A host's name as its addresses (family, and what a socket takes); raises `HostsError`.

    A name may come with the host: it is looked up again until so many seconds are over. Addresses
    of a family that this host has not, and those of one link, are no use.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            there = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)
            found: list[tuple[int, tuple[Any, ...]]]
            found = [(family, where) for family, _, _, _, where in there if _has(family)]
            if known := [one for one in found if not wire.is_of_one_link(one[1][0])]:
                return known
            if found:
                raise HostsError(
                    f"MASTER_ADDR={address} ({found[0][1][0]}) is an address of one link, which "
                    "each host calls otherwise. Give one of the host of rank 0 that is routed, as "
                    "10.0.0.1 or fd00::1."
                )
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        except (OSError, UnicodeError) as error:
            if time.monotonic() > end:
                why = getattr(error, "strerror", None) or error
                raise HostsError(
                    f"MASTER_ADDR={address}: no host has this name here ({why}). Give a name that "
                    "every host resolves, or the address of the host of rank 0."
                ) from error
            time.sleep(AGAIN_SECONDS)


def _has(family: int) -> bool:
    """Whether this host has such addresses at all."""
    with contextlib.suppress(OSError), socket.socket(family):
        return True
    return False


def joined(placement: Placement, facts: Mapping[str, Any], seconds: float) -> Connection:
    """The line to the leader, once it is there; raises `HostsError` where it is not within so many
    seconds, or has no use for this host."""
    end = time.monotonic() + seconds
    for attempt in itertools.count():
        left = end - time.monotonic()
        known = resolved(placement.address, placement.port, left)
        family, where = known[attempt % len(known)]
        sock = socket.socket(family)
        sock.settimeout(max(0.1, min(left, CONNECT_SECONDS)))
        try:
            sock.connect(where)
            connection = Connection(sock)
            greet(connection, placement, facts, min(GREETING_SECONDS, max(1.0, left)))
            return connection
        except (OSError, Gone) as error:
            sock.close()
            if time.monotonic() + AGAIN_SECONDS > end:
                why = getattr(error, "strerror", None) or error
                raise HostsError(
                    f"host {placement.rank}: nobody of this job leads at {placement.address}, port "
                    f"{placement.port} ({why}; asked for {seconds:.0f} s). See that accelmark runs "
                    "on the host of rank 0, that all hosts have one MASTER_ADDR and one job, and "
                    "that the port is open between them."
                ) from error
            time.sleep(AGAIN_SECONDS)
        except BaseException:
            sock.close()
            raise
    raise AssertionError("attempts do not end by themselves")


def greet(
    connection: Connection, placement: Placement, facts: Mapping[str, Any], seconds: float
) -> None:
    """Proves to the leader that this host is of its job, and has it prove the same.

    Raises `HostsError` with what the leader says where it will not have it; `Gone` of anybody else.
    """
    asked = connection.receive_one(seconds)
    if not isinstance(asked, Challenge):
        raise Gone("it does not greet")
    own = wire.drawn()
    said = Hello(
        nonce=own,
        proof=wire.proof(placement.secret, "follower", asked.nonce, own),
        rank=placement.rank,
        hosts=placement.hosts,
        name=socket.gethostname(),
        machine=machine(),
        facts=dict(facts),
    )
    connection.send(said)
    answer = connection.receive_one(seconds)
    proved = isinstance(answer, Welcome) and wire.proves(
        answer.proof, placement.secret, "leader", own, asked.nonce
    )
    if not proved:
        raise Gone("it does not prove that it is of this job")
    connection.trust()
    taken = connection.receive_one(seconds)
    if isinstance(taken, Over):
        raise HostsError(taken.said)
