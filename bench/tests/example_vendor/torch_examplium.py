"""Examplium's plug-in for torch, which a vendor has already: here the simulated one, renamed."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from bench.tests import simulated

os.environ["SIMNPU_TYPE"] = "examplium"
os.environ.setdefault("SIMNPU_DEVICE_NAME", "EX1")
sys.path.append(str(simulated.FOLDER / "path"))
importlib.import_module("torch_npu")  # registers the device

sys.path.pop()

__version__ = "2.13.0"


def compiled(graph: Any, inputs: Any) -> Any:
    """Their compiler, as torch.compile calls one."""
    return importlib.import_module("torch_npu._compiler").compiled(graph, inputs)
