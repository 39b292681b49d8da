"""Sources of telemetry: parsers on what the vendors' tools print; NVML and amdsmi by fakes."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench import catalogue
from bench.backend import Backend
from bench.backends import _amd_smi, _host, _npu_smi, _nvml, _xpu_smi
from bench.records.observed import Reading, Telemetry
from bench.telemetry.source import NotObservable, Process, Source, said
from bench.tests import simulated

# --- the protocol


@pytest.mark.parametrize("name", sorted(catalogue.plug_ins("backends")))
def test_every_backend_has_a_source_or_a_reason(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No vendor's tool is here: the answer is a reason in words, and no other exception."""
    monkeypatch.setenv("PATH", "")
    backend: Backend = catalogue.backend(name)
    try:
        source = backend.telemetry(0)
    except NotObservable as why:
        assert len(str(why)) > 20
        return
    reading = source.read()
    quantities = ("power", "energy", "clock", "temperature", "utilisation", "memory", "reasons")
    for quantity in quantities:
        assert reading.has(quantity) != (quantity in source.absent), quantity


def tool(folder: Path, script: str, name: str = "smi") -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


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


def test_nonsense_readings_cannot_be_made() -> None:
    wrongs: list[dict[str, Any]] = [{"power_watts": -1.0}, {"clock_mhz": float("nan")}]
    for wrong in wrongs:
        with pytest.raises(ValueError, match="must be finite and 0 or more"):
            Reading(**wrong)
    with pytest.raises(ValueError, match="idle_watts"):
        Telemetry(source="x", scope="board", interval_seconds=1, idle_watts=-3.0)


# --- NVML


class NvmlError(Exception):
    pass


class FakeNvml(SimpleNamespace):
    """As much of pynvml as is used; figures of an H100 as its documentation gives them."""

    NVMLError = NvmlError
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    def __init__(self, count: int = 1, broken: dict[str, str] | None = None) -> None:
        super().__init__()
        self.count = count
        self.broken = broken or {}
        self.bits = 0x4

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("nvml") and name in object.__getattribute__(self, "broken"):
            message = object.__getattribute__(self, "broken")[name]

            def fail(*_: Any) -> Any:
                raise NvmlError(message)

            return fail
        return super().__getattribute__(name)

    def nvmlInit(self) -> None:  # noqa: N802
        pass

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return self.count

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        return f"GPU-{index}abc"

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        return f"part {uuid}"

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, part: str) -> str:  # noqa: N802
        return f"whole of {part}"

    def nvmlDeviceGetUUID(self, handle: str) -> bytes:  # noqa: N802
        return handle.encode()

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:  # noqa: N802
        return 698_123

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:  # noqa: N802
        return 123_456_789

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> Any:  # noqa: N802
        return SimpleNamespace(gpu=99, memory=40)

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:  # noqa: N802
        return SimpleNamespace(used=2**34, total=85_520_809_984)

    def nvmlDeviceGetClockInfo(self, handle: str, kind: int) -> int:  # noqa: N802
        return {1: 1410, 2: 2619}[kind]

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:  # noqa: N802
        return 61

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: str) -> int:  # noqa: N802
        return self.bits

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: str) -> int:  # noqa: N802
        return 0x40

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[Any]:  # noqa: N802
        return [SimpleNamespace(pid=4242, usedGpuMemory=2**30)]


NVML_WORDS = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")


def nvml_source(
    monkeypatch: pytest.MonkeyPatch, fake: FakeNvml, index: int = 0, **variables: str
) -> _nvml.NvmlSource:
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    for name in NVML_WORDS:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return _nvml.NvmlSource(index)


def test_nvml_figures_are_in_their_units(monkeypatch: pytest.MonkeyPatch) -> None:
    source = nvml_source(monkeypatch, FakeNvml())
    assert source.read() == Reading(
        power_watts=698.123,
        energy_joules=123_456.789,
        clock_mhz=1410,
        memory_clock_mhz=2619,
        temperature_celsius=61,
        utilisation_percent=99,
        memory_used_bytes=2**34,
        reasons=("power cap",),
    )
    assert source.absent == {}
    assert source.processes() == (Process(4242, 2**30),)


def test_what_nvml_does_not_say_is_absent_with_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = {
        "nvmlDeviceGetTotalEnergyConsumption": "Not Supported",
        "nvmlDeviceGetCurrentClocksEventReasons": "Function Not Found",
        "nvmlDeviceGetComputeRunningProcesses": "Insufficient Permissions",
    }
    source = nvml_source(monkeypatch, FakeNvml(broken=silent))
    reading = source.read()
    assert reading.energy_joules is None
    assert source.absent == {"energy": "NVML: Not Supported"}
    assert reading.reasons == ("thermal",), "the older call, by its older name"
    assert source.processes() is None
    assert source.absent["processes"] == "NVML: Insufficient Permissions"


