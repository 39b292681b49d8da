"""xpu-smi: what it prints, and whether a device is a card or a tile."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.backends import _xpu_smi
from bench.records.observed import Reading
from bench.telemetry.source import NotObservable, Process
from bench.tests.backends.vendor_tool import tool

XPU_STATS = """{"device_id": 0, "device_level": [
 {"metrics_type": "XPUM_STATS_POWER", "value": 44.69},
 {"metrics_type": "XPUM_STATS_GPU_FREQUENCY", "value": 1550},
 {"metrics_type": "XPUM_STATS_GPU_CORE_TEMPERATURE", "value": 53.0},
 {"metrics_type": "XPUM_STATS_MEMORY_USED", "value": 229.1875},
 {"metrics_type": "XPUM_STATS_GPU_UTILIZATION", "value": "N/A"}]}"""
NEWER = """{"device_index": 0, "pci_bdf": "0000:03:00.0", "device_type": "discrete",
 "compute_engines": [{"engine_index": 0, "avg": 97.0}],
 "power": {"gpu_power_w": {"tile_0": {"avg": 150.0, "min": 140.0, "max": 160.0, "current": 160.0}},
  "energy_consumed_j": 30.1},
 "frequency": {"gpu_frequency_mhz": {"tile_0": {"avg": 2400.0, "current": 2450.0}},
  "media_frequency_mhz": {"tile_0": {"avg": 1200.0, "current": 1200.0}}},
 "temperature": {"gpu_core_celsius": {"tile_0": {"avg": 60.5, "current": 61.0}}},
 "memory": {"used_mib": {"tile_0": {"avg": 229.0, "current": 229.0}}},
 "utilization": {"gpu_percent": {"tile_0": 96.5}, "compute_percent": {"tile_0": 90.0}}}"""
"""Of xpu-smi 2."""
XPU_PS = """{"device_util_by_proc_list": [
 {"device_id": 0, "mem_size": 5726404, "process_id": 768707, "process_name": "python"},
 {"device_id": 0, "mem_size": 1507, "process_id": 99, "process_name": "xpu-smi"},
 {"device_id": 0, "mem_size": 1507, "process_id": 98, "process_name": "/usr/bin/xpu-smi"},
 {"device_id": 1, "mem_size": 1507, "process_id": 5225, "process_name": "slurmd"}]}"""


@pytest.mark.parametrize(
    "parse",
    [
        lambda: _xpu_smi.parse_stats("{}"),
        lambda: _xpu_smi.parse_stats("Error"),
        lambda: _xpu_smi.parse_ps('{"error": "Device not found"}', 0),
    ],
)
def test_an_answer_without_the_device_is_a_reason(parse: Callable[[], object]) -> None:
    with pytest.raises(NotObservable):
        parse()


def test_xpu_smi_json() -> None:
    assert _xpu_smi.parse_stats(XPU_STATS).reading() == Reading(
        power_watts=44.69, clock_mhz=1550, temperature_celsius=53
    )
    assert _xpu_smi.parse_stats(NEWER).reading() == Reading(
        power_watts=160, clock_mhz=2450, temperature_celsius=61, utilisation_percent=96.5
    )
    assert _xpu_smi.parse_ps(XPU_PS, 0) == (Process(768707, 5726404 * 2**10),)


def test_figures_of_several_tiles_are_none_of_the_card() -> None:
    text = NEWER.replace('"tile_0": {"avg": 60.5', '"tile_1": {"avg": 1}, "tile_0": {"avg": 60.5')
    sheet = _xpu_smi.parse_stats(text)
    assert sheet.reading() == Reading()
    assert "several tiles" in sheet.absent["power"]


@pytest.mark.skipif(os.name != "posix", reason="a shell script")
@pytest.mark.parametrize(
    "tiles",
    [
        '"device_level": [], "tile_level": [{}, {}]',
        '"power": {"gpu_power_w": {"tile_0": {"current": 9}, "tile_1": {"current": 8}}}',
    ],
)
def test_tiles_are_not_taken_for_cards(
    tiles: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool(tmp_path, f'echo \'{{"device_list": [{{"device_id": 3}}], {tiles}}}\'', "xpu-smi")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin{os.pathsep}/usr/bin")
    monkeypatch.delenv("ZE_AFFINITY_MASK", raising=False)
    monkeypatch.delenv("ZE_FLAT_DEVICE_HIERARCHY", raising=False)
    with pytest.raises(NotObservable, match="tiles are devices of their own"):
        _xpu_smi.XpuSmiSource(0)
    monkeypatch.setenv("ZE_FLAT_DEVICE_HIERARCHY", "COMPOSITE")
    source = _xpu_smi.XpuSmiSource(0)
    assert (source.scope, source.card, source.card_devices) == ("board", "3", 1)


@pytest.mark.skipif(os.name != "posix", reason="a shell script")
@pytest.mark.parametrize("kind, scope", [("physical", "board"), ("virtual", "shared")])
def test_a_virtual_function_is_a_part(
    kind: str, scope: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = f'"device_function_type": "{kind}", "device_level": []'
    answer = f'{{"device_list": [{{"device_id": 0}}], {said}}}'
    tool(tmp_path, f"echo '{answer}'", "xpu-smi")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin{os.pathsep}/usr/bin")
    monkeypatch.delenv("ZE_AFFINITY_MASK", raising=False)
    source = _xpu_smi.XpuSmiSource(0)
    assert (source.scope, bool(source.part)) == (scope, kind == "virtual")


@pytest.mark.skipif(os.name != "posix", reason="a shell script")
@pytest.mark.parametrize("mask", ["", "3,1", "1"])
def test_of_several_cards_none_is_taken_for_torchs(
    mask: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mask does not reorder them, and xpu-smi counts otherwise than torch without one."""
    cards = ", ".join(f'{{"device_id": {number}}}' for number in range(4))
    tool(tmp_path, f'echo \'{{"device_list": [{cards}], "device_level": []}}\'', "xpu-smi")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin{os.pathsep}/usr/bin")
    monkeypatch.setenv("ZE_AFFINITY_MASK", mask)
    for index in (0, 1):
        with pytest.raises(NotObservable, match=f"4 cards, and not which of them .* as {index}"):
            _xpu_smi.XpuSmiSource(index)


def test_a_tile_is_no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZE_AFFINITY_MASK", "0.1")
    with pytest.raises(NotObservable, match="names tiles"):
        _xpu_smi.XpuSmiSource(0)
