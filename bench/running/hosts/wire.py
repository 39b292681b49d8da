"""What the leader and a follower say to each other: JSON lines over one TCP connection a host.

Both prove first that they know the job's secret (`Placement.secret`), by a keyed digest of what the
other has drawn, so that two jobs cannot mix, and nobody who happens upon the port is heard. That
keeps out strangers, not an enemy: a launcher's id of a job is no secret to whoever may list jobs
(ACCELMARK_SECRET is), and nothing is encrypted. What somebody who got in could do is bounded by
what can be said: measure a case of the catalogue, end it. No line is code (never pickle), and none
names a program to run.

A host that vanishes sends no end: the kernel asks it (TCP keepalive), and gives it up.
"""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import re
import secrets
import socket
import time
from collections.abc import Callable
from typing import Any

import msgspec

from bench.backend import DeviceInfo
from bench.measuring.messages import Progress, Report, Request
from bench.records.encoding import encoded
from bench.records.runfile import UNREADABLE
from bench.telemetry.joined import Sight

LONGEST_LINE = 1 << 28
"""Bytes: a report of a long launch has many samples."""
LONGEST_GREETING = 1 << 16
"""Bytes of a line before its sender is known."""
IDLE_SECONDS, AGAIN_SECONDS, TIMES = 10, 5, 4
"""A host is asked after so long a silence, and so often, before it is given up: half a minute."""
SEND_SECONDS = 30.0
CLOSED = "the connection was closed"
IN_IPV6 = "::ffff:"
"""Before an address of IPv4 at a socket that takes both."""


def _spelt(name: str) -> str:
    """`HangUp` as it is said: `hang up`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


class Word(msgspec.Struct, frozen=True, tag=_spelt, tag_field="wire"):
    """What is said, under its name."""


class Challenge(Word, frozen=True):
    """The leader's first word. It, `Hello` and `Over` are as they are in every release: who has
    another one is told so by them."""

    nonce: str


class Hello(Word, frozen=True):
    """A follower's first word, or that of another who takes itself for the leader."""

    nonce: str
    proof: str
    rank: int
    hosts: int
    name: str
    """Of its host; for messages, never for a record."""
    machine: str
    """Of the kernel that it runs on: two hosts of one machine are none."""
    facts: dict[str, Any]
    """What must be the same on all hosts; see `bench.running.hosts.alike`."""


class Welcome(Word, frozen=True):
    """The leader is who it says."""

    proof: str


class Seated(Word, frozen=True):
    """There is a place for this host."""


class Look(Word, frozen=True):
    """Which devices of that backend are there?"""

    backend: str


class Found(Word, frozen=True):
    """Those that are there, or why none is; `hosts.alike.conditions`; usable cores."""

    devices: tuple[DeviceInfo, ...]
    conditions: dict[str, str]
    problem: str = ""
    cores: int | None = None


class Start(Word, frozen=True):
    """Start this worker; `worker` names it from here on."""

    worker: int
    request: Request


class LetGo(Word, frozen=True):
    """It may open its device."""

    worker: int


class Stacks(Word, frozen=True):
    """Have it write its stacks."""

    worker: int


class HangUp(Word, frozen=True):
    """Close its stdin, at which it leaves."""

    worker: int


class Finish(Word, frozen=True):
    """End it whole, and say what it wrote."""

    worker: int


class Over(Word, frozen=True):
    """The run has ended, with this exit code; why, where that is the hosts' affair."""

    code: int
    said: str = ""


class Said(Word, frozen=True):
    """A worker's own word; a report that its parent made of its end has `died`, or was garbled."""

    worker: int
    message: Progress | Report
    died: bool = False


class Beat(Word, frozen=True):
    """The follower is there; seconds of CPU that its workers have used."""

    used: dict[int, float]


class Frames(Word, frozen=True):
    """What a worker wrote when it was asked for its stacks."""

    worker: int
    text: str


class Left(Word, frozen=True):
    """A worker has been ended."""

    worker: int
    tail: str
    """End of what it wrote to stderr, cleaned as a record needs it."""
    lines: tuple[str, ...]
    """What of it says that the host did the device's work."""
    sight: Sight | None = None
    """What was seen of its device meanwhile."""


Message = (
    Challenge
    | Hello
    | Welcome
    | Seated
    | Look
    | Found
    | Start
    | LetGo
    | Stacks
    | HangUp
    | Finish
    | Over
    | Said
    | Beat
    | Frames
    | Left
)
DECODER: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)


class Gone(Exception):
    """The other side is not there any more, or says what nobody understands; why, in words."""