def test_a_device_that_nvml_has_lost_is_not_observable(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = [n for n in dir(FakeNvml) if n.startswith("nvmlDeviceGet")]
    lost = FakeNvml()
    source = nvml_source(monkeypatch, lost)
    lost.broken = dict.fromkeys(calls, "GPU is lost")
    with pytest.raises(NotObservable, match="GPU is lost"):
        source.read()


def test_without_nvml_there_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotObservable, match=r"does not load \(Shared Library Not Found\)"):
        nvml_source(monkeypatch, FakeNvml(broken={"nvmlInit": "Shared Library Not Found"}))


@pytest.mark.parametrize(
    "bits, words",
    [
        (0, ()),
        (0x1, ("idle",)),
        (0x4, ("power cap",)),
        (0x20 | 0x40 | 0x80, ("thermal", "power brake")),
        (0x8, ("hardware slowdown",)),
        (0x2 | 0x400, ("user clocks", "other")),
    ],
)
def test_reasons_by_bit(bits: int, words: tuple[str, ...]) -> None:
    assert _nvml.reasons_of(bits) == words


@pytest.mark.parametrize(
    "count, index, variables, handle",
    [
        (1, 0, {}, "GPU-0abc"),
        (8, 3, {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, "GPU-3abc"),
        (8, 1, {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "6, 2"}, "GPU-2abc"),
        (8, 0, {"CUDA_VISIBLE_DEVICES": "GPU-5"}, "GPU-5abc"),
        (8, 0, {"CUDA_VISIBLE_DEVICES": "MIG-7f"}, "whole of part MIG-7f"),
    ],
)
def test_torchs_index_is_nvmls_device(
    count: int,
    index: int,
    variables: dict[str, str],
    handle: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = nvml_source(monkeypatch, FakeNvml(count), index, **variables)
    assert source._handle == handle
    assert source.scope == ("shared" if "MIG" in handle else "board")


@pytest.mark.parametrize(
    "index, variables, why",
    [
        (1, {}, "CUDA_DEVICE_ORDER is FASTEST_FIRST"),
        (2, {"CUDA_VISIBLE_DEVICES": "0,1"}, "has no device 2"),
        (0, {"CUDA_VISIBLE_DEVICES": "GPU-"}, "names 8 devices"),
    ],
)
def test_an_unclear_device_is_not_guessed(
    index: int, variables: dict[str, str], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotObservable, match=why):
        nvml_source(monkeypatch, FakeNvml(8), index, **variables)


# --- AMD

AMD_SMI = """WARNING: User is missing the following required groups: render
{"gpu_data": [
 {"gpu": 0, "usage": {"gfx_activity": {"value": 87, "unit": "%"}},
  "power": {"socket_power": {"value": 542, "unit": "W"}, "gfx_voltage": "N/A"},
  "clock": {"gfx_0": {"clk": {"value": 1930, "unit": "MHz"}},
            "mem_0": {"clk": {"value": 1300, "unit": "MHz"}}},
  "temperature": {"edge": "N/A", "hotspot": {"value": 71, "unit": "C"}},
  "energy": {"total_energy_consumption": {"value": 98765.43, "unit": "J"}},
  "mem_usage": {"used_vram": {"value": 121344, "unit": "MB"}}},
 {"gpu": 1, "power": {"socket_power": "N/A", "average_socket_power": {"value": 141, "unit": "W"}},
  "temperature": {"edge": {"value": 38, "unit": "C"}, "hotspot": "N/A"}}]}
"""
ROCM_SMI = """{"card0": {"GPU use (%)": "61", "Energy counter": "6122129286992",
 "Accumulated Energy (uJ)": "93668579250000.0", "Average Graphics Package Power (W)": "89.0",
 "Temperature (Sensor edge) (C)": "33.0", "Temperature (Sensor junction) (C)": "35.0",
 "sclk clock speed:": "(1700Mhz)", "mclk clock speed:": "(1600Mhz)",
 "VRAM Total Used Memory (B)": "11579392"}, "system": {"Driver version": "5.18.13"}}"""


def test_amd_smi_json() -> None:
    assert _amd_smi.parse_amd_smi(AMD_SMI, 0) == Reading(
        power_watts=542,
        energy_joules=98765.43,
        clock_mhz=1930,
        memory_clock_mhz=1300,
        temperature_celsius=71,
        utilisation_percent=87,
        memory_used_bytes=121344 * 2**20,
    )
    other = _amd_smi.parse_amd_smi(AMD_SMI, 1)
    assert (other.power_watts, other.temperature_celsius, other.clock_mhz) == (141, 38, None)
    bare = _amd_smi.parse_amd_smi('[{"gpu": 0, "power": {"socket_power": 90}}]', 0)
    assert bare == Reading(power_watts=90)


def test_rocm_smi_json() -> None:
    assert _amd_smi.parse_rocm_smi(ROCM_SMI, 0) == Reading(
        power_watts=89,
        energy_joules=93668579.25,
        clock_mhz=1700,
        memory_clock_mhz=1600,
        temperature_celsius=35,
        utilisation_percent=61,
        memory_used_bytes=11579392,
    )


@pytest.mark.parametrize(
    "parse",
    [
        lambda: _amd_smi.parse_amd_smi(AMD_SMI, 7),
        lambda: _amd_smi.parse_amd_smi("no devices", 0),
        lambda: _amd_smi.parse_amd_smi('{"gpu_data": [', 0),
        lambda: _amd_smi.parse_rocm_smi(ROCM_SMI, 1),
        lambda: _amd_smi.parse_rocm_smi("[]", 0),
        lambda: _xpu_smi.parse_stats("{}"),
        lambda: _xpu_smi.parse_stats("Error"),
        lambda: _xpu_smi.parse_ps('{"error": "Device not found"}', 0),
    ],
)
def test_an_answer_without_the_device_is_a_reason(parse: Callable[[], object]) -> None:
    with pytest.raises(NotObservable):
        parse()


class FakeAmdSmi(SimpleNamespace):
    """As much of amdsmi 7.0 as is used: an MI300X, with HIP counting backwards."""

    AmdSmiTemperatureType = SimpleNamespace(HOTSPOT=1)
    AmdSmiTemperatureMetric = SimpleNamespace(CURRENT=0)
    AmdSmiClkType = SimpleNamespace(GFX=1, MEM=5)

    def amdsmi_init(self) -> None:
        pass

    def amdsmi_get_processor_handles(self) -> list[str]:
        return ["bus 0", "bus 1"]

    def amdsmi_get_gpu_enumeration_info(self, handle: str) -> dict[str, int]:
        return {"hip_id": {"bus 0": 1, "bus 1": 0}[handle]}

    def amdsmi_get_power_info(self, handle: str) -> dict[str, Any]:
        return {"socket_power": 0, "current_socket_power": 750, "average_socket_power": "N/A"}

    def amdsmi_get_energy_count(self, handle: str) -> dict[str, Any]:
        return {"energy_accumulator": 10**9, "counter_resolution": 15.259, "timestamp": 1}

    def amdsmi_get_clock_info(self, handle: str, kind: int) -> dict[str, Any]:
        return {"clk": {1: 2100, 5: 1300}[kind], "max_clk": "N/A"}

    def amdsmi_get_temp_metric(self, handle: str, sensor: int, metric: int) -> int:
        return 77

    def amdsmi_get_gpu_activity(self, handle: str) -> dict[str, Any]:
        return {"gfx_activity": 100, "umc_activity": "N/A"}

    def amdsmi_get_gpu_vram_usage(self, handle: str) -> dict[str, int]:
        return {"vram_total": 196592, "vram_used": 1024}

    def amdsmi_get_violation_status(self, handle: str) -> dict[str, Any]:
        return {"active_ppt_pwr": True, "active_socket_thrm": False, "active_hbm_thrm": "N/A"}

    def amdsmi_get_gpu_process_list(self, handle: str) -> list[dict[str, Any]]:
        return [{"pid": 7, "name": "N/A", "memory_usage": {"vram_mem": 2**20}}]


def amd(monkeypatch: pytest.MonkeyPatch, smi: Any, index: int = 0, **variables: str) -> Source:
    for name in ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(sys.modules, "amdsmi", smi)
    return _amd_smi.amd_source(index)


def test_amdsmi_figures_are_in_their_units(monkeypatch: pytest.MonkeyPatch) -> None:
    source = amd(monkeypatch, FakeAmdSmi())
    assert isinstance(source, _amd_smi.AmdSmiSource)
    assert source._handle == "bus 1", "HIP's count, not the bus's"
    assert source.read() == Reading(
        power_watts=750,
        energy_joules=15259.0,
        clock_mhz=2100,
        memory_clock_mhz=1300,
        temperature_celsius=77,
        utilisation_percent=100,
        memory_used_bytes=2**30,
        reasons=("power cap",),
    )
    assert source.absent == {}
    assert source.processes() == (Process(7, 2**20),)


def test_an_older_amdsmi_says_less_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """No enumeration, no violations, and the die of a pair that has no power of its own."""

    class Older(FakeAmdSmi):
        def amdsmi_get_gpu_enumeration_info(self, handle: str) -> Any:
            raise AttributeError("no such call")

        def amdsmi_get_violation_status(self, handle: str) -> Any:
            raise RuntimeError("not supported")

        def amdsmi_get_power_info(self, handle: str) -> dict[str, Any]:
            return {"average_socket_power": 0, "current_socket_power": "N/A"}

    source = amd(monkeypatch, Older(), 1)
    reading = source.read()
    assert (reading.power_watts, reading.reasons) == (None, None)
    assert source.absent["power"] == "this die has no power of its own"
    assert "amdsmi" in source.absent["reasons"]


def test_without_any_of_amds_tools_each_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NotObservable, match=r"amdsmi does not load.*amd-smi is not.*rocm-smi is"):
        amd(monkeypatch, None)


def test_devices_hidden_from_rocm(monkeypatch: pytest.MonkeyPatch) -> None:
    amd(monkeypatch, FakeAmdSmi(), ROCR_VISIBLE_DEVICES="1,0")
    assert _amd_smi.physical(0) == 1
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "1")
    assert _amd_smi.physical(0) == 0
    monkeypatch.setenv("ROCR_VISIBLE_DEVICES", "GPU-deadbeef,GPU-1")
    with pytest.raises(NotObservable, match="does not number device 1"):
        _amd_smi.physical(0)


