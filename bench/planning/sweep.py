"""Sweeps over the batch: cases that differ in nothing else, and where memory ends them.

What the points of a sweep are is worked out from the cases, so a list of batches, a doubling and
two cases written apart are the same to every reader.
"""

from __future__ import annotations

import msgspec

from bench.records.case import Case
from bench.records.outcome import BEFORE, DOES_NOT_FIT, Failed, Measured, Outcome, Phase, Skipped

BATCH = "batch_size"
UNSIZED: tuple[Phase, ...] = (*BEFORE, "numerics", "explain")
"""Phases that no batch runs out of memory: a gate's own is the same at any."""


def batch_of(case: Case) -> int | None:
    """The case's batch; None where it has none, and for a tuned case: it is no point of a sweep,
    for what does not fit there may be one of its choices."""
    if case.space:
        return None
    batch = case.parameters.get(BATCH)
    return batch if type(batch) is int else None


def without_batch(case: Case) -> Case:
    """What the points of a sweep share: its fingerprint is the sweep's."""
    rest = {key: value for key, value in case.parameters.items() if key != BATCH}
    return msgspec.structs.replace(case, parameters=rest)


def too_large(outcome: Outcome) -> bool:
    """Whether memory ran out, or would have, of what is timed."""
    if isinstance(outcome, Skipped):
        return outcome.reason.startswith(DOES_NOT_FIT)
    return isinstance(outcome, Failed) and outcome.kind == "oom" and outcome.phase not in UNSIZED


def met_others(outcome: Outcome) -> bool:
    """Whether memory ran out before anything of the case was there: at another time it may not."""
    return isinstance(outcome, Failed) and outcome.kind == "oom" and outcome.phase in BEFORE


class Limits:
    """Which batches of each sweep fitted, and from which on they did not."""

    def __init__(self) -> None:
        self._fit: dict[str, set[int]] = {}
        self._too_large: dict[str, int] = {}

    def note(self, case: Case, outcome: Outcome) -> None:
        """Takes note of one launch. What has fitted once is not where a sweep ends."""
        batch, sweep = batch_of(case), without_batch(case).fingerprint
        if batch is None:
            return
        if isinstance(outcome, Measured):
            self._fit.setdefault(sweep, set()).add(batch)
        elif too_large(outcome) and batch not in self._fit.get(sweep, ()):
            self._too_large[sweep] = min(batch, self._too_large.get(sweep, batch))

    def beyond(self, case: Case) -> str | None:
        """Why a case is not tried: a smaller batch of the same did not fit; else None."""
        batch, sweep = batch_of(case), without_batch(case).fingerprint
        least = self._too_large.get(sweep)
        if batch is None or least is None or batch <= least:
            return None
        fit = [b for b in self._fit.get(sweep, ()) if b < least]
        if fit:
            return f"beyond the largest batch that fits: {max(fit)}"
        return f"beyond a batch that does not fit: {least}"

    def ends(self, case: Case) -> bool:
        """Whether this is the batch at which memory ran out, after a smaller one had fitted."""
        batch, sweep = batch_of(case), without_batch(case).fingerprint
        if batch is None or batch != self._too_large.get(sweep):
            return False
        fit = self._fit.get(sweep, set())
        return batch not in fit and any(b < batch for b in fit)
