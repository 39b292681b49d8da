"""A run and its launches: nonsense cannot be made, and cannot be read either."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from bench.records.run import Launch, Settings
from bench.tests.values import make_launch

nan, inf = math.nan, math.inf

NONSENSE: list[tuple[str, Callable[[], Any], str]] = [
    ("another case's print", lambda: make_launch(fingerprint="0" * 16), "is not that of its case"),
    ("launch before the first", lambda: make_launch(launch=-1, seed=0), "count from 0"),
    ("order before the first", lambda: make_launch(order=-1, started_at=""), "count from 0"),
    ("launch without time", lambda: make_launch(seconds=0.0), "seconds must be"),
    ("launch NaN", lambda: make_launch(seconds=nan), "seconds must be"),
    ("no launches", lambda: Settings(launches=0), "1 to 1000"),
    ("endless launches", lambda: Settings(launches=1001), "1 to 1000"),
    ("no target", lambda: Settings(target_half_width=0.0), "target_half_width must be"),
    ("block of no time", lambda: Settings(block_seconds=-1.0), "block_seconds must be"),
    ("endless block", lambda: Settings(block_seconds=inf), "block_seconds must be"),
    ("no steady time", lambda: Settings(steady_limit_seconds=0.0), "steady_limit_seconds must"),
    ("no warm-up limit", lambda: Settings(warmup_limit_seconds=nan), "warmup_limit_seconds must"),
    ("no time for a launch", lambda: Settings(launch_limit_seconds=0), "launch_limit_seconds must"),
    ("negative warm-up", lambda: Settings(warmup_seconds=-1.0), "warmup_seconds must"),
    ("warm-up NaN", lambda: Settings(warmup_seconds=nan), "warmup_seconds must"),
    ("endless warm-up", lambda: Settings(warmup_seconds=inf), "warmup_seconds must"),
]


@pytest.mark.parametrize(
    ("make", "complaint"), [n[1:] for n in NONSENSE], ids=[n[0] for n in NONSENSE]
)
def test_nonsense_cannot_be_made(make: Callable[[], Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        make()


def test_nonsense_cannot_be_read_either() -> None:
    """The same rules hold for what comes from a file."""
    good = msgspec.json.encode(make_launch())
    assert msgspec.json.decode(good, type=Launch) == make_launch()
    for part, nonsense in (
        (b'"steady":[', b'"steady":[],"ignored":['),
        (b'"witness":[1.0,', b'"witness":[1e999,'),
        (b'"error":0.001', b'"error":0.5'),
        (b'"fingerprint":"', b'"fingerprint":"0'),
        (b'"energy_absent":"not measured"', b'"energy_absent":null'),
        (b'"launch":0', b'"launch":-1'),
        (b'"step_clock":"host"', b'"step_clock":"sundial"'),
        (b'"order":0', b'"order":0,"note":"more"'),
    ):
        assert part in good
        with pytest.raises(msgspec.DecodeError):
            msgspec.json.decode(good.replace(part, nonsense, 1), type=Launch)


def test_a_seed_that_a_suite_may_not_have_any_more_is_read() -> None:
    seed = 2**64 - 1
    assert msgspec.json.decode(b'{"seed":%d}' % seed, type=Settings).seed == seed
