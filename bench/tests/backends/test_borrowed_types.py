"""Devices under another vendor's type: whose they are, and which backend takes them."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import EntryPoint
from types import SimpleNamespace
from typing import Any

import pytest

from bench.backends import _caches, _torch_device, _trial, generic, rocm
from bench.backends._vendors import compatible_vendor
from bench.backends.cuda import CudaBackend
from bench.errors import DeviceUnavailable, NothingInstalled
from bench.precision import PRECISIONS


@pytest.mark.parametrize(
    ("name", "variables", "vendor"),
    [
        ("NVIDIA H100 80GB HBM3", {}, None),
        ("NVIDIA H100 80GB HBM3", {"PPU_SDK": "/opt/ppu"}, None),
        ("Tesla V100-SXM2-16GB", {"MACA_PATH": "/opt/maca"}, None),
        ("PPU-ZW810E", {}, "Alibaba T-Head"),
        ("ZW810", {}, "Alibaba T-Head"),
        ("ZW-M890P", {}, "Alibaba T-Head"),
        ("Some810E", {"PPU_SDK": "/opt/ppu"}, "Alibaba T-Head"),
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
        self.architecture = "gfx942"

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
            gcnArchName=self.architecture,
            L2_cache_size=4 * 2**20,
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


def test_the_switches_of_a_borrowed_type_are_asked(
    borrowed: BorrowedCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fp16 is void by them, and fp32 no float32."""
    import torch

    opened = generic.BACKEND.open(1, PRECISIONS["fp32"])
    assert not opened.float32_reduced() and opened.facts()["tf32_convolution"] == "False"
    torch.backends.cudnn.allow_tf32 = True
    assert opened.float32_reduced() and opened.facts()["tf32_convolution"] == "True"
    for on in (True, False):
        now = {"allow_fp16_accumulation": on, "allow_fp16_reduced_precision_reduction": not on}
        monkeypatch.setattr(torch.backends.cuda, "matmul", SimpleNamespace(**now))
        assert opened.float16_sums() is on
        facts = opened.facts()
        assert facts["fp16_accumulation"] == str(on)
        assert facts["fp16_reduced_precision_reduction"] == str(not on)


def test_graphs_of_a_borrowed_type_are_those_that_it_has(
    borrowed: BorrowedCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before torch 2.13, which has some for every type, there were no others."""
    import torch

    monkeypatch.delattr(torch.accelerator, "Graph", raising=False)
    assert generic.BACKEND.open(0, PRECISIONS["fp32"]).recorder() is None
    for name in ("CUDAGraph", "Stream", "stream", "current_stream", "graph"):
        setattr(borrowed, name, object())
    assert generic.BACKEND.open(0, PRECISIONS["fp32"]).recorder() is not None


def test_each_takes_its_own_where_both_are_there(borrowed: BorrowedCuda) -> None:
    borrowed.names = ("NVIDIA A100-SXM4-80GB", "MetaX C500")
    assert [d.address for d in CudaBackend().devices()] == ["cuda:0"]
    (other,) = generic.BACKEND.devices()
    assert (other.address, other.vendor) == ("generic:1", "MetaX")


def test_generic_claims_no_part_of_cudas_own_vendor(borrowed: BorrowedCuda) -> None:
    """Nor says a word by itself, of the usual build of torch with nobody's plug-in."""
    borrowed.names = ("NVIDIA A100-SXM4-80GB",)
    with pytest.raises(NothingInstalled, match="generic: torch names no other device"):
        generic.BACKEND.devices()


def test_a_rocm_build_is_claimed_by_rocm_alone(
    borrowed: BorrowedCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    borrowed.names = ("AMD Instinct MI300X", "Hygon DCU K100")
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", "7.2")
    monkeypatch.setattr(_torch_device, "torch_build", lambda: {"hip": "7.2"})
    monkeypatch.setattr(_caches, "of_kfd", lambda: {"last_level_cache_bytes": "5"})
    first, second = rocm.BACKEND.devices()
    assert (first.vendor, second.vendor) == ("AMD", "Hygon")
    assert first.facts["last_level_cache_bytes"] == "5", "the driver's, not torch's level below"
    monkeypatch.setattr(_caches, "of_kfd", dict)
    assert "last_level_cache_bytes" not in rocm.BACKEND.devices()[0].facts
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


@pytest.mark.parametrize(
    ("name", "architecture", "vendor"),
    [
        ("K100_AI", "gfx928:sramecc+:xnack-", "Hygon"),
        ("BW200, UBB BW1000", "gfx936", "Hygon"),
        ("BW1101", "gfx938", "Hygon"),
        ("", "gfx92a", "Hygon"),
        ("Z100L", "gfx906", "Hygon"),
        ("AMD Instinct MI60 / MI50", "gfx906", "AMD"),
        ("AMD Instinct MI300X", "gfx942", "AMD"),
        ("AMD Instinct MI355X", "gfx950", "AMD"),
        ("AMD Instinct MI250X", "gfx90a", "AMD"),
    ],
)
def test_hygons_are_known_by_their_architecture(
    borrowed: BorrowedCuda,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    architecture: str,
    vendor: str,
) -> None:
    import torch

    monkeypatch.setattr(torch.version, "hip", "6.3")
    borrowed.names, borrowed.architecture = (name,), architecture
    info = rocm.BACKEND.describe(borrowed, 0)
    assert info.vendor == vendor
    monkeypatch.setattr(_trial, "refusal", lambda *_: None)
    refused = rocm.BACKEND.unsupported(info, PRECISIONS["fp8"])
    assert (refused is None) == (architecture not in ("gfx942", "gfx906")), "an fp8 of their own"


@pytest.mark.parametrize(
    ("architecture", "has"),
    [
        *(dict.fromkeys(("gfx803", "gfx900", "gfx906:xnack-", "gfx90c", "gfx1030"), False).items()),
        *(dict.fromkeys(("gfx908", "gfx90a", "gfx942", "gfx950", "gfx1100"), True).items()),
        *(dict.fromkeys(("gfx1201", "gfx928", "gfx936", "not available"), True).items()),
    ],
)
def test_a_bfloat16_that_is_emulated_is_not_measured(
    borrowed: BorrowedCuda, monkeypatch: pytest.MonkeyPatch, architecture: str, has: bool
) -> None:
    """Torch says of every HIP that it has one (RX 6900 XT, Radeon VII, Hygon's Z100)."""
    monkeypatch.setattr(_trial, "refusal", lambda *_: None)
    borrowed.names, borrowed.architecture = ("AMD Some 1",), architecture
    borrowed.__dict__["is_bf16_supported"] = lambda: True
    info = rocm.BACKEND.describe(borrowed, 0)
    assert info.facts["bfloat16"] == ("yes" if has else "no")
    why = None if has else f"{architecture.partition(':')[0]} only emulates bfloat16"
    for name in ("bf16", "bf16-amp", "int8"):
        assert rocm.BACKEND.unsupported(info, PRECISIONS[name]) == why
    for name in ("fp16", "fp32", "tf32"):
        assert rocm.BACKEND.unsupported(info, PRECISIONS[name]) is None


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
