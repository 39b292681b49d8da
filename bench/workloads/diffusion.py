"""Diffusion models: DiT-S/2 and DiT-XL/2, training and a denoising step; SDXL's UNet, a step."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from bench.precision import Precision
from bench.records.outcome import Work
from bench.workload import (
    AdamW,
    BatchSize,
    Job,
    OneOf,
    Parameters,
    Site,
    Workload,
    train_and_infer,
    twin_name,
    with_twins,
)
from bench.workloads._models import (
    BATCHES,
    InferenceJob,
    SeededData,
    TrainingJob,
    adamw_learning_rate,
    build_model,
    initial_std,
    place,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

LATENT_CHANNELS = 4
"""Of the autoencoder, which makes 8x8 pixels one; it is no part of the step."""
TIMESTEPS = 1000
CLASSES = 1000
SINUSOIDS = 256
"""Width of a number's sinusoidal embedding, before its matrices."""
PATCH = 2
TEXT_TOKENS = 77
"""Length of a prompt, padded."""
SLOWER = 4
"""What the usual learning rate is divided by: two steps lower the squared error by 2 to 6 %.

At the whole of it they lower it so far that bfloat16 weights, which lose most of an update, end up
24 % off; at a quarter, 6 %.
"""
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


class InferParameters(Parameters, frozen=True, kw_only=True):
    """Latents of the size that the model was published for."""

    model: Annotated[str, OneOf([*DITS, *UNETS])] = "dit-s-2"
    """`dit-s-2`, `dit-xl-2`, `sdxl-unet`, or a toy; with `-2l`, cut in depth for the gate."""
    batch_size: BatchSize = 2


class TrainParameters(InferParameters, frozen=True, kw_only=True):
    """A DiT; AdamW."""

    model: Annotated[str, OneOf(DITS)] = "dit-s-2"
    optimizer: AdamW = "adamw"


class Diffusion(Workload):
    """Noise predicted from noisy latents (Ho et al., arXiv 2006.11239); one step of many.

    Training is the squared error of the noise. A DiT also puts out a variance, which the step
    computes and the loss leaves out. Labels are never dropped: each device draws in its own way.
    """

    name = "diffusion"
    version = 1
    memory_formats = ("contiguous", "channels_last")
    libraries = (
        "diffusers.models.transformers.dit_transformer_2d",
        "diffusers.models.unets.unet_2d_condition",
    )
    extra = "diffusion"
    optional = ("diffusers",)
    modes = train_and_infer(TrainParameters, InferParameters)

    def work(self, mode: str, parameters: InferParameters, precision: Precision) -> Work:
        """2 FLOP for each multiply-add of convolutions, matrices and attention.

        A DiT block of width d over T patches has 12 d^2 T + 2 T^2 d of them, and 6 d^2 for its
        scales and shifts; the embedding of timestep and class, 256 d + d^2, is computed anew in
        each block and before the output, as diffusers does. A UNet is walked block by block:
        `_unet_multiply_adds`. Norms, activations and tables are left out. Training is three times
        the forward, less the gradients of latents and sinusoids, which nothing needs.
        Source: Peebles and Xie, arXiv 2212.09748, section 3.2 and table 1 (119 and 6 G
        multiply-adds); for the UNet, Podell et al., arXiv 2307.01952, section 2.1.
        """
        unet = UNETS.get(parameters.model)
        if unet is not None:
            flop = 2 * sum(_unet_multiply_adds(unet))
        else:
            forward, ungraded = _dit_multiply_adds(DITS[parameters.model])
            flop = 2 * (3 * forward - ungraded if mode == "train" else forward)
        batch = parameters.batch_size
        return Work(items=batch, unit="image-step", flop=batch * flop)

    def twin(self, mode: str, parameters: InferParameters) -> InferParameters:
        """The least depth that has every kind of block, two small images; a UNet narrower, too."""
        return msgspec.structs.replace(
            parameters,
            model=twin_name(parameters.model),
            batch_size=min(parameters.batch_size, 2),
        )

    def build(self, mode: str, parameters: InferParameters, site: Site) -> Job:
        """Latents of normals with noise added; random timesteps, classes and texts."""
        data = SeededData(site.seed)
        unet = UNETS.get(parameters.model)
        size = DITS[parameters.model] if unet is None else unet
        construct = functools.partial(_construct, size)
        model = build_model(construct, size.published_parameters, data, site)
        facts = {"attention": "sdpa"}
        batch = parameters.batch_size
        batches = [_batch(data, size, batch, site) for _ in range(BATCHES)]
        if not isinstance(parameters, TrainParameters):
            forward = _denoise_labelled if unet is None else _denoise_described
            return InferenceJob(model, forward, [inputs for inputs, _ in batches], site, facts)
        return TrainingJob(
            model,
            _denoise_labelled,
            batches,
            parameters.optimizer,
            adamw_learning_rate(DITS[parameters.model].hidden) / SLOWER,
            site,
            facts,
            loss=squared_error,
        )


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error, in float32 or wider."""
    import torch
    from torch.nn import functional

    wide = torch.promote_types(prediction.dtype, torch.float32)
    loss: Tensor = functional.mse_loss(prediction.to(wide), target.to(wide))
    return loss


def _batch(
    data: SeededData, size: Dit | Unet, batch: int, site: Site
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Inputs (noisy latents, timesteps, and class or texts and image sizes), and the noise.

    Noise is added as in Ho et al., arXiv 2006.11239, section 4: beta from 1e-4 to 0.02.
    """
    import torch

    dtype = site.precision.dtype
    shape = (batch, LATENT_CHANNELS, size.latents, size.latents)
    # Mixed in float64 and rounded once, so that two dtypes hold the same values rounded.
    clean, noise = (data.normal(shape, torch.float64) for _ in range(2))
    timesteps = data.integers(0, TIMESTEPS, (batch,))
    betas = torch.linspace(1e-4, 0.02, TIMESTEPS, dtype=torch.float64)
    kept = (1 - betas).cumprod(0)[timesteps].view(-1, 1, 1, 1)
    noisy = kept.sqrt() * clean + (1 - kept).sqrt() * noise
    inputs = [noisy, timesteps]
    if isinstance(size, Dit):
        inputs.append(data.integers(0, CLASSES, (batch,)))
    else:
        inputs.append(data.normal((batch, TEXT_TOKENS, size.text), dtype))
        inputs.append(data.normal((batch, size.pooled), dtype))
        # Original height and width, crop from the top and the left, target height and width.
        pixels = 8 * size.latents
        sizes = torch.tensor([[pixels, pixels, 0, 0, pixels, pixels]])
        inputs.append(sizes.expand(batch, -1).contiguous())
    return tuple(place(value, site) for value in inputs), place(noise, site)


