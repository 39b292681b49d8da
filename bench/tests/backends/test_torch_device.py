"""The base of accelerators' backends: old torch, a new vendor in a few lines, the other vendors."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from bench import catalogue
from bench.backend import DeviceInfo
from bench.backends import _torch_device, _trial, generic, mps, rocm
from bench.backends._torch_device import NotAvailable, TorchBackend, TorchDevice, ask, torch_build
from bench.backends._vendors import compatible_vendor
from bench.backends.cuda import CudaBackend
from bench.errors import DeviceUnavailable, NothingInstalled
from bench.measuring import worker
from bench.precision import PRECISIONS
from bench.tests import simulated

INFO = DeviceInfo(backend="some", index=1, name="Some", memory_bytes=1)


def module(**functions: Any) -> ModuleType:
    """What a vendor gives torch as its device's module."""
    made = ModuleType("torch.some")
    made.__dict__.update(functions)
    return made


def device(made: ModuleType) -> TorchDevice:
    opened = TorchDevice.__new__(TorchDevice)
    opened.info, opened._type, opened._module = INFO, "some", made
    opened._scope = "device allocator since its start"
    return opened


# --- What torch offers, and what it does not -----------------------------------------------------


def test_the_vendors_own_word_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch, "accelerator", SimpleNamespace(empty_cache=lambda: "torch's"))
    assert ask(module(empty_cache=lambda: "own"), "empty_cache") == "own"
    assert ask(module(), "empty_cache") == "torch's"


