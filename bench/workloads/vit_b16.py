"""ViT-B/16, 86,567,656 parameters: image classification, training and inference."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Annotated

from bench.precision import Precision
from bench.records.outcome import Work
from bench.workload import (
    AdamW,
    BatchSize,
    Job,
    Parameters,
    Site,
    Within,
    Workload,
)
from bench.workloads.jobs.jobs import BATCHES, InferenceJob, TrainingJob, adamw_learning_rate
from bench.workloads.jobs.modes import COPIES, SHARDED, at_most, train_and_infer
from bench.workloads.jobs.seeded import SeededData, build_model, initial_std
from bench.workloads.jobs.sharded import rows
from bench.workloads.layers.transformers import library_model

if TYPE_CHECKING:
    from torch import Tensor, nn

PUBLISHED_PARAMETERS = 86_567_656
"""At 224x224, with the classifier of 1000 classes. Dosovitskiy et al., table 1: 86 M."""
PUBLISHED_IMAGE_SIZE = 224
CLASSES = 1000
PATCH = 16
HIDDEN = 768
HEADS = 12
FEED_FORWARD = 3072
LAYERS = 12
LEARNING_RATE = adamw_learning_rate(HIDDEN) / 4
"""Two steps lower the loss by 4 %. A choice among 1000 classes is fitted faster than one among the
tokens of a sequence: at the whole rate the loss falls by 18 %, near what the gate allows bfloat16,
in which such small updates are lost."""
LAYER_WEIGHTS = 4 * HIDDEN**2 + 2 * HIDDEN * FEED_FORWARD
"""Matrices of a layer: query, key, value, output, and the two of the feed-forward."""
LAYER_PARAMETERS = LAYER_WEIGHTS + 9 * HIDDEN + FEED_FORWARD
"""With the six biases and the two norms."""


class InferParameters(Parameters, frozen=True, kw_only=True):
    """Square images, cut into patches of 16x16."""

    batch_size: BatchSize = 8
    image_size: Annotated[int, Within(PATCH, 2048, PATCH)] = PUBLISHED_IMAGE_SIZE
    """A multiple of 16; one position is learned for each patch, so the model has its published
    size at 224 only, and elsewhere just as many positions more or fewer."""
    layers: Annotated[int, Within(1, LAYERS)] = LAYERS
    """12; fewer is no ViT-B, but a cut of it, for the gate and for tests."""


class TrainParameters(InferParameters, frozen=True, kw_only=True):
    """Square images; AdamW."""

    optimizer: AdamW = "adamw"


class ViTB16(Workload):
    """Dosovitskiy et al., arXiv 2010.11929; the class token's last state is classified."""

    name = "vit-b16"
    version = 1
    libraries = ("transformers.models.vit.modeling_vit",)
    modes = train_and_infer(TrainParameters, InferParameters, together=SHARDED, copies=COPIES)

    def work(self, mode: str, parameters: InferParameters, precision: Precision) -> Work:
        """2 FLOP for each weight of a matrix and each token, and attention: 4 T^2 d a layer.

        T is the patches and the class token, 197 at 224x224; a patch costs 2 (3 * 16^2) d to
        embed, and one token an image is classified: 35.1 GFLOP. Training is three times that
        (gradients of inputs and of weights cost a forward each), less the gradient of the images,
        which nothing needs.
        Source: PaLM, arXiv 2204.02311, appendix B (attention in full); torchvision's page of
        vit_b_16 counts 17.56 G multiply-adds.
        """
        patches = _patches(parameters.image_size)
        tokens = patches + 1
        embedding = 2 * patches * 3 * PATCH**2 * HIDDEN
        layer = 2 * tokens * LAYER_WEIGHTS + 4 * tokens**2 * HIDDEN
        flop = embedding + parameters.layers * layer + 2 * HIDDEN * CLASSES
        if mode == "train":
            flop = 3 * flop - embedding
        batch = parameters.batch_size
        return Work(items=batch, unit="image", flop=batch * flop)

    def twin(self, mode: str, parameters: InferParameters) -> InferParameters:
        """Two layers of the same widths, six images of nine patches."""
        return at_most(parameters, batch_size=6, image_size=3 * PATCH, layers=2)

    def build(self, mode: str, parameters: InferParameters, site: Site) -> Job:
        """Images of normals (as normalized images are), random classes."""
        data = SeededData(site.seed)
        construct = functools.partial(_construct, parameters.layers, parameters.image_size)
        model = build_model(construct, _parameters(parameters), data, site)
        shape = (parameters.batch_size, 3, parameters.image_size, parameters.image_size)
        images = [rows(data.normal(shape, site.precision.dtype), site) for _ in range(BATCHES)]
        facts = {"attention": "sdpa"}
        if not isinstance(parameters, TrainParameters):
            return InferenceJob(model, _logits, images, site, facts)
        batches = [(image, rows(data.integers(0, CLASSES, shape[:1]), site)) for image in images]
        return TrainingJob(
            model,
            _logits,
            batches,
            parameters.optimizer,
            LEARNING_RATE,
            site,
            facts,
        )


def _patches(image_size: int) -> int:
    return (image_size // PATCH) ** 2


def _parameters(parameters: InferParameters) -> int:
    """The published count, less the layers that were cut, and with the positions of this size."""
    positions = _patches(parameters.image_size) - _patches(PUBLISHED_IMAGE_SIZE)
    cut = (LAYERS - parameters.layers) * LAYER_PARAMETERS
    return PUBLISHED_PARAMETERS - cut + positions * HIDDEN


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    """[B, 3, S, S] to [B, 1000]."""
    logits: Tensor = model(images).logits
    return logits


def _construct(layers: int, image_size: int) -> nn.Module:
    return library_model(
        "vit",
        "ViTForImageClassification",
        initializer_range=initial_std(HIDDEN),
        num_labels=CLASSES,
        image_size=image_size,
        patch_size=PATCH,
        hidden_size=HIDDEN,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        intermediate_size=FEED_FORWARD,
        # No dropout: each device draws its masks in its own way, and the gate compares numbers.
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attn_implementation="sdpa",
    )


WORKLOAD = ViTB16()
