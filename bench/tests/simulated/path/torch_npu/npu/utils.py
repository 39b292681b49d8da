"""`torch_npu.npu.utils`: the versions of what lies below torch_npu."""

from __future__ import annotations

VERSIONS = {"CANN": "9.1.0", "RUNTIME": "9.1.0", "COMPILER": "9.1.0", "DRIVER": "26.0.0"}


def get_cann_version(module: str = "CANN") -> str:
    """Empty for a module that there is not, like the real one."""
    return VERSIONS.get(module, "")
