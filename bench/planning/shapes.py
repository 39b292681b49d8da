"""What a case that has not run will take at least, by its shapes and the ceilings that have.

An accelerator's hour is short: a launch that would outlast its budget must not be started, even if
nothing like it has run. A step cannot be quicker than its FLOP at the best rate that this run has
seen of the same arithmetic, nor than its bytes at the best bandwidth. Before a ceiling has run that
is not known: the best may be a decode's, a hundredth of what the device can.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from bench import catalogue, stats
from bench.planning.arrivals import load_of
from bench.planning.least_flop import required
from bench.planning.plan import parameters_of
from bench.precision import PRECISIONS
from bench.records.case import Case
from bench.records.outcome import Measured, Outcome
from bench.records.run import Settings

ARITHMETIC, BANDWIDTH = "gemm", "memory"
"""Workloads whose rates are ceilings; another's counts where it is above one."""
NARROW = 16
"""A product with a side so many times as small as both others only moves a matrix, as a decode."""
LEAST_BLOCKS = stats.WARMUP_MINIMUM + max(2 * stats.WINDOW, stats.MINIMUM_SAMPLES)
"""Of a launch: single steps, then two windows that agree and are its fewest samples, too."""


def is_matmul_ceiling(case: Case) -> bool:
    """Whether its FLOP/s are a ceiling of other work: a product's, unless it is narrow."""
    sides = [int(side) for side in re.findall(r"\d+", str(case.parameters.get("shape")))]
    if sides and isinstance(experts := case.parameters.get("experts"), int):
        sides[0] //= experts
    least = [min(sides) * NARROW >= side for side in sorted(sides)[:2]]
    return case.workload == ARITHMETIC and all(least)


class Shapes:
    """The best rates of a run so far."""

    def __init__(
        self,
        settings: Settings,
        flop_per_second: Mapping[str, float] = MappingProxyType({}),
        bytes_per_second: float = 0.0,
    ) -> None:
        """flop_per_second: by arithmetic; both: what is known before the run."""
        self._settings = settings
        self._flop_per_second = dict(flop_per_second)
        self._bytes_per_second = bytes_per_second

    def note(self, case: Case, outcome: Outcome) -> None:
        """Takes note of what a launch reached, of one device."""
        if not isinstance(outcome, Measured) or case.devices > 1:
            return
        steps = outcome.throughput / outcome.work.items
        flop = required(outcome.work)
        arithmetic = PRECISIONS[case.precision].arithmetic
        before = self._flop_per_second.get(arithmetic, 0.0)
        if flop is not None and (before or is_matmul_ceiling(case)):
            self._flop_per_second[arithmetic] = max(before, flop * steps)
        before, moved = self._bytes_per_second, outcome.work.moved_bytes
        if moved is not None and (before or case.workload == BANDWIDTH):
            self._bytes_per_second = max(before, moved * steps)

    def least_seconds(self, case: Case) -> float:
        """Of a launch, without what comes before its steps; 0 where nothing like it has run, but
        for a load, whose arrivals are known."""
        step, settings = self._step_seconds(case), self._settings
        workload = catalogue.workload(case.workload)
        mode = workload.modes[case.mode]
        if mode.serves:  # its step is the whole load
            return max(step, load_of(parameters_of(case, workload)).arrives_over_seconds)
        if not step:
            return 0.0
        burst = mode.burst
        if burst is not None:
            return burst.blocks * (burst.rest_seconds + step)
        return LEAST_BLOCKS * max(step, settings.block_seconds * (settings.timing == "block"))

    def _step_seconds(self, case: Case) -> float:
        workload, precision = catalogue.workload(case.workload), PRECISIONS[case.precision]
        if case.devices > 1 or case.space:
            return 0.0
        parameters = parameters_of(case, workload)
        work = workload.work(case.mode, parameters, precision)
        best = self._flop_per_second.get(precision.arithmetic)
        flop = required(work)
        by_flop = flop / best if flop and best else 0.0
        moved: float | None = work.moved_bytes
        if workload.modes[case.mode].serves:  # a token of each request that is in flight, at best
            forwards = load_of(parameters).tokens / parameters.ramp
            moved = forwards * parameters.forward_bytes(precision)
        rate = self._bytes_per_second
        return max(by_flop, moved / rate if moved and rate else 0.0)
