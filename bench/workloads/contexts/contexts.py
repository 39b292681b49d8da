"""Attention over long contexts: grouped queries, windows, sinks, latents, narrow caches.

What a step of mode `prefill`, `decode`, `latent-prefill` or `latent-decode` is, and what it counts.
All go through torch's own `scaled_dot_product_attention`; what that cannot say is said by operands:

- A window takes blocks of as many queries, each beside its own and the earlier block of keys, which
  the step gathers: no score outside of two blocks is computed.
- A sink, which joins the softmax of its head and has no value, is a key of its own: queries have
  eight columns more, in one of which lies the sink's score, and the sink alone is not zero there.
- A latent's values are the first columns of its keys, so one tensor is both.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import msgspec

from bench.precision import ELEMENT_BYTES, Precision
from bench.quantized_product import quantize
from bench.workload import BatchSize, Job, Later, OneOf, Parameters, Site, Within
from bench.workloads.jobs.modes import at_most
from bench.workloads.jobs.products import buffers_of
from bench.workloads.jobs.seeded import SeededData

if TYPE_CHECKING:
    from torch import Tensor

CACHES = ("unquantized", "fp8")
NARROW = "float8_e4m3fn"
PADDING = 8
"""Columns that a sink takes: kernels want multiples of eight."""
PREFILL_BUFFERS = 4
"""Most sets of operands where all tokens ask: those are large, and arithmetic takes the time."""
TWIN_CONTEXT, TWIN_HEADS, TWIN_GROUP, TWIN_WINDOW = 96, 4, 2, 8
TWIN_KV_HEADS = 16
"""As many heads of keys the twin has too: kernels are chosen by how many there are."""


class ContextParameters(Parameters, frozen=True, kw_only=True):
    """Queries [B, H, Q, D] of a sequence's last tokens, over keys and values of [B, G, T, D]."""

    batch_size: BatchSize = 1
    heads: Annotated[int, Within(1, 1024)] = 32
    kv_heads: Annotated[int, Within(1, 1024)] = 8
    """Heads of keys and values; as many queries' heads share each."""
    head_dim: Annotated[int, Within(8, 512, 8)] = 128
    context_length: Annotated[int, Within(2, 2**21)] = 4096
    """T: tokens of the sequence, the last query's own included."""
    window: Annotated[int, Within(0, 2**21)] = 0
    """Keys that a query sees, its own included; 0 for all before it."""
    sinks: bool = False
    """Whether each head has a score besides that joins its softmax and has no value."""

    def __post_init__(self) -> None:
        """Raises ValueError for what cannot be."""
        super().__post_init__()
        if self.heads % self.kv_heads:
            raise ValueError(
                f"heads must be a multiple of kv_heads: {self.heads} and {self.kv_heads}"
            )


class PrefillParameters(ContextParameters, frozen=True, kw_only=True):
    """All tokens ask."""

    cache: Annotated[str, OneOf(CACHES), Later()] = "unquantized"
    """`fp8`: as where a prompt reads behind itself what lies in the cache, its own tokens too; in
    e4m3, a float32 scale for each head."""


class DecodeParameters(ContextParameters, frozen=True, kw_only=True):
    """The last token asks."""

    cache: Annotated[str, OneOf(CACHES)] = "unquantized"
    """`fp8`: keys and values in e4m3, a float32 scale for each head."""


class LatentParameters(Parameters, frozen=True, kw_only=True):
    """Keys and values of all heads from a latent [B, T, L] and rotated columns [B, T, R].

    As in DeepSeek-V2 and later: head h has keys [c A_h, r] and values c V_h of the latent c and the
    rotated columns r, with A_h, V_h [L, D].
    """

    batch_size: BatchSize = 1
    heads: Annotated[int, Within(1, 1024)] = 128
    head_dim: Annotated[int, Within(8, 512, 8)] = 128
    latent_dim: Annotated[int, Within(8, 4096, 8)] = 512
    rotary_dim: Annotated[int, Within(8, 512, 8)] = 64
    context_length: Annotated[int, Within(2, 2**21)] = 4096
    absorbed: bool = False
    """Whether A_h goes into the queries and V_h behind the attention, which is then over the latent
    itself, instead of expanding the latent into all heads' keys and values: the same result by
    other work, with FLOP of its own."""


