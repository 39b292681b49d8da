"""NVML, by a fake of pynvml: its figures, its reasons, and which device torch's index is."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from bench.backends import _nvml
from bench.records.observed import Reading
from bench.running.sampler import look
from bench.telemetry.source import NotObservable, Process


class NvmlError(Exception):
    pass


class FakeNvml(SimpleNamespace):
    """As much of pynvml as is used; figures of an H100 as its documentation gives them."""

    NVMLError = NvmlError
    NVML_CLOCK_GRAPHICS, NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 0, 1, 2, 0

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
        return {0: 1410, 1: 1410, 2: 2619}[kind]

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:  # noqa: N802
        return 61

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: str) -> int:  # noqa: N802
        return self.bits

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: str) -> int:  # noqa: N802
        return 0x40

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[Any]:  # noqa: N802
        return [SimpleNamespace(pid=4242, usedGpuMemory=2**30)]


NVML_WORDS = (
    *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"),
    *("CUDA_MPS_SM_PARTITION", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"),
)


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


@pytest.mark.parametrize("said", [1, 0, "Not Supported", "Function Not Found", "Unknown Error"])
def test_a_counter_of_a_module_with_its_cpu_is_not_the_gpus(
    said: int | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a GH200: its power is the GPU's, its counter all of the module's."""
    fake = FakeNvml(broken={"nvmlDeviceGetC2cModeInfoV": said} if isinstance(said, str) else None)
    fake.nvmlDeviceGetC2cModeInfoV = lambda _: SimpleNamespace(isC2cEnabled=said)
    source = nvml_source(monkeypatch, fake)
    reading = source.read()
    assert reading.power_watts == 698.123
    assert reading.energy_joules == (None if said == 1 else 123_456.789)
    assert source.absent == ({"energy": _nvml.MODULE_COUNTER} if said == 1 else {})


