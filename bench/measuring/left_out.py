"""Whether every step of a block is done, of a device that queues.

By what is left to wait for once the device was waited for. By the time that a step takes otherwise:
alone, in a shorter block, or in one of which each output is read, so that what computes only what
somebody reads computes all. And by what comes of steps that are told from one another by their
inputs. Of a host no times are asked: while it is at work for others a step
alone may wait for a core that a block keeps; where a step is done when its call returns, nothing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from bench import catalogue
from bench.framework import Tensors
from bench.measuring.blocks import refilled
from bench.measuring.edges import SINGLE, Edges
from bench.records.proof import OUTPUT
from bench.windowed_job import WindowedJob

if TYPE_CHECKING:
    from bench.backend import Device
    from bench.workload import Job

MOST = 4
"""A step that takes this many times as long otherwise as in a block was left out of the block."""
ALONE_SECONDS = 2e-4
"""Shorter steps may take longer alone by rights, of which the most part is to queue them."""
SHORT_SECONDS = 2e-3
"""Steps that are shorter alone are looked at in a block that is read."""
TRIES = 40
"""Before a step is said to be left out, both take so many turns: other work may have slowed the
first, and slows both. Of ten, all were held up now and then where three launches shared two cores.
"""
SHORT_BLOCK = 16
"""Steps of a short block, at least: four times what decides, as on a host at work all of them may
be held up."""
READ_SECONDS, MOST_READ = 1e-3, 256
"""A block that is read takes so long, by what a step takes in a block, or has so many steps."""

REST, LEAST_REST = 0.2, 5e-3
"""Share of a block, and seconds, that may be left after a synchronization: a busy host adds to
both. A short block is as long at least where it is held to a long one."""
KEPT, KEPT_TRIES = 1.5, 8
"""A step that takes this many times as long on a changed input, each time of so many, was left out
where the input had not changed."""
KEPT_SECONDS, MOST_KEPT = 0.02, 64
"""A block of these takes so long, by what a step takes, or has so many steps."""
MOST_SECONDS = 60.0
"""However long a step is: a short launch whose report takes two minutes may be ended as one that
hangs."""
ALIKE = 0.01
"""Sums of outputs that are this near to one another may differ by rounding."""


def complaints(
    job: Job,
    device: Device,
    step_seconds: float,
    clock: Callable[[], int],
    edges: Edges = SINGLE,
    kit: Tensors | None = None,
    steps: int = 0,
) -> Iterator[str]:
    """What was not done, with figures. Takes steps.

    step_seconds: in a steady block; clock: ns; edges: where several processes do the step;
    kit: of its framework, by default torch's; steps: of a block as it is timed, to take one more.
    """
    kit = kit or catalogue.framework("torch").tensors
    found = _Otherwise(job, device, step_seconds, clock, edges, kit)
    if steps and edges.all(4 * steps * step_seconds < MOST_SECONDS):
        yield from found.waits(steps)
    if device.queues_on_host:
        yield from found.untrue() if found.repeats() else ()
        return
    alone, block = found.turns(job.step, 1, lambda: None, SHORT_BLOCK, ALONE_SECONDS)
    if block is not None:
        yield (
            f"a step takes {alone:.2g} s alone and {block:.2g} s in a block: not every step of a "
            "block was done"
        )
    elif alone < SHORT_SECONDS and found.repeats():
        yield from found.unread()
        yield from found.untrue()


def kept(
    job: Job, device: Device, step_seconds: float, clock: Callable[[], int], kit: Tensors
) -> Iterator[str]:
    """What was not computed, but known from inputs seen before; of torch's jobs of one process, on
    any device. As `complaints`."""
    found = _Otherwise(job, device, step_seconds, clock, SINGLE, kit)
    if 4 * step_seconds < MOST_SECONDS:
        yield from found.known() if found.repeats() else ()
        yield from found.behind(job) if isinstance(job, WindowedJob) else ()


class _Outcome(NamedTuple):
    """What a step gave."""

    key: object
    """Which input it read, and whether that was changed."""
    total: Any


@dataclass(eq=False)
class _Otherwise:
    _job: Job
    _device: Device
    _step_seconds: float
    _clock: Callable[[], int]
    _edges: Edges
    _kit: Tensors

    def __post_init__(self) -> None:
        self._waits: list[float] = []

    def repeats(self) -> bool:
        """Whether steps repeat one another, on inputs and to outputs that the device has."""
        job, device = self._job, self._device
        outputs = job.outputs().get(OUTPUT, ())
        held = [*job.inputs(), *outputs] if job.training() is None and job.inputs() else []
        return bool(held) and all(self._kit.is_on(x, device) for x in held)

    def waits(self, steps: int) -> Iterator[str]:
        """After a block nothing is left to do, and a short one takes as long by its steps: in one
        of some tries on every rank."""
        tries = []
        for _ in range(KEPT_TRIES):
            tries.append(self._waits_once(steps))
            wrong = [said[-1] for said in zip(*tries, strict=True) if all(said)]
            if self._edges.all(not wrong):
                break
        yield from wrong

    def _waits_once(self, steps: int) -> tuple[str, str]:
        waited, rest = self._until_read(steps)
        early = rest > max(LEAST_REST, REST * (waited + rest))
        short = min(SHORT_BLOCK, steps)
        idle = self._between(lambda: None)
        soon = self._edges.quickest(round(1e9 * sum(self._until_read(short)))) / 1e9 - idle
        in_short, in_block = soon / short, (waited + rest) / steps
        fewer = soon > LEAST_REST and in_short >= MOST * in_block
        fewer &= not self._device.queues_on_host
        return (
            f"synchronize returned before the work was done: after {waited:.2g} s of a block of "
            f"{steps} steps, and to read what it gave took {rest:.2g} s more"
            if early
            else "",
            f"a step takes {in_short:.2g} s in a block of {short} and {in_block:.2g} s in one of "
            f"{steps}: not every step of a block was done"
            if fewer
            else "",
        )

    def _until_read(self, steps: int) -> tuple[float, float]:
        """Seconds until a block was waited for, and those that to read it took more than again."""
        refilled(self._job, self._device)
        self._device.synchronize()
        self._read()
        at = [self._clock()]
        self._steps(steps)
        for wait in (self._device.synchronize, self._read, self._read):
            wait()
            at.append(self._clock())
        whole, first, again = (b - a for a, b in itertools.pairwise(at))
        return whole / 1e9, max(0, first - again) / 1e9

    def _read(self) -> None:
        """A value of all that a step gives, of what it moves, and of what it read: where outputs
        lie on the host, that waits for the device."""
        import numpy as np

        job, kit = self._job, self._kit
        given = [*job.outputs().values(), job.weights()[-1:], job.inputs()[:1]]
        held = [x for some in given for x in some[:1] if math.prod(kit.shape(x))]
        if held:
            kit.picked(held, [np.zeros(1, dtype=np.int64)] * len(held))

    def turns(
        self,
        work: Callable[[], object],
        count: int,
        beside: Callable[[], object],
        steps: int,
        least: float,
    ) -> tuple[float, float | None]:
        """A step of work; and one in a block of so many, where the first takes too long.

        count: steps of work; beside: what work does besides them; least: seconds below which a step
        does not take too long.
        """
        taken, extra, blocks = [self._between(work)], [self._between(beside)], []
        for _ in range(TRIES):
            if min(taken) / count < max(least, MOST * self._step_seconds):
                return min(taken) / count, None
            blocks.append(self._between(lambda: self._steps(steps)))
            self._waits.append(self._between(lambda: None))
            taken.append(self._between(work))
            extra.append(self._between(beside))
        # The least of each, and only now: any of them may have been held up.
        otherwise = (min(taken) - min(extra)) / count
        in_block = max(self._step_seconds, (min(blocks) - min(self._waits)) / steps)
        return otherwise, in_block if otherwise >= max(least, MOST * in_block) else None

    def unread(self) -> Iterator[str]:
        """Where nobody reads its output, a step may be left out."""
        wanted = math.ceil(READ_SECONDS / max(self._step_seconds, 1e-9))
        steps = min(max(wanted, SHORT_BLOCK), MOST_READ)
        taken, block = self.turns(
            lambda: self._steps(steps, read=True),
            steps,
            lambda: [self._total() for _ in range(steps)],
            steps,
            0.0,
        )
        if block is not None:
            yield (
                f"a step takes {taken:.2g} s in a block of which every output is read, and "
                f"{block:.2g} s in one of which none is: not every step of a block was done"
            )

    def untrue(self) -> Iterator[str]:
        """In a block, steps give what they give apart; the second of two of a changed input."""
        apart = {key: float(total) for key, total in self._pairs(waits=True)}
        together = self._pairs(waits=False)
        self._device.synchronize()
        told = Told(apart)
        wrong = sum(told.of_another(key, float(total)) for key, total in together)
        if wrong:
            yield (
                f"{wrong} of {len(together)} steps of a block gave what comes of another input: "
                "not every step of a block was done"
            )

    def known(self) -> Iterator[str]:
        """On an input of which a row is changed each time, to what it never was, a step takes as
        long as on one that stays as it is, while the like is done beside it."""
        first = self._job.inputs()[0].detach()
        steps = min(max(1, math.ceil(KEPT_SECONDS / max(self._step_seconds, 1e-9))), MOST_KEPT)
        turned, numbers = set[int](), itertools.count(1)

        def block(where: Any, odd: set[int], order: Iterator[int]) -> float:
            def work() -> None:
                for number in itertools.islice(order, steps):
                    row = ((number & -number).bit_length() - 1) % len(where)
                    odd.symmetric_difference_update({row})
                    self._kit.turn(where[row : row + 1])
                    self._job.again()

            self._job.again()
            return self._between(work) / steps

        beside, found = first[:1].clone(), list[tuple[float, float]]()
        try:
            while len(found) < KEPT_TRIES and all(x >= KEPT * y for x, y in found):
                same = block(beside, set(), itertools.count())
                found.append((block(first, turned, numbers), same))
        finally:
            for row in turned:
                self._kit.turn(first[row : row + 1])
        self._job.again()
        changed, same = map(min, zip(*found, strict=True))
        if all(x >= KEPT * y for x, y in found):
            yield (
                f"a step takes {changed:.2g} s on a changed input and {same:.2g} s on one seen "
                "before, of which it was not computed, but kept"
            )

    def behind(self, job: WindowedJob) -> Iterator[str]:
        """Where steps build on one another: those behind a token that never was, another each time,
        take as long as the same ones taken again. The same, as experts take longer of others."""
        wanted = max(1, math.ceil(KEPT_SECONDS / max(self._step_seconds, 1e-9)))
        steps = min(wanted, MOST_KEPT, job.begin())
        found = list[tuple[float, float]]()

        def block() -> float:
            job.begin(turned=len(found) + 1)
            return self._between(lambda: self._steps(steps)) / steps

        while len(found) < KEPT_TRIES and all(x >= KEPT * y for x, y in found):
            found.append((block(), block()))
        job.begin()
        other, same = map(min, zip(*found, strict=True))
        if all(x >= KEPT * y for x, y in found):
            yield (
                f"a step takes {other:.2g} s behind a token that never was and {same:.2g} s behind "
                "one seen before: it was not computed, but kept"
            )

    def _pairs(self, waits: bool) -> list[_Outcome]:
        found = []
        for number in range(2 * SHORT_BLOCK):
            changed = number % 2 == 1
            if changed:  # the input of the step before
                self._kit.turn(self._job.inputs()[0])
                self._job.again()
            else:
                self._job.step()
            if waits:
                self._device.synchronize()
            first = self._job.inputs()[0]
            found.append(_Outcome((id(first), changed), self._total()))
            if changed:
                self._kit.turn(first)
        return found

    def _steps(self, count: int, read: bool = False) -> None:
        for _ in range(count):
            self._job.step()
            if read:
                self._total()

    def _total(self) -> Any:
        """Of the last output, without waiting for it."""
        (output, *_) = self._job.outputs()[OUTPUT]
        return self._kit.total(output)

    def _between(self, work: Callable[[], object]) -> float:
        """Seconds until work is done, by the quickest process: of those that do a step together,
        the last to come waits for nobody, and others wait for it."""
        self._device.synchronize()
        before = self._clock()
        work()
        self._device.synchronize()
        return self._edges.quickest(self._clock() - before) / 1e9


class Told:
    """Sums by input, as far as they tell inputs from one another."""

    def __init__(self, sums: Mapping[object, float]) -> None:
        self._sums = sums
        spread = max(sums.values()) - min(sums.values())
        self._apart = spread / MOST if spread > ALIKE * max(map(abs, sums.values())) else math.inf

    def of_another(self, key: object, total: float) -> bool:
        """Whether a sum is far from its own input's, and far nearer to another's."""
        off = abs(total - self._sums.get(key, total))
        others = (abs(total - one) for other, one in self._sums.items() if other != key)
        return off > self._apart and MOST * min(others, default=math.inf) < off
