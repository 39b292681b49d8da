"""Whether two rows may be compared: equal work, timed alike, on devices that are what they say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench import units
from bench.judging.comparing.equal_work import equal_work
from bench.judging.comparing.reasons import Code, Reason
from bench.judging.comparing.side import Side
from bench.judging.load import SUSTAINED_SECONDS
from bench.judging.row import Row
from bench.records.case import Case, Setting
from bench.records.environment import section


def unequal(base: Case, other: Case) -> Iterator[Reason]:
    """Every way in which two cases are not the same work."""
    fields: list[tuple[Code, str, Any, Any]] = [
        (Code.WORKLOAD, "workload", base.workload, other.workload),
        (Code.VERSION, "workload version", base.version, other.version),
        (Code.MODE, "mode", base.mode, other.mode),
        (Code.PRECISION, "precision", base.precision, other.precision),
        (Code.EXECUTION, "execution", base.execution, other.execution),
        (Code.TRACK, "track", base.track, other.track),
        (Code.DEVICE_COUNT, "device count", base.devices, other.devices),
        (Code.PARALLELISM, "parallelism", base.parallelism, other.parallelism),
    ]
    for name in dict.fromkeys((*base.parameters, *other.parameters)):
        mine, theirs = (case.parameters.get(name, "none") for case in (base, other))
        fields.append((Code.PARAMETER, name, mine, theirs))
    for name in dict.fromkeys((*base.space, *other.space)) if base.track == other.track else ():
        mine, theirs = (_listed(case.space, name) for case in (base, other))
        fields.append((Code.CHOICES, f"tuned {name}", mine, theirs))
    for code, name, mine, theirs in fields:
        # 1 == True == 1.0 for Python, and not for the fingerprint.
        if mine != theirs or type(mine) is not type(theirs):
            yield Reason(code, f"{name} differs ({mine}, {theirs})")


def _listed(space: Mapping[str, Sequence[Setting]], name: str) -> str:
    return " ".join(str(value) for value in space.get(name, ())) or "fixed"


def incomparable(sides: tuple[Side, Side], base: Row, other: Row) -> Iterator[Reason]:
    """Every reason why two rows may not be compared; nothing where they may."""
    yield from unequal(base.work, other.work)
    yield from timed_otherwise(sides, base, other)
    if base.measured and other.measured and base.shared_host != other.shared_host:
        who = "base" if base.shared_host else "other"
        words = f"{who}: its {base.case.devices} ranks share one host, the other side's none"
        yield Reason(Code.SHARED_HOST, words)
    yield from served_otherwise(base, other)
    yield from unfit(sides, base, other)
    if same_work := equal_work(sides, base, other):
        yield from same_work.refusals


def timed_otherwise(sides: tuple[Side, Side], base: Row, other: Row) -> Iterator[Reason]:
    """Why two rows were not measured alike."""
    mine, theirs = (side.file.run for side in sides)
    if mine.schema != theirs.schema:
        words = f"record schema differs ({mine.schema}, {theirs.schema})"
        yield Reason(Code.SCHEMA, words)
    if mine.settings.timing != theirs.settings.timing:
        words = f"timing mode differs ({mine.settings.timing}, {theirs.settings.timing})"
        yield Reason(Code.TIMING, words)
    if base.unit and other.unit and base.unit != other.unit:
        yield Reason(Code.UNIT, f"unit of throughput differs ({base.unit}, {other.unit})")
    yield from _loaded_otherwise(base, other)


def _loaded_otherwise(base: Row, other: Row) -> Iterator[Reason]:
    """Of a device for a moment and for good: two answers, of which neither is the other's."""
    if base.load is None or other.load is None or base.load.sustained == other.load.sustained:
        return
    mine, theirs = (units.duration(row.load.seconds) for row in (base, other) if row.load)
    words = (
        f"time under load differs ({mine}, {theirs}): sustained is from "
        f"{SUSTAINED_SECONDS:.0f} s on. Measure both with `warmup_seconds = "
        f"{SUSTAINED_SECONDS:.0f}` in the suite's settings"
    )
    yield Reason(Code.LOAD, words)


def served_otherwise(base: Row, other: Row) -> Iterator[Reason]:
    """Why two served loads of one case were not the same: other lengths, or other moments."""
    mine, theirs = (row.serving.loads if row.serving else () for row in (base, other))
    if base.serving and other.serving and mine != theirs:
        words = f"requests differ ({', '.join(mine)}; {', '.join(theirs)}): drawn otherwise"
        yield Reason(Code.PARAMETER, words)


def unfit(sides: tuple[Side, Side], base: Row, other: Row) -> Iterator[Reason]:
    """Why a side has no number, or none that may be used."""
    for who, side, row in zip(("base", "other"), sides, (base, other), strict=True):
        if not row.measured:
            code = Code(row.status) if row.reached else Code.NOT_REACHED
            yield Reason(code, f"{who} is {row.why}")
        for reason in disqualified(side, row):
            yield Reason(reason.code, f"{who}: {reason.words}")


def disqualified(side: Side, row: Row) -> Iterator[Reason]:
    """What makes a row unfit for any comparison although it has a number."""
    environments = side.environments(row)
    devices = [side.file.run.device, *(section(e, "device") for e in environments)]
    if any(device.get("simulated") for device in devices):
        yield Reason(Code.SIMULATED, "a simulated device")
    arithmetic = row.arithmetic
    reduced = [e.get("float32_reduced") for e in environments]
    if arithmetic == "fp32" and any(reduced):
        words = "float32 products were allowed a shorter mantissa (TF32 or its like)"
        yield Reason(Code.SHORT_MANTISSA, words)
    if arithmetic == "tf32" and not all(reduced):
        words = "float32 products were not allowed the shorter mantissa that the precision asks for"
        yield Reason(Code.FULL_MANTISSA, words)
    if row.case.precision == "bf16" and any(map(_left_weights, environments)):
        words = (
            "its weights did not train: the fused SGD of torch 2.13 leaves bfloat16 weights as "
            "they are on a CPU (pytorch 191763). Measure it again"
        )
        yield Reason(Code.UNTRAINED, words)


def _left_weights(environment: Mapping[str, Any]) -> bool:
    """Whether a record from before optimizers were tried used one that is known to be wrong."""
    return (
        str(environment.get("torch")).startswith("2.13.")
        and section(environment, "device").get("backend") == "cpu"
        and section(environment, "job").get("optimizer") == "SGD(fused=True)"
    )
