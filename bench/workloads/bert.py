"""BERT base and large with a question answering head: training and inference."""

from __future__ import annotations

import functools
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated

import msgspec

from bench.precision import Precision
from bench.records.outcome import Work
from bench.workload import (
    QUANTIZED_PRECISIONS,
    TWIN_VOCABULARY,
    AccumulationSteps,
    AdamW,
    BatchSize,
    Job,
    OneOf,
    Parameters,
    Site,
    Within,
    Workload,
    with_twins,
)
from bench.workloads.jobs.jobs import BATCHES, InferenceJob, TrainingJob, adamw_learning_rate
from bench.workloads.jobs.looks import AGAIN
from bench.workloads.jobs.modes import COPIES, SHARDED, at_most, train_and_infer
from bench.workloads.jobs.seeded import SeededData, build_model, initial_std
from bench.workloads.jobs.sharded import rows
from bench.workloads.language.language import BEFORE_CHECKPOINTING
from bench.workloads.layers.transformers import checkpoint_layers, library_model

if TYPE_CHECKING:
    from torch import Tensor, nn

MOST_POSITIONS = 512


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """The dimensions of one model."""

    hidden: int
    layers: int
    heads: int
    feed_forward: int
    vocabulary: int = 30522
    published_parameters: int | None = None
    """With the question answering head; None for a size that nobody published."""


SIZES = {
    "tiny": Size(hidden=64, layers=3, heads=4, feed_forward=128, vocabulary=512),
    "base": Size(
        hidden=768, layers=12, heads=12, feed_forward=3072, published_parameters=108_893_186
    ),
    "large": Size(
        hidden=1024, layers=24, heads=16, feed_forward=4096, published_parameters=334_094_338
    ),
}
"""Devlin et al., arXiv 1810.04805; `tiny` is for tests."""
SIZES = with_twins(SIZES, layers=2, vocabulary=TWIN_VOCABULARY)


class InferParameters(Parameters, frozen=True, kw_only=True):
    """Sequences without padding."""

    model: Annotated[str, OneOf(SIZES)] = "base"
    """`base`, `large` or `tiny`; with `-2l`, cut to 2 layers and 4,096 tokens, for the gate."""
    batch_size: BatchSize = 4
    sequence_length: Annotated[int, Within(1, MOST_POSITIONS)] = 128
    earlier = MappingProxyType({1: MappingProxyType({})})
    """It was training alone that changed, and the version was the whole workload's."""


class TrainParameters(InferParameters, frozen=True, kw_only=True):
    """Sequences without padding; AdamW."""

    optimizer: AdamW = "adamw"
    gradient_checkpointing: bool = False
    """Layers keep their input only, and are computed again in the backward."""
    accumulation_steps: AccumulationSteps = 1
    earlier = BEFORE_CHECKPOINTING


class Bert(Workload):
    """Devlin et al., arXiv 1810.04805, fine-tuned for SQuAD: start and end of an answer."""

    name = "bert"
    version = 2
    libraries = ("transformers.models.bert.modeling_bert",)
    modes = train_and_infer(
        TrainParameters,
        InferParameters,
        inference=QUANTIZED_PRECISIONS,
        together=SHARDED,
        copies=COPIES,
    )

    def work(self, mode: str, parameters: InferParameters, precision: Precision) -> Work:
        """2 FLOP for each weight of a matrix and each token, and attention: 4 T^2 d a layer.

        A layer's matrices are 4 d^2 (query, key, value, output) and 2 d f (feed-forward); the head
        is 2 d. Embeddings, norms and softmax are left out. Training is three times the
        forward, over all micro-batches; what gradient checkpointing computes again, all layers, is
        counted apart (`Work.again_flop`).
        Source: PaLM, arXiv 2204.02311, appendix B (attention in full).
        """
        size = SIZES[parameters.model]
        tokens = parameters.sequence_length
        layer = 4 * size.hidden**2 + 2 * size.hidden * size.feed_forward
        layers = 2 * tokens * size.layers * layer + 4 * tokens**2 * size.hidden * size.layers
        forward = layers + 4 * tokens * size.hidden
        batch, again = parameters.batch_size, None
        if isinstance(parameters, TrainParameters):
            batch *= parameters.accumulation_steps
            forward *= 3
            again = batch * layers if parameters.gradient_checkpointing else None
        return Work(items=batch, unit="sequence", flop=batch * forward, again_flop=again)

    def twin(self, mode: str, parameters: InferParameters) -> InferParameters:
        """Two layers of the same widths, two sequences of 32 tokens."""
        small = at_most(parameters, sequence_length=32, accumulation_steps=2)
        return msgspec.structs.replace(small, batch_size=2)

    def build(self, mode: str, parameters: InferParameters, site: Site) -> Job:
        """Random tokens (never 0, which is padding), random answers."""
        size = SIZES[parameters.model]
        data = SeededData(site.seed)
        construct = functools.partial(_construct, size)
        model = build_model(construct, size.published_parameters, data, site, "bert.encoder")
        shape = (parameters.batch_size, parameters.sequence_length)
        steps = parameters.accumulation_steps if isinstance(parameters, TrainParameters) else 1
        count = BATCHES * steps
        tokens = [rows(data.integers(1, size.vocabulary, shape), site) for _ in range(count)]
        facts = {"attention": "sdpa"}
        if not isinstance(parameters, TrainParameters):
            return InferenceJob(model, _logits, tokens, site, facts)
        spans = (shape[0], 2)
        answers = [rows(data.integers(0, shape[1], spans), site) for _ in range(count)]
        if parameters.gradient_checkpointing:
            checkpoint_layers(model)
        facts[AGAIN] = "on" if parameters.gradient_checkpointing else "off"
        batches = list(zip(tokens, answers, strict=True))
        return TrainingJob(
            model,
            _logits,
            batches,
            parameters.optimizer,
            adamw_learning_rate(size.hidden),
            site,
            facts,
            accumulation_steps=parameters.accumulation_steps,
        )


def _logits(model: nn.Module, tokens: Tensor) -> Tensor:
    """[B, T] to [B, 2, T]: where the answer starts and where it ends, a choice among T each."""
    import torch

    output = model(tokens)
    return torch.stack((output.start_logits, output.end_logits), dim=1)


def _construct(size: Size) -> nn.Module:
    return library_model(
        "bert",
        "BertForQuestionAnswering",
        initializer_range=initial_std(size.hidden),
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        intermediate_size=size.feed_forward,
        max_position_embeddings=MOST_POSITIONS,
        # No dropout: each device draws its masks in its own way, and the gate compares numbers.
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attn_implementation="sdpa",
    )


WORKLOAD = Bert()
