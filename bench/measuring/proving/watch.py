"""Whether the work was done: a job read before it steps, after its first steps, and after timing.

Nothing here happens within a block. What is read in the warm-up is read before the peak of memory
is reset, what is computed after the timing comes after the peak was read; nothing stays on the
device, so an allocator holds afterwards what it held before; and what a reading puts into a cache
is gone after the steps that follow it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench import catalogue
from bench.framework import Framework
from bench.measuring.proving import early, left_out, noise, remembered, written
from bench.measuring.proving.law import Law
from bench.measuring.proving.noise import figure
from bench.measuring.proving.otherwise import Otherwise
from bench.measuring.proving.retaken import Retaken
from bench.measuring.proving.witness import Known, Sample
from bench.measuring.ranks.edges import SINGLE, Edges
from bench.precision import Precision
from bench.records.agreement import RECOMPUTED, RECOMPUTED_NARROW
from bench.records.executed import Executed
from bench.records.execution import EAGER, is_compiled
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
from bench.windowed_job import WindowedJob

if TYPE_CHECKING:
    from torch import Tensor

    from bench.backend import Device
    from bench.framework import Array
    from bench.workload import Job

    Outputs = Mapping[str, Sequence[Tensor]]

READ_AFTER = (1, 3)
"""Steps after which the work is read; of training the first says what it computes, and the third
whether that took effect."""
DRAWN = (
    "a step drew random numbers, so that none computes what another did: switch off dropout, or "
    "what else draws them"
)
NO_OUTPUTS = "the workload gives no outputs"
CANNOT_REPEAT = "the job cannot repeat a step"


@dataclass(eq=False)
class Watch:
    """Reads one job of one launch."""

    job: Job
    device: Device
    precision: Precision
    seed: int
    thorough: bool = False
    """Whether for three steps more the job's own noise is taken, it is seen which operators a step
    runs through, and an input is altered: one launch of a case is enough."""
    execution: str = EAGER
    clock: Callable[[], int] = time.perf_counter_ns
    edges: Edges = SINGLE
    """Where several processes do the step, which must all take as many."""
    framework: Framework = field(default_factory=lambda: catalogue.framework("torch"))
    """Whose job it is."""

    def __post_init__(self) -> None:
        self._kit = self.framework.tensors
        self.executed: Executed | None = None
        """What a step ran through; None where nobody looked."""
        self._absent = ""
        self._weights: Vector | None = None
        self._wide_weights: Vector | None = None
        self._before: Array | None = None
        self._readings: list[StepReading] = []
        self._noise: dict[str, Noise] = {}
        self._no_noise = ""
        self._written = written.Written()
        self._law: Law | None = None
        self._samples: dict[object, Sample] = {}
        self._known = Known()
        self._forcing = False
        """Whether the steps are others than those that are timed: with given tokens."""
        self._other = False
        """Whether what there is came of such a step, or of nudged weights."""
        self._steps = 0
        """Of the last block."""
        self._armed = False
        """Whether weights and state before the last step are noted: the law is held to that."""
        self._errors: list[float] = []
        self._recomputed: float | None = None
        self._complaints: list[str] = []
        self._skipped: list[str] = []
        self._random: bytes | None = None

    @property
    def complaint(self) -> str:
        """What was not done, or not as it was asked for, with figures; empty if all was."""
        return "; ".join(dict.fromkeys(filter(None, self._complaints)))

    @property
    def proof(self) -> Proof:
        """What the record keeps."""
        absent = self._absent or ("" if self._readings else NO_OUTPUTS)
        if absent:
            return Proof(absent=absent)
        training = self.job.training()
        return Proof(
            weights=self._weights,
            wide_weights=self._wide_weights,
            readings=tuple(self._readings),
            noise=self._noise,
            no_noise=self._no_noise,
            written=dict(self._written.errors),
            not_written=self._written.absent,
            recomputed=self._recomputed,
            kinks=training is None or training.kinks or written.ROUTED in self.job.facts,
            law=tuple(self._errors),
            not_over="" if self._law is None else self._law.not_over,
            no_time="; ".join(self._skipped),
        )

    def start(self) -> None:
        """Before the first step: the weights as they were built."""
        self._try(self._start)

    def after(self, step: int) -> None:
        """After one of the first steps, numbered from 1, between blocks."""
        self._try(lambda: self._after(step))
        if step == 2:
            self._random = self.device.random_state()  # not sooner: a compiler may draw at first
        elif step == READ_AFTER[-1]:
            self._require_undrawn()
            if self.thorough and self.edges.all(bool(self._readings) and not self._absent):
                self._take_noise()
                self._hold_to_written()
            self.job.force(False)
            self._forcing, self._other = False, True

    def before(self, steps: int, last: bool) -> None:
        """Before each block of so many steps; last: whether it may be the launch's last one.

        Where a block is a single step, what is noted before one costs no step after the last. Of a
        device that queues, whose allocator would show it, nothing is.
        """
        self._armed, self._steps = False, steps
        if steps == 1 and self.device.synchronous:
            self._try(lambda: self._before_step(last))
        self._other = self._forcing

    def finish(self, step_seconds: float) -> None:
        """After the timing and after memory was read; may step. step_seconds: in a steady block."""
        self._random = self.device.random_state()
        self._try(lambda: self._finish(step_seconds))
        self._require_undrawn()
        if self.thorough and self.framework.executed_late:
            self._note_executed(self.job.step)

    def _start(self) -> None:
        if weights := list(self.job.weights()):
            self._weights = self._vector(WEIGHTS, weights)
            wide = [weight for weight in weights if self._kit.itemsize(weight) > 1]
            if 0 < len(wide) < len(weights):
                self._wide_weights = self._vector(WIDE_WEIGHTS, wide)
        if trained := self._trained():
            self._before = self._sample(UPDATE, trained).gather(trained)
        self._forcing = self._other = self.job.force(True)

    def _after(self, step: int) -> None:
        found = self._read(step) if step in READ_AFTER else {}
        if step == 1:
            self._expect()
        elif step == 2:
            self._judge()
        if self.job.training() is None:
            self._learn(found.get(OUTPUT))

    def _before_step(self, last: bool) -> None:
        if not self._readings:
            return
        if self.job.training() is None:
            self._learn()
        elif last:
            self._expect()
            self._armed = True

    def _require_undrawn(self) -> None:
        """Of a job that gives outputs: those of one seed must be the same on every device."""
        now = self.device.random_state()
        if self._readings and now is not None and self._random not in (None, now):
            self._complaints.append(DRAWN)

    def _finish(self, step_seconds: float) -> None:
        if not self.edges.all(bool(self._readings)):  # what follows all ranks must come to
            return
        anew = Otherwise(self.job, self.device, step_seconds, self.clock, self._kit, self.edges)
        self._skipped = anew.skipped
        if self.job.training() is not None:
            if not self._armed:
                self._expect()
                self.job.step()
            self._judge()
            if self.thorough:
                self._complaints += self._retaken.trained(self._law, anew)
        elif OUTPUT not in self.job.outputs():
            return
        elif not self._moves_on:
            self._recompute()
        else:
            self._complaints += self._retaken.moved_on(self._readings)
            told = self.edges.all(bool(self._noise) or not is_compiled(self.execution))
            if self.thorough and told and isinstance(self.job, WindowedJob):
                self._complaints += self._retaken.apart(self.job, anew)
        if self.thorough and self.edges is SINGLE:
            self._complaints += remembered.complaints(anew, not self.framework.hands_over)
        if not self.device.synchronous:
            if self.thorough and self._steps:
                self._complaints += early.complaints(anew, self._steps)
            self._complaints += left_out.complaints(anew)

    @property
    def _retaken(self) -> Retaken:
        noise, name = self._noise, self.precision.name
        return Retaken(self.job, self._kit, self.edges, name, noise, self._computed)

    @property
    def _moves_on(self) -> bool:
        """Whether a step builds on the one before, and trains nothing."""
        return self.job.training() is None and not self.job.inputs()

    def _trained(self) -> list[Tensor]:
        training = self.job.training()
        if training is None:
            return []
        return [one.weight for one in self._kit.moved(training.optimizer)]

    def _sample(self, label: str, tensors: Sequence[Tensor]) -> Sample:
        """The same one for the same shapes: what is drawn is drawn once."""
        key = label, *map(self._kit.shape, tensors)
        if key not in self._samples:
            self._samples[key] = Sample(self.seed, label, tensors, self._kit)
        return self._samples[key]

    def _read(self, step: int) -> dict[str, Vector]:
        found = {
            name: vector
            for name, tensors in self._outputs().items()
            if tensors and (vector := self._vector(f"{name} after step {step}", tensors))
        }
        if self._before is not None:
            trained = self._trained()
            sample = self._sample(UPDATE, trained)
            moved = sample.gather(trained) - self._before
            update = sample.vector(moved, whole=False)
            if update is not None:
                found[UPDATE] = update
        if found:
            self._readings.append(StepReading(step=step, quantities=found))
        return found

    def _vector(self, what: str, tensors: Sequence[Tensor]) -> Vector | None:
        sample = self._sample(what.partition(" ")[0], tensors)
        vector = sample.vector(sample.gather(tensors))
        if vector is None:
            self._complaints.append(f"{what}: not all values are finite")
        return vector

    def _expect(self) -> None:
        """Before a step whose update is then held to the optimizer's law."""
        if (training := self.job.training()) is not None:
            self._law = self._law or Law(training, self.seed, self._kit)
            self._law.before()

    def _judge(self) -> None:
        found = [] if self._law is None else list(self._law.findings())
        self._errors += [figure(finding.error) for finding in found if finding.quantity == WEIGHTS]
        self._complaints += [finding.complaint for finding in found if finding.complaint]

    def _take_noise(self) -> None:
        """Without it the tolerance is as wide as its precision's; the readings stand."""
        job = self.job
        try:
            before: Mapping[str, Vector] = self._readings[-1].quantities
            if job.training() is not None:  # whose weights have moved since
                self._see(job.again)
                before = self._computed()
            found = noise.taken(job, self.device, self.precision, before, self._computed, self._kit)
            if found is not None and self._moves_on:
                job.force(True)  # what its later steps read was computed with those weights
                job.again()
                self._see(job.step)
            elif found is not None and job.training() is None:
                self._see(job.again)
            self.device.synchronize()
        except (RuntimeError, MemoryError) as error:
            self._no_noise = f"the device refused it: {reason(of_error(error))}"
        else:
            self._noise = found or {}
            self._no_noise = "" if self._noise else CANNOT_REPEAT

    def _hold_to_written(self) -> None:
        if self.execution != EAGER and not self.framework.hands_over:
            asking = (self.job, self.device, self.precision, self.execution, self._noise)
            self._written = written.held(*asking, self._computed, alone=self.edges is SINGLE)
            self._complaints += self._written.complaints

    def _see(self, step: Callable[[], object]) -> None:
        """Takes a step, and notes what it runs through where its framework may be asked by now."""
        if self.framework.executed_late:
            step()
        else:
            self._note_executed(step)

    def _note_executed(self, step: Callable[[], object]) -> None:
        try:
            self.executed = self.framework.executed(step, self.device, self.execution)
        except RuntimeError as error:  # what cannot be seen can be done
            self.executed = Executed(absent=f"not observable: {reason(of_error(error))}")
            step()

    def _computed(self, outputs: Outputs | None = None) -> Mapping[str, Vector]:
        """What there is of the last step, or of what is given, where it is finite."""
        found = {}
        for name, tensors in (self._outputs() if outputs is None else outputs).items():
            if tensors:
                sample = self._sample(name, tensors)
                found[name] = sample.vector(sample.gather(tensors))
        return {name: vector for name, vector in found.items() if vector is not None}

    def _output(self) -> Vector | None:
        """What the last step gave; None, and said, where it is not finite."""
        return self._vector(OUTPUT, self._outputs()[OUTPUT])

    def _outputs(self) -> Outputs:
        """What the last step gave. An output on the host is there when the device is done."""
        self.device.synchronize()
        return self.job.outputs()

    def _learn(self, output: Vector | None = None) -> None:
        """What came of the last input, if that is not known; output: where it has been read."""
        inputs = self.job.inputs()
        if not inputs or self._other or not self._known.lacks(inputs):
            return
        if output := output or self._output():
            self._known.add(inputs, output)

    def _recompute(self) -> None:
        """The last output against the same computed another time: in one of the first steps, or
        now; of one launch in between from another input, in its place, which must show."""
        if self._other:
            self.job.again()
        known, last = self._known.of(inputs := self.job.inputs()), self._output()
        if self.thorough:
            with self._kit.altered(inputs[0]) as differs:
                self.job.again()
                between = self._output()
            if differs and last and between and last.error(between) == 0.0:
                self._complaints.append(
                    "a step on an input that was changed gave the output of the one before: it was "
                    "not computed, but kept"
                )
        if known is None:
            self.job.again()
            known = self._output()
        if last is None or known is None:
            return
        error = last.error(known)
        self._recomputed = figure(error)
        most = RECOMPUTED.get(self.precision.name, RECOMPUTED_NARROW)
        if error > most:
            self._complaints.append(
                f"the last output differs by {error:.2g} from the same computed another time (at "
                f"most {most:.2g})"
            )

    def _try(self, look: Callable[[], None]) -> None:
        """What a device cannot do for a witness is no fault of the work: it is not proved.

        Nor is it on any rank then, for what a look computes all of them compute together.
        """
        if not self.edges.all(not self._absent):
            self._absent = self._absent or "the device of another rank could not be read"
            return
        try:
            look()
        except (RuntimeError, MemoryError) as error:
            self._absent = f"the device could not be read: {reason(of_error(error))}"
