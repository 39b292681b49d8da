"""Valid values of a record, from one case to a whole run; any field can be changed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import msgspec

from bench.records.case import Case
from bench.records.outcome import (
    Block,
    Check,
    Cold,
    Failed,
    FailureKind,
    Flag,
    Measured,
    Memory,
    Numerics,
    Outcome,
    Work,
)
from bench.records.run import SCHEMA_VERSION, End, Launch, Run, RunFile, Settings


def make_case(**changes: Any) -> Case:
    """A valid case; any field can be changed."""
    fields: dict[str, Any] = {
        "workload": "gemm",
        "version": 1,
        "mode": "matmul",
        "precision": "bf16",
        "parameters": {"shape": "64x64x64"},
    }
    return Case(**{**fields, **changes})


SMALL_RESNET: dict[str, Any] = {
    "DEPTHS": (1, 1, 1, 1),
    "WIDTHS": (64, 128, 256, 512),
    "PUBLISHED_PARAMETERS": None,
}
"""Of `bench.workloads.resnet50`: one block in each stage, a quarter as wide. It has all that a step
of the whole has."""
SMALL_VIT: dict[str, Any] = {
    "HIDDEN": 192,
    "HEADS": 3,
    "FEED_FORWARD": 768,
    "_parameters": lambda parameters: None,
}
"""Of `bench.workloads.vit_b16`: a quarter as wide."""


def small_unets() -> dict[str, Any]:
    """Of `bench.workloads._denoisers.UNETS`: the toy that the gate looks at, half as wide."""
    from bench.workloads._denoisers import UNETS

    toy = "tiny-unet-2l"
    narrow = msgspec.structs.replace(UNETS[toy], channels=(32, 64, 128), head=32)
    return {toy: narrow}


NUMERICS = Numerics(
    reference="fp64 on cpu", checks=(Check(quantity="output", error=0.001, tolerance=0.01),)
)

BAD_NUMERICS = Numerics(
    reference="fp64 on cpu", checks=(Check(quantity="output", error=0.5, tolerance=0.01),)
)


def make_block(seconds: float, steps: int = 1) -> Block:
    """A block of equal steps."""
    step_ns = round(seconds * 1e9)
    return Block(wall_ns=step_ns * steps, step_ns=(step_ns,) * steps)


def make_measured(
    step_seconds: float | Sequence[float] = 0.01,
    *,
    items: int = 1,
    unit: str = "image",
    flop: int | None = None,
    moved_bytes: int | None = None,
    transferred_bytes: int | None = None,
    flags: tuple[Flag, ...] = (),
    **changes: Any,
) -> Measured:
    """A valid outcome of ten steady one-step samples, or of the samples given (s)."""
    steps = [step_seconds] * 10 if isinstance(step_seconds, float) else list(step_seconds)
    fields: dict[str, Any] = {
        "work": Work(
            items=items,
            unit=unit,
            flop=flop,
            moved_bytes=moved_bytes,
            transferred_bytes=transferred_bytes,
        ),
        "numerics": NUMERICS,
        "warmup": tuple(make_block(2 * steps[0]) for _ in range(3)),
        "steady": tuple(make_block(s) for s in steps),
        "step_clock": "host",
        "memory": Memory(peak_bytes=3 * 2**20, scope="process RSS", host_rss_bytes=2**20),
        "witness": (1.0, 0.5),
        "flags": flags,
        "energy_absent": "not measured",
    }
    return Measured(**{**fields, **changes})


def make_launch(
    outcome: Outcome | None = None,
    case: Case | None = None,
    launch: int = 0,
    order: int = 0,
    seconds: float = 4.0,
    **changes: Any,
) -> Launch:
    """A valid launch."""
    case = case or make_case()
    fields: dict[str, Any] = {
        "case": case,
        "fingerprint": case.fingerprint,
        "launch": launch,
        "order": order,
        "seed": launch,
        "started_at": f"2026-01-01T00:00:{order:02d}.000+00:00",
        "seconds": seconds,
        "cold": Cold(
            import_seconds=2.0, numerics_seconds=0.5, build_seconds=0.25, first_step_seconds=0.125
        ),
        "environment": {
            "torch": "2.13.0",
            "threads": 2,
            "packages": {"torch": "2.13.0", "transformers": "5.0.0"},
            "device_state": {"instructions": "avx2 avx512f"},
        },
        "outcome": outcome or make_measured(),
    }
    return Launch(**{**fields, **changes})


def make_run(cases: Sequence[Case], **changes: Any) -> Run:
    """A valid header of a run of these cases."""
    fields: dict[str, Any] = {
        "schema": SCHEMA_VERSION,
        "run_id": "20260101T000000Z-abcd",
        "suite": "fake",
        "plan": tuple(cases),
        "settings": Settings(launches=3),
        "command": ("accelmark", "run", "fake"),
        "started_at": "2026-01-01T00:00:00.000+00:00",
        "host": {"cpu": "Fake CPU", "accelmark": "0.1.0"},
        "device": {
            "backend": "cpu",
            "index": 0,
            "name": "Fake CPU",
            "memory_bytes": 2**33,
            "facts": {},
        },
    }
    return Run(**{**fields, **changes})


NUMBERS = itertools.count()
COMPLETE = End(reason="complete", finished_at="2026-01-01T00:01:00.000+00:00")


def make_file(
    cases: Sequence[Case], launches: Sequence[Launch], end: End | None = COMPLETE, **changes: Any
) -> RunFile:
    """A run as read back, by a name that no other bears; changes: fields of its header."""
    header = make_run(cases, **{"run_id": f"20260101T000000Z-{next(NUMBERS):04x}", **changes})
    return RunFile(path="fake.jsonl", run=header, launches=tuple(launches), end=end)


def another(run: RunFile) -> RunFile:
    """The same launches, as if a run of another name had made them."""
    header = msgspec.structs.replace(run.run, run_id=f"{run.run.run_id}-again")
    return msgspec.structs.replace(run, run=header)


def make_launches(case: Case, outcomes: Sequence[Outcome], first_order: int = 0) -> list[Launch]:
    """Launches of one case, numbered."""
    return [
        make_launch(outcome, case, launch=k, order=first_order + k)
        for k, outcome in enumerate(outcomes)
    ]


def failed(kind: FailureKind = "crash", message: str = "it broke") -> Failed:
    """A failed launch."""
    return Failed(kind=kind, phase="measure", message=message)