# --- npu-smi

PROCESSES = """\
| NPU     Chip              | Process id    | Process name             | Process memory(MB)      |
+===========================+===============+====================================================+
| 0       0                 | 48988         | python                   | 13330                   |
| 0       1                 | 907864        |                          | 134                     |
+===========================+===============+====================================================+
| No running processes found in NPU 1                                                            |
"""
WITH_CONTAINER = """\
| NPU     Chip       | Process id    | Process name| Process memory(MB) |Process id in container|
| 2       0          | 77            | python      | 100                | 9                     |
"""


def test_npu_smi_processes() -> None:
    assert _npu_smi.parse_processes(PROCESSES) == (
        (0, 0, Process(48988, 13330 * 2**20)),
        (0, 1, Process(907864, 134 * 2**20)),
    )
    assert _npu_smi.parse_processes(WITH_CONTAINER) == ((2, 0, Process(77, 100 * 2**20)),)


def npu(monkeypatch: pytest.MonkeyPatch, index: int, model: str) -> Source:
    for name, value in simulated.environment(smi=model).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("ASCEND_RT_VISIBLE_DEVICES", raising=False)
    return _npu_smi.NpuSmiSource(index)


@pytest.mark.skipif(os.name != "posix", reason="the simulated npu-smi is a shell script")
@pytest.mark.parametrize(
    "index, model, scope, watts",
    [
        (0, "A2", "board", 71.7),
        (0, "A3", "package", 71.7),
        (1, "A3", "package", 71.7),
        (0, "310P", "board", None),
    ],
)
def test_npu_smi_power_is_the_cards_and_never_halved(
    index: int, model: str, scope: str, watts: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = npu(monkeypatch, index, model)
    reading = source.read()
    assert source.scope == scope
    assert (reading.power_watts, reading.clock_mhz, reading.temperature_celsius) == (watts, 900, 41)
    assert ("power" in source.absent) == (watts is None)
    assert reading.reasons is None and "reasons" in source.absent


@pytest.mark.skipif(os.name != "posix", reason="the simulated npu-smi is a shell script")
def test_two_figures_for_a_card_are_neither_added_nor_chosen_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = npu(monkeypatch, 0, "A3")
    page = "Chip ID : 0\nNPU Real-time Power(W) : 90\nChip ID : 1\nNPU Real-time Power(W) : 91\n"
    monkeypatch.setattr(_npu_smi, "said", lambda *_, **__: page)
    assert source.read().power_watts is None
    assert source.absent["power"] == "npu-smi has 2 figures for this card"


@pytest.mark.skipif(os.name != "posix", reason="the simulated npu-smi is a shell script")
def test_a_die_that_npu_smi_does_not_show_is_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotObservable, match="which of its dies"):
        npu(monkeypatch, 5, "A2")


