"""What a launch pays before its steady state: once a run, and in each launch again.

A run's first launch of a case is cold: it computes the reference, compiles, and finds no byte code
where none could be written. The next ones find all that (`bench.measuring.kept`), and are warm.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from bench.records.environment import section
from bench.records.outcome import Cold
from bench.records.run import Launch


def of_first(launches: Sequence[Launch]) -> Cold:
    """Medians over those that found nothing; of records from before launches said so, over all."""
    return _median([one for one in launches if not warm(one)] or launches)


def of_others(launches: Sequence[Launch]) -> Cold:
    """Medians over the warm ones; nothing where there is none."""
    return _median([one for one in launches if warm(one)])


def warm(launch: Launch) -> bool:
    """Whether it found what an earlier one had left: a reference, or all that it compiles, where
    that is counted: by torch's own compiler, which has no name in the record, and which counts none
    where its cache is off."""
    compiler = section(launch.environment, "compiler")
    counted = {} if "name" in compiler else compiler
    if counted.get("compiled") or counted.get("kept"):
        return not counted.get("compiled")
    return launch.environment.get("reference_kept") is True


def _median(launches: Sequence[Launch]) -> Cold:
    def median(field: str) -> float | None:
        values = [v for v in (getattr(x.cold, field) for x in launches) if v is not None]
        # The mean of the two in the middle may be too large for a number; no value is.
        return min(statistics.median(values), max(values)) if values else None

    return Cold(**{field: median(field) for field in Cold.__struct_fields__})
