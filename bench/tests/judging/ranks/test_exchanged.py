"""How much the devices of a step exchange, by what the step's job says of itself."""

from __future__ import annotations

from typing import Any

import pytest

from bench.judging.ranks.exchanged import exposed, reduced
from bench.records.silent import Silent
from bench.tests.values import make_launch, make_measured

JOB = {"parameters": "1000", "gradients reduced as": "float32"}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"parameters reduced": "1000"}, 4000),
        ({"parameters reduced": "20", "trained": "20 parameters of adapters, float32"}, 80),
        ({"parameters reduced": "20", "gradients reduced as": "bfloat16"}, 40),
        ({"parameters reduced": "20", "gradients reduced as": "float32, bfloat16"}, None),
        ({}, 4000),
        ({"trained": "20 parameters of adapters, float32"}, None),
        ({"tables": "13 of 26 on rank 0; sums by all-to-all"}, None),
        ({"parameters": "many"}, None),
    ],
    ids=str,
)
def test_what_trains_is_what_travels(more: dict[str, str], expected: int | None) -> None:
    """Of adapters all weights were once counted, 590 times as many. Of an older record, which does
    not say how many travel, nothing is known where some stay."""
    environment: dict[str, Any] = {"job": {**JOB, **more}}
    found = reduced([make_launch(environment={}), make_launch(environment=environment)])
    assert found.get("reduced_bytes") == expected


def test_what_a_step_waits_for_is_the_median_of_a_launchs_pairs() -> None:
    """Two steps a block: 10 ms a step of 50, but in one that something else held up."""
    silent = Silent(
        steps=2,
        real_ns=(90_000_000, 100_000_000, 400_000_000),
        silent_ns=(80_000_000, 80_000_000, 80_000_000),
    )
    found = exposed([make_measured(), make_measured(silent=silent)], 0.95)
    assert found["exposed"].value == pytest.approx(0.01)
    assert found["exposed_fraction"].value == pytest.approx(0.2)
