"""What the kernel's drivers say of AMD's and Intel's GPUs: versions, limits, clocks and modes."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import psutil
import pytest

from bench.backend import DeviceInfo
from bench.backends import _sysfs, rocm, xpu
from bench.judging.comparing.compare import compare
from bench.tests.judging.comparing.test_configured import ran

AMD = {
    "hwmon/hwmon3/power1_cap": "750000000\n",
    "pp_dpm_sclk": "0: 132Mhz *\n1: 2100Mhz\n",
    "pp_dpm_mclk": "0: 900Mhz\n1: 1300Mhz *\n",
    "power_dpm_force_performance_level": "auto\n",
}
SAID = {
    "power_limit_watts": "750",
    "sclk_max_mhz": "2100",
    "mclk_max_mhz": "1300",
    "perf_level_mode": "auto",
}
Put = Any


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Put:
    monkeypatch.setattr(_sysfs, "SYS", tmp_path)

    def put(driver: str, card: str, files: Mapping[str, str]) -> None:
        for name, text in files.items():
            path = tmp_path / "bus/pci/drivers" / driver / card / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return put


def device(**properties: Any) -> Any:
    return SimpleNamespace(
        info=DeviceInfo(backend="some", index=0, name="Some", memory_bytes=1),
        ask=lambda name, index: SimpleNamespace(**properties),
    )


def at(bus: int) -> dict[str, int]:
    return {"pci_domain_id": 0, "pci_bus_id": bus, "pci_device_id": 0}


def test_a_cards_limits_are_those_of_its_pci_address(put: Put) -> None:
    put("amdgpu", "0000:c1:00.0", AMD)
    put("amdgpu", "0000:0c:00.0", {**AMD, "hwmon/hwmon3/power1_cap": "500000000"})
    assert _sysfs.settings(device(**at(0xC1)), "amdgpu") == SAID
    assert _sysfs.settings(device(**at(0x0C)), "amdgpu") == {**SAID, "power_limit_watts": "500"}
    assert _sysfs.settings(device(**at(0x0D)), "amdgpu") == {}
    assert _sysfs.settings(device(), "amdgpu") == {}, "which of two is not known"


def test_where_torch_says_no_address_it_is_the_only_card_with_a_limit(put: Put) -> None:
    put("i915", "0000:00:02.0", {"drm/card0/gt_max_freq_mhz": "1300"})
    put("xe", "0000:03:00.0", {"hwmon/hwmon5/power1_max": "190000000"})
    put("xe", "0000:03:00.0", {"tile0/gt0/freq0/max_freq": "2850"})
    said = _sysfs.settings(device(), "xe", "i915")
    assert said == {"power_limit_watts": "190", "sclk_max_mhz": "2850"}


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"power1_max": "120000000", "power1_cap": "380000000"}, "120"),
        ({"power2_max": "110000000", "power1_cap": "380000000"}, "110"),
        ({"power1_max": "0", "power1_cap": "380000000"}, "380"),
        ({"power1_max": "0", "power2_max": "110000000"}, "110"),
        ({"power1_max": "0"}, None),
    ],
)
def test_intels_limit_is_the_sustained_one_where_it_is_on(
    put: Put, files: dict[str, str], limit: str | None
) -> None:
    put("xe", "0000:03:00.0", {f"hwmon/hwmon5/{name}": text for name, text in files.items()})
    assert _sysfs.settings(device(**at(3)), "xe").get("power_limit_watts") == limit


def test_the_highest_clock_is_the_last_level_whatever_the_present_one(put: Put) -> None:
    put("amdgpu", "0000:c1:00.0", {**AMD, "pp_dpm_sclk": "0: 500Mhz\n1: 2589Mhz *\n2: 2575Mhz\n"})
    assert _sysfs.settings(device(**at(0xC1)), "amdgpu")["sclk_max_mhz"] == "2575"


@pytest.mark.parametrize("text", ["", "x", "-"])
def test_another_form_is_left_out(put: Put, text: str) -> None:
    put("amdgpu", "0000:c1:00.0", {**AMD, "pp_dpm_sclk": text})
    said = _sysfs.settings(device(**at(0xC1)), "amdgpu")
    assert said == {name: value for name, value in SAID.items() if name != "sclk_max_mhz"}


def test_a_device_that_says_nothing_loses_nothing(put: Put) -> None:
    def broken(name: str, index: int) -> Any:
        raise RuntimeError("no device")

    assert _sysfs.settings(SimpleNamespace(info=device().info, ask=broken), "amdgpu") == {}


def test_a_driver_has_a_version_of_its_own_or_the_kernels(put: Put, tmp_path: Path) -> None:
    assert _sysfs.version("amdgpu") == platform.release()
    (tmp_path / "module/amdgpu").mkdir(parents=True)
    (tmp_path / "module/amdgpu/version").write_text("6.12.12\n")
    assert _sysfs.version("amdgpu") == "6.12.12"


def test_both_backends_say_driver_and_limits(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    put("amdgpu", "0000:c1:00.0", AMD)
    put("xe", "0000:03:00.0", {"hwmon/hwmon5/power2_max": "120000000"})
    properties = SimpleNamespace(
        name="Chip", total_memory=1, multi_processor_count=1, driver_version="1.6.35096+9", **at(3)
    )
    module = ModuleType("torch.some")
    module.__dict__["get_device_properties"] = lambda index: properties
    assert xpu.XpuBackend().describe(module, 0).facts["driver"] == "1.6.35096+9"
    assert rocm.RocmBackend().describe(module, 0).facts["driver"] == platform.release()
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace())
    monkeypatch.setattr(torch.xpu, "get_device_properties", lambda index: properties)
    info = device().info
    assert SAID.items() <= rocm.RocmDevice(info, "cuda").facts().items()
    assert xpu.XpuDevice(info, "xpu").facts()["power_limit_watts"] == "120"


@pytest.mark.parametrize("name", ["AMD Radeon Graphics", "", "AMD Radeon(TM) Graphics", "gfx950"])
def test_a_chip_that_libdrm_does_not_know_is_named_by_its_pci_device(put: Put, name: str) -> None:
    """MI355X in sglang's image of ROCm 7.2.4 (its pull request 30984); else one is two chips."""
    put("amdgpu", "0000:c1:00.0", {"device": "0x75a3\n"})
    put("amdgpu", "0000:c2:00.0", {"device": "0x1586\n"})
    module = ModuleType("torch.some")

    def named(said: str, bus: int, architecture: str = "gfx950:sramecc+:xnack-") -> str:
        properties = SimpleNamespace(
            name=said, total_memory=1, multi_processor_count=256, gcnArchName=architecture
        )
        properties.__dict__.update(at(bus))
        module.__dict__["get_device_properties"] = lambda index: properties
        return rocm.RocmBackend().describe(module, 0).name

    assert named(name, 0xC1) == "AMD Instinct MI355X"
    assert named(name, 0xC2) == "AMD gfx950, 256 CUs", "no chip of the table"
    assert named(name, 0x03) == "AMD gfx950, 256 CUs", "no such address, as where /sys is hidden"
    assert named("", 0x03, "gfx92a") == "Hygon gfx92a, 256 CUs"
    for known in ("AMD Radeon 8060S Graphics", "AMD Custom GPU 0405", "Z100L"):
        assert named(known, 0xC1) == known


