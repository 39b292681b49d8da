"""Optimizers: each moves the weights as its formula says, in every precision that trains."""

from __future__ import annotations

from collections.abc import Iterator

from bench.conformance.check import Check, Finding, Stand, failed, note, passed, unseen
from bench.precision import PRECISIONS
from bench.workload import TRAINING_PRECISIONS
from bench.workloads.jobs.optimizers import CLASSES, IMPLEMENTATIONS, SETTINGS, trial

LOSSES = ("oom", "device_lost")
"""Kinds of failure that say nothing of an optimizer."""


def optimizers(stand: Stand) -> Iterator[Finding]:
    """Each of those that the workloads train with, in each dtype that they keep weights in."""
    widths = dict.fromkeys(PRECISIONS[name].weights for name in TRAINING_PRECISIONS)
    for width in widths:
        names = [n for n in TRAINING_PRECISIONS if PRECISIONS[n].weights == width]
        lacking = [stand.unsupported(PRECISIONS[n]) for n in names]
        for name in SETTINGS:
            title = f"{name}, weights in {width}"
            if all(lacking):
                yield unseen(title, str(lacking[0]))
                continue
            stand.open(PRECISIONS[names[lacking.index(None)]])
            yield from _tried(stand, title, name, width)


def _tried(stand: Stand, title: str, name: str, width: str) -> Iterator[Finding]:
    """Whether one of torch's implementations is right; and which are not, for those are passed
    over without a word in anybody else's program."""
    import torch

    dtype = getattr(torch, width)
    found = {how: trial(name, how, dtype, stand.place) for how in IMPLEMENTATIONS}
    for one in found.values():
        if one.refusal is not None and stand.backend.failure_kind(one.refusal) in LOSSES:
            raise one.refusal
    told = "; ".join(f"{how} {one.finding}" for how, one in found.items())
    right = [how for how, one in found.items() if one.passed]
    wrong = [how for how, one in found.items() if one.wrong]
    if not right:
        reason = f"no implementation of {CLASSES[name]} moves the weights as its formula says"
        next = "Compare an update by hand with float64: what trains on this device is void"
        yield failed(title, told, reason, next)
        return
    yield passed(title, f"{right[0]}: {found[right[0]].finding}")
    for how in wrong:
        next = (
            f"Report it to whoever makes that kernel; a job here is given {right[0]} in its place"
        )
        yield note(f"{how} {title} is wrong", found[how].finding, next)


CHECKS = (
    Check(name="optimizers", summary="weights move as the formula says", parts=(optimizers,)),
)
