"""The networks that denoise, DiT and SDXL's UNet: sizes, construction, forward, multiply-adds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from bench.workload import with_twins
from bench.workloads.jobs.seeded import initial_std

if TYPE_CHECKING:
    from torch import Tensor, nn

LATENT_CHANNELS = 4
"""Of the autoencoder, which makes 8x8 pixels one; it is no part of the step."""
CLASSES = 1000
SINUSOIDS = 256
"""Width of a number's sinusoidal embedding, before its matrices."""
PATCH = 2
TEXT_TOKENS = 77
"""Length of a prompt, padded."""
TWIN_LATENTS = 16
"""Enough values that the loss averages over their rounding, and the UNet's last norms too."""
TWIN_UNET_CHANNELS = (64, 128, 256)
"""At its own widths SDXL's twin has 436 M parameters, 3.5 GB in float64."""


class Dit(msgspec.Struct, frozen=True, kw_only=True):
    """A transformer over patches of 2x2 latents, conditioned on timestep and class."""

    hidden: int
    layers: int
    heads: int
    latents: int = 32
    """Height and width: 32 for images of 256x256."""
    published_parameters: int | None = None
    """Less the fixed table of positions, which the authors count too; None for a toy."""


class Unet(msgspec.Struct, frozen=True, kw_only=True):
    """A convolutional network that narrows and widens, with attention to text further in."""

    channels: tuple[int, int, int]
    """Of the stages, each half as high and wide as the one before."""
    transformers: tuple[int, int, int]
    """Transformer layers behind each residual block of a stage."""
    blocks: int
    """Residual blocks of a stage on the way down; one more on the way up."""
    head: int
    """Width of one attention head."""
    text: int
    """Width of an embedded token."""
    pooled: int
    """Width of the embedding of the whole prompt."""
    latents: int = 128
    """Height and width: 128 for images of 1024x1024."""
    published_parameters: int | None = None

    @property
    def time(self) -> int:
        """Width of what every residual block is told of timestep, prompt and image size."""
        return 4 * self.channels[0]


DITS = {
    "tiny": Dit(hidden=64, layers=3, heads=4, latents=16),
    "dit-s-2": Dit(hidden=384, layers=12, heads=6, published_parameters=32_963_360 - 256 * 384),
    "dit-xl-2": Dit(
        hidden=1152, layers=28, heads=16, published_parameters=675_129_632 - 256 * 1152
    ),
}
"""Peebles and Xie, arXiv 2212.09748, table 1 (33 M and 675 M); `tiny` is for tests.

The counts are those of the authors' code, github.com/facebookresearch/DiT.
"""
DITS = with_twins(DITS, layers=2, latents=TWIN_LATENTS)
UNETS = {
    "tiny-unet": Unet(
        channels=(64, 128, 256),
        transformers=(0, 1, 2),
        blocks=2,
        head=64,
        text=32,
        pooled=32,
        latents=16,
    ),
    "sdxl-unet": Unet(
        channels=(320, 640, 1280),
        transformers=(0, 2, 10),
        blocks=2,
        head=64,
        text=2048,
        pooled=1280,
        published_parameters=2_567_463_684,
    ),
}
"""Podell et al., arXiv 2307.01952, table 1 (2.6 B), as in the published configuration."""
UNETS = with_twins(
    UNETS,
    transformers=(0, 1, 1),
    blocks=1,
    channels=TWIN_UNET_CHANNELS,
    latents=TWIN_LATENTS,
)


def construct(size: Dit | Unet) -> nn.Module:
    """The model, with every matrix drawn so that it keeps the size of its input.

    The authors start the gates of DiT's blocks and its last layer at zero: the output would be
    zero, whatever the blocks do, and the numerics gate blind. The work is the same.
    """
    from torch.nn import Linear, init

    model = _construct_dit(size) if isinstance(size, Dit) else _construct_unet(size)
    for module in model.modules():
        if isinstance(module, Linear):
            init.normal_(module.weight, std=initial_std(module.in_features))
    return model


def _construct_dit(size: Dit) -> nn.Module:
    from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel

    model: Any = DiTTransformer2DModel(
        num_attention_heads=size.heads,
        attention_head_dim=size.hidden // size.heads,
        in_channels=LATENT_CHANNELS,
        out_channels=2 * LATENT_CHANNELS,
        num_layers=size.layers,
        sample_size=size.latents,
        patch_size=PATCH,
        num_embeds_ada_norm=CLASSES,
    )
    # diffusers gives each block a copy of what the published model has once.
    shared = model.transformer_blocks[0].norm1.emb
    for block in model.transformer_blocks:
        block.norm1.emb = shared
    # Only now: the row that stands for a dropped label is among the published parameters.
    shared.class_embedder.dropout_prob = 0.0
    dit: nn.Module = model
    return dit


