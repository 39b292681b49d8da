"""Diffusion models: DiT-S/2 and DiT-XL/2, training and a denoising step; SDXL's UNet, a step."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Annotated

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
)
from bench.workloads._denoisers import (
    CLASSES,
    DITS,
    LATENT_CHANNELS,
    TEXT_TOKENS,
    UNETS,
    Dit,
    Unet,
    construct,
    denoise_described,
    denoise_labelled,
    dit_multiply_adds,
    unet_multiply_adds,
)
from bench.workloads.jobs.jobs import BATCHES, InferenceJob, TrainingJob, adamw_learning_rate
from bench.workloads.jobs.modes import COPIES, REPLICATED, at_most, train_and_infer
from bench.workloads.jobs.seeded import SeededData, build_model
from bench.workloads.jobs.sharded import rows

if TYPE_CHECKING:
    from torch import Tensor

TIMESTEPS = 1000
SLOWER = 4
"""What the usual learning rate is divided by: two steps lower the squared error by 2 to 6 %.

At the whole of it they lower it so far that bfloat16 weights, which lose most of an update, end up
24 % off; at a quarter, 6 %.
"""


class InferParameters(Parameters, frozen=True, kw_only=True):
    """Latents of the size that the model was published for."""

    model: Annotated[str, OneOf([*DITS, *UNETS])] = "dit-s-2"
    """`dit-s-2`, `dit-xl-2`, `sdxl-unet`, or a toy; with `-2l`, cut in depth for the gate."""
    batch_size: BatchSize = 2

    def winograd_share(self) -> float:
        """A DiT has no such convolutions."""
        unet = UNETS.get(self.model)
        if unet is None:
            return 1.0
        every, others = (sum(unet_multiply_adds(unet, taps)) for taps in (9, 0))
        return 1 - 3 / 4 * (every - others) / every


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
    modes = train_and_infer(TrainParameters, InferParameters, together=REPLICATED, copies=COPIES)

    def work(self, mode: str, parameters: InferParameters, precision: Precision) -> Work:
        """2 FLOP for each multiply-add of convolutions, matrices and attention.

        A DiT block of width d over T patches has 12 d^2 T + 2 T^2 d of them, and 6 d^2 for its
        scales and shifts; the embedding of timestep and class, 256 d + d^2, is computed anew in
        each block and before the output, as diffusers does. A UNet is walked block by block:
        `unet_multiply_adds`. Norms, activations and tables are left out. Training is three times
        the forward, less the gradients of latents and sinusoids, which nothing needs.
        Source: Peebles and Xie, arXiv 2212.09748, section 3.2 and table 1 (119 and 6 G
        multiply-adds); for the UNet, Podell et al., arXiv 2307.01952, section 2.1.
        """
        unet = UNETS.get(parameters.model)
        if unet is not None:
            flop = 2 * sum(unet_multiply_adds(unet))
        else:
            forward, ungraded = dit_multiply_adds(DITS[parameters.model])
            flop = 2 * (3 * forward - ungraded if mode == "train" else forward)
        batch = parameters.batch_size
        return Work(items=batch, unit="image-step", flop=batch * flop)

    def twin(self, mode: str, parameters: InferParameters) -> InferParameters:
        """The least depth that has every kind of block, two small images; a UNet narrower, too."""
        return at_most(parameters, batch_size=2)

    def build(self, mode: str, parameters: InferParameters, site: Site) -> Job:
        """Latents of normals with noise added; random timesteps, classes and texts."""
        data = SeededData(site.seed)
        unet = UNETS.get(parameters.model)
        size = DITS[parameters.model] if unet is None else unet
        making = functools.partial(construct, size)
        model = build_model(making, size.published_parameters, data, site)
        facts = {"attention": "sdpa"}
        batch = parameters.batch_size
        batches = [_batch(data, size, batch, site) for _ in range(BATCHES)]
        if not isinstance(parameters, TrainParameters):
            forward = denoise_labelled if unet is None else denoise_described
            return InferenceJob(model, forward, [inputs for inputs, _ in batches], site, facts)
        return TrainingJob(
            model,
            denoise_labelled,
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
    mine = tuple(rows(value, site) for value in inputs)
    return mine, rows(noise, site)


WORKLOAD = Diffusion()
