"""A simulated Ascend device, for tests: torch's `npu` on any CPU, with the faults of a real one.

torch can be given one device type of a plug-in's own (PrivateUse1), once and for the whole process.
So this device lives in subprocesses only: `environment` gives the variables of one. They put the
folder `path` on PYTHONPATH, where `import torch` finds `torch_npu` and loads it, as it does the
real plug-in, and the folder `bin` on PATH, where `npu-smi` is.

What it can imitate, and by which variables, is in the docstring of `path/torch_npu/__init__.py`.
"""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def environment(**faults: object) -> dict[str, str]:
    """The variables of a subprocess that has the simulated device.

    faults: the variables of `torch_npu` without their prefix, in lower case:
    `environment(fallback="cumsum", memory_bytes=2**28)`. A misspelt one fails where torch is
    imported, with the list of those that there are.
    """
    return {
        "PYTHONPATH": _first("path", "PYTHONPATH"),
        "PATH": _first("bin", "PATH"),
        # Said, so that nothing in the tests' own environment can turn it off.
        "TORCH_DEVICE_BACKEND_AUTOLOAD": "1",
        **{f"SIMNPU_{name.upper()}": str(value) for name, value in faults.items()},
    }


def _first(folder: str, variable: str) -> str:
    before = os.environ.get(variable)
    return os.pathsep.join([str(FOLDER / folder), *([before] if before else [])])
