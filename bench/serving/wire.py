"""HTTP/1.1 to one server, with a time on every piece that arrives.

Plain asyncio, for what is measured is the server: where 256 answers stream at once, a library's own
reading costs as much as some servers take for a token. The time is taken as the loop hands over the
bytes, before any of them is looked at, so that one answer's parsing is not in another's time.

Strict in what it takes: a response that is not what HTTP/1.1 says fails its request. No proxy is
ever asked, no redirect is followed, and nothing is tried twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import NamedTuple
from urllib.parse import urlsplit

from bench.errors import ServerError
from bench.serving.framing import MOST_BODY_BYTES, Broken, Framing, Head, head_of

MOST_HEAD_BYTES = 64 << 10
IDLE_SECONDS = 2.0
"""A connection that was idle for longer is not used again: servers close them after five."""
KEEP_SECONDS = 0.5
"""How often is looked whether those that are kept ready still are."""
CONNECT_SECONDS = 10.0
NEXT_SECONDS = 0.25
"""After so long a host's next address is tried beside the one that has not answered."""
CLOSED = "the server closed the connection"
SPARE_FILES = 64
"""That this process has open beside its connections."""
OPEN_MAX = 10_240
"""As many as macOS allows."""


class Endpoint(NamedTuple):
    """Where a server listens."""

    host: str
    port: int
    tls: bool
    path: str
    """In front of `/v1/completions`; empty for most."""

    @classmethod
    def of(cls, url: str) -> Endpoint:
        """From `http://127.0.0.1:8000`; what follows from `/v1` on is no matter.

        Raises `ServerError`.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
            if port == 0:
                raise ValueError("no server has port 0")
            host = (parts.hostname or "").encode("idna").decode()
            if ":" in host:  # an address of one link has its link behind %25 (RFC 6874)
                host = host.replace("%25", "%", 1)
            parts.path.encode("ascii")
        except ValueError as error:
            raise ServerError(f"--endpoint: not an address ({error}). {_EXAMPLE}") from error
        if parts.scheme not in ("http", "https") or not host:
            raise ServerError(f"--endpoint: give http:// or https:// and a host. {_EXAMPLE}")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ServerError(
                f"--endpoint {parts.scheme}://{parts.hostname}: an address only. A token goes into "
                "the environment variable that --token-variable names, never on a command line."
            )
        tls = parts.scheme == "https"
        path = parts.path.rstrip("/").removesuffix("/completions").removesuffix("/chat")
        path = path.removesuffix("/v1")
        return cls(host, port or (443 if tls else 80), tls, path)

    @property
    def authority(self) -> str:
        """Host and port, as HTTP names them: a link is known to its host alone."""
        host = f"[{self.host.partition('%')[0]}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


_EXAMPLE = "For example --endpoint http://127.0.0.1:8000."


class Piece(NamedTuple):
    """Bytes, and when they arrived (`time.perf_counter_ns`)."""

    ns: int
    data: bytes


class Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self._pieces: deque[Piece] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport | None = None
        self.ended = ""
        """Why nothing more comes; empty while something may."""
        self.ended_ns = 0
        """When that was so."""
        self.idle_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Of asyncio."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Of asyncio; the time is taken here."""
        self._pieces.append(Piece(time.perf_counter_ns(), data))
        self._wake()

    def eof_received(self) -> None:
        """Of asyncio."""
        self._end(CLOSED)

    def connection_lost(self, exc: Exception | None) -> None:
        """Of asyncio."""
        self._end(CLOSED if exc is None else f"connection lost ({exc})")

    def _end(self, why: str) -> None:
        if not self.ended:
            self.ended, self.ended_ns = why, time.perf_counter_ns()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    @property
    def usable(self) -> bool:
        """Whether another request may go over it."""
        idle = time.monotonic() - self.idle_since
        return not self.ended and not self._pieces and idle < IDLE_SECONDS

    def send(self, data: bytes) -> None:
        """Queues bytes for the server."""
        assert self._transport is not None
        self._transport.write(data)

    async def piece(self) -> Piece | None:
        """The next bytes; None where the server has closed."""
        while not self._pieces:
            if self.ended:
                return None
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._pieces.popleft()

    def close(self) -> None:
        """At once, whatever was under way."""
        if self._transport is not None:
            self._transport.abort()


