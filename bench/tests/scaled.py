"""A run of one kind of work over several numbers of devices, whose truth is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.records.case import Case
from bench.records.outcome import Measured, Work
from bench.records.run import Launch, RunFile
from bench.records.silent import Silent
from bench.tests.values import make_case, make_file, make_launch, make_measured

STEP = 0.080
"""Seconds of a step of one device."""
ITEMS = 16
NOISE = (1.0, 1.01, 0.99, 1.005, 0.995)
"""Of the launches of a case: their times over the mean."""
EFFICIENCIES = {1: 1.0, 2: 0.9, 4: 0.75, 8: 0.5}
PARAMETERS = 5_000_000
LATENCY, BANDWIDTH = 0.001, 1e9


def training(devices: int, scheme: str = "dp", batch: int = ITEMS) -> Case:
    """A case that trains on so many devices."""
    return make_case(
        workload="llama",
        mode="train",
        devices=devices,
        parallelism="none" if devices == 1 else f"{scheme}{devices}",
        parameters={"model": "toy", "batch_size": batch},
    )


def outcomes(
    step: float, items: int, exposed: float | None, noise: Sequence[float] = NOISE
) -> list[Measured]:
    """Launches of steps of so many seconds; exposed: what of it waits for communication."""
    found = []
    for factor in noise:
        seconds = step * factor
        silent = None
        if exposed is not None:
            real = (round(seconds * 10e9),) * 3
            silent = Silent(
                steps=10,
                real_ns=real,
                silent_ns=tuple(ns - round(exposed * factor * 10e9) for ns in real),
            )
        found.append(make_measured([seconds] * 10, items=items, unit="token", silent=silent))
    return found


def launches(case: Case, of_it: Sequence[Measured], *, shared: bool = False) -> list[Launch]:
    """The launches of a case, each in its round."""
    world = {"devices": case.devices, "shared_host": shared}
    job = {"parameters": str(PARAMETERS), "gradients reduced as": "float32"}
    environment: dict[str, Any] = {"world": world, "job": job} if case.devices > 1 else {}
    return [
        make_launch(outcome, case, launch=k, environment=environment)
        for k, outcome in enumerate(of_it)
    ]


def over_devices(
    efficiencies: Mapping[int, float] = EFFICIENCIES,
    *,
    scheme: str = "dp",
    weak: bool = False,
    shared: bool = False,
    noise: Sequence[float] = NOISE,
) -> list[Launch]:
    """Launches at each number of devices; what is lost to one is communication."""
    found = []
    for devices, efficiency in efficiencies.items():
        each = STEP if weak else STEP / devices
        batch = ITEMS * (devices if weak else 1)
        exposed = None if devices == 1 else each / efficiency - each
        of_it = outcomes(each / efficiency, batch, exposed, noise)
        found += launches(training(devices, scheme, batch), of_it, shared=shared)
    return found


def all_reduce(devices: int) -> list[Launch]:
    """A sweep of all-reduce over sizes, by a link of known latency and bandwidth."""
    found = []
    for size in (10**5, 10**6, 10**7):
        case = make_case(
            workload="collective",
            mode="all-reduce",
            precision="fp32",
            devices=devices,
            parameters={"size_bytes": size, "chained": 1},
        )
        bus = round(2 * (devices - 1) / devices * size)
        seconds = LATENCY + bus / BANDWIDTH
        work = Work(items=size, unit="B", bus_bytes=bus, operations=1)
        found += launches(case, [make_measured([seconds] * 10, work=work)] * 3)
    return found


def run_of(found: Sequence[Launch], **changes: Any) -> RunFile:
    """All of them as a run; changes: fields of its header."""
    cases = {launch.fingerprint: launch.case for launch in found}
    return make_file(tuple(cases.values()), found, **changes)
