"""ResNet-50 v1.5 in MindSpore's own layers, its weights in the order of torch's.

Imported by jobs alone; see `steps.py`.
"""

from __future__ import annotations

import math
from typing import Any

from mindspore import nn, ops

from bench.workloads import resnet50
from bench.workloads.resnet50 import BRANCH_SCALE, CLASSES, STEM_WIDTH, WIDTHS

EPSILON = 1e-5
KEPT = 0.9
"""Of the running statistics, what a step leaves; torch says what it adds, 0.1."""


class Normalized(nn.Cell):  # type: ignore[misc]
    """A convolution and its batch norm."""

    def __init__(
        self, filled: Any, inputs: int, outputs: int, size: int, stride: int = 1, scale: float = 1.0
    ) -> None:
        """filled: `models.Filled`; size: of the kernel, which is padded by its half;
        scale: what the norm multiplies by at first."""
        super().__init__()
        std = math.sqrt(2.0) / math.sqrt(outputs * size * size)  # He et al., by what it puts out
        self.convolution = nn.Conv2d(
            inputs,
            outputs,
            size,
            stride,
            pad_mode="pad",
            padding=size // 2,
            weight_init=filled.normal((outputs, inputs, size, size), std),
            dtype=filled.dtype,
        )
        self.normalization = nn.BatchNorm2d(
            outputs, eps=EPSILON, momentum=KEPT, gamma_init=scale, dtype=filled.dtype
        )

    def construct(self, images: Any) -> Any:
        """[B, inputs, S, S] to [B, outputs, S / stride, S / stride]."""
        return self.normalization(self.convolution(images))


class Bottleneck(nn.Cell):  # type: ignore[misc]
    """Three convolutions beside a shortcut; the stride is in the second."""

    def __init__(self, filled: Any, inputs: int, outputs: int, stride: int) -> None:
        """As torch's twin draws: the shortcut first."""
        super().__init__()
        self.projects = inputs != outputs
        if self.projects:
            self.shortcut = Normalized(filled, inputs, outputs, 1, stride)
        middle = outputs // 4
        self.first = Normalized(filled, inputs, middle, 1)
        self.second = Normalized(filled, middle, middle, 3, stride)
        self.third = Normalized(filled, middle, outputs, 1, scale=BRANCH_SCALE)

    def construct(self, images: Any) -> Any:
        """[B, inputs, S, S] to [B, outputs, S / stride, S / stride]."""
        found = ops.relu(self.first(images))
        found = ops.relu(self.second(found))
        found = self.third(found)
        if self.projects:
            images = self.shortcut(images)
        return ops.relu(found + images)


class ResNet50(nn.Cell):  # type: ignore[misc]
    """Images to the scores of 1,000 classes."""

    def __init__(self, filled: Any) -> None:
        """Draws its weights."""
        super().__init__()
        self.stem = Normalized(filled, 3, STEM_WIDTH, 7, 2)
        # Not padded by a layer of its own: in a graph of MindSpore 2.10 for a host the gradient of
        # `ZeroPad2d` is wrong from the second step on (the gate's loss after 2 steps: off by 8e-3).
        self.pooled = nn.MaxPool2d(3, 2, pad_mode="pad", padding=1)
        inputs, blocks = STEM_WIDTH, []
        for stage, (depth, outputs) in enumerate(zip(resnet50.DEPTHS, WIDTHS, strict=True)):
            for block in range(depth):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(Bottleneck(filled, inputs, outputs, stride))
                inputs = outputs
        self.blocks = nn.SequentialCell(*blocks)
        # As torch's own linear layer is filled: uniform, by what it takes in.
        std = math.sqrt(2.0 / (1 + math.sqrt(5.0) ** 2)) / math.sqrt(inputs)
        bound, bias = math.sqrt(3.0) * std, 1 / math.sqrt(inputs)
        self.classifier = nn.Dense(
            inputs,
            CLASSES,
            weight_init=filled.normal((CLASSES, inputs), (bound + bound) / 12**0.5),
            bias_init=filled.normal((CLASSES,), (bias + bias) / 12**0.5),
            dtype=filled.dtype,
        )

    def construct(self, images: Any) -> Any:
        """[B, 3, S, S] to [B, 1000]."""
        found = ops.relu(self.stem(images))
        found = self.blocks(self.pooled(found))
        return self.classifier(found.mean((2, 3)))
