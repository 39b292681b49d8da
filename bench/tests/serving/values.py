"""Values that several tests of this package take."""

from __future__ import annotations

from typing import Any

from bench.planning.arrivals import Lengths
from bench.serving import cases
from bench.serving.export import Manifest
from bench.tests.serving.mock import VOCABULARY

MANIFEST = Manifest(
    model="tiny-untied",
    precision="bf16",
    seed=0,
    vocabulary=VOCABULARY,
    positions=2048,
    layers=3,
    parameters=1000,
    files={"model.safetensors": "00"},
)


def asks(**other: Any) -> cases.Asks:
    """A small closed loop, but for what is given."""
    given: dict[str, Any] = {
        "lengths": Lengths(input_tokens=8, output_tokens=6),
        "concurrencies": (4,),
        "requests": 20,
        "ttft_limit_ms": 2000,
        "tpot_limit_ms": 100,
    }
    return cases.Asks(**{**given, **other})


(CASE,) = cases.cases(asks(), MANIFEST)
