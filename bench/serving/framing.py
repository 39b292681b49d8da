"""HTTP/1.1 as bytes: what is the head of a response, and what of the rest is its body.

Strict in what it takes: what is not as the standard (RFC 9112) says is no answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

MOST_BODY_BYTES = 64 << 20
"""Of an answer that is read whole, and of a chunk."""
MOST_SIZE_LINE = 1024


class Broken(Exception):
    """What came is no answer: the connection was refused or lost, or it is not HTTP."""


class Head(NamedTuple):
    """Status and headers of a response; names in lower case."""

    status: int
    headers: Mapping[str, str]


def head_of(text: str) -> Head:
    """From the text before the empty line; raises `Broken`."""
    first, *lines = text.split("\r\n")
    version, _, rest = first.partition(" ")
    status = rest[:3]
    if version not in ("HTTP/1.1", "HTTP/1.0") or not (status.isascii() and status.isdigit()):
        raise Broken(f"not HTTP: {first[:60]!r}")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or name != name.strip():
            raise Broken(f"a header that is none: {line[:60]!r}")
        name, value = name.lower(), value.strip()
        if name in ("content-length", "transfer-encoding") and headers.get(name, value) != value:
            raise Broken(f"two headers {name}")
        headers[name] = value
    if version == "HTTP/1.0":
        headers.setdefault("connection", "close")
    return Head(int(status), headers)


class Framing:
    """Takes the body of a response out of the bytes that carry it."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        """Raises `Broken` for a transfer coding or a length that is none."""
        coding = headers.get("transfer-encoding", "").lower()
        if coding not in ("", "identity", "chunked"):
            raise Broken(f"transfer-encoding {coding}")
        self._chunked = coding == "chunked"
        length = headers.get("content-length")
        if length is not None and not (length.isascii() and length.isdigit()):
            raise Broken(f"content-length {length}")
        self._left = 0 if self._chunked or length is None else int(length)
        self.to_the_end = not self._chunked and length is None
        """Whether the body ends where the connection does."""
        self.done = length is not None and self._left == 0 and not self._chunked
        self._rest = b""
        self._within = False
        self._trailers = False

    def feed(self, data: bytes) -> bytes:
        """What of it is body."""
        if self.to_the_end:
            return data
        if not self._chunked:
            if len(data) > self._left:
                raise Broken("more bytes than content-length says")
            self._left -= len(data)
            self.done = self._left == 0
            return data
        self._rest += data
        body = []
        while not self.done:
            if self._within:
                if len(self._rest) < self._left + 2:
                    break
                if self._rest[self._left : self._left + 2] != b"\r\n":
                    raise Broken("a chunk longer than its size")
                body.append(self._rest[: self._left])
                self._rest = self._rest[self._left + 2 :]
                self._within = False
                continue
            line, found, rest = self._rest.partition(b"\r\n")
            if not found:
                if len(line) > MOST_SIZE_LINE:
                    raise Broken("a chunk's size without an end")
                break
            self._rest = rest
            self._line(line)
        return b"".join(body)

    def _line(self, line: bytes) -> None:
        if self._trailers:
            self.done = line == b""
            return
        digits = line.partition(b";")[0].strip()
        try:
            if not digits.isalnum():
                raise ValueError
            self._left = int(digits, 16)
        except ValueError as error:
            raise Broken(f"a chunk of size {line[:20]!r}") from error
        if self._left > MOST_BODY_BYTES:
            raise Broken(f"a chunk of {self._left} bytes")
        self._within = self._left > 0
        self._trailers = self._left == 0
