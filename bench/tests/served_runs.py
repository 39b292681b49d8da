"""Runs of loads that were served, on a schedule that is known."""

from __future__ import annotations

from typing import Any

from bench.records.case import Case
from bench.records.outcome import Block, Measured, Memory, Work
from bench.records.run import RunFile
from bench.records.served import EngineSteps, Served, ServedRequest
from bench.tests.values import NUMERICS, make_case, make_file, make_launch

MS = 1_000_000
PARAMETERS: dict[str, Any] = {
    "model": "tiny-untied",
    "slots": 4,
    "chunk": 8,
    "input_tokens": 7,
    "output_tokens": 5,
    "requests": 16,
    "arrival": "closed",
    "concurrency": 1,
    "ttft_limit_ms": 100,
    "tpot_limit_ms": 50,
}


def serve_case(concurrency: int = 1, **changes: Any) -> Case:
    """A closed loop; `rate` makes it Poisson arrivals."""
    given = {**PARAMETERS, "concurrency": concurrency, **changes}
    if "rate" in given:
        given |= {"arrival": "poisson", "concurrency": 0}
    return make_case(workload="serve", mode="load", precision="fp32", parameters=given)


def served(lanes: int = 1, step_ms: float = 10.0, requests: int = 16, load: str = "abc") -> Served:
    """So many requests at a time in lock step: prompt in one step, five tokens in five more."""
    step = round(step_ms * MS)
    found, moments = [], []
    for index in range(requests):
        due = index // lanes * 6 * step
        found.append(
            ServedRequest(
                prompt_tokens=7,
                due_ns=due,
                admitted_ns=due,
                first_ns=due + 2 * step,
                last_ns=due + 6 * step,
                tokens=5,
            )
        )
        moments += [due + (2 + token) * step for token in range(5)]
    steps = range(requests // lanes * 6)
    count = len(steps)
    return Served(
        requests=tuple(found),
        arrived_ns=tuple(sorted(moments)),
        arrived_tokens=(1,) * len(moments),
        ramp=lanes,
        load=load,
        schedule=f"{lanes}",
        steps=EngineSteps(
            start_ns=tuple(step * i for i in steps),
            wall_ns=(step,) * count,
            forward_ns=(step * 98 // 100,) * count,
            decode_rows=(lanes,) * count,
            prompt_rows=(0,) * count,
            slots=4,
            chunk=8,
        ),
    )


def measured(load: Served) -> Measured:
    """The outcome of a launch of it."""
    window = load.window
    assert window is not None
    ns = window.end_ns - window.start_ns
    return Measured(
        work=Work(items=window.tokens, unit="token"),
        numerics=NUMERICS,
        warmup=(),
        steady=(Block(start_ns=window.start_ns, wall_ns=ns, step_ns=(ns,)),),
        step_clock="host",
        memory=Memory(peak_bytes=1, scope="process RSS", host_rss_bytes=1),
        witness=(1.0, 1.0),
        served=load,
        energy_absent="nobody looked",
    )


def served_run(points: list[tuple[Case, list[Served]]], **run: Any) -> RunFile:
    """A run of these cases and launches."""
    launches = [
        make_launch(case=case, launch=k, order=k, outcome=measured(load))
        for case, loads in points
        for k, load in enumerate(loads)
    ]
    return make_file([case for case, _ in points], launches, **run)


SPEEDS = (9.9, 10.0, 10.1, 10.0, 9.95)


def usual_run(faster: float = 1.0, **run: Any) -> RunFile:
    """One, two and four at a time, five launches each; more at a time is slower for each."""
    return served_run(
        [
            (
                serve_case(lanes),
                [served(lanes, ms * (1 + 0.2 * lanes) / faster) for ms in SPEEDS],
            )
            for lanes in (1, 2, 4)
        ],
        **run,
    )
