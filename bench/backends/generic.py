"""Any other device that torch names: plug-ins' own types, and CUDA-compatible parts by others."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any

import msgspec

from bench.backend import Device, DeviceInfo
from bench.backends._torch_device import TorchBackend, TorchDevice, torch_build
from bench.backends._vendors import BY_TYPE, CudaTypeDevice, compatible_vendor
from bench.errors import DeviceUnavailable, NothingInstalled
from bench.precision import Precision
from bench.records.reason import first_line

TAKEN = ("cpu", "cuda", "meta", "mps", "npu", "xpu", "privateuseone")
"""Types that a backend of their own serves, or that name no device."""
ELSEWHERE = ("torch_npu",)
"""Plug-ins that a backend of their own loads."""
KNOWN_PLUG_INS = ("torch_musa", "torch_mlu", "torch_gcu", "torch_br", "habana_frameworks.torch")
"""Plug-ins of which some version has no entry point by which torch would load it."""
FAMILIES = (
    *("CUDA_*", "NVIDIA_*", "NCCL_*", "CUBLAS*", "CUDNN_*", "GPU_*"),
    *("HABANA_*", "HCL_*", "PT_HPU_*", "GAUDI_*"),
    *("CNCL_*", "CNNL_*", "CNRT_*", "MLU_*", "NEUWARE_*", "ENABLE_FALLBACK_*", "ENABLE_MLU_*"),
    *("MCCL_*", "MUBLAS_*", "MUDNN_*", "MUSA_*"),
    *("MACA_*", "MCBLAS_*", "MCDNN_*", "MHA_*", "PPU_*", "HSA_*", "HIP_*"),
    *("IXCCL_*", "IX_*", "UMD_*", "ENABLE_FLASH_ATTENTION_*"),
    *("XPU*", "XMLIR_*", "BKCL_*", "XBLAS_*", "XDNN_*", "XFT_*", "XFA_*", "USE_FAST_BF16_FC"),
    *("ECCL_*", "GCU_*", "USE_GCU_*", "TOPS_*", "ENFLAME_*", "MTIA_*"),
    *("BR_*", "BRTB_*", "SUPA_*", "SUCCL_*", "SUDNN_*", "SUBLAS_*"),
    *("NEURON_*", "RBLN_*", "LIBTPU_*", "TPU_*", "XLA_*"),
)
NO_FALLBACK = {
    "ENABLE_FALLBACK_TO_CPU": ("torch_mlu", "0"),
    "PT_HPU_PLACE_ON_CPU": ("habana_frameworks", "none"),
    "XMLIR_ENABLE_FALLBACK_TO_CPU_BOOL": ("torch_xmlir", "False"),
}
"""Without which operators of a package may run on the host, some without a word. Source:
torch_mlu's MLUFallback.cpp, Gaudi's fallback_helper.cpp, Kunlunxin's scripts."""
ANNOUNCED = {
    "ENFLAME_LOG_DEBUG_LEVEL": ("torch_gcu", "DEBUG"),
    "ENFLAME_LOG_DEBUG_MOD": ("torch_gcu", "TORCH_GCU/FALLBACK"),
    "TORCH_NEURONX_DISABLE_FALLBACK_EXECUTION": ("torch_neuronx", "1"),
    "TORCH_NEURONX_FALLBACK_ONLY_FOR_UNIMPLEMENTED_OPS": ("torch_neuronx", "1"),
    "TORCH_RBLN_DISABLE_FALLBACK": ("torch_rbln", "compile_error,unsupported_op"),
}
"""Without which a package does not say, or fail, where an operator runs on the host. Source:
torch_gcu's user guide and aten_cpu_fallback.cpp, torch_neuronx's python_ops/base.py, torch_rbln's
RBLNFallbackConfig.cpp. (RBLN's log names operators too, but under a mode that sees every operator,
as `bench.dispatch` has one, it runs them all on the host: it would void every launch.)"""
AS_WRITTEN = {
    "NEURON_LAUNCH_BLOCKING": ("torch_neuronx", "0"),
    "PT_HPU_LAZY_MODE": ("habana_frameworks", "0"),
    "TORCH_TPU_ALLOW_LEGACY_DEVICE_APIS": ("torch_tpu", "1"),
}
"""Without which a version of a package waits for every operator by itself, or for none until there
is a graph of them, or refuses to say to anybody but torch what devices it has."""
COMPILERS = {
    "hpu_backend": "habana_frameworks",
    "neuron": "torch_neuronx",
    "rbln": "torch_rbln",
    "tpu": "torch_tpu",
}
"""torch.compile's names for vendors' own, and what brings them."""
GRAPHS = {
    "cuda": "CUDAGraph",
    "gcu": "GCUGraph",
    "mlu": "MLUGraph",
    "musa": "MUSAGraph",
    "supa": "SUPAGraph",
}
"""`graph_type` of a device type."""


class GenericDevice(TorchDevice):
    """One device, current in this process."""

    switches = MappingProxyType(
        {
            f"tf32_{name}": f"backends.{name}.allow_tf32"
            for name in ("cudnn", "mudnn", "cnnl", "mlu.matmul", "mlu.custom")
        }
    )
    """CUDA's for convolutions, heeded or not, and vendors' own: some are on by themselves."""


