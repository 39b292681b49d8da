"""The runs whose records and reports lie in `golden/`."""

from __future__ import annotations

from typing import Any

import msgspec

from bench.records.outcome import Outcome, Skipped, Void
from bench.records.run import End, Line, Run, Settings
from bench.tests.values import (
    BAD_NUMERICS,
    COMPLETE,
    failed,
    make_case,
    make_launches,
    make_measured,
    make_run,
)


def golden_lines() -> list[Line]:
    """A run with a row of every kind; `golden/run.jsonl` is these lines as `Writer` writes them."""
    gemm = make_case(parameters={"shape": "1024x1024x1024"})
    decode = make_case(
        workload="llama", mode="decode", parameters={"model": "toy", "batch_size": 1, "context": 64}
    )
    train = make_case(
        workload="resnet50", mode="train", parameters={"batch_size": 8, "image_size": 224}
    )
    infer = make_case(workload="bert", mode="infer", parameters={"model": "base", "batch_size": 1})
    half = make_case(workload="bert", mode="train", precision="fp16", parameters={"model": "base"})
    crash = make_case(workload="memory", mode="copy", parameters={"size_bytes": 1048576})
    late = make_case(workload="memory", mode="triad", parameters={"size_bytes": 1048576})
    flop = 2 * 1024**3
    ceiling: list[Outcome] = [
        make_measured(t, items=flop, unit="FLOP", flop=flop) for t in (0.0100, 0.0101, 0.0099)
    ]
    tokens: list[Outcome] = [
        make_measured(
            [t + k * 1e-5 for k in range(40)],
            unit="token",
            flop=flop // 8,
            moved_bytes=10**8,
            latency_name="TPOT",
        )
        for t in (0.004, 0.005, 0.006)
    ]
    images: list[Outcome] = [
        make_measured(0.5, items=8, flop=flop * 20),
        failed(message="the worker was killed by SIGKILL"),
        make_measured(0.5, items=8, flop=flop * 20, flags=("DRIFT",)),
        make_measured(0.5, items=8, flop=flop * 20),
    ]
    wrong = Void(reason="numerics: " + BAD_NUMERICS.complaint, numerics=BAD_NUMERICS)
    hang = failed("timeout", "no report within 60 s; ended in its measure phase")
    lines: list[Line] = [make_run((gemm, decode, train, infer, half, crash, late))]
    for case, outcomes in (
        (gemm, ceiling),
        (decode, tokens),
        (train, images),
        (infer, [wrong]),
        (half, [Skipped(reason="fp16: this CPU has no fp16 arithmetic")]),
        (crash, [failed(), hang]),
    ):
        lines += make_launches(case, outcomes, first_order=len(lines) - 1)
    lines.append(End(reason="budget", finished_at=COMPLETE.finished_at))
    return lines


SPREAD = (-1.0, 0.6, -0.2, 1.2, -0.8, 0.2)
"""Deviations of six launches from their mean; standard deviation 0.86."""


def spread_over(seconds: float, deviation: float, **changes: Any) -> list[Outcome]:
    """Six launches around a step time, `deviation` relative."""
    return [make_measured([seconds * (1 + deviation * s)] * 3, **changes) for s in SPREAD]