@pytest.mark.parametrize(
    ("integrated", "files", "gib"),
    [
        (1, {"mem_info_vram_total": 2**29, "mem_info_gtt_total": 120 * 2**30}, 120),
        (1, {"mem_info_vram_total": 96 * 2**30, "mem_info_gtt_total": 16 * 2**30}, 96),
        (1, {"mem_info_vram_total": 2**29, "mem_info_gtt_total": 16 * 2**30}, 62),
        (1, {"mem_info_vram_total": 62 * 2**30, "mem_info_gtt_total": 120 * 2**30}, 62),
        (1, {"mem_info_vram_total": 2**29, "mem_info_gtt_total": 128 * 2**30}, 125),
        (1, {"mem_info_vram_total": 0, "mem_info_gtt_total": 251 * 2**30}, 62),
        (1, {}, 62),
        (0, {"mem_info_vram_total": 2**29, "mem_info_gtt_total": 120 * 2**30}, 62),
    ],
)
def test_an_apu_has_the_memory_that_its_driver_gives_it(
    put: Put, monkeypatch: pytest.MonkeyPatch, integrated: int, files: dict[str, int], gib: int
) -> None:
    """Strix Halo: torch said 62 GiB, and gave 120; cases were skipped as too large. Its driver may
    be set to give more than the host has, as MI300A's does, which keeps none apart."""
    host = SimpleNamespace(total=125 * 2**30)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: host)
    put("amdgpu", "0000:c1:00.0", {name: f"{size}\n" for name, size in files.items()})
    properties = SimpleNamespace(
        name="AMD Radeon 8060S Graphics", total_memory=62 * 2**30, multi_processor_count=20
    )
    properties.__dict__.update(at(0xC1), is_integrated=integrated)
    module = ModuleType("torch.some")
    module.__dict__["get_device_properties"] = lambda index: properties
    assert rocm.RocmBackend().describe(module, 0).memory_bytes == gib * 2**30


@pytest.mark.parametrize(
    ("said", "gib", "shared"),
    [
        ({"device_id": 0x7D55}, 28, True),
        ({"device_id": 0x7D55}, 64, False),
        ({"device_id": 0xE20B}, 12, False),
        ({"device_id": 0x7D55, "is_integrated_gpu": False}, 28, False),
        ({"device_id": 0xE20B, "is_integrated_gpu": True}, 28, True),
        ({}, 28, False),
    ],
)
def test_intels_gpu_within_a_chip_is_known_before_torch_says_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: dict[str, int], gib: int, shared: bool
) -> None:
    """By torch 2.11 a laptop's was asked for four times the memory of its host."""
    import torch

    monkeypatch.setattr(_sysfs, "SYS", tmp_path)
    host = SimpleNamespace(total=31 * 2**30)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: host)
    monkeypatch.setattr(torch.xpu, "get_device_properties", lambda index: SimpleNamespace(**said))
    info = DeviceInfo(backend="xpu", index=0, name="Some", memory_bytes=gib * 2**30)
    unseen = xpu.XpuDevice(info, "xpu").shares_host_memory
    assert unseen is bool(said.get("is_integrated_gpu")), "no /sys, as on Windows"
    own = tmp_path / "bus/pci/devices/0000:00:02.0/device"
    own.parent.mkdir(parents=True)
    own.write_text("0x7d55\n")
    assert xpu.XpuDevice(info, "xpu").shares_host_memory is shared


def test_a_lower_power_limit_is_a_setting_and_another_driver_no_chip() -> None:
    """MI300X capped from 750 to 500 W (ROCm 5231)."""
    low = {**SAID, "power_limit_watts": "500"}
    found = compare(ran(device_state=SAID), ran(0.02, device_state=low))
    assert [one.name for one in found.configured.settings] == ["power_limit_watts"]
