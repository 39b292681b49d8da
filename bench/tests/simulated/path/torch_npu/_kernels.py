"""The operators that cannot run by the boxed fallback: allocation, copies, convolution, attention.

Registered with torch for the dispatch key PrivateUse1, each under its own name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from . import _devices
from ._dispatch import CPU_KEY, announce, assign, device_of, on_cpu, run
from ._settings import SETTINGS
from ._storage import may_be, to_device, to_host

aten = torch.ops.aten
VIEWS = (
    *("as_strided", "view", "_reshape_alias", "unfold", "view_as_real", "view_as_complex"),
    *("set_.source_Storage", "set_.source_Storage_storage_offset", "set_.source_Tensor"),
)
"""Metadata only: torch's CPU kernels for them never touch the data, and take no device time."""
OVERRIDEABLE, MATH = 4, 0
"""Answers to `_fused_sdp_choice`: torch's enumeration SDPBackend."""
MAXIMUM_HEAD_DIM = 512

_library = torch.library.Library("aten", "IMPL")
_everything = torch.library.Library("_", "IMPL")


def register() -> None:
    """Tells torch of all kernels."""
    _everything.fallback(run, "PrivateUse1")
    for name in VIEWS:
        _library.impl(name, _on_metadata(operator(name)), "PrivateUse1")
    for name, kernel in KERNELS.items():
        _library.impl(name, kernel, "PrivateUse1")
    for key in ("Conjugate", "Negative"):  # torch would resolve those bits by a copy, for ever
        _library.impl("_copy_from", torch.library.fallthrough_kernel, key)


def operator(name: str) -> Any:
    """`view` or `set_.source_Storage` as torch.ops has it."""
    base, _, overload = name.partition(".")
    return getattr(getattr(aten, base), overload or "default")


