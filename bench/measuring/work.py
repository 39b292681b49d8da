"""What a step is worth, of all processes that do it together."""

from __future__ import annotations

from typing import Any

import msgspec

from bench.precision import PRECISIONS
from bench.ranks import Ranks
from bench.records.case import Case
from bench.records.outcome import Work
from bench.workload import Workload


def work_of(case: Case, workload: Workload, parameters: Any, ranks: Ranks | None) -> Work:
    """Of a step of all ranks. Bytes: each copy of a model reads its own weights."""
    mode, precision = case.mode, PRECISIONS[case.precision]
    work = workload.work(mode, parameters, precision)
    if ranks is None or work.moved_bytes is None or workload.modes[mode].together:
        return work
    moved = None
    if ranks.parallelism.scheme == "replicas":
        rows = parameters.batch_size // ranks.size
        each = msgspec.structs.replace(parameters, batch_size=rows)
        of_one = workload.work(mode, each, precision).moved_bytes
        moved = None if of_one is None else ranks.size * of_one
    return msgspec.structs.replace(work, moved_bytes=moved)
