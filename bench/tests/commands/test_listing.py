"""`accelmark list`, `devices` and `schema`."""

from __future__ import annotations

import ast
import json
from types import SimpleNamespace

import pytest

from bench import catalogue
from bench.backend import DeviceInfo
from bench.commands.listing import LISTS
from bench.records.schema import json_schema
from bench.running import probe, reached
from bench.tests.conftest import Accelmark


def test_listings_as_json(accelmark: Accelmark) -> None:
    code, out, err = accelmark("list", "--json")
    listed = json.loads(out)
    assert (code, err) == (0, "")
    assert set(listed) == set(LISTS) > {"frameworks"}
    assert {"gemm", "memory", "resnet50", "bert", "llama"} <= set(listed["workloads"])
    assert {"smoke@1", "quick@1", "quick@2"} <= set(listed["suites"])
    code, out, _ = accelmark("list", "backends", "--json")
    assert set(json.loads(out)) == {"backends"}


def test_only_a_listing_reads_what_the_files_say_of_themselves(
    accelmark: Accelmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every process of a run asks for plug-ins by name."""
    parsed: list[str] = []

    def parse(text: str) -> ast.Module:
        parsed.append(text)
        return ast.parse(text)

    reading = SimpleNamespace(parse=parse, get_docstring=ast.get_docstring)
    monkeypatch.setattr(catalogue, "ast", reading)
    catalogue._ours.cache_clear()
    assert catalogue.workload("gemm").name == "gemm" and catalogue.backend("cpu").name == "cpu"
    assert parsed == []
    assert accelmark("list", "workloads")[0] == 0
    assert len(parsed) == len(catalogue.plug_ins("workloads"))


def test_the_schema_is_printed(accelmark: Accelmark) -> None:
    code, out, _ = accelmark("schema")
    assert code == 0
    assert json.loads(out) == json.loads(json.dumps(json_schema()))


def test_devices_are_shown_and_the_missing_ones_explained(
    accelmark: Accelmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [
        probe.Found(
            backend="cpu",
            devices=(
                DeviceInfo(
                    backend="cpu", index=0, name="X", memory_bytes=2**34, facts={"cores": "2"}
                ),
            ),
        ),
        probe.Found(
            backend="some",
            devices=(
                DeviceInfo(
                    backend="some",
                    index=1,
                    name="Y",
                    memory_bytes=None,
                    vendor="Z",
                    precisions=("bf16", "fp32"),
                    facts={"driver": "3"},
                    simulated=True,
                ),
            ),
        ),
        probe.Found(backend="cuda", reason="cuda: no driver. Install one."),
    ]
    elsewhere = [
        probe.Found(backend="cpu", devices=found[0].devices, framework="other"),
        probe.Found(backend="cpu", reason="third: it does not load.", framework="third"),
    ]
    monkeypatch.setattr(probe, "probe", lambda names, *_: found)
    monkeypatch.setattr(reached, "by_frameworks", lambda: elsewhere)
    code, out, _ = accelmark("devices")
    assert code == 0
    assert out == (
        "cpu: X, 16.0 GiB (cores 2)\n"
        "some:1: Y, Z, memory unknown, bf16 fp32, simulated: no measurement (driver 3)\n"
        "no cuda: no driver. Install one.\n"
        "cpu by other: X, 16.0 GiB (cores 2)\n"
        "no third: it does not load.\n"
    )
    code, out, _ = accelmark("devices", "--json")
    assert [one["backend"] for one in json.loads(out)] == ["cpu", "some", "cuda", "cpu", "cpu"]
