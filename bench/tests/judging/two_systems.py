"""Runs of one work on several numbers of devices: how tests make two systems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from bench.records.case import Case
from bench.records.outcome import Outcome
from bench.records.parallelism import parse
from bench.records.run import Launch, RunFile
from bench.tests.judging.two_runs import FIXED, steps, ten
from bench.tests.values import make_case, make_file, make_launch

WORK = make_case(
    workload="gpt", mode="train", parameters={"batch_size": 256, "sequence_length": 128}
)
"""On one device. No such work is shipped, so that no release of one brings it to another form."""
Figure = float | Sequence[Outcome]
"""Steps a second, or what the launches gave."""


def on(spread: str, work: Case = WORK) -> Case:
    """The work, spread so: `dp8`, `hsdp2x4`, `none`."""
    return msgspec.structs.replace(work, devices=parse(spread).devices, parallelism=spread)


def batch(size: int) -> Case:
    """The work, of another global batch."""
    return msgspec.structs.replace(WORK, parameters={**WORK.parameters, "batch_size": size})


def runs_on(
    *cases: tuple[Case, Figure],
    spread: float = 0.01,
    shared: bool = False,
    variables: Mapping[str, str] | None = None,
    **run: Any,
) -> RunFile:
    """A run; spread: relative, of launches; shared: whether ranks share a host; variables: of its
    environment."""
    launches: list[Launch] = []
    for case, figure in cases:
        outcomes = steps(ten(1 / figure, spread)) if isinstance(figure, float) else figure
        environment: dict[str, Any] = {"variables_looked_for": ["OMP_*"]}
        environment["variables"] = dict(variables or {})
        if case.devices > 1:
            environment["world"] = {"devices": case.devices, "shared_host": shared}
        first = len(launches)
        launches += [
            make_launch(
                outcome,
                case,
                launch=k,
                order=first + k,
                environment=environment,
            )
            for k, outcome in enumerate(outcomes)
        ]
    return make_file([case for case, _ in cases], launches, **{"settings": FIXED, **run})


def system(figures: Mapping[str, Figure], work: Case = WORK, **changes: Any) -> RunFile:
    """A run of one work, by its spreads."""
    return runs_on(*((on(name, work), figure) for name, figure in figures.items()), **changes)


def strong(**changes: Any) -> RunFile:
    """Eight devices of 100 a second each, which keep nine tenths of that together."""
    return system({"none": 100.0, "dp2": 195.0, "dp8": 720.0}, **changes)


def weak(**changes: Any) -> RunFile:
    """Sixty-four of 20 a second each, which keep seven tenths."""
    return system({"none": 20.0, "fsdp8": 150.0, "fsdp64": 896.0}, **changes)
