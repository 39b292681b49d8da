"""The gate of language models sees a wrong mask, window, place, cache and order of heads; and
what a library lacks is no failure."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
import torch
from torch.nn import functional
from transformers.modeling_utils import AttentionInterface

from bench.measuring.gates import numerics
from bench.precision import PRECISIONS
from bench.tests.small_workloads import WORKLOADS, build, one_thread, site, small
from bench.workload import Unsupported
from bench.workloads.decoding import decoder
from bench.workloads.layers import transformers as of_transformers
from bench.workloads.layers.transformers import ATTENTION, attend, library_class

__all__ = ["one_thread"]  # a fixture, used by being here

Faulty = pytest.MonkeyPatch
REAL = functional.scaled_dot_product_attention


def verdict(name: str, mode: str, precision: str = "bf16", **given: Any) -> str:
    """The gate's complaint; empty where it passed."""
    at = site(PRECISIONS[precision])
    return numerics.gate(WORKLOADS[name], mode, small(name, mode, **given), at).complaint


def attending(change: Callable[[tuple[Any, ...], dict[str, Any]], Any]) -> Callable[[Faulty], None]:
    """A fault in what torch's attention is called with."""

    def plant(planted: Faulty) -> None:
        planted.setattr(
            functional,
            "scaled_dot_product_attention",
            lambda *args, **options: REAL(*change(args, options), **options),
        )
        decoder._own_step.cache_clear()  # it holds the function

    return plant


