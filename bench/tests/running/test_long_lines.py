"""A long report takes time in proportion to its length, from a pipe and from another host."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from bench.running.hosts.wire import Connection
from bench.running.worker_process import WorkerProcess
from bench.tests.running.scripted_workers import request, scripted

pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX process groups")
CHUNK = b"x" * (1 << 13)
SHORT, LONG = 1 << 7, 1 << 10
"""Chunks of a line of a megabyte, and of one eight times as long."""
Feed = Callable[[bytes], object]


@contextlib.contextmanager
def from_a_pipe() -> Iterator[Feed]:
    worker = WorkerProcess(request(), {}, scripted("sys.stdin.read()"))
    try:
        yield lambda chunk: worker.hear(chunk, lambda progress: None)
    finally:
        worker.leave()


@contextlib.contextmanager
def from_another_host() -> Iterator[Feed]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = Connection(ours)
        connection.trust()

        def feed(chunk: bytes) -> None:
            theirs.sendall(chunk)
            assert connection.receive() == []

        yield feed


Source = Callable[[], contextlib.AbstractContextManager[Feed]]


def seconds(source: Source, chunks: int) -> float:
    """Of this process, for a line of so many chunks that has not ended; the least of seven."""
    taken = []
    for _ in range(7):
        with source() as feed:
            start = time.process_time()
            for _ in range(chunks):
                feed(CHUNK)
            taken.append(time.process_time() - start)
    return min(taken)


@pytest.mark.parametrize("source", [from_a_pipe, from_another_host])
def test_a_line_eight_times_as_long_does_not_take_its_square(source: Source) -> None:
    """To copy all that has come at every chunk would take it up to 64 times as long."""
    assert seconds(source, LONG) < 24 * seconds(source, SHORT)
