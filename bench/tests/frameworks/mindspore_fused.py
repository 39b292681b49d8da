"""In the place of MindSpore's own attention, which is for accelerators: what its reference says.

Loaded by its interpreter alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bench.framework import Executing, Unsupported
from bench.tests.frameworks.mindspore_faults import put

PASSED = "the gate is passed, and no more was asked"
CORNER = (2048, 2048)
"""The shape of a mask of the left upper corner, by that reference."""


def attention(fault: str = "") -> Callable[..., Any]:
    """softmax(scale Q K^T, left out as said) V, of heads of keys that queries share."""

    def flash_attention_score(
        query: Any,
        key: Any,
        value: Any,
        head_num: int,
        *,
        attn_mask: Any = None,
        scalar_value: float = 1.0,
        input_layout: str = "BSH",
        sparse_mode: int = 0,
    ) -> Any:
        import mindspore as ms
        from mindspore import ops

        batch, heads, length, width = query.shape
        assert query.dtype in (ms.float16, ms.bfloat16) and width % 16 == 0
        assert input_layout == "BNSD" and head_num == heads and heads % key.shape[1] == 0
        apart = query.reshape(batch, key.shape[1], -1, length, width)
        scale = 1.0 if fault == "unscaled" else scalar_value
        scores = ops.matmul(apart, key[:, :, None].swapaxes(-1, -2)).astype(ms.float32) * scale
        if sparse_mode and fault != "no mask":
            assert sparse_mode == 2 and attn_mask.shape == CORNER and attn_mask.dtype == ms.uint8
            scores = scores - 1e9 * attn_mask[:length, :length].astype(ms.float32)
        shares = ops.softmax(scores, -1).astype(value.dtype)
        return ops.matmul(shares, value[:, :, None]).reshape(query.shape)

    return flash_attention_score


def no_further(_: Callable[..., Any]) -> Callable[..., Any]:
    def gated(self: Any) -> None:
        raise Unsupported(PASSED)

    return gated


def fused(fault: str) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """Has jobs of 16 bits take it on a host too, and launches end behind the gate."""

    @contextlib.contextmanager
    def planted() -> Iterator[None]:
        from mindspore import ops

        from bench.frameworks.on_mindspore import jobs

        with (
            put(ops, "flash_attention_score", lambda _: attention(fault)),
            put(jobs, "HOST", lambda _: "none"),
            put(Executing, "gated", no_further),
        ):
            yield

    return planted


FUSED: Mapping[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
    "fused": fused(""),
    "fused, unscaled": fused("unscaled"),
    "fused, no mask": fused("no mask"),
}