class GenericBackend(TorchBackend):
    """Whatever device type torch has once the plug-ins that are installed have been loaded."""

    name = "generic"
    vendor = "named by torch"
    opened = GenericDevice

    @property
    def plug_ins(self) -> tuple[str, ...]:  # type: ignore[override]  # looked up, not written down
        """Those that are installed."""
        points = [point.module for point in entry_points(group="torch.backends")]
        here = [n for n in KNOWN_PLUG_INS if importlib.util.find_spec(n.partition(".")[0])]
        return tuple(n for n in dict.fromkeys((*points, *here)) if n not in ELSEWHERE)

    @property
    def compilers(self) -> tuple[str, ...]:  # type: ignore[override]  # looked up, not written down
        """torch's own, and those of what is installed."""
        here = [name for name, of in COMPILERS.items() if importlib.util.find_spec(of)]
        return ("inductor", *here)

    def worker_environment(self) -> Mapping[str, str]:
        """No fallback to the host in what is installed, or none that is not announced."""
        own = (NO_FALLBACK | ANNOUNCED | AS_WRITTEN).items()
        here = {name: value for name, (of, value) in own if importlib.util.find_spec(of)}
        return {**super().worker_environment(), **here}

    def silencing_variables(self) -> tuple[str, ...]:
        """What keeps a package from saying that an operator runs on the host."""
        return (*super().silencing_variables(), *ANNOUNCED)

    def recorded_variables(self) -> tuple[str, ...]:
        """The families of every vendor that may be behind it, and of the type that many borrow."""
        return FAMILIES

    def harmful_variables(self) -> Mapping[str, str]:
        """What makes the host wait for every kernel or do its work, fuses them or shortens sums."""
        vendors = ("CUDA", "MACA", "MUSA", "NEURON", "SUPA", "TOPS", "TORCH_TPU", "TPU")
        waits = (f"{of}_LAUNCH_BLOCKING" for of in vendors)
        fuses = ("PT_HPU_LAZY_MODE", "TORCH_TPU_DEFER_AND_FUSE", "TPU_DEFER_AND_FUSE")
        falls = (*NO_FALLBACK, "ENABLE_MLU_FAIL_FALLBACK", "BRTB_ENABLE_SUPA_FALLBACK")
        return {
            **dict.fromkeys(waits, "the host waits for every kernel"),
            **dict.fromkeys(fuses, "operators wait until they are fused"),
            **dict.fromkeys(falls, "operators may run on the host"),
            "ENFLAME_PT_OP_DEBUG_CONFIG": "operators may run on the host, or be waited for",
            "BRTB_ENABLE_MMA_BF16_ACC": "products are summed in bfloat16",
        }

    def devices(self) -> list[DeviceInfo]:
        """The devices of the first type that torch names and nothing else here serves."""
        broken = self._load_all()
        import torch

        device_type = self._type()
        if device_type is None:
            missing = DeviceUnavailable if self.plug_ins else NothingInstalled
            raise missing(
                " ".join(broken)
                or "generic: torch names no other device. Check its plug-in and driver, "
                "or pass --device cpu."
            )
        module = torch.get_device_module(device_type)
        return [
            info
            for info in (self._named(module, device_type, i) for i in range(module.device_count()))
            if info.vendor or device_type != "cuda"
        ]

    def _load_all(self) -> list[str]:
        """Loads every plug-in; says which ones do not load, and goes on with the others."""
        plug_ins = self.plug_ins
        if not plug_ins and not torch_build().get("cuda"):
            raise NothingInstalled(
                "generic: no other plug-in for torch is installed. Install the vendor's, "
                "or pass --device cpu."
            )
        broken: list[str] = []
        for name in ("torch", *plug_ins):
            try:
                importlib.import_module(name)
            except Exception as error:  # a vendor's runtime fails as it likes
                broken.append(
                    f"generic: {name} is installed but does not load ({first_line(error)}). "
                    "Repair it, or pass --device cpu."
                )
                if name == "torch":
                    raise DeviceUnavailable(broken[0]) from error
        for point in entry_points(group="torch.backends"):
            if point.module in plug_ins:
                with suppress(Exception):  # its import has failed, and that is said above
                    point.load()()
        return broken

    def _type(self) -> str | None:
        """A type with a device that no other backend serves; None if there is none."""
        import torch

        if torch.version.hip is None and torch.cuda.is_available():
            names = (torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
            if any(compatible_vendor(name, os.environ) for name in names):
                return "cuda"
        own = None
        with suppress(RuntimeError):  # torch 2.6 raises where there is none
            own = torch.accelerator.current_accelerator()
        for device_type in (*([own.type] if own else []), *BY_TYPE):
            module = getattr(torch, device_type, None)
            available = getattr(module, "is_available", None)
            if device_type not in TAKEN and available is not None and available():
                return device_type
        return None

    def _named(self, module: Any, device_type: str, index: int) -> DeviceInfo:
        """With its true vendor, and torch's name for it where nothing tells the vendor."""
        info = self.describe(module, index)
        vendor = BY_TYPE.get(device_type) or compatible_vendor(info.name, os.environ)
        if vendor is None and device_type != "cuda":
            vendor = f"unknown vendor of torch's {device_type}"
        facts = {**info.facts, "torch_device": device_type}
        return msgspec.structs.replace(info, vendor=vendor or "", facts=facts)

    def open(self, index: int, precision: Precision) -> Device:
        """Makes the device current, under the type that torch gives it."""
        import torch

        info = self.pick(index, self.devices())
        device_type = self.type_of(info)
        torch.get_device_module(device_type).set_device(index)
        self.shorten_float32(precision.shortened)
        kind = CudaTypeDevice if device_type == "cuda" else GenericDevice
        return kind(info, device_type, GRAPHS.get(device_type, ""))

    def type_of(self, info: DeviceInfo) -> str:
        """As torch named it."""
        return info.facts["torch_device"]


BACKEND = GenericBackend()