@pytest.mark.parametrize(
    ("capability", "scope"), [((12, 1), "chip"), ((12, 0), "board"), ((9, 0), "board")]
)
def test_a_gpu_within_one_chip_with_its_cpu_counts_for_itself(
    capability: tuple[int, int], scope: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GB10 has C2C too: its counter was taken for a module's, its power for a board's."""
    fake = FakeNvml()
    fake.nvmlDeviceGetC2cModeInfoV = lambda _: SimpleNamespace(isC2cEnabled=1)
    fake.nvmlDeviceGetCudaComputeCapability = lambda _: capability
    source = nvml_source(monkeypatch, fake)
    own = scope == "chip"
    assert (source.scope, source.read().energy_joules) == (scope, 123_456.789 if own else None)
    part = nvml_source(monkeypatch, fake, CUDA_MPS_ACTIVE_THREAD_PERCENTAGE="30")
    assert part.scope == "shared"


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
    ("made", "memory", "broken", "said"),
    [
        (1410, 2619, {}, ("power cap",)),
        (1395, 2619, {}, ("power cap",)),
        (1980, 2619, {}, ("user clocks", "power cap")),
        (1290, 2619, {}, ("user clocks", "power cap")),
        (1410, 1593, {}, ("user clocks", "power cap")),
        (1410, 2619, {"nvmlDeviceGetDefaultApplicationsClock": "x"}, ("user clocks", "power cap")),
    ],
    ids=["the factory's", "a step off", "lower", "higher", "memory's", "unsaid"],
)
def test_clocks_as_a_gpu_was_made_are_nobodys_setting(
    made: int,
    memory: int,
    broken: dict[str, str],
    said: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It runs at 1410 MHz, for applications' clocks of a V100 or a T4 are below its highest."""
    fake = FakeNvml(broken=broken)
    fake.bits = 0x2 | 0x4
    fake.nvmlDeviceGetDefaultApplicationsClock = lambda _, kind: {0: made, 2: memory}[kind]
    fake.nvmlDeviceGetArchitecture, fake.nvmlDeviceGetBrand = lambda _: 5, lambda _: 2
    assert nvml_source(monkeypatch, fake).read().reasons == said
    fake.bits = 0x100
    assert nvml_source(monkeypatch, fake).read().reasons == ("user clocks",)


@pytest.mark.parametrize(
    ("architecture", "brand", "own"),
    [(4, 2, True), (6, 14, True), (7, 14, False), (9, 14, False), (5, 6, False), (6, 12, False)],
    ids=["P100", "T4, newer driver", "A100", "H100", "TITAN V", "Quadro RTX"],
)
def test_a_gpu_that_boosts_by_itself_is_at_its_base_clock_by_a_setting(
    architecture: int, brand: int, own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An A100's applications are made to have its base, 1095 MHz, and have 1410 unless locked."""
    fake = FakeNvml()
    fake.bits = 0x2
    fake.nvmlDeviceGetDefaultApplicationsClock = fake.nvmlDeviceGetClockInfo
    fake.nvmlDeviceGetArchitecture, fake.nvmlDeviceGetBrand = (
        lambda _: architecture,
        lambda _: brand,
    )
    found = nvml_source(monkeypatch, fake).read().reasons
    assert found == (() if own else ("user clocks",))


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
    # Slices of one GPU are on one card, and how many there are is not said.
    assert (source.card, source.card_devices) == (handle, None if "MIG" in handle else 1)
    silent = FakeNvml(count, broken={"nvmlDeviceGetUUID": "Unknown Error"})
    if "GPU-5" not in variables.values():
        assert nvml_source(monkeypatch, silent, index, **variables).card == ""


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


@pytest.mark.parametrize(
    "variables, handle",
    [
        ({}, ""),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, ""),
        ({"CUDA_VISIBLE_DEVICES": "GPU-0"}, "GPU-0abc"),
        ({"CUDA_VISIBLE_DEVICES": "MIG-7f"}, "whole of part MIG-7f"),
    ],
)
def test_beside_a_gpu_in_mig_mode_a_number_is_no_device(
    variables: dict[str, str], handle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA enumerates the instance of GPU 1 alone, as its device 0: GPU 0 is idle."""

    def split(handle: str) -> list[int]:
        if handle.startswith("GPU-2"):
            raise NvmlError("GPU is lost")
        return [1, 1] if handle.startswith("GPU-1") else [0, 0]

    fake = FakeNvml(3)
    fake.nvmlDeviceGetMigMode = split
    order = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    if handle:
        assert nvml_source(monkeypatch, fake, 0, **order, **variables)._handle == handle
        return
    with pytest.raises(NotObservable, match=r"GPU 1 is in MIG mode.* CUDA_VISIBLE_DEVICES"):
        nvml_source(monkeypatch, fake, 0, **order, **variables)
    fake.nvmlDeviceGetMigMode = lambda handle: [0, 1]  # from the next reset on
    assert nvml_source(monkeypatch, fake, 0, **order, **variables)._handle == "GPU-0abc"


def mig(*modes: int) -> Any:
    """A driver that knows of MIG: on now, and from the next reset on."""
    return lambda handle: list(modes)


@pytest.mark.parametrize(
    "calls, variables, part",
    [
        ({}, {}, ""),
        ({"nvmlDeviceGetMigMode": mig(0, 1)}, {}, ""),
        ({"nvmlDeviceGetMigMode": mig(1, 1)}, {}, "MIG is on, and CUDA has one of its instances"),
        (
            {"nvmlDeviceGetMigMode": mig(1, 0)},
            {"CUDA_VISIBLE_DEVICES": "0"},
            "MIG is on, and CUDA has one of its instances",
        ),
        ({}, {"CUDA_VISIBLE_DEVICES": "MIG-7f"}, "it is a MIG instance"),
        ({"nvmlDeviceIsMigDeviceHandle": lambda handle: 1}, {}, "it is a MIG instance"),
        ({"nvmlDeviceGetMigMode": "Not Supported"}, {}, ""),
        (
            {"nvmlDeviceGetMigMode": "Unknown Error"},
            {},
            "NVML does not say whether MIG is on (Unknown Error)",
        ),
        ({"nvmlDeviceGetVirtualizationMode": lambda handle: 1}, {}, ""),
        (
            {"nvmlDeviceGetVirtualizationMode": lambda handle: 2},
            {},
            "it is a virtual GPU, or serves some",
        ),
        (
            {},
            {"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "30"},
            "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=30",
        ),
        ({}, {"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "100"}, ""),
        ({}, {"CUDA_MPS_SM_PARTITION": "GPU-0/Dx"}, "CUDA_MPS_SM_PARTITION=GPU-0/Dx"),
    ],
)
def test_a_part_of_a_gpu_has_none_of_its_power(
    calls: dict[str, Any],
    variables: dict[str, str],
    part: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = {name: call for name, call in calls.items() if isinstance(call, str)}
    fake = FakeNvml(broken=broken)
    for name, call in calls.items():
        if name not in broken:
            setattr(fake, name, call)
    source = nvml_source(monkeypatch, fake, 0, **variables)
    assert (source.part, source.scope) == (part, "shared" if part else "board")
    seen, absent = look(source, with_users=False)
    assert seen.reading.clock_mhz == 1410
    if not part:
        assert (seen.reading.power_watts, absent) == (698.123, {})
        return
    why = f"NVML counts the whole device, of which this is a part: {part}"
    assert (seen.reading.power_watts, seen.reading.energy_joules) == (None, None)
    assert absent == {"power": why, "energy": why}


def test_clients_of_mps_are_users_of_the_gpu_and_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeNvml()
    both = [SimpleNamespace(pid=4242, usedGpuMemory=1), SimpleNamespace(pid=7, usedGpuMemory=None)]
    fake.nvmlDeviceGetMPSComputeRunningProcesses = lambda handle: both
    source = nvml_source(monkeypatch, fake)
    assert source.processes() == (Process(4242, 2**30), Process(7, None))
    assert source.scope == "shared"
