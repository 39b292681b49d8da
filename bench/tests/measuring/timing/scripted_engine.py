"""An engine on scripted time, and what the tests say of its blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bench.measuring.timing.engine import Engine
from bench.records.outcome import Block
from bench.records.run import Settings
from bench.tests.fakes import MS, FakeDevice, FakeJob, ScriptedClock

SINGLE = Settings(block_seconds=0.001, warmup_seconds=0.0)
"""Blocks of one step wherever a step takes 1 ms or more."""


def engine(
    step_ns: list[int],
    *,
    synchronous: bool = True,
    settings: Settings = SINGLE,
    sync_ns: int = 0,
    warmup_under_load: bool = False,
    usage: Callable[[ScriptedClock], tuple[float, int]] | None = None,
    **job: Any,
) -> tuple[Engine, FakeDevice]:
    clock = ScriptedClock()
    device = FakeDevice(clock, synchronous, sync_ns=sync_ns, warmup_under_load=warmup_under_load)
    return (
        Engine(
            FakeJob(device, step_ns, **job),
            device,
            settings,
            clock,
            None if usage is None else lambda: usage(clock),
        ),
        device,
    )


def milliseconds(blocks: tuple[Block, ...]) -> list[float]:
    return [block.wall_ns / MS for block in blocks]


def steps(blocks: tuple[Block, ...]) -> list[int]:
    return [len(block.step_ns) for block in blocks]


both_kinds = pytest.mark.parametrize("synchronous", [True, False], ids=["host", "queue"])
