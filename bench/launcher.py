"""The parent's side of a worker: start it, listen, bound its time, and make of its end an outcome.

The parent blocks in the kernel while a worker measures: one that polls takes a core from it. The
worker's stderr goes to a file, so that no amount of it can block the worker, and the parent keeps
its end. A worker runs in a process group of its own, which is ended whole.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import BinaryIO

import msgspec

from bench.record import UNREADABLE, Cold, Failed, Phase
from bench.worker import Progress, Report, Request

STDERR_TAIL_BYTES = 4000
"""How much of the end of a worker's stderr a record keeps."""
GRACE_SECONDS = 3.0
"""Between asking a worker to end and ending it."""


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """A launch as the parent saw it."""

    report: Report
    seconds: float
    stderr_tail: str


def launch(
    request: Request,
    variables: Mapping[str, str],
    listen: Callable[[Progress], None] = lambda progress: None,
    command: tuple[str, ...] = (sys.executable, "-m", "bench.worker"),
) -> Finished:
    """Runs one worker to its end.

    variables: the backend's environment, set unless the user has set them. Never raises for what
    the worker does; KeyboardInterrupt passes through once the worker is ended.
    """
    start = time.monotonic()
    with tempfile.TemporaryFile() as stderr:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env={**variables, **os.environ},
            start_new_session=True,
        )
        try:
            report = _converse(process, request, start, listen, stderr)
        finally:
            _end(process)
        return Finished(report=report, seconds=time.monotonic() - start, stderr_tail=_tail(stderr))


def _converse(
    process: subprocess.Popen[bytes],
    request: Request,
    start: float,
    listen: Callable[[Progress], None],
    stderr: BinaryIO,
) -> Report:
    """Sends the request and reads lines until the report, the worker's end, or the time limit."""
    assert process.stdin is not None and process.stdout is not None
    limit = request.settings.launch_limit_seconds
    phase: Phase = "start"
    buffer = b""
    decoder = msgspec.json.Decoder(Progress | Report)
    with contextlib.suppress(BrokenPipeError):  # it died at once: said below, with its stderr
        process.stdin.write(msgspec.json.encode(request) + b"\n")
        process.stdin.flush()
    with selectors.DefaultSelector() as selector, _end_of(process) as ended:
        selector.register(process.stdout, selectors.EVENT_READ)
        if ended is not None:
            selector.register(ended, selectors.EVENT_READ)
        while True:
            left = start + limit - time.monotonic()
            ready = selector.select(left) if left > 0 else []
            if not ready:
                message = f"no report within {limit:.0f} s; ended in its {phase} phase"
                return _failed("timeout", phase, message)
            if process.stdout not in (key.fileobj for key, _ in ready):
                # It ended, said all it had to say, and left a child that holds its stdout open.
                return _failed("crash", phase, _epitaph(process, stderr))
            chunk = os.read(process.stdout.fileno(), 1 << 20)
            if not chunk:
                return _failed("crash", phase, _epitaph(process, stderr))
            *lines, buffer = (buffer + chunk).split(b"\n")
            for line in lines:
                try:
                    message_in = decoder.decode(line)
                except UNREADABLE as error:
                    return _failed("crash", phase, f"the worker's report is garbled: {error}")
                if isinstance(message_in, Report):
                    return message_in
                phase = message_in.phase
                listen(message_in)


@contextlib.contextmanager
def _end_of(process: subprocess.Popen[bytes]) -> Iterator[int | None]:
    """A file descriptor that becomes readable when the process ends (Linux), else None."""
    if not hasattr(os, "pidfd_open"):
        yield None
        return
    descriptor = os.pidfd_open(process.pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _failed(kind: str, phase: Phase, message: str) -> Report:
    outcome = msgspec.convert(
        {"status": "failed", "kind": kind, "phase": phase, "message": message}, Failed
    )
    return Report(outcome=outcome, cold=Cold(), environment={})


def _epitaph(process: subprocess.Popen[bytes], stderr: BinaryIO) -> str:
    """How a worker without a report ended, and the last thing it said."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_SECONDS)
    code = process.returncode
    if code is None:
        how = "the worker closed its report without one"
    elif code < 0:
        named = -code in {s.value for s in signal.Signals}  # real-time signals have no name
        name = signal.Signals(-code).name if named else f"signal {-code}"
        hint = ", perhaps by the kernel for want of memory" if name == "SIGKILL" else ""
        how = f"the worker was killed by {name}{hint}"
    else:
        how = f"the worker left with exit code {code} and no report"
    last = [line for line in _tail(stderr).splitlines() if line.strip()][-1:]
    return f"{how}: {last[0].strip()}" if last else how


def _tail(stderr: BinaryIO) -> str:
    size = stderr.seek(0, os.SEEK_END)
    stderr.seek(max(0, size - STDERR_TAIL_BYTES))
    return stderr.read().decode("utf-8", errors="replace")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the worker's whole process group: politely, then not."""
    with contextlib.suppress(BrokenPipeError):
        if process.stdin is not None:
            process.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(0.5)
    for sign in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            break
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
    # What the worker itself started, and left, goes with it.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.stdout is not None:
        process.stdout.close()