def _on_metadata(op: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: op.redispatch(CPU_KEY, *args, **kwargs)


def empty(
    size: Any,
    *,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: Any = None,
    memory_format: Any = None,
) -> torch.Tensor:
    """torch_npu has no channels_last: it refuses in these words (ran)."""
    if memory_format in (torch.channels_last, torch.channels_last_3d):
        raise RuntimeError("Only contiguous_format or preserve_format is supported")
    return to_device(torch.empty(size, dtype=dtype, device="cpu"), _devices.index_of(device))


def empty_strided(
    size: Any,
    stride: Any,
    *,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: Any = None,
) -> torch.Tensor:
    host = torch.empty_strided(size, stride, dtype=dtype, device="cpu")
    return to_device(host, _devices.index_of(device))


def resize_(tensor: torch.Tensor, size: Any, *, memory_format: Any = None) -> torch.Tensor:
    """In place where the storage is large enough, else with a new one that keeps the values."""
    shape = torch.Size(size)
    if shape.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes():
        stride = torch.empty(shape, device="meta").stride()
        return tensor.as_strided_(shape, stride, tensor.storage_offset())
    larger = torch.empty(shape, dtype=tensor.dtype)
    larger.view(-1)[: tensor.numel()].copy_(to_host(tensor).reshape(-1))
    return assign(tensor, larger)


def copy_from(
    source: torch.Tensor, target: torch.Tensor, non_blocking: bool = False
) -> torch.Tensor:
    """Every copy_ that has a device tensor at either end; the host waits for what it reads."""
    device = device_of((source, target), {})
    if source.device.type != "cpu":  # who reads converts: not the host, on the way to it
        may_be(target.dtype)
    announce("aten::_copy_from", device)
    capture = device.capturing
    if capture is not None and "cpu" in (source.device.type, target.device.type):
        capture.refuse("aclrtMemcpy")  # no host memory is pinned here
    if capture is not None:
        there, here = capture.host(to_host(target)), capture.host(to_host(source))
        capture.changes([there])
        capture.add(lambda: there.copy_(here))
    to_host_later = target.device.type == "cpu" and non_blocking
    if not (to_host_later and "lost-copies" in SETTINGS.broken):
        to_host(target).copy_(to_host(source))
    if target.device.type == "cpu" and not non_blocking:
        device.wait_for_stream()
    return target


def copy_from_and_resize(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    announce("aten::_copy_from", device_of((source, target), {}))
    return assign(target, to_host(source).clone())


def local_scalar_dense(tensor: torch.Tensor) -> Any:
    """`.item()`: waits."""
    device = device_of((tensor,), {})
    announce("aten::_local_scalar_dense", device)
    device.wait_for_stream()
    return to_host(tensor).item()


def histc(tensor: torch.Tensor, bins: int = 100, low: float = 0, high: float = 0) -> torch.Tensor:
    """Of integers too, which the CPU's kernel does not count."""
    kernel = aten.histc.default
    result: torch.Tensor = _named(
        "histc", lambda host: kernel(host.float(), bins, low, high).to(host.dtype), (tensor,)
    )
    return result


def convolution(*args: Any) -> Any:
    return _named("convolution", aten.convolution.default, args)


def convolution_backward(
    gradient: torch.Tensor,
    image: torch.Tensor,
    weight: torch.Tensor,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
    mask: Any,
) -> Any:
    bias = [weight.shape[1] * groups if transposed else weight.shape[0]] if mask[2] else None
    rest = (bias, stride, padding, dilation, transposed, output_padding, groups, mask)
    kernel = aten.convolution_backward.default
    return _named(
        "convolution_backward", lambda g, x, w: kernel(g, x, w, *rest), (gradient, image, weight)
    )


def fused_sdp_choice(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None = None,
    dropout: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> int:
    """What torch_npu's fused kernel serves: 4-D, fp16/bf16/fp32, no mask or a bool one, D <= 512.

    Dropout and grouped queries go the long way too, because the CPU kernel behind this one must.
    """
    fused = (
        query.dim() == 4
        and query.dtype in (torch.float16, torch.bfloat16, torch.float32)
        and (mask is None or mask.dtype == torch.bool)
        and query.shape[-1] <= MAXIMUM_HEAD_DIM
        and query.shape[-1] == value.shape[-1]
        and dropout == 0.0
        and not enable_gqa
    )
    return OVERRIDEABLE if fused else MATH


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None = None,
    dropout: float = 0.0,
    is_causal: bool = False,
    return_debug_mask: bool = False,
    *,
    scale: float | None = None,
) -> Any:
    """The fused kernel, by the CPU's flash attention."""
    kernel = aten._scaled_dot_product_flash_attention_for_cpu.default
    output, log_sum_exp = _named(
        "npu_fusion_attention",
        lambda q, k, v, b: kernel(q, k, v, dropout, is_causal, attn_mask=b, scale=scale),
        (query, key, value, bias),
    )
    seed = to_device(torch.zeros((), dtype=torch.int64), _devices.index_of(query.device))
    return output, log_sum_exp, None, None, query.shape[2], key.shape[2], seed, seed, None


def attention_backward(
    gradient: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None,
    input_mask: Any,
    output: torch.Tensor,
    log_sum_exp: torch.Tensor,
    cumulative_q: Any,
    cumulative_k: Any,
    max_q: Any,
    max_k: Any,
    dropout: float,
    is_causal: bool,
    seed: Any,
    offset: Any,
    *,
    scale: float | None = None,
) -> Any:
    kernel = aten._scaled_dot_product_flash_attention_for_cpu_backward.default
    gradients = _named(
        "npu_fusion_attention_grad",
        lambda g, q, k, v, o, lse, b: kernel(
            g, q, k, v, o, lse, dropout, is_causal, attn_mask=b, scale=scale
        ),
        (gradient.contiguous(), query, key, value, output, log_sum_exp, bias),
    )
    return (*gradients, None)


def _named(name: str, kernel: Callable[..., Any], args: Any) -> Any:
    """Runs a CPU kernel as the operator that the device calls `name`."""
    device = device_of(args, {})
    announce(f"aten::{name}", device)
    return on_cpu(name, kernel, args, {}, frozenset(), device)


KERNELS: dict[str, Callable[..., Any]] = {
    "empty.memory_format": empty,
    "empty_strided": empty_strided,
    "resize_": resize_,
    "_copy_from": copy_from,
    "_copy_from_and_resize": copy_from_and_resize,
    "_local_scalar_dense": local_scalar_dense,
    "histc": histc,
    "convolution_overrideable": convolution,
    "convolution_backward_overrideable": convolution_backward,
    "_fused_sdp_choice": fused_sdp_choice,
    "_scaled_dot_product_fused_attention_overrideable": attention,
    "_scaled_dot_product_fused_attention_overrideable_backward": attention_backward,
}
