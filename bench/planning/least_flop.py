"""The FLOP that a step does at least, of records too that do not say it.

Some work is counted by a convention that includes what a kernel may leave out (`Work.least_flop`).
Older records have the conventional count alone; how much of it must be done is then what this
release says of the same work.
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
    if work.flop is None or work.least_flop is not None:
        return work.least_flop
    return work.flop * _share(msgspec.json.encode(case))


@functools.lru_cache(maxsize=4096)
def _share(encoded: bytes) -> float:
    """How much of its count must be done, by the case's JSON; 1 of work that nobody here knows."""
    case = msgspec.json.decode(encoded, type=Case)
    if unknown(case) or case.precision not in PRECISIONS:
        return 1.0
    case = today(case)
    workload = catalogue.workload(case.workload)
    try:
        parameters = msgspec.convert(case.parameters, workload.modes[case.mode].parameters)
        work = workload.work(case.mode, parameters, PRECISIONS[case.precision])
    except (ValueError, LookupError):  # parameters that this release refuses, or lacks the model of
        return 1.0
    return work.least_flop / work.flop if work.flop and work.least_flop else 1.0
