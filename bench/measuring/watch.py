"""Whether the work was done: a job read before it steps, after its first steps, and after timing.

Nothing here happens within a block. What is read in the warm-up is read before the peak of memory
is reset, what is computed after the timing comes after the peak was read; nothing stays on the
device, so an allocator holds afterwards what it held before; and what a reading puts into a cache
is gone after the steps that follow it.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from bench.measuring import noise
from bench.measuring.edges import SINGLE, Edges
from bench.measuring.law import Law
from bench.measuring.noise import figure
from bench.measuring.witness import Sample
from bench.precision import Precision
from bench.records.proof import (
    OUTPUT,
    UPDATE,
    WEIGHTS,
    WIDE_WEIGHTS,
    Noise,
    Proof,
    StepReading,
    Vector,
)
from bench.records.reason import of_error, reason

if TYPE_CHECKING:
    from torch import Tensor

    from bench.backend import Device
    from bench.workload import Job

READ_AFTER = (1, 3)
"""Steps after which the work is read; of training the first says what it computes, and the third
whether that took effect."""
DRAWN = (
    "a step drew random numbers, so that none computes what another did: switch off dropout, or "
    "what else draws them"
)
NO_OUTPUTS = "the workload gives no outputs"
CANNOT_REPEAT = "the job cannot repeat a step"
RECOMPUTED = {"fp32": 1e-3, "tf32": 2e-2}
"""Largest error of an output against the same computed again: no kernel need be deterministic."""
RECOMPUTED_NARROW = 0.1
"""Of the other precisions: measured of 30 layers 4e-2, between two machines."""
ALONE = 4
"""A step that takes this many times as long alone as in a block was left out of the block."""
ALONE_SECONDS = 2e-4
"""Shorter steps may take longer alone by rights, of which the most part is to queue them."""
ALONE_TRIES = 10
"""Before that is said, steps alone and short blocks take so many turns: other work may have slowed
the first, and slows both."""
SHORT_BLOCK = 8
"""Steps of a short block."""


class Watch:
    """Reads one job of one launch."""

    def __init__(
        self,
        job: Job,
        device: Device,
        precision: Precision,
        seed: int,
        thorough: bool = False,
        clock: Callable[[], int] = time.perf_counter_ns,
        edges: Edges = SINGLE,
    ) -> None:
        """thorough: for three steps more the job's own noise is taken, and an input is altered:
        one launch of a case is enough; clock: ns; edges: where several processes do the step,
        which must all take as many."""
        self._job, self._device, self._precision, self._seed = job, device, precision, seed
        self._thorough = thorough
        self._clock = clock
        self._edges = edges
        self._absent = ""
        self._weights: Vector | None = None
        self._wide_weights: Vector | None = None
        self._before: Tensor | None = None
        self._readings: list[StepReading] = []
        self._noise: dict[str, Noise] = {}
        self._no_noise = ""
        self._law: Law | None = None
        self._errors: list[float] = []
        self._recomputed: float | None = None
        self._complaints: list[str] = []
        self._random: bytes | None = None
        self._wait = math.inf

    @property
    def complaint(self) -> str:
        """What was not done, or not as it was asked for, with figures; empty if all was."""
        return "; ".join(dict.fromkeys(self._complaints))

    @property
    def proof(self) -> Proof:
        """What the record keeps."""
        absent = self._absent or ("" if self._readings else NO_OUTPUTS)
        if absent:
            return Proof(absent=absent)
        return Proof(
            weights=self._weights,
            wide_weights=self._wide_weights,
            readings=tuple(self._readings),
            noise=self._noise,
            no_noise=self._no_noise,
            recomputed=self._recomputed,
            law=tuple(self._errors),
        )

    def start(self) -> None:
        """Before the first step: the weights as they were built."""
        self._try(self._start)

    def after(self, step: int) -> None:
        """After one of the first steps, numbered from 1, between blocks."""
        if step in READ_AFTER:
            self._try(lambda: self._read(step))
        if step == 1:
            self._try(self._expect)
        elif step == 2:
            self._try(self._judge)
            self._random = self._device.random_state()  # not sooner: a compiler may draw at first
        elif step == READ_AFTER[-1]:
            self._require_undrawn()
            if self._thorough and not self._absent:
                self._take_noise()

    def finish(self, step_seconds: float) -> None:
        """After the timing and after memory was read; may step. step_seconds: in a steady block."""
        if self._readings:
            self._random = self._device.random_state()
            self._try(lambda: self._finish(step_seconds))
            self._require_undrawn()

    def _start(self) -> None:
        if weights := list(self._job.weights()):
            self._weights = self._vector(WEIGHTS, weights)
            wide = [weight for weight in weights if weight.itemsize > 1]
            if 0 < len(wide) < len(weights):
                self._wide_weights = self._vector(WIDE_WEIGHTS, wide)
        if trained := self._trained():
            self._before = Sample(self._seed, UPDATE, trained).gather(trained)

    def _take_noise(self) -> None:
        """Without it the tolerance is as wide as its precision's; the readings stand."""
        try:
            self._noise = noise.taken(self._job, self._device, self._precision, self._seed)
        except (RuntimeError, MemoryError) as error:
            self._no_noise = f"the device refused it: {reason(of_error(error))}"
        else:
            self._no_noise = "" if self._noise else CANNOT_REPEAT

    def _require_undrawn(self) -> None:
        """Of a job that gives outputs: those of one seed must be the same on every device."""
        now = self._device.random_state()
        if self._readings and now is not None and self._random not in (None, now):
            self._complaints.append(DRAWN)

    def _finish(self, step_seconds: float) -> None:
        if self._job.training() is not None:
            self._expect()
            alone = [self._timed(self._job.step)]
            self._judge()
        elif OUTPUT not in self._job.outputs():
            return
        elif inputs := self._job.inputs():
            alone = self._recompute(inputs)
        else:
            alone = self._move_on()
        self._compare_alone(step_seconds, alone)

    def _trained(self) -> list[Tensor]:
        training = self._job.training()
        if training is None:
            return []
        return [p for group in training.optimizer.param_groups for p in group["params"]]

    def _read(self, step: int) -> None:
        found = {
            name: vector
            for name, tensors in self._job.forced().items()
            if tensors and (vector := self._vector(f"{name} after step {step}", tensors))
        }
        if self._before is not None:
            trained = self._trained()
            sample = Sample(self._seed, UPDATE, trained)
            moved = sample.gather(trained) - self._before
            update = sample.vector(moved, whole=False)
            if update is not None:
                found[UPDATE] = update
        if found:
            self._readings.append(StepReading(step=step, quantities=found))

    def _vector(self, what: str, tensors: Sequence[Tensor]) -> Vector | None:
        name = what.partition(" ")[0]
        sample = Sample(self._seed, name, tensors)
        vector = sample.vector(sample.gather(tensors))
        if vector is None:
            self._complaints.append(f"{what}: not all values are finite")
        return vector

    def _expect(self) -> None:
        """Before a step whose update is then held to the optimizer's law."""
        if (training := self._job.training()) is not None:
            self._law = Law(training, self._seed)
            self._law.before()

    def _judge(self) -> None:
        found = [] if self._law is None else list(self._law.findings())
        self._errors += [figure(finding.error) for finding in found if finding.quantity == WEIGHTS]
        self._complaints += [finding.complaint for finding in found if finding.complaint]

    def _output(self) -> Vector | None:
        """What the last step gave; None, and said, where it is not finite."""
        return self._vector(OUTPUT, self._job.outputs()[OUTPUT])

    def _recompute(self, inputs: Sequence[Tensor]) -> list[float]:
        """The last output against the same computed again; of one launch in between from another
        input, in the same place, which must show. Gives the seconds of each step."""
        before = self._output()
        alone = []
        altered, between = False, None
        if self._thorough:
            with _altered(inputs[0]) as altered:
                alone.append(self._timed(self._job.again))
                between = self._output()
        alone.append(self._timed(self._job.again))
        after = self._output()
        if before is None or after is None:
            return alone
        error = before.error(after)
        self._recomputed = figure(error)
        if altered and between is not None and before.error(between) == 0.0:
            self._complaints.append(
                "a step on an input that was changed gave the output of the one before: it was "
                "not computed, but kept"
            )
        most = RECOMPUTED.get(self._precision.name, RECOMPUTED_NARROW)
        if error > most:
            self._complaints.append(
                f"the last output differs by {error:.2g} from the same computed again (at most "
                f"{most:.2g})"
            )
        return alone

    def _move_on(self) -> list[float]:
        """Of steps that build on one another: they must not give the same thing."""
        first = self._output()
        alone = []
        for _ in range(3):
            alone.append(self._timed(self._job.step))
            later = self._output()
            moved = first is None or later is None or first.size == 1 or bool(first.error(later))
            if self._edges.all(moved):
                return alone
        self._complaints.append("steps that build on one another all gave the same output")
        return alone

    def _timed(self, step: Callable[[], object]) -> float:
        """Seconds until a step is done; notes what it takes to wait for nothing, at the least."""
        seconds = self._between(step)
        self._wait = min(self._wait, self._between(lambda: None))
        return seconds

    def _between(self, step: Callable[[], object]) -> float:
        self._device.synchronize()
        before = self._clock()
        step()
        self._device.synchronize()
        return self._edges.slowest(self._clock() - before) / 1e9

    def _compare_alone(self, step_seconds: float, alone: list[float]) -> None:
        """Whether steps take as long in a block as they do alone.

        Of a device that queues: another has done a step when its call returns, and on a host that
        is at work for others a step alone may wait for a core that a block keeps.
        """
        if self._device.synchronous:
            return
        blocks = []
        for _ in range(ALONE_TRIES):
            if min(alone) < max(ALONE_SECONDS, ALONE * step_seconds):
                return
            blocks.append(self._timed(self._short_block))
            alone.append(self._timed(self._job.step))
        # The least of each, and only now: any of them may have been held up.
        lone = min(alone) - self._wait
        in_block = max(step_seconds, (min(blocks) - self._wait) / SHORT_BLOCK)
        if lone < max(ALONE_SECONDS, ALONE * in_block):
            return
        self._complaints.append(
            f"a step takes {lone:.2g} s alone and {in_block:.2g} s in a block: not every "
            "step of a block was done"
        )

    def _short_block(self) -> None:
        for _ in range(SHORT_BLOCK):
            self._job.step()

    def _try(self, look: Callable[[], None]) -> None:
        """What a device cannot do for a witness is no fault of the work: it is not proved.

        Nor is it on any rank then, for what a look computes all of them compute together.
        """
        if not self._edges.all(not self._absent):
            self._absent = self._absent or "the device of another rank could not be read"
            return
        try:
            look()
        except (RuntimeError, MemoryError) as error:
            self._absent = f"the device could not be read: {reason(of_error(error))}"


@contextlib.contextmanager
def _altered(tensor: Tensor) -> Iterator[bool]:
    """Another input in the same place, and exactly back: negated, or integers in reverse order.

    Gives whether there is a difference.
    """
    import torch

    def turn() -> None:
        with torch.no_grad():
            held = tensor.detach()
            if held.is_floating_point() and held.itemsize == 1:
                held.view(torch.uint8).bitwise_xor_(128)
            elif held.is_floating_point() or (held.is_signed() and held.itemsize == 1):
                held.neg_()
            else:
                held.copy_(held.flip(-1))

    if tensor.dim() == 0:
        yield False
        return
    before = tensor.detach()[:1].clone()
    turn()
    try:
        yield not torch.equal(_bits(before), _bits(tensor.detach()[:1]))
    finally:
        turn()


def _bits(tensor: Tensor) -> Tensor:
    import torch

    return tensor.contiguous().view(torch.uint8)
