"""Jobs of attention over long contexts, and what the same operands give by the definition."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from bench.workload import Job, Look, Site
from bench.workloads.contexts import context_steps
from bench.workloads.contexts.context_steps import Prepared
from bench.workloads.contexts.contexts import (
    PADDING,
    TWIN_CONTEXT,
    Drawn,
    LatentParameters,
    PrefillParameters,
)
from bench.workloads.jobs.rotation import RotatingJob, Rotation
from bench.workloads.spots.attention_spots import places, spots
from bench.workloads.spots.spots import allowed, look

if TYPE_CHECKING:
    from torch import Tensor

    from bench.workloads.spots.attention_spots import Places


class ContextJob(RotatingJob):
    """One attention; operands rotate."""

    def __init__(
        self, prepared: list[Prepared], facts: dict[str, str], quantity: str, site: Site
    ) -> None:
        """Starts with the first operands. quantity: what the numerics gate calls the output."""
        self._inputs, self._site = Rotation(prepared), site
        self.quantity = quantity
        self.facts = {"operand buffers": str(len(prepared)), **facts}

    def step(self) -> None:
        """Queues one attention."""
        import torch

        with torch.inference_mode():
            self._output = next(self._inputs).step()

    def weights(self) -> Sequence[Tensor]:
        """All operands."""
        return [tensor for one in self._inputs.items for tensor in (one.query, *one.others)]

    def inputs(self) -> Sequence[Tensor]:
        """The last query."""
        return [self._inputs.last.query]

    def looks(self) -> Iterator[Look]:
        """At tokens of the last attention that was timed."""
        prepared, where, found = self._timed()
        assert prepared.head is not None
        heads = [prepared.head(*place, where.tokens) for place in where.heads]
        length = heads[0].length
        precision, twin = self._site.precision, min(length, TWIN_CONTEXT)
        most = allowed(precision, self.quantity, length, twin)
        yield look(self.quantity, spots(found, where, heads), most)

    def _keep(self) -> tuple[Prepared, Places, tuple[Tensor, ...]]:
        """Operands, which tokens are looked at, and those."""
        where = places(self._output.shape, TWIN_CONTEXT, self._site.seed)
        return self._inputs.last, where, where.of(self._output)


def job(p: Any, sets: Iterable[Drawn], exact: bool, site: Site) -> Job:
    """A job of those operands; exact: of the first alone, by the definition, in float64."""
    quantity = "latent attention" if isinstance(p, LatentParameters) else "attention"
    if exact:
        first = next(iter(sets))
        only = Prepared(lambda: defined(p, first), first.query, ())
        return ContextJob([only], {}, quantity, site)
    facts = {}
    if isinstance(p, LatentParameters):
        facts["latent"] = "absorbed" if p.absorbed else "expanded in the step"
        prepare: Callable[..., Prepared] = context_steps.latents
    else:
        prepare = context_steps.plain
        if p.window and isinstance(p, PrefillParameters):
            # One mask for all sets.
            mask = functools.cache(functools.partial(context_steps.block_mask, p))
            prepare = functools.partial(context_steps.blocks, mask)
            facts["window"] = f"blocks of {p.window} queries, keys gathered in the step"
        if p.sinks:
            facts["sinks"] = f"a key of its own, {PADDING} columns beside the {p.head_dim}"
    if p.cache == "fp8":
        facts["cache"] = "float8_e4m3fn, widened in the step"
    return ContextJob([prepare(p, one) for one in sets], facts, quantity, site)


def defined(p: Any, one: Drawn) -> Tensor:
    """softmax(Q K^T / sqrt(D) with what is seen, and the sink) V, in float64, score by score."""
    import torch

    query, key = one.query.double(), one.key.double()
    if one.scales:
        key = key * one.scales[0].double()
    if isinstance(p, LatentParameters):
        latent, rotated = key[:, 0].split([p.latent_dim, p.rotary_dim], -1)
        up, down = (matrix.double() for matrix in one.matrices)
        keys = torch.einsum("btl,hld->bhtd", latent, up)
        every = rotated[:, None].expand(-1, p.heads, -1, -1)
        key, value = torch.cat([keys, every], -1), torch.einsum("btl,hld->bhtd", latent, down)
        window = 0
    else:
        assert one.value is not None
        value = one.value.double() * (one.scales[1].double() if one.scales else 1.0)
        group = p.heads // p.kv_heads
        key, value = (x.repeat_interleave(group, 1) for x in (key, value))
        window = p.window
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    scores = scores.masked_fill(~seen(query.shape[2], p.context_length, window), -torch.inf)
    if one.sinks is not None:
        beside = one.sinks.double()[None, :, None, None].expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, beside], -1)
    found: Tensor = scores.softmax(-1)[..., : p.context_length] @ value
    return found


def seen(queries: int, context: int, window: int) -> Tensor:
    """Which keys each of the last tokens sees, [Q, T]."""
    import torch

    token = torch.arange(context - queries, context)[:, None]
    key = torch.arange(context)[None, :]
    return (key <= token) & (key > token - (window or context))
