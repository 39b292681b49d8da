"""ResNet-50 v1.5, 25,557,032 parameters: image classification, training and inference."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated

import msgspec

from bench.precision import Precision
from bench.records.outcome import Work
from bench.workload import (
    EXECUTIONS,
    TRAINING_PRECISIONS,
    BatchSize,
    Job,
    Later,
    Mode,
    OneOf,
    Parameters,
    Sgd,
    Site,
    Within,
    Workload,
)
from bench.workloads.jobs.jobs import BATCHES, InferenceJob, TrainingJob
from bench.workloads.jobs.modes import COPIES, REPLICATED, at_most, train_and_infer
from bench.workloads.jobs.pipeline import (
    Feed,
    GeneratedImages,
    LoaderWorkers,
    PipelineJob,
    PrefetchFactor,
    data_loader,
    transferred_bytes,
)
from bench.workloads.jobs.seeded import SeededData, build_model
from bench.workloads.jobs.sharded import rows
from bench.workloads.layers.batch_statistics import OWN, STATISTICS, SYNCHRONIZED, synchronize
from bench.workloads.layers.transformers import library_model

if TYPE_CHECKING:
    from torch import Tensor, nn

PUBLISHED_PARAMETERS = 25_557_032
CLASSES = 1000
DEPTHS = (3, 4, 6, 3)
"""Bottleneck blocks in each stage."""
WIDTHS = (256, 512, 1024, 2048)
"""Channels that each stage puts out."""
STEM_WIDTH = 64
LEARNING_RATE = 1e-4
"""Two steps lower the loss by 3 %: enough for the numerics gate to see that they were taken."""
BRANCH_SCALE = 0.2
"""What the last norm of each block starts with, instead of 1.

