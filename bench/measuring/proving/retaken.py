"""Steps taken once more after the timing: what they read must show in what they give.

What is looked for is far off, results of another step, and no sound device may be called wrong: so
a step may differ from the same one by twice what two stacks of the case may differ by.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from bench.framework import Tensors
from bench.measuring.proving.law import Law
from bench.measuring.proving.otherwise import MOST_SECONDS, Otherwise
from bench.measuring.proving.written import ROUTED, WORDS, compared, widest
from bench.measuring.ranks.edges import Edges
from bench.records.proof import GRADIENTS, OUTPUT, Noise, StepReading, Vector
from bench.windowed_job import WindowedJob
from bench.workload import Job

BLOCK, LEAST_BLOCK = 8, 2
"""Steps of training that are taken back to back, of long ones fewer."""
RETAKEN = 3
"""Steps that come after those."""
APART = 0.9
"""Most error of gradients: those of another batch make 1 or more."""
TURNED = 0.6
"""Noise from which on gradients tell nothing of their batch."""
WALK_SECONDS, HELD = 2.0, 32
"""The last steps of a window that are taken anew, and how many of them are held to what they are
as written."""
OVER = "steps back to back"
LONG = "a step takes too long for so many more of them"
SILENT = Noise(error=0.0, norm_error=0.0)


class Retaken(NamedTuple):
    """The job, and how it is read."""

    job: Job
    kit: Tensors
    edges: Edges
    precision: str
    noise: Mapping[str, Noise]
    """Of the job, where this launch took it."""
    computed: Callable[..., Mapping[str, Vector]]
    """What the last step gave, or what is given, as far as it is finite."""

    def trained(self, law: Law | None, anew: Otherwise) -> Iterator[str]:
        """Complaints of training, as far as the steps that it takes may last; the last one is on a
        changed input. law: of the job."""
        seconds = self._slowest(anew)
        steps = min(BLOCK, max(LEAST_BLOCK, int(1 / max(seconds, 1e-9))))
        if law is not None and anew.fits(OVER, steps + RETAKEN):
            for finding in law.over(self.job.step, steps, self.edges):
                yield finding.complaint
        elif law is not None:
            law.not_over = LONG
        if anew.fits("a step on a changed input", RETAKEN):
            yield from self._altered()

    def _slowest(self, anew: Otherwise) -> float:
        """Seconds of a step, on which all ranks agree."""
        return self.edges.slowest(round(1e9 * min(anew.step_seconds, MOST_SECONDS))) / 1e9

    def _altered(self) -> Iterator[str]:
        """Gradients of a changed input, as they are computed apart and as a timed step has them."""
        inputs = self.job.inputs()
        if not self.edges.all(bool(inputs)) or not self.job.again():
            return
        before = self.computed()
        with self.kit.altered(inputs[0]) as differs:
            if not self.edges.all(differs):
                return
            self.job.again()
            apart = self.computed()
            timed: Mapping[str, Vector] = {}
            if self.job.back():
                self.job.step()
                timed = self.computed()
        was, now = before.get(GRADIENTS), apart.get(GRADIENTS)
        if was and now and now.norm and was.error(now) == 0.0:
            yield (
                "a training step on an input that was changed gave the gradients of the one before:"
                " they were not computed, but kept"
            )
        for name in timed.keys() & apart.keys():
            noise, error = self.noise.get(name, SILENT), timed[name].error(apart[name])
            most = widest(name, self.precision, noise)
            if name == GRADIENTS:
                most = min(most, APART) if noise.error < TURNED else error
            if error > most:
                yield (
                    f"the {WORDS.get(name, name)} of a timed step differ by {error:.2g} from those "
                    f"of the same step computed apart (at most {most:.2g})"
                )

    def moved_on(self, readings: list[StepReading]) -> Iterator[str]:
        """Complaints of steps that build on one another, and train nothing: they must not all give
        the same, and after given tokens what they gave first."""
        first = self.computed().get(OUTPUT)
        for _ in range(3):
            self.job.step()
            later = self.computed().get(OUTPUT)
            moved = first is None or later is None or first.size == 1 or bool(first.error(later))
            if self.edges.all(moved):
                break
        else:
            yield "steps that build on one another all gave the same output"
        if not self.job.force(True):
            return
        known = {reading.step: reading.quantities.get(OUTPUT) for reading in readings}
        for step in range(1, max(known, default=0) + 1):
            self.job.step()
            was, now = known.get(step), self.computed().get(OUTPUT)
            if was is None or now is None:
                continue
            pair = was, now
            error, most = compared(OUTPUT, self.precision, self.noise.get(OUTPUT, SILENT), pair)
            if error > most:
                yield (
                    f"after the same tokens the output of step {step} differs by {error:.2g} from "
                    f"what it was before the timing (at most {most:.2g})"
                )
        self.job.force(False)

    def apart(self, job: WindowedJob, anew: Otherwise) -> Iterator[str]:
        """Complaints of steps that build on one another, until they start over: each gives what it
        gives as it is written. Where there is no room to compute that, nothing is said."""
        steps, seconds = job.begin(), self._slowest(anew)
        if not anew.fits("steps that build on one another, as they are written", 12):
            return
        walked = min(steps, max(2, int(WALK_SECONDS / max(seconds, 1e-9))))
        noise, found = self.noise.get(OUTPUT, SILENT), list[tuple[float, float]]()
        job.begin(steps - walked)
        try:
            for left in reversed(range(walked)):
                if left % math.ceil(walked / HELD):
                    job.step()
                    continue
                written = self.computed(job.retraced()).get(OUTPUT)
                timed = self.computed().get(OUTPUT)
                if written and timed:
                    found.append(compared(OUTPUT, self.precision, noise, (timed, written)))
                elif written:
                    found.append((math.inf, 0.0))
        except (RuntimeError, MemoryError):
            found = []
        job.begin()
        astray = [pair for pair in found if pair[0] > pair[1]]
        if len(astray) > (max(1, len(found) // 2) if ROUTED in job.facts else 0):
            error, most = max(astray)
            yield (
                f"the outputs of {len(astray)} of {len(found)} steps that build on one another "
                f"differ by up to {error:.2g} from those of the same steps as they are written (at "
                f"most {most:.2g})"
            )