# --- xpu-smi

XPU_STATS = """{"device_id": 0, "device_level": [
 {"metrics_type": "XPUM_STATS_POWER", "value": 44.69},
 {"metrics_type": "XPUM_STATS_GPU_FREQUENCY", "value": 1550},
 {"metrics_type": "XPUM_STATS_GPU_CORE_TEMPERATURE", "value": 53.0},
 {"metrics_type": "XPUM_STATS_MEMORY_USED", "value": 229.1875},
 {"metrics_type": "XPUM_STATS_GPU_UTILIZATION", "value": "N/A"}]}"""
XPU_PS = """{"device_util_by_proc_list": [
 {"device_id": 0, "mem_size": 5726404, "process_id": 768707, "process_name": "python"},
 {"device_id": 0, "mem_size": 1507, "process_id": 99, "process_name": "xpu-smi"},
 {"device_id": 1, "mem_size": 1507, "process_id": 5225, "process_name": "slurmd"}]}"""


def test_xpu_smi_json() -> None:
    assert _xpu_smi.parse_stats(XPU_STATS) == Reading(
        power_watts=44.69, clock_mhz=1550, temperature_celsius=53
    )
    assert _xpu_smi.parse_ps(XPU_PS, 0) == (Process(768707, 5726404 * 1000),)