class Connection:
    """One end of the line between two hosts."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._rest = bytearray()
        self._known = False
        """Whether the other side has proved who it is."""
        self.own_address = _address(sock.getsockname)
        """By which the other side reaches this host."""
        self.other_address = _address(sock.getpeername)
        """The other side's."""
        sock.settimeout(SEND_SECONDS)
        _keep_alive(sock)

    def fileno(self) -> int:
        """What wakes who listens."""
        return self._socket.fileno()

    def trust(self) -> None:
        """The other side is who it says: its lines may be long."""
        self._known = True

    def send(self, message: Message) -> None:
        """Raises `Gone` where nobody takes it."""
        try:
            self._socket.sendall(encoded(message) + b"\n")
        except OSError as error:
            raise Gone(_why(error)) from error

    def receive(self) -> list[Message]:
        """What has come, at least a part of a line; raises `Gone` at the end of it all.

        Blocks where nothing has come: call it when `fileno` is readable.
        """
        try:
            chunk = self._socket.recv(1 << 20)
        except OSError as error:
            raise Gone(_why(error)) from error
        if not chunk:
            raise Gone(CLOSED)
        self._rest += chunk
        *lines, self._rest = self._rest.split(b"\n") if b"\n" in chunk else [self._rest]
        if len(self._rest) > (LONGEST_LINE if self._known else LONGEST_GREETING):
            raise Gone("it sends a line that has no end")
        return [_decoded(line) for line in lines]

    def receive_one(self, seconds: float) -> Message:
        """The next word of a greeting, and none of what comes after it; raises `Gone`."""
        end = time.monotonic() + seconds
        line = bytearray()
        try:
            while not line.endswith(b"\n") and len(line) < LONGEST_GREETING:
                self._socket.settimeout(max(0.01, end - time.monotonic()))
                if not (byte := self._socket.recv(1)):
                    raise Gone(CLOSED)
                line += byte
            self._socket.settimeout(SEND_SECONDS)
        except OSError as error:
            raise Gone(_why(error)) from error
        return _decoded(line)

    def close(self) -> None:
        """Hangs up."""
        with contextlib.suppress(OSError):
            self._socket.close()


def drawn() -> str:
    """A nonce."""
    return secrets.token_hex(16)


def proof(secret: str, who: str, nonce: str, other: str) -> str:
    """That somebody knows the secret; who: `leader` or `follower`, so that none can be echoed."""
    return hmac.digest(secret.encode(), f"{who} {nonce} {other}".encode(), "sha256").hex()


def proves(said: str, secret: str, who: str, nonce: str, other: str) -> bool:
    """Whether it is that proof."""
    return hmac.compare_digest(said.encode(), proof(secret, who, nonce, other).encode())


def is_loopback(address: str) -> bool:
    """Whether only this host reaches that address."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def is_of_one_link(address: str) -> bool:
    """Whether it is of IPv6 and means something on one link of one host alone."""
    found = ipaddress.ip_address(address.partition("%")[0])
    return found.version == 6 and found.is_link_local


def family(address: str) -> socket.AddressFamily:
    """That of a numeric address."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def interface_of(address: str) -> str | None:
    """The name of this host's interface that has the address."""
    import psutil

    bare = address.partition("%")[0]
    for name, addresses in psutil.net_if_addrs().items():
        if any(one.address.partition("%")[0] == bare for one in addresses):
            return str(name)
    return None


def _address(ask: Callable[[], Any]) -> str:
    """Of one end of a socket; somebody who has left already has none."""
    try:
        return str(ask()[0]).removeprefix(IN_IPV6)
    except (OSError, IndexError):
        return "nowhere"


def _decoded(line: bytes | bytearray) -> Message:
    try:
        return DECODER.decode(line)
    except UNREADABLE as error:
        raise Gone(f"it says what is no word of accelmark's ({error})") from error


def _keep_alive(sock: socket.socket) -> None:
    """Both ways of noticing that nobody is there: while nothing is said, and while something is."""
    wanted = {
        "TCP_KEEPIDLE": IDLE_SECONDS,
        "TCP_KEEPALIVE": IDLE_SECONDS,  # what macOS calls it
        "TCP_KEEPINTVL": AGAIN_SECONDS,
        "TCP_KEEPCNT": TIMES,
        "TCP_USER_TIMEOUT": 1000 * (IDLE_SECONDS + AGAIN_SECONDS * TIMES),
        "TCP_NODELAY": 1,
    }
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in wanted.items():
        if hasattr(socket, name):
            with contextlib.suppress(OSError):  # not of a socket that is none of TCP's
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _why(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "it does not answer any more"
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return CLOSED
    return f"the connection broke ({error.strerror or error})"