class LatentPrefillParameters(LatentParameters, frozen=True, kw_only=True):
    """All tokens ask."""

    cache: Annotated[str, OneOf(CACHES), Later()] = "unquantized"
    """`fp8`: likewise, latent and rotated columns with a float32 scale for each sequence."""


class LatentDecodeParameters(LatentParameters, frozen=True, kw_only=True):
    """The last token asks."""

    absorbed: bool = True
    cache: Annotated[str, OneOf(CACHES)] = "unquantized"
    """`fp8`: latent and rotated columns in e4m3, a float32 scale for each sequence."""


MODES: dict[str, type[Parameters]] = {
    "prefill": PrefillParameters,
    "decode": DecodeParameters,
    "latent-prefill": LatentPrefillParameters,
    "latent-decode": LatentDecodeParameters,
}


class Counted(NamedTuple):
    """What a step counts."""

    flop: int
    moved_bytes: int


def pairs(queries: int, context: int, window: int) -> int:
    """Pairs of a query and a key that it sees, of the last `queries` tokens of so many.

    Token i of a sequence, counted from one, sees min(i, window) keys; a window of 0 is none.
    """
    window = min(window or context, context)
    first = context - queries + 1
    short = max(0, min(window, context + 1) - first)  # tokens that see fewer than a window
    return short * (first + first + short - 1) // 2 + (queries - short) * window


def counted(p: Any, precision: Precision) -> Counted:
    """FLOP and least bytes of a step.

    Two products of 2 D FLOP for each pair of a query and a key that it sees, in each head: 4 B H D
    pairs. A sink is no product. A latent's scores have L + R columns and its values L where it is
    absorbed, D + R and D where it is expanded; besides, with Q queries, 4 B Q H D L for queries and
    results through A and V, or 4 B T H D L to expand it.

    Bytes: queries, keys and values that are seen, and the result, once each; of narrow caches with
    their scales; of latents A and V too.
    Source: Dao, arXiv 2307.08691, section 4.1; DeepSeek-AI, arXiv 2405.04434, section 2.1 and
    appendix C.
    """
    latent, batch = isinstance(p, LatentParameters), p.batch_size
    queries = 1 if _decodes(p) else p.context_length
    wide = precision.element_bytes
    width = ELEMENT_BYTES[NARROW] if _narrow(p) else wide
    seen = pairs(queries, p.context_length, 0 if latent else p.window)
    asked = batch * queries * p.heads
    if not latent:
        tokens = min(p.context_length, p.window or p.context_length) if _decodes(p) else queries
        cache = 2 * batch * p.kv_heads * (tokens * p.head_dim * width + 4 * _narrow(p))
        return Counted(
            4 * batch * p.heads * p.head_dim * seen, cache + 2 * asked * p.head_dim * wide
        )
    scores = (p.latent_dim if p.absorbed else p.head_dim) + p.rotary_dim
    values = p.latent_dim if p.absorbed else p.head_dim
    through = queries if p.absorbed else p.context_length
    flop = 2 * batch * p.heads * seen * (scores + values)
    flop += 4 * batch * through * p.heads * p.head_dim * p.latent_dim
    cache = batch * (p.context_length * (p.latent_dim + p.rotary_dim) * width + 4 * _narrow(p))
    matrices = 2 * p.heads * p.head_dim * p.latent_dim * wide
    return Counted(flop, cache + matrices + asked * (2 * p.head_dim + p.rotary_dim) * wide)


