"""The parent's side of `bench.running.sampler`: what was seen of the device during one launch.

Whatever happens to the side process, a launch goes on without it, and its record says why it has
no telemetry.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence

import msgspec

from bench.lifeline import Lifeline
from bench.records.observed import Reading, Telemetry
from bench.running.sampler import Answer, Order
from bench.telemetry import energy
from bench.telemetry.source import Process

ANSWER_SECONDS = 10.0
"""A side process that takes longer to answer is ended."""
GRACE_SECONDS = 1.0
FIRST_LOOK_SECONDS = 2.0
"""How long the first worker waits for the first look: who came with it is told by who was there."""
AGAIN_SECONDS = 0.05
DEATHS = 3
"""A side process that did not answer so many times is not started again; up to then the next launch
has a new one."""
COMMAND = (sys.executable, "-m", "bench.running.sampler")
DECODER = msgspec.json.Decoder(Answer)


class Monitor:
    """Watches one device while workers come and go. Starts its process when it is first asked."""

    def __init__(
        self, order: Order, environment: Mapping[str, str], command: Sequence[str] = COMMAND
    ) -> None:
        """environment: a worker's, so that both count devices alike."""
        self._order = order
        self._environment = environment
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._lifeline = Lifeline()
        self._rest = b""
        self._problem: str | None = None
        self._deaths = 0
        self._lost: str | None = None
        """Why nobody answers of this launch, though somebody may of the next."""
        self._idle_watts: float | None = None
        self._fresh = True
        self._before: frozenset[int] | None = None
        self._let_go_ns = 0

    def start(self) -> None:
        """Starts the side process, if it is not there yet."""
        if self._process is not None or self._problem is not None:
            return
        try:
            self._process = self._lifeline.start(
                self._command,
                self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        except OSError as error:
            self._problem = f"the side process does not start ({error.strerror})"
            return
        self._send(msgspec.json.encode(self._order) + b"\n")

    def lets_go(self) -> None:
        """A worker is about to open the device: what was seen until now was not its doing."""
        self._lost = None
        answer = self._ask()
        end = time.monotonic() + FIRST_LOOK_SECONDS
        while (
            self._fresh
            and time.monotonic() < end
            and not (answer.seen or answer.trouble or answer.problem)
        ):
            time.sleep(AGAIN_SECONDS)
            answer = self._ask()
        self._let_go_ns = time.perf_counter_ns()
        if self._fresh:
            self._idle_watts = energy.idle_watts(self._readings(answer))
            self._fresh = False
        for look in answer.seen:
            if look.users is not None:
                self._before = frozenset(p.pid for p in look.users)

    def saw(self, worker: int, first_step_ns: int | None) -> Telemetry | str:
        """What was seen since a worker was let go; or why there is nothing.

        worker: its process id; first_step_ns: `perf_counter_ns` when its first step began.
        """
        answer = self._ask()
        readings = self._readings(answer)
        if not readings:
            nothing = "the launch was over before the device was looked at"
            return answer.problem or answer.trouble or self._lost or nothing
        absent = dict(answer.absent)
        if answer.problem is not None:
            absent["later readings"] = answer.problem
        looks = [look.users for look in answer.seen]
        others = strangers(looks, worker, self._before)
        if others is None:
            silent = f"{answer.source} does not say who is there"
            late = "nobody looked who was there before the worker came"
            absent.setdefault("processes", late if any(looks) else silent)
        memory = [p.memory_bytes for p in others or ()]
        known = [m for m in memory if m is not None]
        return Telemetry(
            source=answer.source,
            scope=answer.scope,
            interval_seconds=answer.interval_seconds,
            first_step_seconds=None if first_step_ns is None else self._seconds(first_step_ns),
            readings=readings,
            absent=absent,
            idle_watts=self._idle_watts,
            others=None if others is None else len(others),
            others_bytes=sum(known) if known and len(known) == len(memory) else None,
        )

    def close(self) -> None:
        """Ends the side process and whatever it has started."""
        process, self._process = self._process, None
        self._rest = b""
        if process is None:
            return
        with contextlib.suppress(OSError):
            if process.stdin is not None:
                process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()
        self._lifeline.cut()
        if process.stdout is not None:
            process.stdout.close()

    def _seconds(self, at_ns: int) -> float:
        return round((at_ns - self._let_go_ns) / 1e9, 4)

    def _readings(self, answer: Answer) -> tuple[Reading, ...]:
        return tuple(
            msgspec.structs.replace(look.reading, at_seconds=self._seconds(look.at_ns))
            for look in answer.seen
        )

    def _ask(self) -> Answer:
        """What it has seen since it was last asked; a problem once there is nobody to ask."""
        self.start()
        if self._process is None:
            return Answer(problem=self._problem)
        self._send(b"\n")
        try:
            answer = self._hear()
            lost = "the side process gave no answer in time"
        except OSError as error:  # no descriptors left to listen with
            answer, lost = None, f"the side process cannot be heard ({error.strerror})"
        if answer is None:
            self._deaths += 1
            self._lost = lost
            self._problem = lost if self._deaths >= DEATHS else None
            self.close()
            return Answer(problem=lost)
        if answer.problem is not None and not answer.source:  # it will never have any to give
            self._problem = answer.problem
            self.close()
        return answer

    def _send(self, line: bytes) -> None:
        assert self._process is not None and self._process.stdin is not None
        with contextlib.suppress(OSError):  # it died: said when its answer is missing
            self._process.stdin.write(line)
            self._process.stdin.flush()

    def _hear(self) -> Answer | None:
        assert self._process is not None and self._process.stdout is not None
        stdout = self._process.stdout
        end = time.monotonic() + ANSWER_SECONDS
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                left = end - time.monotonic()
                if left <= 0 or not selector.select(left):
                    return None
                chunk = os.read(stdout.fileno(), 1 << 20)
                if not chunk:
                    return None
                self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        try:
            return DECODER.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None


def strangers(
    looks: Sequence[tuple[Process, ...] | None], worker: int, before: Collection[int] | None
) -> tuple[Process, ...] | None:
    """Who else was on the device, at the look that saw most of them; None if that cannot be told.

    before: process ids that were there before the worker was; None if nobody looked. In a container
    the source may count otherwise than the worker does; whoever came with it then is taken for the
    worker.
    """
    known = [users for users in looks if users is not None]
    if not known:
        return None
    found = []
    for users in known:
        others = [p for p in users if p.pid != worker]
        if before is None and others and len(others) == len(users):
            return None
        came = [p for p in others if p.pid not in (before or ())]
        if len(others) == len(users) and came:
            others.remove(came[0])
        found.append(tuple(others))
    return max(found, key=len)
