"""Telemetry of every backend: it has a source or says why; a tool that breaks is a reason."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from bench import catalogue
from bench.backend import Backend
from bench.records.observed import Reading, Telemetry
from bench.telemetry import source
from bench.telemetry.source import NotObservable, said
from bench.tests.backends.vendor_tool import tool


@pytest.mark.parametrize("name", sorted(catalogue.plug_ins("backends")))
def test_every_backend_has_a_source_or_a_reason(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No vendor's tool is here: the answer is a reason in words, and no other exception."""
    monkeypatch.setenv("PATH", "")
    backend: Backend = catalogue.backend(name)
    try:
        there = backend.telemetry(0)
    except NotObservable as why:
        assert len(str(why)) > 20
        return
    reading = there.read()
    quantities = ("power", "energy", "clock", "temperature", "utilisation", "memory", "reasons")
    for quantity in quantities:
        assert reading.has(quantity) != (quantity in there.absent), quantity


@pytest.mark.skipif(os.name != "posix", reason="a shell script")
@pytest.mark.parametrize(
    "script, why",
    [
        ("echo driver not loaded >&2; exit 3", "smi failed: driver not loaded"),
        ("exit 1", "smi failed: exit 1"),
        ("sleep 20", "smi did not answer within 0.3 s"),
        (None, "smi is not on PATH"),
    ],
)
def test_a_tool_that_breaks_or_hangs_is_a_reason(
    script: str | None, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if script is not None:
        tool(tmp_path, script)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin{os.pathsep}/usr/bin")
    before = time.monotonic()
    with pytest.raises(NotObservable, match=why):
        said("smi", seconds=0.3)
    assert time.monotonic() - before < 15


def test_what_was_just_printed_is_good_for_others_who_ask_at_once() -> None:
    """And so is why nothing was; later, or in other words, it is asked again."""
    times: list[str] = []

    def run() -> str:
        times.append("run")
        if len(times) > 2:
            raise NotObservable("gone")
        return f"printed {len(times)}"

    sayings = source.Sayings()
    sayings.kept_seconds = 60.0
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: sayings.of(("smi", "info"), run), range(8)))
    assert found == ["printed 1"] * 8
    assert sayings.of(("smi", "other"), run) == "printed 2"
    for _ in range(2):
        with pytest.raises(NotObservable, match="gone"):
            sayings.of(("smi", "third"), run)
    assert len(times) == 3
    sayings.kept_seconds = 0.0
    with pytest.raises(NotObservable):
        sayings.of(("smi", "info"), run)
    assert len(times) == 4


def test_nonsense_readings_cannot_be_made() -> None:
    wrongs: list[dict[str, Any]] = [{"power_watts": -1.0}, {"clock_mhz": float("nan")}]
    for wrong in wrongs:
        with pytest.raises(ValueError, match="must be finite and 0 or more"):
            Reading(**wrong)
    with pytest.raises(ValueError, match="idle_watts"):
        Telemetry(source="x", scope="board", interval_seconds=1, idle_watts=-3.0)