def test_what_neither_has_is_not_available(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch 2.6 to 2.8, whose `torch.accelerator` has no word of memory."""
    import torch

    def without_hook(*_: Any) -> None:
        raise RuntimeError("Allocator for some is not a DeviceAllocator.")

    def unimplemented(*_: Any) -> None:
        raise NotImplementedError

    def broken(*_: Any) -> None:
        raise RuntimeError("device lost")

    monkeypatch.setattr(torch, "accelerator", SimpleNamespace(get_memory_info=without_hook))
    for made in (module(), module(mem_get_info=unimplemented)):
        with pytest.raises(NotAvailable):
            ask(made, "mem_get_info", 0)
    with pytest.raises(NotAvailable):
        ask(module(), "max_memory_allocated", 0)
    with pytest.raises(RuntimeError, match="device lost"):
        ask(module(mem_get_info=broken), "mem_get_info", 0)


def test_memory_is_the_devices_or_says_that_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch, "accelerator", SimpleNamespace())
    whole = device(
        module(
            mem_get_info=lambda i: (3, 10),
            max_memory_allocated=lambda i: 5,
            reset_peak_memory_stats=lambda i: None,
        )
    )
    before = whole.memory()
    assert (before.peak_bytes, before.device_used_bytes) == (5, 7)
    assert before.scope == "device allocator since its start"
    whole.reset_peak_memory()
    assert whole.memory().scope == "device allocator"
    mute = device(module())
    mute.reset_peak_memory()
    mute.release_memory()
    said = mute.memory()
    assert said.scope == "process RSS (peak device memory: not available)"
    assert said.peak_bytes == said.host_rss_bytes and said.device_used_bytes is None
    zero = device(module(max_memory_allocated=lambda i: 0)).memory()
    assert zero.scope.startswith("process RSS"), "a counter that does not count"


def test_events_are_the_vendors_own_or_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    own = device(module(Event=lambda enable_timing: ("own", enable_timing)))
    assert own.event() == ("own", True)
    monkeypatch.setattr(torch, "Event", lambda kind, enable_timing: (kind, enable_timing))
    assert device(module()).event() == ("some", True)
    start = SimpleNamespace(elapsed_time=lambda end: 0.25)
    assert own.elapsed_ns(start, None) == 250_000


def test_synchronize_names_the_device() -> None:
    waited: list[int] = []
    device(module(synchronize=waited.append)).synchronize()
    assert waited == [1]


def test_a_device_is_described_by_what_its_module_says() -> None:
    class SomeBackend(TorchBackend):
        name = "some"

    backend = SomeBackend()
    full = module(
        get_device_properties=lambda i: SimpleNamespace(name="Chip", total_memory=64),
        is_bf16_supported=lambda: False,
    )
    info = backend.describe(full, 2)
    assert (info.name, info.memory_bytes, info.index) == ("Chip", 64, 2)
    assert info.facts["bfloat16"] == "no"
    assert backend.unsupported(info, PRECISIONS["bf16"]) == "Chip has no bfloat16, says its runtime"
    bare = backend.describe(module(), 0)
    assert bare.name == "some device" and "bfloat16" not in bare.facts
    assert backend.unsupported(bare, PRECISIONS["bf16"]) is None


def test_torchs_build_is_read_without_torch() -> None:
    import torch

    code = "import sys; from bench.backends._torch_device import torch_build; b = torch_build(); "
    code += "assert 'torch' not in sys.modules; print(b['__version__'], b.get('hip'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == f"{torch.__version__} {torch.version.hip}\n", done.stderr


# --- A new vendor --------------------------------------------------------------------------------

VENDORS_FILE = '''\
"""The NPU of Somebody's, through torch_npu."""

from bench.backends._torch_device import TorchBackend


class SomeBackend(TorchBackend):
    """One class, a few words."""

    name = "some"
    vendor = "Somebody"
    device_type = "npu"
    plug_ins = ("torch_npu",)
    install = "Install torch_npu"


BACKEND = SomeBackend()
'''
CONTRACT = """
import json, sys, torch
from bench.precision import PRECISIONS
def contract(backend):
    first = backend.devices()[0]
    device = backend.open(0, PRECISIONS["fp32"])
    start, end = device.event(), device.event()
    device.reset_peak_memory()
    start.record()
    twos, one = torch.full((64, 64), 2.0), torch.eye(64)
    product = twos.to(device.torch_device) @ one.to(device.torch_device)
    end.record()
    device.synchronize()
    try:
        torch.empty(2**50, dtype=torch.float32, device=device.torch_device)
    except Exception as error:
        kind = backend.failure_kind(error)
    try:
        backend.open(7, PRECISIONS["fp32"])
    except Exception as error:
        refused = str(error)
    device.release_memory()
    return [first.address, first.name, first.vendor, float(product[0, 0]), str(product.device),
            device.elapsed_ns(start, end) > 0, device.memory().scope, kind, refused,
            backend.memory_format("channels_last"), first.facts.get("torch_device")]
"""


def in_process(code: str, **faults: object) -> Any:
    """What a process with the simulated device prints last, as JSON."""
    import os

    kept = {k: v for k, v in os.environ.items() if not k.startswith("TORCH_")}
    variables = {**simulated.environment(**faults), _torch_device.AUTOLOAD: "0"}
    done = subprocess.run(
        [sys.executable, "-c", CONTRACT + textwrap.dedent(code)],
        env={**kept, **variables, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


WORKS = [2.0, "npu:0", True, "device allocator", "oom"]


def test_a_new_vendor_is_one_small_file(tmp_path: Any) -> None:
    file = tmp_path / "some_backend.py"
    file.write_text(VENDORS_FILE, encoding="utf-8")
    assert len(VENDORS_FILE.splitlines()) <= 60
    found = in_process(
        f"""
        sys.path.insert(0, {str(tmp_path)!r})
        from some_backend import BACKEND
        print(json.dumps(contract(BACKEND)))
        """
    )
    assert found[:2] == ["some:0", "Ascend910B2"] and found[3:8] == WORKS
    assert found[8] == "some:7: there is no such device. Here: some:0."
    assert found[9] == "contiguous"


def test_an_unknown_accelerator_runs_under_torchs_name_for_it() -> None:
    """The simulated device, of which nobody has told the generic backend."""
    found = in_process(
        """
        from bench.backends import generic
        generic.ELSEWHERE, generic.TAKEN = (), ("cpu", "cuda")
        print(json.dumps(contract(generic.BACKEND)))
        """
    )
    assert found[:3] == ["generic:0", "Ascend910B2", "unknown vendor of torch's npu"]
    assert found[3:8] == WORKS and found[10] == "npu"
    assert found[8] == "generic:7: there is no such device. Here: generic:0."


# --- Borrowed device types -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "variables", "vendor"),
    [
        ("NVIDIA H100 80GB HBM3", {}, None),
        ("NVIDIA H100 80GB HBM3", {"PPU_SDK": "/opt/ppu"}, None),
        ("Tesla V100-SXM2-16GB", {"MACA_PATH": "/opt/maca"}, None),
        ("PPU-ZW810E", {}, "Alibaba T-Head"),
        ("ZW810E", {"PPU_SDK": "/opt/ppu"}, "Alibaba T-Head"),
        ("MetaX C500", {}, "MetaX"),
        ("MXC500", {}, "MetaX"),
        ("Iluvatar BI-V150", {}, "Iluvatar CoreX"),
        ("Kunlun P800", {}, "Baidu Kunlunxin"),
        ("Fake GPU 0", {}, None),
        ("", {}, None),
    ],
)
def test_the_vendor_behind_a_borrowed_type(
    name: str, variables: dict[str, str], vendor: str | None
) -> None:
    assert compatible_vendor(name, variables) == vendor


class BorrowedCuda:
    """`torch.cuda` of another vendor's part."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.current: int | None = None

    def __getattr__(self, name: str) -> Any:
        if name == "__name__":
            return "torch.cuda"
        raise AttributeError(name)

    def is_available(self) -> bool:
        return bool(self.names)

    def device_count(self) -> int:
        return len(self.names)

    def set_device(self, index: int) -> None:
        self.current = index

    def get_device_name(self, index: int) -> str:
        return self.names[index]

    def get_device_properties(self, index: int) -> Any:
        return SimpleNamespace(
            name=self.names[index],
            major=8,
            minor=0,
            multi_processor_count=64,
            total_memory=2**36,
            gcnArchName="gfx942",
        )


@pytest.fixture
def borrowed(monkeypatch: pytest.MonkeyPatch) -> Iterator[BorrowedCuda]:
    """A CUDA build of torch on a T-Head PPU."""
    import pynvml
    import torch

    fake = BorrowedCuda("PPU-ZW810E", "PPU-ZW810E")
    monkeypatch.setattr(torch, "cuda", fake)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(generic, "torch_build", lambda: {"cuda": "12.8"})

    def no_nvml() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", no_nvml)
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    torch.get_device_module.cache_clear()
    yield fake
    torch.get_device_module.cache_clear()
    torch.backends.cudnn.allow_tf32 = before[0]
    torch.set_float32_matmul_precision(before[1])


def test_cuda_leaves_another_vendors_part_to_generic(borrowed: BorrowedCuda) -> None:
    import torch

    with pytest.raises(DeviceUnavailable) as caught:
        CudaBackend().devices()
    assert str(caught.value) == (
        "cuda: PPU-ZW810E is made by Alibaba T-Head. Pass --device generic."
    )
    first, second = generic.BACKEND.devices()
    assert (first.address, second.address) == ("generic:0", "generic:1")
    assert first.vendor == "Alibaba T-Head" and first.memory_bytes == 2**36
    assert first.facts["torch_device"] == "cuda"
    torch.backends.cudnn.allow_tf32 = True
    opened = generic.BACKEND.open(1, PRECISIONS["fp32"])
    assert str(opened.torch_device) == "cuda:1" and borrowed.current == 1
    assert torch.backends.cudnn.allow_tf32 is False


def test_each_takes_its_own_where_both_are_there(borrowed: BorrowedCuda) -> None:
    borrowed.names = ("NVIDIA A100-SXM4-80GB", "MetaX C500")
    assert [d.address for d in CudaBackend().devices()] == ["cuda:0"]
    (other,) = generic.BACKEND.devices()
    assert (other.address, other.vendor) == ("generic:1", "MetaX")


def test_generic_claims_no_part_of_cudas_own_vendor(borrowed: BorrowedCuda) -> None:
    borrowed.names = ("NVIDIA A100-SXM4-80GB",)
    with pytest.raises(DeviceUnavailable, match="generic: torch names no other device"):
        generic.BACKEND.devices()


def test_a_rocm_build_is_claimed_by_rocm_alone(
    borrowed: BorrowedCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    borrowed.names = ("AMD Instinct MI300X", "Hygon DCU K100")
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", "7.2")
    monkeypatch.setattr(_torch_device, "torch_build", lambda: {"hip": "7.2"})
    first, second = rocm.BACKEND.devices()
    assert (first.vendor, second.vendor) == ("AMD", "Hygon")
    assert first.facts["architecture"] == "gfx942" and first.facts["hip"] == "7.2"
    asked = []
    monkeypatch.setattr(_trial, "refusal", lambda _, device, precision: asked.append(str(device)))
    fp8, int8 = PRECISIONS["fp8"], PRECISIONS["int8"]
    assert rocm.BACKEND.unsupported(first, fp8) == "gfx94x multiplies e4m3fnuz, not e4m3fn"
    assert rocm.BACKEND.unsupported(second, int8) is None
    assert rocm.BACKEND.unsupported(second, PRECISIONS["fp16"]) is None
    assert asked == ["cuda:1"], "by a product on the device, where nothing else tells"
    assert rocm.BACKEND.open(1, PRECISIONS["tf32"]).float32_reduced()
    assert torch.backends.cudnn.allow_tf32 is True
    assert not rocm.BACKEND.open(1, PRECISIONS["fp32"]).float32_reduced()
    assert torch.backends.cudnn.allow_tf32 is False
    with pytest.raises(DeviceUnavailable, match="built without CUDA"):
        CudaBackend().devices()
    with pytest.raises(DeviceUnavailable, match="generic: torch names no other device"):
        generic.BACKEND.devices()
    kinds = {
        "HIP out of memory. Tried to allocate": "oom",
        "HIP error: an illegal memory access was encountered": "device_lost",
        "HIP error: invalid argument": "error",
    }
    for text, kind in kinds.items():
        assert rocm.BACKEND.failure_kind(RuntimeError(text)) == kind


def test_generic_goes_on_past_a_plug_in_that_does_not_load(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "torch_broken.py").write_text("raise OSError('libbroken.so is gone')")
    monkeypatch.syspath_prepend(str(tmp_path))
    point = EntryPoint("broken", "torch_broken:_autoload", "torch.backends")
    monkeypatch.setattr(generic, "entry_points", lambda group: [point])
    with pytest.raises(DeviceUnavailable) as caught:
        generic.BACKEND.devices()
    assert not isinstance(caught.value, NothingInstalled)
    assert str(caught.value) == (
        "generic: torch_broken is installed but does not load (libbroken.so is gone). "
        "Repair it, or pass --device cpu."
    )


# --- Every accelerator's backend -----------------------------------------------------------------

ACCELERATORS = sorted(set(catalogue.plug_ins("backends")) - {"cpu"})


@pytest.mark.parametrize("name", ACCELERATORS)
def test_no_accelerators_backend_lets_torch_load_plug_ins_by_itself(name: str) -> None:
    backend = catalogue.backend(name)
    assert backend.worker_environment()[_torch_device.AUTOLOAD] == "0"
    assert backend.vendor and all(reason for reason in backend.harmful_variables().values())


@pytest.mark.parametrize("name", sorted({*ACCELERATORS} - {"cuda"}))
def test_what_is_not_installed_is_told_without_importing_torch(name: str) -> None:
    """So that asking every backend costs a machine without it next to nothing."""
    if torch_build().get("cuda") or torch_build().get("hip") or torch_build().get("xpu"):
        pytest.skip("torch is built for an accelerator here")
    code = f"""if True:
        import sys
        from bench import catalogue
        from bench.errors import NothingInstalled
        try:
            catalogue.backend({name!r}).devices()
        except NothingInstalled as error:
            print(error)
        assert "torch" not in sys.modules
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if sys.platform != "darwin":
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"{name}: ") and "pass --device cpu" in done.stdout.lower()


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("cuda", "CUDA_LAUNCH_BLOCKING"),
        ("rocm", "HIP_LAUNCH_BLOCKING"),
        ("ascend", "ASCEND_LAUNCH_BLOCKING"),
        ("xpu", "PYTORCH_ENABLE_XPU_FALLBACK"),
        ("mps", "PYTORCH_ENABLE_MPS_FALLBACK"),
    ],
)
def test_what_voids_a_measurement(
    monkeypatch: pytest.MonkeyPatch, name: str, variable: str
) -> None:
    backend = catalogue.backend(name)
    monkeypatch.delenv(variable, raising=False)
    assert worker.harmful(backend) == ""
    monkeypatch.setenv(variable, "1")
    assert worker.harmful(backend).startswith(f"{variable}=1: ")


def test_other_vendors_plug_ins_are_hidden_where_torch_loads_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    points = [
        EntryPoint("a", "torch_some_vendor:_autoload", "torch.backends"),
        EntryPoint("b", "torch_npu:_autoload", "torch.backends"),
    ]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points)
    before = set(sys.modules)
    monkeypatch.setenv(_torch_device.AUTOLOAD, "1")
    worker.hide_plug_ins(catalogue.backend("ascend"))
    assert set(sys.modules) == before
    monkeypatch.setenv(_torch_device.AUTOLOAD, "0")
    worker.hide_plug_ins(catalogue.backend("ascend"))
    try:
        assert set(sys.modules) - before == {"torch_some_vendor"}
        assert importlib.util.find_spec("torch_some_vendor") is None
    finally:
        sys.modules.pop("torch_some_vendor", None)


def test_the_apple_gpu_has_no_peak_and_says_what_it_has() -> None:
    made = mps.MpsDevice.__new__(mps.MpsDevice)
    emptied: list[bool] = []
    made._module = SimpleNamespace(
        driver_allocated_memory=lambda: 2**30, empty_cache=lambda: emptied.append(True)
    )
    made.reset_peak_memory()
    memory = made.memory()
    assert emptied and memory.peak_bytes == 2**30
    assert memory.scope == "held by the driver at the end, cache included"
