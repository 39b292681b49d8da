"""`torch.autocast("npu", dtype)`: which operators get the short format, and which float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ._devices import TYPE
from ._kernels import operator

SHORT = (
    *("conv1d", "conv2d", "conv3d", "convolution", "linear", "matmul", "mm", "bmm"),
    *("addmm", "addbmm", "baddbmm", "scaled_dot_product_attention"),
)
LONG = (
    *("layer_norm", "group_norm", "softmax.int", "log_softmax.int", "nll_loss", "nll_loss_nd"),
    *("cross_entropy_loss", "mse_loss", "exp", "log", "pow.Tensor_Scalar", "rsqrt", "sum"),
    "cumsum",
)
"""The policies of torch's CUDA autocast, for the operators that the workloads use."""

_core: Any = torch._C  # private, and not all of it is in torch's type stubs
_KEY = _core.DispatchKeySet(_core.DispatchKey.AutocastPrivateUse1)
_library = torch.library.Library("aten", "IMPL")
_everything = torch.library.Library("_", "IMPL")


def register() -> None:
    """Tells torch of the policies."""
    _everything.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    for name in SHORT:
        _library.impl(name, _casting(operator(name), None), "AutocastPrivateUse1")
    for name in LONG:
        _library.impl(name, _casting(operator(name), torch.float32), "AutocastPrivateUse1")


def _casting(op: Any, dtype: torch.dtype | None) -> Callable[..., Any]:
    """An operator that first casts its device tensors; None: to autocast's dtype of the moment."""

    def cast(value: Any, wanted: torch.dtype) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(cast(inner, wanted) for inner in value)
        if not isinstance(value, torch.Tensor) or value.device.type != TYPE:
            return value
        return value.to(wanted) if value.is_floating_point() else value

    def call(*args: Any, **kwargs: Any) -> Any:
        # Private: the key must be off, or the operator would come back here.
        with _core._ExcludeDispatchKeyGuard(_KEY):
            wanted = dtype or torch.get_autocast_dtype(TYPE)
            cast_kwargs = {name: cast(value, wanted) for name, value in kwargs.items()}
            return op(*(cast(value, wanted) for value in args), **cast_kwargs)

    return call
