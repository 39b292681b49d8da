"""What a framework other than torch is asked for: jobs of standard work, filled with given numbers.

Not a check. Of such a framework there is no operator to call: it builds jobs and steps them, and
its tensors answer the questions of `bench.framework.Tensors`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from bench import catalogue
from bench.conformance.check import Stand
from bench.framework import Draws
from bench.precision import PRECISIONS
from bench.records.proof import OUTPUT
from bench.workload import Job, Site

if TYPE_CHECKING:
    from bench.framework import Array


class Given(Draws):
    """What a job draws is this, in turn and over and over."""

    def __init__(self, arrays: Iterable[Array]) -> None:
        """arrays: float32, each of the shape that is asked for when it is its turn."""
        self._arrays = itertools.cycle(arrays)
        self.count = 0
        """How often was drawn."""

    def normal(self, shape: tuple[int, ...], std: float = 1.0) -> Array:
        """The next one."""
        self.count += 1
        return next(self._arrays)

    def integers(self, low: int, high: int, shape: tuple[int, ...]) -> Array:
        """None: products and copies draw none."""
        raise TypeError("no integers are given")

    def finish(self) -> None:
        """It is never over."""


def product(
    stand: Stand,
    size: int,
    draws: Draws,
    precision: str = "fp32",
    execution: str = "eager",
) -> Job:
    """Of square matrices, which are drawn in pairs, on the stand's device; that must be open for
    the precision. The one work that every framework has. Raises what building raises."""
    work = catalogue.workload("gemm")
    executing = stand.framework.execution(execution, stand.backend, stand.device)
    site = Site(
        device=stand.device.place,
        precision=PRECISIONS[precision],
        seed=0,
        execution=execution,
        compiler=executing.compiler,
        recorder=executing.recorder,
    )
    given: Any = work.modes["matmul"].parameters
    parameters = given(shape=f"{size}x{size}x{size}")
    return stand.framework.build(work, "matmul", parameters, site, draws)


def output(stand: Stand, made: Job) -> Array:
    """Of a step, in float64 on the host."""
    return stand.framework.tensors.on_host(made.probe()[OUTPUT])


def held(stand: Stand, size: int) -> tuple[Job, int]:
    """A job that holds square matrices on the device, and their bytes."""
    import numpy as np

    shape = (size, size)
    draws = Given(np.ones(shape, np.float32) for _ in itertools.count())
    made = product(stand, size, draws)
    return made, draws.count * 4 * size * size