def no_mask(args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    options.update(attn_mask=None, is_causal=False)
    return args


KEYS = 2
"""Heads of keys of the twin, each of which a step may have as a sequence of its own."""


def by_heads(x: Any) -> Any:
    """[B, K, ...], also of [B K, 1, ...]."""
    return x.unflatten(0, (-1, KEYS)).squeeze(2) if x.shape[1] == 1 else x


def heads_turned(args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    return args[0], *(by_heads(x).flip(1).reshape(x.shape) for x in args[1:])


def heads_interleaved(args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """As if head h had the keys of h modulo K, and not of h over H / K."""
    if options.get("enable_gqa") or args[0].shape[2] == 1:
        return args
    query = by_heads(args[0])
    swapped = query.flatten(1, 2).view(query.shape[0], query.shape[2], query.shape[1], -1)
    return swapped.transpose(1, 2).reshape(args[0].shape), *args[1:]


def place_late(planted: Faulty) -> None:
    """A token turned as the next one is: seen where its keys meet those of the prompt."""
    right = decoder.rotation
    planted.setattr(decoder, "rotation", lambda *a: right(*a).roll(-1, 0))


def cache_late(planted: Faulty) -> None:
    """The new token's keys go where the next one's belong: it does not see itself."""
    right = torch.Tensor.index_copy_

    def late(held: Any, dim: int, place: Any, new: Any) -> Any:
        return right(held, dim, (place + 1).clamp(max=held.shape[dim] - 1), new)

    planted.setattr(torch.Tensor, "index_copy_", late)


def mask_late(planted: Faulty) -> None:
    """Each token attends to one before it too few: not to itself."""
    right = decoder.masks
    planted.setattr(decoder, "masks", lambda *a: tuple(rows.roll(-1, -1) for rows in right(*a)))


FAULTS = {
    "decode: mask dropped": ("decode", attending(no_mask)),
    "decode: mask off by one": ("decode", mask_late),
    "decode: wrong place": ("decode", place_late),
    "decode: cache off by one": ("decode", cache_late),
    "decode: keys of other heads": ("decode", attending(heads_turned)),
    "decode: heads dealt out in turn": ("decode", attending(heads_interleaved)),
    "prefill: mask dropped": ("prefill", attending(no_mask)),
    "prefill: keys of other heads": ("prefill", attending(heads_turned)),
    "train: mask dropped": ("train", attending(no_mask)),
    "train: keys of other heads": ("train", attending(heads_turned)),
}


@pytest.fixture(autouse=True)
def own_steps() -> Iterator[None]:
    yield
    decoder._own_step.cache_clear()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_model_is_void(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mode, plant = FAULTS[fault]
    plant(monkeypatch)
    assert verdict("llama", mode) != ""


WINDOWED = {"model": "tiny-window-2l"}


@pytest.mark.parametrize("model", ["tiny-moe-2l", "tiny-window-2l"])
def test_qwen3_passes_with_experts_and_with_windows(model: str) -> None:
    for mode in ("train", "prefill", "decode"):
        assert verdict("qwen3", mode, model=model) == ""


def test_a_window_that_is_dropped_is_void(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what decode keeps and sees, and by the attention of prefill and training."""
    right = decoder.windows
    with monkeypatch.context() as planted:
        planted.setattr(decoder, "windows", lambda model: [None for _ in right(model)])
        assert verdict("qwen3", "decode", **WINDOWED) != ""

    def without_one(*args: Any, sliding_window: int, **options: Any) -> Any:
        return attend(*args, **options)

    monkeypatch.setattr(of_transformers, "attend", without_one)
    for mode in ("train", "prefill"):
        assert verdict("qwen3", mode, **WINDOWED) != ""


def test_an_expert_that_is_wrong_is_void(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens go to the right experts, which lie in another order."""
    grouped = torch._grouped_mm
    monkeypatch.setattr(
        torch, "_grouped_mm", lambda a, b, **options: grouped(a, b.flip(0), **options)
    )
    monkeypatch.setattr(
        functional, "grouped_mm", lambda a, b, **options: grouped(a, b.flip(0), **options)
    )
    assert verdict("qwen3", "prefill", model="tiny-moe-2l") != ""


def test_the_reference_shares_no_attention_with_what_it_judges(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither torch's nor ours, nor a cache."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("the reference goes through what it judges")

    monkeypatch.setattr(functional, "scaled_dot_product_attention", refuse)
    monkeypatch.setattr(decoder, "Cache", refuse)
    monkeypatch.setitem(AttentionInterface._global_mapping, ATTENTION, refuse)
    for name in ("llama", "deepseek"):
        for mode in ("train", "prefill", "decode"):
            at = numerics.reference_of(site())
            assert (
                WORKLOADS[name]
                .build(mode, small(name, mode), at)
                .probe()["logits"]
                .isfinite()
                .all()
            )


def test_a_window_is_kept_over_a_prompt_and_never_repeats_keys() -> None:
    query, key = torch.randn(1, 4, 12, 8), torch.randn(1, 2, 12, 8)
    module = torch.nn.Module()
    found, _ = attend(module, query, key, key, None, sliding_window=5)
    place = torch.arange(12)
    within = (place[None] <= place[:, None]) & (place[None] > place[:, None] - 5)
    repeated = key.repeat_interleave(2, 1)
    expected = REAL(query, repeated, repeated, attn_mask=within)
    torch.testing.assert_close(found, expected.transpose(1, 2))


def test_a_class_that_the_library_lacks_is_skipped_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    module = "transformers.models.qwen3.modeling_qwen3"
    monkeypatch.setitem(sys.modules, module, None)  # as if this version had none
    with pytest.raises(Unsupported, match=r"transformers 5\S+ has no Qwen3ForCausalLM"):
        build("qwen3", "prefill", site())


@pytest.mark.parametrize("error", [ModuleNotFoundError("no regex", name="regex"), AttributeError()])
def test_a_library_that_does_not_load_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """As one without a package that it needs, or newer than its torch can be."""
    monkeypatch.setattr(importlib, "import_module", mock.Mock(side_effect=error))
    with pytest.raises(type(error)):
        library_class("transformers.models.bert.modeling_bert", "BertModel")


def test_deepseek_of_a_library_that_keeps_no_latents_is_skipped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before transformers 5.15; that each step failed then sent nobody to another version."""
    module = "transformers.models.deepseek_v2.modeling_deepseek_v2"
    monkeypatch.delattr(f"{module}.DeepseekV2Attention.expand_kv")
    for mode in ("train", "prefill", "decode"):
        with pytest.raises(Unsupported, match=r"has no DeepseekV2Attention.expand_kv. Install"):
            build("deepseek", mode, site(), model="tiny")