def golden_pair() -> tuple[list[Line], list[Line]]:
    """Two runs of which every verdict of a comparison comes; `golden/base.jsonl`, `other.jsonl`."""
    gemm = make_case(parameters={"shape": "8192x8192x8192"})
    triad = make_case(workload="memory", mode="triad", parameters={"size_bytes": 2**30})
    decode = make_case(workload="llama", mode="decode", parameters={"model": "8b", "batch_size": 1})
    infer = make_case(workload="bert", mode="infer", parameters={"model": "base", "batch_size": 32})
    train = make_case(
        workload="resnet50",
        mode="train",
        precision="bf16-amp",
        parameters={"batch_size": 64, "image_size": 224, "optimizer": "sgd"},
    )
    unsteady = make_case(workload="llama", mode="train", parameters={"model": "1b"})
    few = make_case(workload="bert", mode="train", precision="fp16", parameters={"model": "base"})
    short, long = (
        make_case(workload="llama", mode="prefill", parameters={"model": "8b", "prompt_length": n})
        for n in (512, 2048)
    )
    copy = make_case(workload="memory", mode="copy", parameters={"size_bytes": 2**30})
    alone = make_case(workload="resnet50", mode="infer", parameters={"batch_size": 64})
    product: dict[str, Any] = {"items": 2 * 8192**3, "unit": "FLOP", "flop": 2 * 8192**3}
    stream: dict[str, Any] = {"items": 3 * 2**30, "unit": "B", "moved_bytes": 3 * 2**30}
    token: dict[str, Any] = {"unit": "token", "flop": 16 * 10**9, "moved_bytes": 16 * 10**9}
    sequence: dict[str, Any] = {"items": 32, "unit": "sequence", "flop": 7 * 10**11}
    image: dict[str, Any] = {"items": 64, "flop": 15 * 10**11}
    joules: dict[str, Any] = {"energy_joules": 8.0, "energy_absent": None}
    gone: list[Outcome] = [failed("oom", "out of memory")] * 2
    plans: list[dict[str, list[Outcome]]] = []
    cases = (gemm, triad, decode, infer, train, unsteady, few, short, long, copy, alone)
    for first, speed in ((True, 1.0), (False, 1.25)):
        plan: dict[str, list[Outcome]] = {}
        plans.append(plan)
        plan[gemm.fingerprint] = spread_over(0.0018 / speed, 0.004, **product)
        plan[triad.fingerprint] = spread_over(0.00115 / speed, 0.004, **stream)
        plan[decode.fingerprint] = spread_over(0.0075 * speed, 0.01, **token, **joules)
        plan[infer.fingerprint] = spread_over(0.0036 * speed**0.01, 0.004, **sequence)
        plan[train.fingerprint] = spread_over(0.012 / speed**0.1, 0.07, **image)
        plan[unsteady.fingerprint] = spread_over(
            0.2 / speed,
            0.02,
            items=4096,
            unit="token",
            flags=() if first else ("NO_STEADY_STATE",),
            witness=(10.8 if first else 12.9, 9.0),
        )
        plan[few.fingerprint] = spread_over(0.05 / speed, 0.02, items=32, unit="sequence")
        plan[(short if first else long).fingerprint] = spread_over(
            0.02, 0.01, items=512, unit="token"
        )
        plan[copy.fingerprint] = spread_over(0.001, 0.004, **stream)
    plans[1][few.fingerprint][4:] = gone
    plans[1][copy.fingerprint][2] = Void(
        reason="numerics: " + BAD_NUMERICS.complaint, numerics=BAD_NUMERICS
    )
    plans[0][alone.fingerprint] = spread_over(0.01, 0.01, items=64)
    names = ("cuda", "NVIDIA H100 80GB HBM3"), ("rocm", "AMD Instinct MI300X")
    runs: list[list[Line]] = []
    for plan, (backend, name), torch in zip(plans, names, ("2.13.0+cu130", "2.12.1"), strict=True):
        lines: list[Line] = [
            make_run(
                tuple(case for case in cases if case.fingerprint in plan),
                run_id=f"20260101T000000Z-{backend}",
                settings=Settings(launches=6),
                device={"backend": backend, "index": 0, "name": name},
            )
        ]
        for case in lines[0].plan if isinstance(lines[0], Run) else ():
            environment = {
                "torch": torch,
                "packages": {"torch": torch, "transformers": "5.0.0"},
                "variables": {"OMP_NUM_THREADS": "8"} if backend == "cuda" else {},
                "device": {"facts": {"driver": "580.1" if backend == "cuda" else "7.2"}},
                "job": {"memory_format": "channels_last" if backend == "cuda" else "contiguous"}
                if case.workload == "resnet50"
                else {},
            }
            lines += [
                msgspec.structs.replace(launch, environment=environment)
                for launch in make_launches(
                    case, plan[case.fingerprint], first_order=len(lines) - 1
                )
            ]
        lines.append(COMPLETE)
        runs.append(lines)
    return runs[0], runs[1]
