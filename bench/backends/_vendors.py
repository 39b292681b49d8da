"""True vendors behind borrowed device types: by the device's name, its type, or the environment;
and what all share that answer to `cuda`. Not a backend.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from bench.backends._torch_device import TorchDevice

BY_NAME = {
    "metax": "MetaX",
    "mxc": "MetaX",
    "iluvatar": "Iluvatar CoreX",
    "bi-v": "Iluvatar CoreX",
    "mr-v": "Iluvatar CoreX",
    "ppu": "Alibaba T-Head",
    "zw": "Alibaba T-Head",
    "kunlun": "Baidu Kunlunxin",
    "p800": "Baidu Kunlunxin",
    "hygon": "Hygon",
    "dcu": "Hygon",
}
"""Beginnings of words in the names of parts that answer to another vendor's device type."""
BY_VARIABLE = {"PPU_SDK": "Alibaba T-Head", "MACA_PATH": "MetaX"}
"""Set by the vendor's environment script; asked where the name says nothing."""
BY_TYPE = {
    "gcu": "Enflame",
    "hpu": "Intel (Gaudi)",
    "mlu": "Cambricon",
    "mtia": "Meta",
    "musa": "Moore Threads",
    "neuron": "AWS",
    "rbln": "Rebellions",
    "spyre": "IBM",
    "supa": "Biren",
    "tpu": "Google",
}
"""Types that only one vendor uses."""
OWN_NAMES = ("nvidia", "tesla", "geforce", "quadro", "grid")
"""In the names of CUDA's own parts, whatever else is installed beside them."""
SUMS = ("fp16_accumulation", "fp16_reduced_precision_reduction", "bf16_reduced_precision_reduction")
"""torch's switches for sums of products of 16 bits; an older one lacks some."""


class CudaTypeDevice(TorchDevice):
    """One that torch calls `cuda`, current in this process."""

    switches = MappingProxyType({"tf32_convolution": "backends.cudnn.allow_tf32"})

    def float16_sums(self) -> bool:
        """By torch's switch."""
        import torch

        return bool(getattr(torch.backends.cuda.matmul, "allow_fp16_accumulation", False))

    def facts(self) -> dict[str, str]:
        """The switches as they stand."""
        import torch

        here = torch.backends.cuda.matmul
        found = {name: getattr(here, f"allow_{name}", None) for name in SUMS}
        known = {name: str(value) for name, value in found.items() if value is not None}
        return {**super().facts(), **known}


def compatible_vendor(device_name: str, variables: Mapping[str, str]) -> str | None:
    """Who made a part that answers to `cuda`, if that is not NVIDIA; None if nothing says so."""
    if any(name in device_name.lower() for name in OWN_NAMES):
        return None
    words = device_name.lower().replace("_", " ").split()
    for beginning, vendor in BY_NAME.items():
        if any(word.startswith(beginning) for word in words):
            return vendor
    return next((vendor for name, vendor in BY_VARIABLE.items() if variables.get(name)), None)
