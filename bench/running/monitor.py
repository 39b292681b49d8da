"""The parent's side of `bench.running.sampler`: what was seen of each device during one launch.

Whatever happens to the side process, a launch goes on without it, and its record says why it has
no telemetry. Each host of a launch has a monitor of its own, for its own devices and by its own
clock; what it saw (`bench.telemetry.joined.Sight`) are plain values, which can go over a wire.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from bench.backend import Backend, DeviceInfo
from bench.lifeline import Lifeline, command
from bench.measuring.ranks.joining import machine
from bench.records.case import Case
from bench.records.observed import Reading, Telemetry
from bench.running import child
from bench.running.ears import Lines
from bench.running.sampler import Answer, Order
from bench.telemetry import energy
from bench.telemetry.joined import Sight
from bench.telemetry.source import Process

ANSWER_SECONDS = 10.0
"""A side process that takes longer to answer is ended."""
FIRST_LOOK_SECONDS = 2.0
"""How long the first worker waits for the first look: who came with it is told by who was there."""
AGAIN_SECONDS = 0.05
DEATHS = 3
"""A side process that did not answer so many times is not started again; up to then the next launch
has a new one."""
COMMAND = command("bench.running.sampler")
DECODER = msgspec.json.Decoder(tuple[Answer, ...])


class _Device:
    """What is known of one device from launch to launch."""

    def __init__(self) -> None:
        self.idle_watts: float | None = None
        self.before: frozenset[int] | None = None
        """Process ids that were there before the worker was; None if nobody looked."""


@dataclass(eq=False)
class Monitor:
    """Watches devices while workers come and go. Starts its process when it is first asked."""

    order: Order
    environment: Mapping[str, str]
    """A worker's, so that both count devices alike."""
    command: Sequence[str] = COMMAND

    def __post_init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lines: Lines | None = None
        """What it says."""
        self._lifeline = Lifeline()
        self._given_up: Sequence[Answer] | None = None
        """What is said of each device once nobody will look at any of them."""
        self._deaths = 0
        self._lost: str | None = None
        """Why nobody answers of this launch, though somebody may of the next."""
        self._devices = {index: _Device() for index in self.order.indices}
        self._fresh = True
        self._let_go_ns = 0

    def start(self) -> None:
        """Starts the side process, if it is not there yet."""
        if self._process is not None or self._given_up is not None:
            return
        try:
            self._process = self._lifeline.start(
                self.command,
                self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        except OSError as error:
            self._given_up = self._of_each(f"the side process does not start ({error.strerror})")
            return
        self._lines = Lines(self._process)
        child.tell(self._process, msgspec.json.encode(self.order))

    def lets_go(self) -> None:
        """Workers are about to open the devices: what was seen until now was not their doing."""
        self._lost = None
        answers = self._ask()
        told = [_tells(answer) for answer in answers]
        end = time.monotonic() + FIRST_LOOK_SECONDS
        while self._fresh and time.monotonic() < end and not all(told):
            time.sleep(AGAIN_SECONDS)
            more = self._ask()
            told = [before or _tells(answer) for before, answer in zip(told, more, strict=True)]
            # As far as a launch that has not begun asks of them.
            answers = [
                msgspec.structs.replace(now, seen=before.seen + now.seen)
                for before, now in zip(answers, more, strict=True)
            ]
        self._let_go_ns = time.perf_counter_ns()
        for device, answer in zip(self._devices.values(), answers, strict=True):
            if self._fresh and answer.scope != "shared":  # a host, which imports, is not idle
                device.idle_watts = energy.idle_watts(self._readings(answer))
            for users in (look.users for look in answer.seen if look.users is not None):
                device.before = frozenset(p.pid for p in users)
        self._fresh = False

    def saw(
        self, workers: Collection[int], first_steps_ns: Mapping[int, int | None]
    ) -> tuple[Sight, ...]:
        """What was seen of these devices since their workers were let go, or why nothing was.

        workers: process ids of all of them; first_steps_ns: of each device, by its index, this
        host's `perf_counter_ns` when its first step began, None if it never did.
        """
        answers = dict(zip(self._devices, self._ask(), strict=True))
        return tuple(
            self._sight(index, answers[index], workers, first_step_ns)
            if index in answers
            else Sight(index=index, telemetry="nobody looked")
            for index, first_step_ns in first_steps_ns.items()
        )

    def _sight(
        self,
        index: int,
        answer: Answer,
        workers: Collection[int],
        first_step_ns: int | None,
    ) -> Sight:
        readings = self._readings(answer)
        if not readings:
            nothing = "the launch was over before the device was looked at"
            why = answer.problem or answer.trouble or self._lost or nothing
            return Sight(index=index, telemetry=why)
        absent = dict(answer.absent)
        if answer.problem is not None:
            absent["later readings"] = answer.problem
        looks = [look.users for look in answer.seen]
        device = self._devices[index]
        others = strangers(looks, workers, device.before)
        if others is None:
            silent = f"{answer.source} does not say who is there"
            nobody = f"{answer.source} lists nobody with memory there, not even the worker"
            late = "nobody looked who was there before the worker came"
            why = late if any(looks) else nobody if () in looks else silent
            absent.setdefault("processes", why)
        memory = [p.memory_bytes for p in others or ()]
        known = [m for m in memory if m is not None]
        telemetry = Telemetry(
            source=answer.source,
            scope=answer.scope,
            interval_seconds=answer.interval_seconds,
            first_step_seconds=None if first_step_ns is None else self._seconds(first_step_ns),
            readings=readings,
            absent=absent,
            idle_watts=device.idle_watts,
            others=None if others is None else len(others),
            others_bytes=sum(known) if known and len(known) == len(memory) else None,
        )
        card, count = answer.card, answer.card_devices
        return Sight(
            index=index, telemetry=telemetry, card=card, card_devices=count, machine=machine()
        )

    def close(self) -> None:
        """Ends the side process and whatever it has started."""
        process, self._process = self._process, None
        if process is not None:
            child.end(process)
            self._lifeline.cut()

    def _seconds(self, at_ns: int) -> float:
        return round((at_ns - self._let_go_ns) / 1e9, 4)

    def _readings(self, answer: Answer) -> tuple[Reading, ...]:
        return tuple(
            msgspec.structs.replace(look.reading, at_seconds=self._seconds(look.at_ns))
            for look in answer.seen
        )

    def _ask(self) -> Sequence[Answer]:
        """What it has seen of each device since it was last asked; a problem once there is nobody
        to ask."""
        self.start()
        if self._process is None:
            return self._given_up or ()
        child.tell(self._process, b"")
        answers: tuple[Answer, ...] | None
        try:
            answers = self._hear()
            lost = "the side process gave no answer in time"
        except OSError as error:  # no descriptors left to listen with
            answers, lost = None, f"the side process cannot be heard ({error.strerror})"
        if answers is None or len(answers) != len(self._devices):
            self._deaths += 1
            self._lost = lost
            self._given_up = self._of_each(lost) if self._deaths >= DEATHS else None
            self.close()
            return self._of_each(lost)
        if all(a.problem is not None and not a.source for a in answers):  # and none ever will
            self._given_up = answers
            self.close()
        return answers

    def _of_each(self, problem: str) -> Sequence[Answer]:
        return [Answer(problem=problem)] * len(self._devices)

    def _hear(self) -> tuple[Answer, ...] | None:
        assert self._lines is not None
        line = self._lines.next(time.monotonic() + ANSWER_SECONDS)
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            return DECODER.decode(line or b"")
        return None


def _tells(answer: Answer) -> bool:
    """Whether somebody has looked at the device, or will not."""
    return bool(answer.seen or answer.trouble or answer.problem)


def strangers(
    looks: Sequence[tuple[Process, ...] | None],
    workers: Collection[int],
    before: Collection[int] | None,
) -> tuple[Process, ...] | None:
    """Who else was on the device, at the look that saw most of them; None if that cannot be told.

    workers: process ids of all ranks; before: those that were there before the workers were; None
    if nobody looked. In a container the source may count otherwise than workers do; whoever came
    with them then is taken for the device's. One that never lists anybody shows no workers, and
    would show no others.
    """
    known = [users for users in looks if users is not None]
    if not any(known):
        return None
    found = []
    for users in known:
        others = [p for p in users if p.pid not in workers]
        if before is None and others and len(others) == len(users):
            return None
        came = [p for p in others if p.pid not in (before or ())]
        if len(others) == len(users) and came:
            others.remove(came[0])
        found.append(tuple(others))
    return max(found, key=len)


def watched(
    cases: Sequence[Case],
    device: DeviceInfo,
    backend: Backend,
    here: int,
    left_out: Collection[str] = (),
) -> tuple[int, ...]:
    """Which devices of this host a run looks at: its own, and the first ones, as many as any of
    the cases takes that it tries.

    here: how many this host has. Ranks that share its cores have one device.
    """
    counts = (case.devices for case in cases if case.fingerprint not in left_out)
    most = min(max(counts, default=1), here)
    first = range(0 if backend.is_host or most == 1 else most)
    return tuple(sorted({device.index, *first}))
