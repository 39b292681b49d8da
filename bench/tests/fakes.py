"""Stand-ins with exact times: a scripted clock, devices, jobs, a backend, and valid values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from bench.backend import Backend, Device, DeviceInfo
from bench.precision import Precision
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
    Skipped,
    Void,
    Work,
)
from bench.records.run import SCHEMA_VERSION, End, Launch, Line, Run, RunFile, Settings

if TYPE_CHECKING:
    import torch

MS = 1_000_000
"""Nanoseconds in a millisecond."""


class ScriptedClock:
    """Nanoseconds that pass only when the script says so."""

    def __init__(self) -> None:
        self.now = 1_000

    def __call__(self) -> int:
        return self.now

    def advance(self, nanoseconds: int) -> None:
        self.now += nanoseconds


class FakeEvent:
    """The moment at which the device's main stream reaches it."""

    def __init__(self, device: FakeDevice) -> None:
        self.device = device
        self.time: int | None = None

    def record(self) -> None:
        self.device.log.append("e")
        self.time = max(self.device.clock.now, self.device.main_free)


class FakeDevice(Device):
    """A device on the scripted clock.

    Synchronous: a step's time passes while it is called. Asynchronous: a step only queues its work,
    and nothing but `synchronize` (or time spent on the host) moves the clock. `log` holds one
    letter an action: S synchronize, s step, e event record, w witness, r reset of the peak.
    """

    def __init__(
        self,
        clock: ScriptedClock,
        synchronous: bool,
        *,
        sync_ns: int = 0,
        warmup_under_load: bool = False,
    ) -> None:
        self.info = DeviceInfo(backend="fake", index=0, name="Fake device", memory_bytes=None)
        self.clock = clock
        self.synchronous = synchronous
        self.needs_warmup_under_load = warmup_under_load
        self.sync_ns = sync_ns
        self.main_free = 0
        """When the main stream has done all that is queued on it."""
        self.all_free = 0
        """When every stream has."""
        self.log: list[str] = []

    @property
    def actions(self) -> str:
        """The log as one string, for matching."""
        return "".join(self.log)

    @property
    def blocks(self) -> list[str]:
        """What happened between every two neighbouring synchronizations."""
        return re.split("S", self.actions)

    def work(self, nanoseconds: int, side_ns: int = 0) -> None:
        """One step of work; side_ns: on a stream that the events do not see, at the same time."""
        if self.synchronous:
            self.clock.advance(nanoseconds)
            return
        begin = max(self.clock.now, self.main_free)
        self.main_free = begin + nanoseconds
        self.all_free = max(self.all_free, self.main_free, begin + side_ns)

    @property
    def torch_device(self) -> torch.device:
        raise NotImplementedError

    def synchronize(self) -> None:
        self.log.append("S")
        self.clock.now = max(self.clock.now, self.all_free) + self.sync_ns
        self.main_free = max(self.main_free, self.all_free)

    def event(self) -> FakeEvent | None:
        return None if self.synchronous else FakeEvent(self)

    def elapsed_ns(self, start: FakeEvent, end: FakeEvent) -> int:
        assert start.time is not None and end.time is not None, "an event was never recorded"
        assert end.time <= self.clock.now, "events were read before the device reached them"
        return end.time - start.time

    def release_memory(self) -> None:
        """Holds none."""

    def reset_peak_memory(self) -> None:
        self.log.append("r")

    def memory(self) -> Memory:
        return Memory(peak_bytes=1, scope="fake", host_rss_bytes=1)


class FakeJob:
    """Steps of scripted durations; the last one is repeated for ever."""

    def __init__(
        self,
        device: FakeDevice,
        step_ns: Iterable[int],
        *,
        host_ns: int = 0,
        side_ns: int = 0,
        witness: Sequence[float] = (1.0, 0.5),
    ) -> None:
        """host_ns: what the host spends on queueing a step; witness: one value a call."""
        self.device = device
        self.script = list(step_ns)
        self.host_ns = host_ns
        self.side_ns = side_ns
        self.steps = 0
        self.witnesses = list(witness)

    def step(self) -> None:
        self.device.log.append("s")
        self.device.clock.advance(self.host_ns)
        self.device.work(self.script[min(self.steps, len(self.script) - 1)], self.side_ns)
        self.steps += 1

    def witness(self) -> float:
        self.device.log.append("w")
        self.device.clock.now = max(self.device.clock.now, self.device.all_free)
        return self.witnesses.pop(0)


class FakeBackend(Backend):
    """A backend of one fake device; no process is ever started for it."""

    name = "fake"
    vendor = "nobody"

    def worker_environment(self) -> Mapping[str, str]:
        return {"FAKE_BACKEND": "1"}

    def devices(self) -> list[DeviceInfo]:
        return [FakeDevice(ScriptedClock(), synchronous=True).info]

    def open(self, index: int, precision: Precision) -> Device:
        return FakeDevice(ScriptedClock(), synchronous=True)


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


COMPLETE = End(reason="complete", finished_at="2026-01-01T00:01:00.000+00:00")


def make_file(
    cases: Sequence[Case], launches: Sequence[Launch], end: End | None = COMPLETE, **changes: Any
) -> RunFile:
    """A run as read back; changes: fields of its header."""
    return RunFile(
        path="fake.jsonl", run=make_run(cases, **changes), launches=tuple(launches), end=end
    )


def make_launches(case: Case, outcomes: Sequence[Outcome], first_order: int = 0) -> list[Launch]:
    """Launches of one case, numbered."""
    return [
        make_launch(outcome, case, launch=k, order=first_order + k)
        for k, outcome in enumerate(outcomes)
    ]


def failed(kind: FailureKind = "crash", message: str = "it broke") -> Failed:
    """A failed launch."""
    return Failed(kind=kind, phase="measure", message=message)


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