Untrained, at 1, the network amplifies rounding: bfloat16 logits in training come out 36 % off, and
no gate could tell a wrong device from a right one; at 0.2, 3 %. Goyal et al., arXiv 1706.02677,
start at 0 for the same reason, but then the gate would not see the blocks. The work is the same.
"""


class InferParameters(Parameters, frozen=True, kw_only=True):
    """Square images."""

    batch_size: BatchSize = 8
    image_size: Annotated[int, Within(32, 4096)] = 224

    def winograd_share(self) -> float:
        """Of training: its gradients are such convolutions too, and what it spares of the images'
        makes it the smaller one."""
        every, others = (list(_multiply_adds(self.image_size, taps)) for taps in (9, 0))
        all_passes = 3 * sum(every) - every[0]
        return 1 - 3 / 4 * 3 * (sum(every) - sum(others)) / all_passes


class SgdParameters(InferParameters, frozen=True, kw_only=True):
    """Square images; SGD with momentum 0.9 and weight decay 1e-4, as He et al. trained it."""

    batch_size: Annotated[int, Within(2, 65536)] = 8
    """At least two: batch statistics."""
    optimizer: Sgd = "sgd"


class TrainParameters(SgdParameters, frozen=True, kw_only=True):
    """As said there, on one device or on several."""

    batch_statistics: Annotated[str, OneOf((OWN, SYNCHRONIZED)), Later()] = OWN
    """By which images each of several devices normalizes: its own, or those of all."""

    def unfit(self, precision: str, execution: str, parallelism: str) -> str:
        """Each layer's exchange breaks the compiler's graph: with torch 2.13 into so many parts
        that it gives some up, and runs them eagerly."""
        together = self.batch_statistics == SYNCHRONIZED and parallelism != "none"
        if not together or execution == "eager":
            return ""
        return (
            f'batch_statistics = "{SYNCHRONIZED}" over {parallelism} is measured in eager '
            f"execution only, not `{execution}`: each batch norm waits for the others, which "
            "torch's compiler does not see through. Leave out `execution`, or `batch_statistics`"
        )


class PipelineParameters(SgdParameters, frozen=True, kw_only=True):
    """As `train`, on images that torch's DataLoader makes and that cross to the device each step.

    The names of its parameters are the DataLoader's.
    """

    num_workers: LoaderWorkers = 4
    """Processes that make images; 0: they are made between the steps."""
    pin_memory: bool = True
    """Whether batches wait in pinned memory; without effect where the device is the host."""
    prefetch_factor: PrefetchFactor = 2
    """Batches that each process keeps ready."""


class ResNet50(Workload):
    """He et al., arXiv 1512.03385, with the stride in the 3x3 convolution (v1.5).

    On several devices each normalizes by the statistics of its own images, as Goyal et al., arXiv
    1706.02677, section 3, train it: they depend on how many images a device has, and nothing of
    them is sent. With `batch_statistics = "synchronized"` they are those of the global batch, as
    where few images fit a device (Peng et al., arXiv 1711.07240): one step is then the same on any
    number of devices, and each layer's statistics cross them, forwards and backwards.
    """

    name = "resnet50"
    version = 1
    memory_formats = ("contiguous", "channels_last")
    libraries = ("transformers.models.resnet.modeling_resnet",)
    modes = MappingProxyType(
        {
            **train_and_infer(TrainParameters, InferParameters, together=REPLICATED, copies=COPIES),
            "train-pipeline": Mode(
                parameters=PipelineParameters,
                precisions=TRAINING_PRECISIONS,
                executions=EXECUTIONS,
            ),
        }
    )

    def work(self, mode: str, parameters: InferParameters, precision: Precision) -> Work:
        """2 FLOP for each multiply-add of convolutions and classifier; 8.18 GFLOP at 224x224.

        Training is three times that (gradients of inputs and of weights cost a forward each), less
        the gradient of the images, which nothing needs.
        Source: He et al., arXiv 1512.03385, table 1 counts 3.8 G multiply-adds for v1; the stride
        of v1.5 makes it 4.09 G.
        """
        layers = list(_multiply_adds(parameters.image_size))
        flop = 2 * sum(layers)
        if mode != "infer":
            flop = 3 * flop - 2 * layers[0]
        batch = parameters.batch_size
        crossing = None
        if mode == "train-pipeline":
            crossing = transferred_bytes(batch, parameters.image_size)
        return Work(items=batch, unit="image", flop=batch * flop, transferred_bytes=crossing)

    def twin(self, mode: str, parameters: InferParameters) -> InferParameters:
        """Small images, made in the process itself; enough of them that the batch statistics of the
        last stage mean something.

        At 48x48 the last stage is 2x2: with 4 images, 16 values a channel. Smaller images than that
        are trained, but not judged by: at 32x32 it is 1x1, and 4 values a channel are all noise.
        """
        small = at_most(parameters, image_size=48, num_workers=0)
        if mode == "infer":
            return msgspec.structs.replace(small, batch_size=2)
        return msgspec.structs.replace(small, batch_size=4, image_size=48)

    def peak_bytes(self, mode: str, parameters: InferParameters, site: Site) -> int:
        """Of a pipeline, as of training alone: a rehearsal has no images that a process could make.

        The inputs that training rotates stand for the batches that are on their way. Synchronized
        batch statistics keep what a device's own do.
        """
        if isinstance(parameters, SgdParameters):
            names = SgdParameters.__struct_fields__
            mode = "train"
            parameters = TrainParameters(**{name: getattr(parameters, name) for name in names})
        return super().peak_bytes(mode, parameters, site)

    def build(self, mode: str, parameters: InferParameters, site: Site) -> Job:
        """Images of normals (as normalized images are), random classes; of bytes in a pipeline."""
        data = SeededData(site.seed)
        model = build_model(_construct, PUBLISHED_PARAMETERS, data, site)
        if isinstance(parameters, PipelineParameters):
            return _pipeline_job(model, parameters, site)
        shape = (parameters.batch_size, 3, parameters.image_size, parameters.image_size)
        images = [rows(data.normal(shape, site.precision.dtype), site) for _ in range(BATCHES)]
        if not isinstance(parameters, TrainParameters):
            return InferenceJob(model, _logits, images, site, {})
        batches = [(image, rows(data.integers(0, CLASSES, shape[:1]), site)) for image in images]
        facts = {} if site.ranks is None else {STATISTICS: "of each device's own images"}
        forward = _logits if site.as_ranks == 1 else functools.partial(_in_parts, site.as_ranks)
        if parameters.batch_statistics == SYNCHRONIZED:
            forward = _logits
            if site.ranks is not None:
                facts = synchronize(model, site.ranks, site.device)
        optimizer = parameters.optimizer
        return TrainingJob(model, forward, batches, optimizer, LEARNING_RATE, site, facts)


def _pipeline_job(model: nn.Module, parameters: PipelineParameters, site: Site) -> Job:
    images = GeneratedImages(site.seed, parameters.image_size, CLASSES)
    feed = Feed(data_loader(images, parameters.batch_size, parameters, site), site)
    return PipelineJob(model, _logits, feed, parameters.optimizer, LEARNING_RATE, site)


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    """[B, 3, S, S] to [B, 1000]."""
    logits: Tensor = model(images).logits
    return logits


def _in_parts(count: int, model: nn.Module, images: Tensor) -> Tensor:
    """As so many ranks see them: each part of the images has statistics of its own."""
    import torch

    return torch.cat([_logits(model, part) for part in images.chunk(count)])


def _construct() -> nn.Module:
    from torch.nn import init

    model = library_model(
        "resnet",
        "ResNetForImageClassification",
        num_labels=CLASSES,
        embedding_size=STEM_WIDTH,
        hidden_sizes=list(WIDTHS),
        depths=list(DEPTHS),
        layer_type="bottleneck",
        downsample_in_bottleneck=False,
    )
    for name, module in model.named_modules():
        if name.endswith("layer.2.normalization"):
            init.constant_(module.weight, BRANCH_SCALE)
    return model


def _multiply_adds(image_size: int, taps: int = 9) -> Iterator[int]:
    """Multiply-adds of one image in each convolution, the stem first, the classifier last.

    taps: of a 3x3 convolution of stride 1. Every stride-2 layer here is padded so that it halves
    its input, rounded up.
    """
    size = _half(image_size)
    yield 7 * 7 * 3 * STEM_WIDTH * size**2
    size = _half(size)  # max pooling
    inputs = STEM_WIDTH
    for stage, (depth, outputs) in enumerate(zip(DEPTHS, WIDTHS, strict=True)):
        middle = outputs // 4
        for block in range(depth):
            strided = stage > 0 and block == 0
            reduced = _half(size) if strided else size
            yield inputs * middle * size**2
            yield (9 if strided else taps) * middle * middle * reduced**2
            yield middle * outputs * reduced**2
            if block == 0:
                yield inputs * outputs * reduced**2  # the shortcut's projection
            inputs, size = outputs, reduced
    yield inputs * CLASSES


def _half(size: int) -> int:
    return -(-size // 2)


WORKLOAD = ResNet50()
