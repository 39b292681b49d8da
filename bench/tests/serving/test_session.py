"""A launch on a server: what it amounts to, for each way in which a server may be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.planning.arrivals import Lengths
from bench.records.outcome import Failed, Measured, Skipped, Void
from bench.serving import cases, session, verdict
from bench.serving.export import Manifest
from bench.serving.session import Ask, Came
from bench.serving.wire import Endpoint
from bench.tests.serving.mock import VOCABULARY, Manners, Mock, reference

MANIFEST = Manifest(
    model="tiny",
    precision="bf16",
    seed=0,
    vocabulary=VOCABULARY,
    positions=2048,
    layers=3,
    parameters=1000,
    files={"model.safetensors": "00"},
)


def ask(url: str, asks: cases.Asks, **more: object) -> Ask:
    return Ask(
        endpoint=Endpoint.of(url),
        folder=Path("nowhere"),
        manifest=MANIFEST,
        cases=cases.cases(asks, MANIFEST),
        seed=7,
        **{"fresh_seed": True, **more},  # type: ignore[arg-type]
    )


def asks(**more: object) -> cases.Asks:
    given = {
        "lengths": Lengths(input_tokens=8, output_tokens=6),
        "concurrencies": (4,),
        "requests": 20,
        "ttft_limit_ms": 2000,
        "tpot_limit_ms": 100,
    }
    return cases.Asks(**{**given, **more})  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Client and server share one interpreter here, and the machine with other tests."""
    monkeypatch.setattr(verdict, "LATE_SECONDS", 60.0)


def launched(manners: Manners, wanted: cases.Asks | None = None, **more: object) -> list[Came]:
    mock = Mock(manners)
    with mock.running() as url:
        return session.launch(ask(url, wanted or asks(), **more), 0, reference, None, lambda _: None)


def test_a_right_server_is_measured() -> None:
    (came,) = launched(Manners(per_chunk=2))
    assert isinstance(came.outcome, Measured), came.outcome
    print(came.outcome.throughput, came.seen)