class Response:
    """An answer as it comes."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._framing: Framing | None = None
        self._first: Piece | None = None
        self.keep = False
        self.ended_ns = 0
        """When the last of it arrived; 0 before."""

    async def head(self) -> Head:
        """Status and headers; raises `Broken`."""
        received, ns = b"", 0
        while b"\r\n\r\n" not in received:
            piece = await self._connection.piece()
            if piece is None:
                before = "in the middle of its answer" if received else "without an answer"
                raise Broken(f"{self._connection.ended} {before}")
            received += piece.data
            ns = piece.ns
            if len(received) > MOST_HEAD_BYTES:
                raise Broken("headers without an end")
        text, _, rest = received.partition(b"\r\n\r\n")
        found = head_of(text.decode("latin-1"))
        if 100 <= found.status < 200:
            raise Broken(f"status {found.status}, which was not asked for")
        self._framing = Framing(found.headers)
        self._first = Piece(ns, rest) if rest else None
        closes = found.headers.get("connection", "").lower() == "close"
        self.keep = not closes and not self._framing.to_the_end
        return found

    async def pieces(self) -> AsyncIterator[Piece]:
        """The body as it arrives, framing taken off; raises `Broken` where it breaks off."""
        framing = self._framing
        assert framing is not None
        piece = self._first
        while not framing.done or piece is not None:
            if piece is None:
                piece = await self._connection.piece()
            if piece is None:
                if framing.to_the_end:
                    self.ended_ns = self._connection.ended_ns
                    return
                raise Broken(f"{self._connection.ended} in the middle of its answer")
            body = framing.feed(piece.data)
            if framing.done:
                self.ended_ns = piece.ns
            if body:
                yield Piece(piece.ns, body)
            piece = None

    async def whole(self) -> bytes:
        """The body, all of it."""
        body = bytearray()
        async for piece in self.pieces():
            body += piece.data
            if len(body) > MOST_BODY_BYTES:
                raise Broken(f"an answer of more than {MOST_BODY_BYTES >> 20} MiB")
        return bytes(body)


class Pool:
    """Connections to one server; what is idle is used again."""

    def __init__(
        self, endpoint: Endpoint, token: str | None = None, trust: ssl.SSLContext | None = None
    ) -> None:
        """token: for the header Authorization; trust: whose certificates are taken."""
        self.endpoint = endpoint
        self.token = token
        self._trust = trust or (ssl.create_default_context() if endpoint.tls else None)
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()

    async def connection(self) -> Connection:
        """An idle one, or a new one; raises `Broken`."""
        while self._idle:
            found = self._idle.pop()
            if found.usable:
                return found
            self._drop(found)
        return await self._connected()

    async def _connected(self) -> Connection:
        """A new one; raises `Broken`."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, made = await loop.create_connection(
                    Connection,
                    self.endpoint.host,
                    self.endpoint.port,
                    ssl=self._trust,
                    happy_eyeballs_delay=NEXT_SECONDS,
                )
        except ssl.SSLCertVerificationError as error:
            raise Broken(f"its certificate is not trusted ({error.verify_message})") from error
        except (OSError, TimeoutError) as error:
            raise Broken(f"no connection ({_said(error)})") from error
        self._all.add(made)
        made.idle_since = time.monotonic()
        return made

    @contextlib.asynccontextmanager
    async def request(
        self, method: str, path: str, body: bytes | None = None
    ) -> AsyncIterator[Response]:
        """Sends a request; the connection is kept if its answer was read to its end."""
        connection = await self.connection()
        response = Response(connection)
        whole = False
        try:
            connection.send(self._request(method, path, body))
            yield response
            whole = response._framing is not None and response._framing.done
        finally:
            if whole and response.keep and not connection.ended:
                connection.idle_since = time.monotonic()
                self._idle.append(connection)
            else:
                self._drop(connection)

    async def get(self, path: str) -> tuple[Head, bytes]:
        """The whole answer to a GET; raises `Broken`, also where it takes too long."""
        return await self.ask("GET", path, None, CONNECT_SECONDS)

    async def ask(
        self, method: str, path: str, body: bytes | None, seconds: float
    ) -> tuple[Head, bytes]:
        """The whole answer to a request; raises `Broken`, also where it takes too long."""
        try:
            async with asyncio.timeout(seconds), self.request(method, path, body) as response:
                head = await response.head()
                return head, await response.whole()
        except TimeoutError as error:
            raise Broken(f"no answer within {seconds:g} s") from error

    async def open(self, count: int) -> None:
        """Makes so many connections beforehand; raises `Broken`."""
        made = await asyncio.gather(*(self.connection() for _ in range(count)))
        for connection in made:
            connection.idle_since = time.monotonic()
        self._idle += made

    async def keep(self, count: int) -> None:
        """Keeps so many ready until it is cancelled, for what may come at any time: to make one
        takes time, which is not the server's. One that cannot be made fails whoever needs it."""
        while True:
            oldest = time.monotonic() - IDLE_SECONDS + KEEP_SECONDS
            fresh = [one for one in self._idle if one.usable and one.idle_since > oldest]
            for one in set(self._idle).difference(fresh):
                self._drop(one)
            self._idle = fresh
            with contextlib.suppress(Broken):
                for _ in range(count - len(fresh)):
                    self._idle.insert(0, await self._connected())
            await asyncio.sleep(KEEP_SECONDS)

    def close(self) -> None:
        """Drops all connections."""
        for connection in tuple(self._all):
            self._drop(connection)
        self._idle.clear()

    def _drop(self, connection: Connection) -> None:
        connection.close()
        self._all.discard(connection)

    def _request(self, method: str, path: str, body: bytes | None) -> bytes:
        lines = [
            f"{method} {self.endpoint.path}{path} HTTP/1.1",
            f"Host: {self.endpoint.authority}",
            "Accept: */*",
            "User-Agent: accelmark",
        ]
        if self.token is not None:
            lines.append(f"Authorization: Bearer {self.token}")
        if body is not None:
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


def make_room(surely: int, perhaps: int) -> None:
    """Lets this process have so many connections at a time: `perhaps` as far as the system allows.

    Raises `ServerError` where it does not allow `surely`.
    """
    try:
        import resource
    except ImportError:  # Windows limits them by memory alone
        return
    limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    endless, least, most = resource.RLIM_INFINITY, surely + SPARE_FILES, perhaps + SPARE_FILES
    most = most if hard == endless else min(most, hard)
    for wanted in (most, OPEN_MAX, least):
        if endless != limit < wanted <= most:
            with contextlib.suppress(OSError, ValueError):  # macOS has a limit below its endless
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
                limit = wanted
    if endless != limit < least:
        raise ServerError(
            f"serve-bench: {surely} requests in flight need {least} open files; this system allows "
            f"{limit}. Raise that (ulimit -n), or give a smaller --concurrency or --requests."
        )


def _said(error: BaseException) -> str:
    """What an error says, without the address, which the message has already."""
    if isinstance(error, OSError) and error.errno == errno.EMFILE:
        return "this client may open no more files; raise ulimit -n"
    if isinstance(error, TimeoutError):
        return f"none within {CONNECT_SECONDS:g} s"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
