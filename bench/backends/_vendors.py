"""True vendors behind borrowed device types: by the device's name, its type, or the environment.

Not a backend. Two of them need it: one to leave alone what is not its own, one to name it.
"""

from __future__ import annotations

from collections.abc import Mapping

BY_NAME = {
    "metax": "MetaX",
    "mxc": "MetaX",
    "iluvatar": "Iluvatar CoreX",
    "bi-v": "Iluvatar CoreX",
    "mr-v": "Iluvatar CoreX",
    "ppu": "Alibaba T-Head",
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
    "supa": "Biren",
}
"""Types that only one vendor uses."""
OWN_NAMES = ("nvidia", "tesla", "geforce", "quadro", "grid")
"""In the names of CUDA's own parts, whatever else is installed beside them."""


def compatible_vendor(device_name: str, variables: Mapping[str, str]) -> str | None:
    """Who made a part that answers to `cuda`, if that is not NVIDIA; None if nothing says so."""
    if any(name in device_name.lower() for name in OWN_NAMES):
        return None
    words = device_name.lower().replace("_", " ").split()
    for beginning, vendor in BY_NAME.items():
        if any(word.startswith(beginning) for word in words):
            return vendor
    return next((vendor for name, vendor in BY_VARIABLE.items() if variables.get(name)), None)
