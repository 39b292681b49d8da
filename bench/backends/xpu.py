"""Intel GPUs through torch.xpu."""

from __future__ import annotations

from collections.abc import Mapping

from bench.backends._torch_device import TorchBackend
from bench.backends._xpu_smi import XpuSmiSource
from bench.telemetry.source import Source


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
        """Fallback is off unless it is asked for."""
        return {"PYTORCH_ENABLE_XPU_FALLBACK": "operators may run on the host"}

    def silencing_variables(self) -> tuple[str, ...]:
        """Fallback is announced as a Python warning."""
        return ("PYTHONWARNINGS",)


BACKEND = XpuBackend()
