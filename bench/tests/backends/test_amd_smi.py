"""AMD's tools: what amd-smi and rocm-smi print, and amdsmi by a fake."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from bench.backends import _amd_smi, _sysfs
from bench.records.observed import Reading
from bench.telemetry.source import NotObservable, Process, Source, of_this_device
from bench.tests.backends.vendor_tool import tool

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
    assert _amd_smi.parse_amd_smi(AMD_SMI, 0).reading() == Reading(
        power_watts=542,
        energy_joules=98765.43,
        clock_mhz=1930,
        memory_clock_mhz=1300,
        temperature_celsius=71,
        utilisation_percent=87,
        memory_used_bytes=121344 * 2**20,
    )
    other = _amd_smi.parse_amd_smi(AMD_SMI, 1).reading()
    assert (other.power_watts, other.temperature_celsius, other.clock_mhz) == (141, 38, None)
    bare = _amd_smi.parse_amd_smi('[{"gpu": 0, "power": {"socket_power": 90}}]', 0).reading()
    assert bare == Reading(power_watts=90)


def test_rocm_smi_json() -> None:
    assert _amd_smi.parse_rocm_smi(ROCM_SMI, 0).reading() == Reading(
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
    ],
)
def test_an_answer_without_the_device_is_a_reason(parse: Callable[[], object]) -> None:
    with pytest.raises(NotObservable):
        parse()


class FakeAmdSmi(SimpleNamespace):
    """As much of amdsmi 7.0 as is used: an MI300X, with HIP counting backwards."""

    AmdSmiTemperatureType = SimpleNamespace(EDGE=0, HOTSPOT=1)
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
        if sensor != 1:
            raise RuntimeError("not supported")
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
    assert source.card == "0"


def test_an_older_amdsmi_says_less_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """No enumeration, no violations, and the die of a pair that has no power of its own."""

    class Older(FakeAmdSmi):
        handles: ClassVar = ["bus 0"]

        def amdsmi_get_processor_handles(self) -> list[str]:
            return self.handles

        def amdsmi_get_gpu_enumeration_info(self, handle: str) -> Any:
            raise AttributeError("no such call")

        def amdsmi_get_violation_status(self, handle: str) -> Any:
            raise RuntimeError("not supported")

        def amdsmi_get_power_info(self, handle: str) -> dict[str, Any]:
            return {"average_socket_power": 0, "current_socket_power": "N/A"}

    source = amd(monkeypatch, Older())
    reading = source.read()
    assert (reading.power_watts, reading.reasons) == (None, None)
    assert source.absent["power"] == "this die has no power of its own"
    assert source.card == "", "nor is it said which die beside it has it"
    assert "amdsmi" in source.absent["reasons"]
    monkeypatch.setattr(Older, "handles", ["bus 0", "bus 1"])
    with pytest.raises(NotObservable, match="amdsmi lists 2 devices, and not which of them HIP"):
        _amd_smi.AmdSmiSource(0)


@pytest.mark.parametrize("hottest", ["N/A", None])
@pytest.mark.parametrize(("edge", "celsius"), [(61, 61), (None, None)])
def test_an_apu_has_one_temperature(
    hottest: str | None, edge: int | None, celsius: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(handle: str, sensor: int, metric: int) -> Any:
        if (found := {0: edge, 1: hottest}[sensor]) is None:
            raise RuntimeError("not supported")
        return found

    fake: Any = FakeAmdSmi()
    fake.amdsmi_get_temp_metric = said
    source = amd(monkeypatch, fake)
    assert source.read().temperature_celsius == celsius
    assert source.absent == ({} if edge else {"temperature": "amdsmi: not supported"})


@pytest.mark.parametrize("numbers", [{"node2": 0, "node4": 2, "node5": 3}, {"a": 0, "b": None}])
def test_numbers_of_the_kernels_nodes_with_gaps_are_not_hips(
    numbers: dict[str, int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """HIP counts 0, 1, 2 what a container sees of nodes 2, 4 and 5: its 2 is not node 4."""
    fake: Any = FakeAmdSmi()
    fake.amdsmi_get_processor_handles = lambda: list(numbers)
    fake.amdsmi_get_gpu_enumeration_info = lambda handle: {"hip_id": numbers[handle]}
    monkeypatch.setenv("PATH", "")
    for index in (1, 2):
        with pytest.raises(NotObservable, match=f"HIP counts as {index}: give the container"):
            amd(monkeypatch, fake, index)
    fake.amdsmi_get_processor_handles = lambda: list(numbers)[-1:]
    source = amd(monkeypatch, fake)
    assert isinstance(source, _amd_smi.AmdSmiSource)
    assert source._handle == list(numbers)[-1], "the only one that there is"


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


@pytest.mark.parametrize(
    "mode, part",
    [("SPX", ""), ("N/A", ""), (None, ""), ("CPX", "its compute partition is CPX")],
)
def test_a_partition_is_a_part_and_has_none_of_the_packages_power(
    mode: str | None, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeAmdSmi()
    if mode is not None:
        fake.amdsmi_get_gpu_compute_partition = lambda handle: mode
    source = amd(monkeypatch, fake)
    assert (source.part, source.scope) == (part, "shared" if part else "package")
    reading, absent = of_this_device(source, source.read())
    assert (reading.power_watts, reading.clock_mhz) == (None if part else 750, 2100)
    assert set(absent) == ({"power", "energy"} if part else set())


def test_a_virtual_function_is_told_as_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeAmdSmi()
    guest = SimpleNamespace(name="AMDSMI_VIRTUALIZATION_MODE_GUEST")
    fake.amdsmi_get_gpu_virtualization_mode = lambda handle: {"mode": guest}
    assert amd(monkeypatch, fake).scope == "shared"


GIB = 2**30
STRIX = {"mem_info_vram_used": 489 * 2**20, "mem_info_gtt_used": 3 * GIB}
MI300A = {"mem_info_vram_used": 0, "mem_info_gtt_used": 3 * GIB, "device": "0x74a0"}


def amdgpu(
    folder: Path, monkeypatch: pytest.MonkeyPatch, address: str, form: int, **files: object
) -> None:
    """A card of the kernel's driver."""
    monkeypatch.setattr(_sysfs, "SYS", folder)
    card = folder / "bus/pci/drivers/amdgpu" / address
    card.mkdir(parents=True)
    (card / "gpu_metrics").write_bytes(bytes([64, 0, form, 0]))
    for name, text in files.items():
        (card / name).write_text(f"{text}\n")


