"""The FLOP that a step does at least, of records too that do not say it.

Some work is counted by a convention that includes what a kernel may leave out (`Work.least_flop`),
and leaves out what a step does a second time (`Work.again_flop`). Older records have the
conventional count alone; how much must be done is then what this release says of the same work.
Winograd's convolutions leave out more: of that, only what cannot be true is judged (`fewest`).
"""

from __future__ import annotations

import functools

import msgspec

from bench import catalogue
from bench.planning.versions import today, unknown
from bench.precision import PRECISIONS
from bench.records.case import Case
from bench.records.outcome import Work


def least_flop(case: Case, work: Work) -> float | None:
    """Of a step of the case, from its record; None where it is not arithmetic."""
    if work.flop is None or (work.least_flop is not None and work.again_flop is not None):
        return required(work)
    least, again, _ = _shares(msgspec.json.encode(case))
    once = work.flop * least if work.least_flop is None else work.least_flop
    return once + work.flop * again


def required(work: Work) -> int | None:
    """FLOP that a step cannot leave out, as its work says; None where it is not arithmetic."""
    return work.flop and (work.least_flop or work.flop) + (work.again_flop or 0)


def fewest(case: Case, flop: float | None) -> float | None:
    """Of so many least FLOP of the case those that are left if its convolutions are Winograd's."""
    return None if flop is None else flop * _shares(msgspec.json.encode(case))[2]


@functools.lru_cache(maxsize=4096)
def _shares(encoded: bytes) -> tuple[float, float, float]:
    """How much of its count must be done, how much again, and `Parameters.winograd_share`, by the
    case's JSON; all, nothing and all of work that nobody here knows."""
    case = msgspec.json.decode(encoded, type=Case)
    if unknown(case) or case.precision not in PRECISIONS:
        return 1.0, 0.0, 1.0
    case = today(case)
    workload = catalogue.workload(case.workload)
    try:
        parameters = msgspec.convert(case.parameters, workload.modes[case.mode].parameters)
        work = workload.work(case.mode, parameters, PRECISIONS[case.precision])
    except (ValueError, LookupError):  # parameters that this release refuses, or lacks the model of
        return 1.0, 0.0, 1.0
    flop = work.flop or 1
    least, again = (work.least_flop or flop) / flop, (work.again_flop or 0) / flop
    return least, again, parameters.winograd_share()
