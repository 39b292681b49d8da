"""`torch.compile(backend="npu")`: the plug-in's compiler, which torch finds by an entry point.

A graph of operators becomes kernels: what works element by element is part of the kernel before it
and takes no time of its own, and all else takes what it takes alone. torch's own compiler,
inductor, knows nothing of the device and fails, as without the vendor's Triton.
"""

from __future__ import annotations

from typing import Any

import torch

from . import _devices
from ._settings import SETTINGS


def compiled(graph: torch.fx.GraphModule, inputs: list[torch.Tensor], **_: Any) -> Any:
    """What torch calls with a graph; imports torch's compiler only then."""
    if "no-compiler" in SETTINGS.broken:
        raise RuntimeError("torchair is not installed [simulated]")
    from torch._dynamo.backends.common import aot_autograd

    make: Any = aot_autograd(fw_compiler=_kernels, bw_compiler=_kernels)
    return make(graph, inputs)


def _kernels(graph: torch.fx.GraphModule, inputs: Any) -> Any:
    def run(arguments: list[Any]) -> Any:
        before, _devices.CURRENT.fused = _devices.CURRENT.fused, True
        try:
            found = graph(*arguments)
            if "wrong-compiler" in SETTINGS.broken:
                found = [x * 1.01 if _real(x) else x for x in found]
        finally:
            _devices.CURRENT.fused = before
        return found

    boxed: Any = run
    boxed._boxed_call = True  # torch's mark of what takes its arguments as one list
    return boxed


def _real(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()
