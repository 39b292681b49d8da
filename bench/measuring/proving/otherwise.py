"""Steps taken otherwise than in a timed block, after the timing, and how long they take.

Of a host at work for others no single time decides: all is taken again, and the least counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench.framework import Tensors
from bench.measuring.ranks.edges import SINGLE, Edges
from bench.records.proof import OUTPUT

if TYPE_CHECKING:
    from bench.backend import Device
    from bench.workload import Job

MOST = 4
"""A step that takes this many times as long otherwise as in a block was left out of the block."""
SHORT_BLOCK = 16
"""Steps of a short block, at least: four times what decides, as on a host at work all of them may
be held up."""
AGAIN = 8
"""What is amiss each time of so many was not done."""
MOST_SECONDS = 60.0
"""Of all of that, however long a step is: a short launch whose report takes two minutes may be
ended as one that hangs."""


@dataclass(eq=False)
class Otherwise:
    """A job whose steps are taken once more."""

    job: Job
    device: Device
    step_seconds: float
    """In a steady block."""
    clock: Callable[[], int]
    """In ns."""
    kit: Tensors
    """Of its framework."""
    edges: Edges = SINGLE
    """Where several processes do the step."""
    skipped: list[str] = field(default_factory=list, init=False)
    """What did not fit into the time for all."""

    _until: float = field(default=0.0, init=False)
    """By the clock, from the first look on."""

    def fits(self, what: str, steps: int) -> bool:
        """Whether so many steps fit into what is left of the time, on every rank; else it is kept
        what was not looked at."""
        now = self.clock()
        self._until = self._until or now + 1e9 * MOST_SECONDS
        fits = self.edges.all(now + 1e9 * steps * self.step_seconds < self._until)
        if not fits:
            self.skipped.append(what)
        return fits

    def repeats(self) -> bool:
        """Whether steps repeat one another, on inputs and to outputs that the device has."""
        job = self.job
        outputs = job.outputs().get(OUTPUT, ())
        held = [*job.inputs(), *outputs] if job.training() is None and job.inputs() else []
        return bool(held) and all(self.kit.is_on(x, self.device) for x in held)

    def steps(self, count: int) -> None:
        """So many, one behind the other."""
        for _ in range(count):
            self.job.step()

    def total(self) -> Any:
        """Of the last output, without waiting for it."""
        (output, *_) = self.job.outputs()[OUTPUT]
        return self.kit.total(output)

    def between(self, work: Callable[[], object]) -> float:
        """Seconds until work is done, by the quickest process: of those that do a step together,
        the last to come waits for nobody, and others wait for it."""
        self.device.synchronize()
        before = self.clock()
        work()
        self.device.synchronize()
        return self.edges.quickest(self.clock() - before) / 1e9