def _construct_unet(size: Unet) -> nn.Module:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    model: nn.Module = UNet2DConditionModel(
        sample_size=size.latents,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=size.channels,
        layers_per_block=size.blocks,
        transformer_layers_per_block=tuple(max(1, layers) for layers in size.transformers),
        # Despite its name, the number of heads (diffusers issue 2011).
        attention_head_dim=tuple(width // size.head for width in size.channels),
        cross_attention_dim=size.text,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=SINUSOIDS,
        projection_class_embeddings_input_dim=size.pooled + 6 * SINUSOIDS,
    )
    return model


def denoise_labelled(model: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    """Latents [B, 4, S, S], timesteps [B] and classes [B] to noise [B, 4, S, S]."""
    latents, timesteps, classes = inputs
    output = model(latents, timestep=timesteps, class_labels=classes, return_dict=False)[0]
    noise: Tensor = output[:, :LATENT_CHANNELS]  # the rest is the variance
    return noise


def denoise_described(model: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    """Latents, timesteps, texts [B, 77, T], their summary [B, P] and sizes [B, 6] to noise."""
    latents, timesteps, texts, summary, sizes = inputs
    added = {"text_embeds": summary, "time_ids": sizes}
    noise: Tensor = model(latents, timesteps, texts, added_cond_kwargs=added, return_dict=False)[0]
    return noise


def dit_multiply_adds(size: Dit) -> tuple[int, int]:
    """Multiply-adds of one image's forward, and those whose input needs no gradient."""
    wide = size.hidden
    patches = (size.latents // PATCH) ** 2
    embed = patches * LATENT_CHANNELS * PATCH**2 * wide
    sinusoids = (size.layers + 1) * SINUSOIDS * wide
    conditions = sinusoids + (size.layers + 1) * wide**2
    block = 12 * wide**2 * patches + 2 * patches**2 * wide + 6 * wide**2
    output = 2 * wide**2 + patches * wide * 2 * LATENT_CHANNELS * PATCH**2
    return embed + conditions + size.layers * block + output, embed + sinusoids


def unet_multiply_adds(size: Unet, taps: int = 9) -> Iterator[int]:
    """Multiply-adds of one image in each part, in the order in which it passes them.
    taps: of a 3x3 convolution of stride 1."""
    side = size.latents
    first, last = size.channels[0], size.channels[-1]
    yield (first + size.time) * size.time  # the timestep's two matrices
    yield (size.pooled + 6 * SINUSOIDS + size.time) * size.time  # the prompt's and the sizes'
    yield taps * LATENT_CHANNELS * first * side**2
    inputs, skipped = first, [first]
    for stage, (outputs, layers) in enumerate(zip(size.channels, size.transformers, strict=True)):
        for _ in range(size.blocks):
            yield _residual(size, inputs, outputs, side, taps)
            yield _transformer(size, outputs, layers, side)
            inputs = outputs
            skipped.append(outputs)
        if stage < 2:
            side //= 2
            yield 9 * outputs**2 * side**2
            skipped.append(outputs)
    yield 2 * _residual(size, last, last, side, taps)
    yield _transformer(size, last, size.transformers[-1], side)
    for stage in (2, 1, 0):
        outputs = size.channels[stage]
        for _ in range(size.blocks + 1):
            yield _residual(size, inputs + skipped.pop(), outputs, side, taps)
            yield _transformer(size, outputs, size.transformers[stage], side)
            inputs = outputs
        if stage > 0:
            side *= 2
            yield taps * outputs**2 * side**2
    yield taps * first * LATENT_CHANNELS * side**2


def _residual(size: Unet, inputs: int, outputs: int, side: int, taps: int) -> int:
    """Multiply-adds of two 3x3 convolutions, the timestep's matrix and the shortcut's, if any."""
    shortcut = inputs * outputs if inputs != outputs else 0
    return (taps * (inputs + outputs) * outputs + shortcut) * side**2 + size.time * outputs


def _transformer(size: Unet, wide: int, layers: int, side: int) -> int:
    """Multiply-adds of a transformer over side x side tokens, its way in and out included.

    A layer: query, key, value and output, 4 d^2; of attention to the text 2 d^2, and keys and
    values of its tokens; the gated feed-forward of width 4 d, 12 d^2.
    """
    if layers == 0:
        return 0
    tokens = side**2
    layer = 18 * wide**2 * tokens + 2 * tokens**2 * wide
    layer += 2 * TEXT_TOKENS * wide * size.text + 2 * tokens * TEXT_TOKENS * wide
    return 2 * wide**2 * tokens + layers * layer