def _denoise_labelled(model: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    """Latents [B, 4, S, S], timesteps [B] and classes [B] to noise [B, 4, S, S]."""
    latents, timesteps, classes = inputs
    output = model(latents, timestep=timesteps, class_labels=classes, return_dict=False)[0]
    noise: Tensor = output[:, :LATENT_CHANNELS]  # the rest is the variance
    return noise


def _denoise_described(model: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    """Latents, timesteps, texts [B, 77, T], their summary [B, P] and sizes [B, 6] to noise."""
    latents, timesteps, texts, summary, sizes = inputs
    added = {"text_embeds": summary, "time_ids": sizes}
    noise: Tensor = model(latents, timesteps, texts, added_cond_kwargs=added, return_dict=False)[0]
    return noise


def _construct(size: Dit | Unet) -> nn.Module:
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


def _dit_multiply_adds(size: Dit) -> tuple[int, int]:
    """Multiply-adds of one image's forward, and those whose input needs no gradient."""
    wide = size.hidden
    patches = (size.latents // PATCH) ** 2
    embed = patches * LATENT_CHANNELS * PATCH**2 * wide
    sinusoids = (size.layers + 1) * SINUSOIDS * wide
    conditions = sinusoids + (size.layers + 1) * wide**2
    block = 12 * wide**2 * patches + 2 * patches**2 * wide + 6 * wide**2
    output = 2 * wide**2 + patches * wide * 2 * LATENT_CHANNELS * PATCH**2
    return embed + conditions + size.layers * block + output, embed + sinusoids


def _unet_multiply_adds(size: Unet) -> Iterator[int]:
    """Multiply-adds of one image in each part, in the order in which it passes them."""
    side = size.latents
    first, last = size.channels[0], size.channels[-1]
    yield (first + size.time) * size.time  # the timestep's two matrices
    yield (size.pooled + 6 * SINUSOIDS + size.time) * size.time  # the prompt's and the sizes'
    yield 9 * LATENT_CHANNELS * first * side**2
    inputs, skipped = first, [first]
    for stage, (outputs, layers) in enumerate(zip(size.channels, size.transformers, strict=True)):
        for _ in range(size.blocks):
            yield _residual(size, inputs, outputs, side)
            yield _transformer(size, outputs, layers, side)
            inputs = outputs
            skipped.append(outputs)
        if stage < 2:
            side //= 2
            yield 9 * outputs**2 * side**2
            skipped.append(outputs)
    yield 2 * _residual(size, last, last, side)
    yield _transformer(size, last, size.transformers[-1], side)
    for stage in (2, 1, 0):
        outputs = size.channels[stage]
        for _ in range(size.blocks + 1):
            yield _residual(size, inputs + skipped.pop(), outputs, side)
            yield _transformer(size, outputs, size.transformers[stage], side)
            inputs = outputs
        if stage > 0:
            side *= 2
            yield 9 * outputs**2 * side**2
    yield 9 * first * LATENT_CHANNELS * side**2


def _residual(size: Unet, inputs: int, outputs: int, side: int) -> int:
    """Multiply-adds of two 3x3 convolutions, the timestep's matrix and the shortcut's, if any."""
    shortcut = inputs * outputs if inputs != outputs else 0
    return (9 * (inputs + outputs) * outputs + shortcut) * side**2 + size.time * outputs


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


WORKLOAD = Diffusion()
