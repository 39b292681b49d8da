"""Bare loops of products and attention: one call of torch on operands made by hand, in turn."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bench.tests.validation.bare.loop import Loop, Parameters, inference

if TYPE_CHECKING:
    from torch import Tensor

AT_ONCE = 256 * 2**20
"""Operands rotate through this much memory, so that none is in a cache when its turn comes."""
STEPS = 20


def _turning(make: Callable[[], Callable[[], Any]], set_bytes: int, most: int) -> Loop:
    """Of so many sets of operands, each in its turn."""
    calls = itertools.cycle([make() for _ in range(min(most, -(-AT_ONCE // set_bytes)))])

    def call() -> Any:
        return next(calls)()

    return inference(call)._replace(steps=STEPS)


def _mnk(p: Parameters) -> tuple[int, int, int]:
    m, n, k = map(int, p["shape"].split("x"))
    return m, n, k


def int4_weights(p: Parameters) -> Loop:
    """bfloat16 by weights of 4 bits in groups of 128."""
    import torch

    m, n, k = _mnk(p)

    def make() -> Callable[[], Tensor]:
        rows = torch.randn(m, k).bfloat16()
        weights = torch.randint(0, 16, (n, k), dtype=torch.int32)
        packed = torch._convert_weight_to_int4pack_for_cpu(weights, 1)
        scales = torch.rand(k // 128, n, 2).bfloat16()
        return lambda: torch.ops.aten._weight_int4pack_mm_for_cpu(rows, packed, 128, scales)

    return _turning(make, 2 * m * k + n * k // 2 + n * k // 64 + 2 * m * n, 16)


def int8(p: Parameters) -> Loop:
    """int8 by int8 into int32 that is there."""
    import torch

    m, n, k = _mnk(p)

    def make() -> Callable[[], Tensor]:
        a, b = (torch.randint(-127, 128, (rows, k), dtype=torch.int8) for rows in (m, n))
        out = torch.empty((m, n), dtype=torch.int32)
        return lambda: torch._int_mm(a, b.t(), out=out)

    return _turning(make, (m + n) * k + 4 * m * n, 16)


def grouped(p: Parameters) -> Loop:
    """Rows of experts that all have as many."""
    import torch

    m, n, k = _mnk(p)
    functional: Any = torch.nn.functional

    def make() -> Callable[[], Tensor]:
        rows, matrices = torch.randn(m, k).bfloat16(), torch.randn(p["experts"], n, k).bfloat16()
        ends = torch.arange(1, p["experts"] + 1, dtype=torch.int32) * (m // p["experts"])
        return lambda: functional.grouped_mm(rows, matrices.transpose(1, 2), offs=ends)

    return _turning(make, 2 * (m * k + p["experts"] * n * k + m * n), 16)


def attention(p: Parameters, queries: int) -> Loop:
    """The last tokens of a sequence, over keys that heads of queries share; of one token as rows of
    one head, which no kernel finds slow."""
    import torch

    attend = torch.nn.functional.scaled_dot_product_attention
    batch, width, tokens = p["batch_size"], p["head_dim"], p["context_length"]

    def make() -> Callable[[], Tensor]:
        query = torch.randn(batch, p["heads"], queries, width).bfloat16()
        key, value = (torch.randn(batch, p["kv_heads"], tokens, width).bfloat16() for _ in "kv")
        if queries > 1:
            return lambda: attend(query, key, value, is_causal=True, enable_gqa=True)
        rows = query.view(batch, p["kv_heads"], -1, width)
        return lambda: attend(rows, key, value).reshape(query.shape)

    asked = 2 * batch * p["heads"] * queries * width
    most = 4 if queries > 1 else 16
    return _turning(make, 2 * (asked + 2 * batch * p["kv_heads"] * tokens * width), most)


def absorbed(p: Parameters) -> Loop:
    """One token over a latent, all heads as rows of one."""
    import torch

    attend = torch.nn.functional.scaled_dot_product_attention
    batch, heads, width, latent = (
        p[name] for name in ("batch_size", "heads", "head_dim", "latent_dim")
    )
    rotary, tokens = p["rotary_dim"], p["context_length"]

    def make() -> Callable[[], Tensor]:
        query = torch.randn(batch, heads, 1, width + rotary).bfloat16()
        cache = torch.randn(batch, 1, tokens, latent + rotary).bfloat16()
        into, out_of = (
            torch.randn(heads, *x).bfloat16() for x in ((width, latent), (latent, width))
        )

        def step() -> Tensor:
            plain, rotated = query.split([width, rotary], -1)
            asked = torch.cat([plain @ into, rotated], -1).transpose(1, 2)
            found = attend(asked, cache, cache, scale=(width + rotary) ** -0.5).transpose(1, 2)
            return found[..., :latent] @ out_of

        return step

    return _turning(make, 2 * (batch * tokens * (latent + rotary) + 2 * heads * width * latent), 16)


BARE: dict[str, Callable[[Parameters], Loop]] = {
    "gemm-matmul int4-weights": int4_weights,
    "gemm-matmul int8": int8,
    "gemm-grouped bf16": grouped,
    "attention-prefill bf16": lambda p: attention(p, p["context_length"]),
    "attention-decode bf16": lambda p: attention(p, 1),
    "attention-latent-decode bf16": absorbed,
}
"""By the name of the case, and its precision."""
