"""GPT-OSS models: their dimensions as published, cuts of them, and the weights that they get."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from bench.precision import Precision
from bench.workload import TWIN_VOCABULARY, with_twins
from bench.workloads.language.grouped import GroupedQuery
from bench.workloads.layers import mxfp4
from bench.workloads.layers.transformers import library_model

if TYPE_CHECKING:
    from torch import nn

TWIN_WINDOW = 8
YARN: dict[str, float | str | bool] = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}
SINK, ASKED, GIVEN, GATE, DOWN = 2.0, 0.5, 0.1, 4.0, 0.1
"""Deviations: of sinks; of biases of queries and keys; of biases of what is added to the residual;
and of the experts' matrices beside the others'.

With the library's own, sinks and biases are next to nothing, and no gate comes near its limit of 7:
the numerics gate would not hear one dropped. With these a twelfth of gates and ups lie beyond it,
and an expert gives back about as much as it got. Biases that all tokens get would make them alike,
and send them to the same experts; so they are smaller, and embeddings are of deviation 1."""


class Size(GroupedQuery, frozen=True, kw_only=True):
    """The dimensions of one model."""

    vocabulary: int = 201_088
    positions: int = 131_072
    rope_theta: float = 150_000.0
    tied: bool = False
    window: int | None = 128
    alternating: bool = True
    narrow: bool = False
    """Whether the experts' matrices are in mxfp4, as they were published."""

    def spared(self, precision: Precision) -> float:
        """What mxfp4 is narrower by."""
        return precision.matrix_bytes - mxfp4.BYTES if self.narrow else 0.0

    def layer_vectors(self, experts: float) -> float:
        """Norms, biases of the attention and its sinks, those of the router and of experts."""
        attention = self.head * (self.heads + 2 * self.key_value_heads) + self.hidden + self.heads
        experts_biases = experts * (2 * self.expert + self.hidden)
        return super().layer_vectors(experts) + attention + self.experts + experts_biases

    def construct(self, attention: str = "eager", experts: str = "grouped_mm") -> nn.Module:
        """The library's model. Raises `Unsupported` where the library has none."""
        options = self.options(attention)
        options["rope_parameters"] |= YARN
        model = library_model(
            "gpt_oss",
            "GptOssForCausalLM",
            rms_norm_eps=1e-5,
            sliding_window=self.window,
            num_local_experts=self.experts,
            num_experts_per_tok=self.active,
            experts_implementation=experts,
            **options,
        )
        draw(model, options["initializer_range"])
        return model


def draw(model: Any, std: float) -> None:
    """Draws what the library draws too small to be heard, and biases that it does not draw."""
    import torch

    with torch.no_grad():
        model.model.embed_tokens.weight.normal_(0.0, 1.0)
        for layer in model.model.layers:
            attention, experts = layer.self_attn, layer.mlp.experts
            attention.sinks.normal_(0.0, SINK)
            for matrix in (attention.q_proj, attention.k_proj):
                matrix.bias.normal_(0.0, ASKED)
            for matrix in (attention.v_proj, attention.o_proj):
                matrix.bias.normal_(0.0, GIVEN)
            experts.gate_up_proj.normal_(0.0, GATE * std)
            experts.gate_up_proj_bias.normal_(0.0, 1.0)
            experts.down_proj.normal_(0.0, DOWN * std)
            experts.down_proj_bias.normal_(0.0, 2 * GIVEN)


TINY = Size(
    hidden=64,
    layers=2,
    heads=4,
    key_value_heads=2,
    head_width=16,
    experts=8,
    active=4,
    expert=32,
    vocabulary=512,
    window=8,
)
B20 = Size(
    hidden=2880,
    layers=24,
    heads=64,
    key_value_heads=8,
    head_width=64,
    experts=32,
    active=4,
    expert=2880,
    published_parameters=20_914_757_184,
)
B120 = replace(B20, layers=36, experts=128, published_parameters=116_829_156_672)
SIZES = {
    "tiny": TINY,
    # A quarter of each width, 2 layers of 24: all 32 experts, and 126 M parameters.
    "gpt-oss-20b-cut": replace(
        B20,
        hidden=720,
        layers=2,
        heads=16,
        key_value_heads=2,
        expert=720,
        vocabulary=16_384,
        published_parameters=None,
    ),
    "gpt-oss-20b-4l": replace(B20, layers=4, published_parameters=4_451_017_664),
    "gpt-oss-20b": B20,
    "gpt-oss-120b-4l": replace(B120, layers=4, published_parameters=14_010_590_528),
    "gpt-oss-120b": B120,
}
"""Dimensions as in each model's published configuration. `-4l` are cut in depth only, `-cut` also
in width and vocabulary; `tiny` is for tests."""
CUT: dict[str, Any] = {
    "layers": 2,
    "vocabulary": TWIN_VOCABULARY,
    "experts": 4,
    "active": 4,
    "window": TWIN_WINDOW,
}
NARROW = {
    name + mxfp4.SUFFIX: replace(size, narrow=True)
    for name, size in SIZES.items()
    if size.hidden % mxfp4.BLOCK == size.expert % mxfp4.BLOCK == 0
}
"""And with experts in mxfp4, for inference."""
NARROW = with_twins({**SIZES, **NARROW}, **CUT)
SIZES = with_twins(SIZES, **CUT)
