"""GPT-OSS: its windows, sinks, biases and experts, and that the gate hears each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import torch

from bench.measuring import operators
from bench.measuring.asked import complaint
from bench.measuring.gates import numerics
from bench.precision import PRECISIONS
from bench.tests.measuring.proving.wrong_workloads import one_reference
from bench.tests.small_workloads import WORKLOADS, build, model_of, one_thread, site
from bench.workloads import gpt_oss
from bench.workloads.jobs.seeded import SeededData, build_model
from bench.workloads.language import gpts
from bench.workloads.layers import transformers
from bench.workloads.layers.windows import attended

__all__ = ["one_reference", "one_thread"]  # fixtures, used by being here

WORKLOAD, BF16 = WORKLOADS["gpt-oss"], PRECISIONS["bf16"]
B20 = gpts.SIZES["gpt-oss-20b"]


def test_a_token_meets_the_published_active_parameters() -> None:
    """3.6 and 5.1 billion, of which the paper counts the output matrix and not the embedding."""
    for name, billions in (("gpt-oss-20b", 3.61), ("gpt-oss-120b", 5.13)):
        size = gpts.SIZES[name]
        met = size.layer_weights(size.active) + size.layer_vectors(size.active)
        met = size.layers * met + size.head_weights
        assert met / 1e9 == pytest.approx(billions, abs=0.005)


def test_every_parameter_is_counted_where_all_experts_are_met() -> None:
    for name, size in gpts.SIZES.items():
        if size.published_parameters:
            layer = size.layer_weights(size.experts) + size.layer_vectors(size.experts)
            whole = size.layers * layer + 2 * size.head_weights + size.hidden
            assert whole == size.published_parameters, name


def test_half_of_the_layers_attend_within_the_window() -> None:
    assert B20.seen(100) == 24 * 100
    assert B20.seen(1000) == 12 * (128 + 1000)
    assert gpts.SIZES["gpt-oss-20b-4l"].seen(1000) == 2 * (128 + 1000)
    attention = 4 * 64 * 64
    matrices = 2 * (24 * B20.layer_weights(4) + B20.head_weights)
    assert B20.flop(1, 1000, 1) == matrices + attention * 12 * (128 + 1000)


def test_decode_moves_the_experts_that_are_met_and_a_window_of_the_cache() -> None:
    parameters = gpt_oss.DecodeParameters(model="gpt-oss-20b", prompt_length=999, new_tokens=1)
    idle = 24 * 28 * (3 * 2880 * 2880 + 3 * 2880) + (201_088 - 1) * 2880
    cache = 2 * 8 * 64 * (12 * (128 + 1000) + 24)
    moved = WORKLOAD.work("decode", parameters, BF16).moved_bytes
    assert moved == 2 * (20_914_757_184 - idle + cache)


def decode(precision: str = "fp32", **given: Any) -> Any:
    given = {"model": "tiny", "batch_size": 2, "prompt_length": 5, "new_tokens": 20, **given}
    return build("gpt-oss", "decode", site(PRECISIONS[precision]), **given)


@pytest.mark.parametrize("prompt", [5, 21])
def test_decode_keeps_a_window_and_gives_what_the_full_forward_gives(prompt: int) -> None:
    """From within the first window, and from beyond the second; and once more, from the prompt."""
    job = decode(prompt_length=prompt)
    kept = [tuple(held.keys.shape) for held in job.generator._cache.layers]
    assert kept == [(2, 2, 8 + 8, 16), (2, 2, prompt + 20 + 8, 16)]
    for _ in range(2):
        text = torch.cat((job.prompt, job.first_token), dim=1)
        for _ in range(20):
            job.step()
            text = torch.cat((text, job.token), dim=1)
            found = job._output
        with torch.inference_mode():
            expected = model_of(job)(input_ids=text[:, :-1], use_cache=False).logits
        torch.testing.assert_close(found, expected[:, -1:], rtol=1e-4, atol=1e-4)
        assert torch.equal(text[:, -20:], expected.argmax(-1)[:, -20:])


def test_decode_by_a_place_on_the_device_is_the_same() -> None:
    job, other = decode(), decode()
    with torch.inference_mode():
        for index in range(20):
            job.step()
            place = torch.tensor([index])
            found = other.generator.decode_at(other.token, place)
            other.token = found.argmax(-1)
            assert torch.equal(found, job._output)


def test_where_tokens_go_is_seen_and_other_weights_are() -> None:
    job = decode()
    seen = operators.executed(job.step, "cpu")
    assert len(seen.expert_tokens) == 8
    assert sum(seen.expert_tokens) == 2 * 2 * 4  # layers, tokens, experts of each
    assert set(seen.operators) == {"attention", "experts"}
    assert job.facts["experts"] == "grouped_mm"
    model_of(job).half()
    told = complaint(decode("bf16").looks()), complaint(job.looks())
    assert told[0] == ""
    assert "dtype of the weights: asked for torch.float32, got torch.float16" in told[1]


def test_experts_are_about_as_busy_as_one_another() -> None:
    """What all tokens get alike, biases, must not send them to the same experts."""
    size = msgspec.structs.replace(gpts.SIZES["tiny"], experts=32, hidden=256, head_width=32)
    model = build_model(size.construct, None, SeededData(0), site())
    tokens = torch.randint(0, 512, (1, 512), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        seen = operators.executed(lambda: model(input_ids=tokens, use_cache=False), "cpu")
    assert sum(seen.expert_tokens) == 2 * 4 * 512
    assert max(seen.expert_tokens) < 2 * sum(seen.expert_tokens) / 32


def test_experts_hit_are_those_of_a_window_behind_the_prompt_whatever_was_timed() -> None:
    job = decode(prompt_length=21)
    work = WORKLOAD.work("decode", gpt_oss.DecodeParameters(model="tiny"), BF16)
    before = job.counted(work)
    for _ in range(7):
        job.step()
    assert job.counted(work) == before
    assert before.experts_hit is not None and 4 <= before.experts_hit <= 8
    assert before.moved_bytes != work.moved_bytes


def by_definition(
    query: Any, key: Any, value: Any, scale: float, window: int | None, sinks: Any
) -> Any:
    tokens, shared = query.shape[2], query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(shared, 1) for x in (key, value))
    place = torch.arange(tokens)
    hidden = place[None] > place[:, None]
    if window is not None:
        hidden |= place[None] <= place[:, None] - window
    scores = (query @ key.mT * scale).masked_fill(hidden, -torch.inf)
    if sinks is not None:
        scores = torch.cat([scores, sinks[None, :, None, None].expand(*scores.shape[:3], 1)], -1)
    return scores.softmax(-1)[..., :tokens] @ value


@pytest.mark.parametrize("sink", [True, False])
@pytest.mark.parametrize(("tokens", "window"), [(21, 8), (8, 8), (1, 8), (13, None)])
def test_windows_and_sinks_are_those_of_the_definition(
    tokens: int, window: int | None, sink: bool
) -> None:
    """With their gradients, the sinks' too."""
    drawn = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=drawn, dtype=torch.float64, requires_grad=True)

    query, key, value = normal(2, 4, tokens, 16), *(normal(2, 2, tokens, 16) for _ in range(2))
    sinks = normal(4) if sink else None
    leaves = [query, key, value, *([] if sinks is None else [sinks])]
    weight = torch.randn(2, 4, tokens, 16, generator=drawn, dtype=torch.float64)
    sides = []
    for attend in (attended, by_definition):
        found = attend(query, key, value, 0.3, window, sinks)
        gradients = torch.autograd.grad((found * weight).sum(), leaves, allow_unused=True)
        sides.append((found, *(x for x in gradients if x is not None)))
    for ours, theirs in zip(*sides, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_sinks_are_never_passed_over() -> None:
    """Where attention has a mask of its own, which takes another way."""
    query = torch.zeros(1, 2, 3, 8)
    mask = torch.zeros(1, 1, 3, 3)
    with pytest.raises(RuntimeError, match="has sinks and a mask of its own"):
        transformers.attend(torch.nn.Module(), query, query, query, mask, s_aux=torch.zeros(2))


# --- What the gate hears -------------------------------------------------------------------------


def zeros(*path: str) -> Callable[[Any], None]:
    def spoil(layer: Any) -> None:
        for name in path:
            layer = getattr(layer, name)
        layer.data.zero_()

    return spoil


def up_alone(layer: Any) -> None:
    """Without the one that is added to it."""
    experts = layer.mlp.experts
    right, one = experts._apply_gate, torch.tensor([0.0, 1.0])
    experts._apply_gate = lambda x: right(x - one.repeat(x.shape[-1] // 2).to(x.dtype))


def side_by_side(layer: Any) -> None:
    """Gates first, then ups, which lie in turn."""
    experts = layer.mlp.experts
    right = experts._apply_gate
    experts._apply_gate = lambda x: right(torch.stack(x.chunk(2, -1), -1).flatten(-2))


FAULTS: dict[str, tuple[str, Callable[[Any], None]]] = {
    "window dropped": (
        "train decode",
        lambda layer: setattr(layer.self_attn, "sliding_window", None),
    ),
    "sinks dropped": (
        "prefill decode",
        lambda layer: layer.self_attn.sinks.data.fill_(-3e4),
    ),
    "bias of queries dropped": ("decode", zeros("self_attn", "q_proj", "bias")),
    "bias of keys dropped": ("prefill", zeros("self_attn", "k_proj", "bias")),
    "bias of values dropped": ("decode", zeros("self_attn", "v_proj", "bias")),
    "bias of results dropped": ("prefill", zeros("self_attn", "o_proj", "bias")),
    "bias of gates dropped": ("decode", zeros("mlp", "experts", "gate_up_proj_bias")),
    "bias of experts dropped": ("prefill", zeros("mlp", "experts", "down_proj_bias")),
    "limit dropped": (
        "decode",
        lambda layer: setattr(layer.mlp.experts, "limit", float("inf")),
    ),
    "up without one": ("prefill", up_alone),
    "gates and ups in halves": ("prefill", side_by_side),
    "three experts of four": ("prefill", lambda layer: setattr(layer.mlp.router, "top_k", 3)),
}


@pytest.mark.parametrize(
    ("fault", "mode"), [(fault, mode) for fault in FAULTS for mode in FAULTS[fault][0].split()]
)
def test_what_is_dropped_is_void(fault: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "logits off by" in verdict(mode, FAULTS[fault][1], monkeypatch)


def test_what_is_right_passes_and_finer_faults_are_told_in_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The gate's slope and the router's biases, which bfloat16's own error hides."""
    with monkeypatch.context() as planted:
        assert verdict("decode", lambda layer: None, planted) == ""
    for spoil in (
        zeros("mlp", "router", "bias"),
        lambda layer: setattr(layer.mlp.experts, "alpha", 1.0),
    ):
        with monkeypatch.context() as planted:
            assert "logits off by" in verdict("prefill", spoil, planted, "fp32")


def verdict(
    mode: str, spoil: Callable[[Any], None], planted: pytest.MonkeyPatch, precision: str = "bf16"
) -> str:
    """The gate's complaint where each layer of what it judges is spoilt, and its reference not."""
    right = build_model

    def wrong(construct: Any, published: Any, data: Any, at: Any, *others: Any) -> Any:
        model: Any = right(construct, published, data, at, *others)
        if not at.is_reference:
            for layer in model.model.layers:
                spoil(layer)
        return model

    planted.setattr("bench.workloads.language.family.build_model", wrong)
    kind: Any = WORKLOAD.modes[mode].parameters
    parameters = kind(model="tiny")
    return numerics.gate(WORKLOAD, mode, parameters, site(PRECISIONS[precision])).complaint
