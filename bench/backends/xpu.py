"""Intel GPUs through torch.xpu."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec

from bench.backend import DeviceInfo
from bench.backends import _sysfs
from bench.backends._torch_device import INTEGRATED, NotAvailable, TorchBackend, TorchDevice, ask
from bench.backends._xpu_smi import XpuSmiSource
from bench.formats import ZERO, Operand
from bench.precision import Precision
from bench.quantized_product import INNER_TILES, Products, Ready
from bench.telemetry.source import Source

if TYPE_CHECKING:
    import torch

OF_CHIP = "0000:00:02.0"
"""PCI address of Intel's GPUs that are in one chip with a CPU, and of no card (but in a
virtual machine)."""


class XpuProducts(Products):
    """Weights of 4 bits have an operator of their own."""

    def by_weights(
        self, rows: Operand, matrix: Operand, how: Precision, device: torch.device
    ) -> Ready:
        """Scales and zeros apart, the zeros whole numbers, and the first of two in the lower half.

        Source: torch, test/xpu/test_gemm.py, `test__int4_mm`. Known to be wrong for
        one row in some releases (torch-xpu-ops 4765), which the numerics gate sees.
        """
        import torch

        a, group = rows.codes.to(device), matrix.block[1]
        halves = (matrix.codes[:, 1::2] << 4 | matrix.codes[:, ::2]).to(device)
        packed = torch._convert_weight_to_int4pack(halves, INNER_TILES)
        scales = matrix.shared.t().contiguous().to(device)
        zeros = torch.full_like(scales, ZERO, dtype=torch.int8)
        seen = a, torch.stack((scales, torch.zeros_like(scales)), -1)
        operator = torch.ops.aten._weight_int4pack_mm_with_scales_and_zeros
        return Ready(lambda: operator(a, packed, group, scales, zeros), str(operator), seen)


class XpuDevice(TorchDevice):
    """One GPU, current in this process."""

    switches = MappingProxyType({"tf32_onednn": "backends.mkldnn.allow_tf32"})
    """oneDNN's: its products and convolutions read no other (pytorch/pytorch 137570 and 144240)."""

    def facts(self) -> dict[str, str]:
        """The switches as they stand, and what the driver says of limits."""
        return {**super().facts(), **_sysfs.settings(self, "xe", "i915")}

    def _integrated(self, found: Any) -> bool:
        """Also where torch does not say it (before 2.12): it is the device at `OF_CHIP`."""
        said = getattr(found, "device_id", None)
        here = said and _sysfs.pci_device(_sysfs.SYS / "bus/pci/devices" / OF_CHIP)
        if here and not hasattr(found, INTEGRATED[1]):
            return here == f"{said:04x}"
        return super()._integrated(found)


class XpuBackend(TorchBackend):
    """Intel's Arc, Flex and Max GPUs. (Gaudi is `hpu`; a Kunlun's `xpu` is not torch's.)"""

    name = "xpu"
    vendor = "Intel"
    device_type = "xpu"
    built_for = "xpu"
    install = "Install torch from https://download.pytorch.org/whl/xpu"
    library_switches = ("is_torch_xpu_available",)
    formats = ("contiguous", "channels_last")
    graph_type = "XPUGraph"
    products = XpuProducts()
    opened = XpuDevice

    def describe(self, module: Any, index: int) -> DeviceInfo:
        """With the driver's version."""
        info = super().describe(module, index)
        facts = dict(info.facts)
        with suppress(NotAvailable, AttributeError):
            facts["driver"] = ask(module, "get_device_properties", index).driver_version
        return msgspec.structs.replace(info, facts=facts)

    def worker_environment(self) -> Mapping[str, str]:
        """No plug-in, and host fallback announced with the operator's name."""
        return {**super().worker_environment(), "PYTORCH_DEBUG_XPU_FALLBACK": "1"}

    def telemetry(self, index: int) -> Source:
        """xpu-smi."""
        return XpuSmiSource(index)

    def recorded_variables(self) -> tuple[str, ...]:
        """What changes the choice of devices, kernels and queues."""
        return (
            *("ZE_*", "ZET_*", "ZES_*", "UR_*", "SYCL_*", "ONEAPI_*", "OCL_*", "IGC_*", "NEO*"),
            *("IPEX_*", "CCL_*", "I_MPI_*", "ITEX_*"),
        )

    def harmful_variables(self) -> Mapping[str, str]:
        """Fallback is off unless it is asked for; calls wait for locks (1) or for kernels (2)."""
        waits = "calls of the driver wait for one another, or for every kernel"
        return {
            "PYTORCH_ENABLE_XPU_FALLBACK": "operators may run on the host",
            **dict.fromkeys(("UR_L0_SERIALIZE", "ZE_SERIALIZE"), waits),
        }


BACKEND = XpuBackend()