@pytest.mark.skipif(os.name != "posix", reason="a shell script")
def test_tiles_are_not_taken_for_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool(tmp_path, """echo '{"device_level": [], "tile_level": [{}, {}]}'""", "xpu-smi")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin{os.pathsep}/usr/bin")
    monkeypatch.delenv("ZE_AFFINITY_MASK", raising=False)
    monkeypatch.delenv("ZE_FLAT_DEVICE_HIERARCHY", raising=False)
    with pytest.raises(NotObservable, match="tiles are devices of their own"):
        _xpu_smi.XpuSmiSource(0)
    monkeypatch.setenv("ZE_FLAT_DEVICE_HIERARCHY", "COMPOSITE")
    assert _xpu_smi.XpuSmiSource(0).scope == "board"


# --- the host


def sysfs(folder: Path, files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> _host.CpuSource:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    monkeypatch.setattr(_host, "POWERCAP", folder / "powercap")
    monkeypatch.setattr(_host, "CPUS", folder / "cpu")
    monkeypatch.setattr(_host, "HWMON", folder / "hwmon")
    return _host.CpuSource()


BARE_METAL = {
    "powercap/intel-rapl:0/name": "package-0",
    "powercap/intel-rapl:0/energy_uj": "262143000000",
    "powercap/intel-rapl:0/max_energy_range_uj": "262143328850",
    "powercap/intel-rapl:0:0/name": "core",
    "powercap/intel-rapl:0:0/energy_uj": "1",
    "powercap/intel-rapl:1/name": "psys",
    "powercap/intel-rapl:1/energy_uj": "1",
    "cpu/cpu0/cpufreq/scaling_cur_freq": "3400000",
    "cpu/cpu1/cpufreq/scaling_cur_freq": "3000000",
    "cpu/cpu0/thermal_throttle/package_throttle_count": "7",
    "hwmon/hwmon0/name": "nvme",
    "hwmon/hwmon0/temp1_input": "99000",
    "hwmon/hwmon1/name": "k10temp",
    "hwmon/hwmon1/temp1_input": "61500",
}


def test_rapl_wraps_and_is_of_whole_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = sysfs(tmp_path, BARE_METAL, monkeypatch)
    first = source.read()
    assert (source.name, source.scope, first.energy_joules) == ("RAPL", "shared", 0)
    assert (first.clock_mhz, first.temperature_celsius, first.reasons) == (3200, 61.5, ())
    (tmp_path / "powercap/intel-rapl:0/energy_uj").write_text("1000000\n")
    (tmp_path / "cpu/cpu0/thermal_throttle/package_throttle_count").write_text("8\n")
    second = source.read()
    assert second.energy_joules == pytest.approx(1.32885)
    assert second.reasons == ("thermal",)
    assert source.read().reasons == (), "throttled since the last look, not ever"


def test_rapl_for_root_alone_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = sysfs(tmp_path, BARE_METAL, monkeypatch)
    (tmp_path / "powercap/intel-rapl:0/energy_uj").unlink()  # root, who tests too, may read all
    assert source.read().energy_joules is None
    assert "RAPL is for root here" in source.absent["energy"]


def test_a_virtual_machine_has_no_rapl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = sysfs(tmp_path, {}, monkeypatch)
    reading = source.read()
    assert (reading.energy_joules, reading.clock_mhz, reading.reasons) == (None, None, None)
    assert source.absent["energy"] == source.absent["power"] == "no RAPL here"
    assert reading.utilisation_percent is not None and reading.memory_used_bytes