def twin(p: Any) -> Any:
    """96 tokens at most, a window of eight: several blocks, the first one short.

    Of up to 16 heads of keys it has as many, each for one head of queries or two; of more, and of a
    latent, four heads.
    """
    if isinstance(p, LatentParameters):
        return at_most(
            p, batch_size=1, context_length=TWIN_CONTEXT, heads=TWIN_HEADS, latent_dim=64
        )
    group = min(p.heads // p.kv_heads, TWIN_GROUP)
    kv_heads = p.kv_heads if p.kv_heads <= TWIN_KV_HEADS else TWIN_HEADS // group
    small = at_most(p, batch_size=1, context_length=TWIN_CONTEXT, window=TWIN_WINDOW)
    return msgspec.structs.replace(small, heads=group * kv_heads, kv_heads=kv_heads)


def build(p: Any, site: Site) -> Job:
    """The job, or in the gate's reference what the same operands give by the definition."""
    from bench.workloads.contexts import context_jobs

    exact = site.precision.weights == "float64"
    sets = _drawn_sets(p, 1 if exact else buffers(p, site.precision), site)
    return context_jobs.job(p, sets, exact, site)


def buffers(p: Any, precision: Precision) -> int:
    """How many sets of operands rotate: of a decode as many as it takes that none is in a cache."""
    wanted = buffers_of(counted(p, precision).moved_bytes)
    return wanted if _decodes(p) else min(PREFILL_BUFFERS, wanted)


def _drawn_sets(p: Any, count: int, site: Site) -> Iterator[Drawn]:
    """One after the other, so that nobody need hold all that was drawn.

    Of a window's caches after the first, which the gate looks at, only what a step sees is drawn.
    """
    data = SeededData(site.seed)
    yield drawn(p, data, site)
    if isinstance(p, DecodeParameters) and p.window:
        p = msgspec.structs.replace(p, context_length=max(2, min(p.window, p.context_length)))
    for _ in range(count - 1):
        yield drawn(p, data, site)


class Drawn(NamedTuple):
    """Operands as the definition has them, in the site's precision and on its device."""

    query: Tensor
    """[B, H, Q, D]; of a latent [B, H, Q, D + R]."""
    key: Tensor
    """[B, G, T, D]; of a latent both parts, [B, 1, T, L + R]. In e4m3 where the cache is narrow."""
    value: Tensor | None
    """[B, G, T, D]; None of a latent."""
    scales: tuple[Tensor, ...]
    """Of narrow keys and values, [B, G, 1, 1]."""
    sinks: Tensor | None
    """[H]."""
    matrices: tuple[Tensor, ...]
    """A and V of a latent, [H, L, D]."""


def drawn(p: Any, data: SeededData, site: Site) -> Drawn:
    """Normals, as a norm leaves them; sinks of the size of the largest scores."""
    import torch

    dtype = site.precision.dtype
    queries = 1 if _decodes(p) else p.context_length

    def normal(*shape: int, std: float = 1.0) -> Tensor:
        return data.normal(shape, dtype, std).to(site.device)

    def cached(*shape: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        if not _narrow(p):
            return normal(*shape), ()
        values = data.normal(shape, torch.float32)
        octets, scale = quantize(values.view(*shape[:2], -1), getattr(torch, NARROW))
        return octets.view(shape).to(site.device), (scale[..., None].to(site.device),)

    if isinstance(p, LatentParameters):
        query = normal(p.batch_size, p.heads, queries, p.head_dim + p.rotary_dim)
        both = (p.batch_size, 1, p.context_length, p.latent_dim + p.rotary_dim)
        key, scales = cached(*both)
        std = p.latent_dim**-0.5
        shape = (p.heads, p.latent_dim, p.head_dim)
        matrices = (normal(*shape, std=std), normal(*shape, std=std))
        return Drawn(query, key, None, scales, None, matrices)
    query = normal(p.batch_size, p.heads, queries, p.head_dim)
    key, key_scales = cached(p.batch_size, p.kv_heads, p.context_length, p.head_dim)
    value, value_scales = cached(p.batch_size, p.kv_heads, p.context_length, p.head_dim)
    sinks = normal(p.heads, std=2.0) if p.sinks else None
    return Drawn(query, key, value, key_scales + value_scales, sinks, ())


def _decodes(p: Any) -> bool:
    return isinstance(p, DecodeParameters | LatentDecodeParameters)


def _narrow(p: Any) -> bool:
    return bool(p.cache == "fp8")
