"""Which implementations a step ran through, as its framework names them, and where they ran."""

from __future__ import annotations

import msgspec

from bench.records.value import Value, positive_and_finite

HOST = "host"
"""The place of kernels that the host computed."""
CONVERSIONS = "host, between numbers and tensors"
"""Of those that compute nothing, and lie there whatever the device."""


class Executed(Value, frozen=True, kw_only=True):
    """The operators of one untimed step, of what has several implementations."""

    absent: str = ""
    """Why they could not be seen; empty where they were looked at."""
    operators: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    """By kind: attention, experts, convolution, scan. A kind that the step has not is not there.
    In brackets what an operator is made of where the device has none of its own for it."""
    kernels: dict[str, tuple[str, ...]] | None = None
    """By the place that they ran on, `HOST`, `CONVERSIONS` or what an accelerator calls its cores,
    the kernels of a step that the framework's profiler saw; None where none looks, and in old
    records."""
    expert_tokens: tuple[int, ...] = ()
    """Tokens that went to each expert, over all layers; empty where there are none, or a token's
    experts could not be seen."""
    experts_hit: float | None = None
    """Experts of a layer that got a token, a mean of layers; None in old records, and likewise."""

    def __post_init__(self) -> None:
        if any(tokens < 0 for tokens in self.expert_tokens):
            raise ValueError("an expert with fewer than no tokens")
        if self.experts_hit is not None:
            positive_and_finite(experts_hit=self.experts_hit)