@pytest.mark.parametrize(
    ("form", "files", "used"),
    [
        (3, STRIX, 3 * GIB + 489 * 2**20),
        (1, MI300A, 3 * GIB),
        (2, {}, None),  # an APU whose driver is older
        (1, {**STRIX, "device": "0x74a1"}, GIB),  # a card, which maps memory of the host too
    ],
)
def test_an_apus_memory_lies_in_the_hosts(
    form: int,
    files: dict[str, object],
    used: int | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """These tools tell what is set aside for it: `check-backend` took its figures for another's."""
    amdgpu(tmp_path / "sys", monkeypatch, "0000:c1:00.0", form, **files)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin{os.pathsep}/usr/bin")
    fake: Any = FakeAmdSmi()
    fake.amdsmi_get_gpu_device_bdf = lambda handle: "0000:c1:00.0"
    sources = [amd(monkeypatch, fake)]
    if os.name == "posix":
        memory = '"power": {"socket_power": 90}, "mem_usage": {"used_vram": 1024}'
        tool(tmp_path, f'echo \'[{{"gpu": 0, "bdf": "0000:C1:00.0", {memory}}}]\'', "amd-smi")
        card = f'"PCI Bus": "0000:C1:00.0", "VRAM Total Used Memory (B)": "{GIB}"'
        tool(tmp_path, f"echo '{{\"card0\": {{{card}}}}}'", "rocm-smi")
        sources += [_amd_smi.AmdSmiProgram(0), _amd_smi.RocmSmiProgram(0)]
    for source in sources:
        assert source.read().memory_used_bytes == used, source.name
        why = "an APU's lies in the host's, and its driver does not say how much"
        assert source.absent.get("memory") == (None if used else why)


def test_who_computes_on_an_apu_has_memory_of_the_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """25 GB of a llama-server, of which 5 MB were counted; MI300A's processes seem to have none."""
    fake: Any = FakeAmdSmi()
    fake.amdsmi_get_gpu_device_bdf = lambda handle: "0000:c1:00.0"

    def listed(*memory: dict[str, Any]) -> Any:
        fake.amdsmi_get_gpu_process_list = lambda handle: [
            {"pid": pid, "memory_usage": held} for pid, held in enumerate(memory, 100)
        ]
        return source.processes()

    source = amd(monkeypatch, fake)
    idle, busy = {"vram_mem": 0, "gtt_mem": 0}, {"vram_mem": 5, "gtt_mem": 60 * GIB}
    assert listed(idle, busy, {"vram_mem": 0, "gtt_mem": 7}) == (Process(101, 5),), "a card"
    amdgpu(tmp_path, monkeypatch, "0000:c1:00.0", 3, **STRIX)
    source = amd(monkeypatch, fake)
    assert listed(idle, busy, {"vram_mem": "N/A", "gtt_mem": 7}, {"vram_mem": "N/A"}) == (
        *(Process(101, 5 + 60 * GIB), Process(102, 7), Process(103, None)),
    )
    assert listed() == (), "nobody has it open"
    assert listed(idle, idle) is None, "not `nobody`: the worker has some, whatever is said"
    assert source.absent["processes"] == "amdsmi: not what memory an APU's processes have"


@pytest.mark.skipif(os.name != "posix", reason="a shell script")
@pytest.mark.parametrize("mode, part", [("SPX", ""), ("DPX", "its compute partition is DPX")])
def test_the_programs_say_their_partition(
    mode: str, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = f'[{{"gpu": 0, "partition": {{"accelerator_partition": "{mode}"}}}}]'
    older = f'{{"card0": {{"Compute Partition": "{mode}"}}}}'
    for name, text in (("amd-smi", newer), ("rocm-smi", older)):
        tool(tmp_path, f"echo '{text}'", name)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin{os.pathsep}/usr/bin")
    for name in ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    for source in (_amd_smi.AmdSmiProgram(0), _amd_smi.RocmSmiProgram(0)):
        assert (source.part, source.scope) == (part, "shared" if part else "package")


@pytest.mark.skipif(os.name != "posix", reason="a shell script")
def test_the_programs_count_otherwise_than_hip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """amd-smi says which is which from ROCm 6.4 on; else of several devices none is known."""
    listed = '[{"gpu": 0, "hip_id": 1}, {"gpu": 1, "hip_id": 0}]'
    cards = '{"card0": {"GPU use (%)": "0"}, "card1": {"GPU use (%)": "0"}}'
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin{os.pathsep}/usr/bin")
    for name in ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    tool(tmp_path, f"echo '{listed}'", "amd-smi")
    assert [_amd_smi.AmdSmiProgram(index).card for index in (0, 1)] == ["1", "0"]
    gap = listed.replace('"hip_id": 1', '"hip_id": 2')
    tool(tmp_path, f"echo '{gap}'", "amd-smi")
    for index in (0, 1, 2):
        with pytest.raises(NotObservable, match="lists 2 devices, and not which of them HIP"):
            _amd_smi.AmdSmiProgram(index)
    tool(tmp_path, f"echo '{listed.replace('hip_id', 'x')}'", "amd-smi")
    tool(tmp_path, f"echo '{cards}'", "rocm-smi")
    for program in (_amd_smi.AmdSmiProgram, _amd_smi.RocmSmiProgram):
        with pytest.raises(NotObservable, match="lists 2 devices, and not which of them HIP"):
            program(0)
    for name in ("amd-smi", "rocm-smi"):
        tool(tmp_path, "echo '[]'", name)
    for program in (_amd_smi.AmdSmiProgram, _amd_smi.RocmSmiProgram):
        with pytest.raises(NotObservable, match="lists 0 devices"):
            program(0)


def test_who_computes_on_another_device_is_no_user_of_this_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """amdsmi lists each process under all devices that it has open, and that are all. One that asks
    and holds memory itself, as `check-backend` does, is a user too."""
    listed = [(7, 2**20), (8, 0), (9, "N/A"), (os.getpid(), 2**30)]
    fake: Any = FakeAmdSmi()
    fake.amdsmi_get_gpu_process_list = lambda handle: [
        {"pid": pid, "memory_usage": {"vram_mem": held}} for pid, held in listed
    ]
    own = Process(os.getpid(), 2**30)
    assert amd(monkeypatch, fake).processes() == (Process(7, 2**20), Process(9, None), own)
