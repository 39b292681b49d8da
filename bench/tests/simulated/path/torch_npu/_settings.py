"""What the variables SIMNPU_* ask for, read once; the package's docstring has the table of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

PREFIX = "SIMNPU_"
DUAL_DIE = "Ascend910_93"
"""Names of the 910C begin so: a package of two dies, each a device of torch's."""


DEFECTS = frozenset(
    (
        *("early-synchronize", "one-stream", "fixed-peaks", "kept-peaks", "kept-cache"),
        *("spoilt-by-oom", "oom-words", "hf32", "bfloat-for-half"),
        *("quiet-fallback", "lost-words", "lost-copies", "lost-updates", "wrong-experts"),
        *("no-compiler", "wrong-compiler", "no-graphs", "still-replays"),
    )
)
"""What SIMNPU_BROKEN may name."""


@dataclass(frozen=True)
class Settings:
    """One field per variable."""

    device_name: str
    devices: int
    memory_bytes: int
    operator_microseconds: float
    fallback: frozenset[str]
    missing: frozenset[str]
    wrong: frozenset[str]
    slow: Mapping[str, float]
    """Operator -> extra milliseconds."""
    lost: str
    lost_after: int
    runtime: str
    type: str
    events: float
    """What events count, over the truth."""
    float64: str
    """`cast` to float32, or `refused`."""
    broken: frozenset[str]
    """Of `DEFECTS`."""


def read(variables: Mapping[str, str]) -> Settings:
    """Raises ValueError for a variable that there is not: a misspelt fault would test nothing."""
    given = {n.removeprefix(PREFIX): v for n, v in variables.items() if n.startswith(PREFIX)}
    for name in ("SMI", "SMI_USERS"):  # the script `npu-smi` reads them
        given.pop(name, None)
    name = given.pop("DEVICE_NAME", "Ascend910B2")
    settings = Settings(
        device_name=name,
        devices=int(given.pop("DEVICES", 2 if name.startswith(DUAL_DIE) else 1)),
        memory_bytes=int(given.pop("MEMORY_BYTES", 64 * 2**30)),
        operator_microseconds=float(given.pop("OPERATOR_MICROSECONDS", 10)),
        fallback=_names(given.pop("FALLBACK", "")),
        missing=_names(given.pop("MISSING", "")),
        wrong=_names(given.pop("WRONG", "")),
        slow={
            n: float(ms) for n, _, ms in (o.partition("=") for o in _names(given.pop("SLOW", "")))
        },
        lost=given.pop("LOST", ""),
        lost_after=int(given.pop("LOST_AFTER", 0)),
        runtime=given.pop("RUNTIME", ""),
        type=given.pop("TYPE", "npu"),
        events=float(given.pop("EVENTS", 1)),
        float64=given.pop("FLOAT64", "cast"),
        broken=_names(given.pop("BROKEN", "")),
    )
    if settings.broken - DEFECTS:
        unknown, known = min(settings.broken - DEFECTS), ", ".join(sorted(DEFECTS))
        raise ValueError(f"unknown defect {unknown} in {PREFIX}BROKEN. Known: {known}.")
    if given:
        known = ", ".join(PREFIX + field.upper() for field in (*Settings.__annotations__, "smi"))
        raise ValueError(f"unknown variable {PREFIX}{min(given)}. Known: {known}.")
    return settings


def _names(text: str) -> frozenset[str]:
    return frozenset(part.strip() for part in text.split(",") if part.strip())


SETTINGS = read(os.environ)
