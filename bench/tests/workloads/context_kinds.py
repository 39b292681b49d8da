"""Kinds of attention over long contexts, small; and what each multiplies for its kernels' sake."""

from __future__ import annotations

from typing import Any

from bench.workloads.contexts import contexts

SMALL = {"heads": 4, "kv_heads": 2, "head_dim": 16, "context_length": 41}
LATENT = {"heads": 4, "head_dim": 16, "latent_dim": 32, "rotary_dim": 8, "context_length": 41}
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("prefill", {}),
    ("prefill", {"sinks": True, "batch_size": 2}),
    ("prefill", {"window": 8}),
    ("prefill", {"window": 8, "sinks": True, "batch_size": 2}),
    ("prefill", {"window": 100, "sinks": True}),
    ("decode", {"cache": "fp8"}),
    ("decode", {"window": 8, "sinks": True, "batch_size": 2}),
    ("decode", {"window": 8, "sinks": True, "cache": "fp8"}),
    ("latent-prefill", {}),
    ("latent-prefill", {"absorbed": True}),
    ("latent-decode", {"absorbed": False, "cache": "fp8"}),
    ("latent-decode", {"cache": "fp8", "batch_size": 2}),
    ("prefill", {"sinks": True, "cache": "fp8"}),
    ("prefill", {"window": 8, "sinks": True, "cache": "fp8", "batch_size": 2}),
    ("latent-prefill", {"cache": "fp8"}),
]


def parameters(mode: str, **given: Any) -> Any:
    sizes = LATENT if mode.startswith("latent") else SMALL
    return contexts.MODES[mode](**{**sizes, **given})


def beside(mode: str, p: Any) -> int:
    """FLOP that torch's counter sees and the formula leaves out: masked scores, and columns that
    are there for the kernels."""
    batch, tokens = p.batch_size, p.context_length
    latent = mode.startswith("latent")
    if latent:
        wide = (p.latent_dim if p.absorbed else p.head_dim) + p.rotary_dim
        each, queries, keys = 4 * wide, 1 if "decode" in mode else tokens, tokens
        counted = 4 * wide - 2 * p.rotary_dim
    elif mode == "prefill" and p.window:
        window = min(p.window, tokens)
        queries, keys = -(-tokens // window) * window, 2 * window + 8 * p.sinks
        each, counted = 4 * (p.head_dim + 8 * p.sinks), 4 * p.head_dim
    else:
        queries = 1 if mode == "decode" else tokens + p.sinks
        keys = min(tokens, p.window or tokens) if mode == "decode" else tokens
        keys += p.sinks
        each, counted = 4 * (p.head_dim + 8 * p.sinks), 4 * p.head_dim
    window = 0 if latent else p.window
    visible = contexts.pairs(1 if "decode" in mode else tokens, tokens, window)
    flop: int = batch * p.heads * (each * queries * keys - counted * visible)
    return flop
