"""ResNet-50 and BERT in MindSpore: training and inference, as `bench.workloads` has them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from bench.framework import Draws
from bench.frameworks.on_mindspore import jobs
from bench.frameworks.on_mindspore.jobs import Builder, MindSporeJob
from bench.workload import Job, Look, Site, Unsupported
from bench.workloads import resnet50 as resnet
from bench.workloads.bert import SIZES
from bench.workloads.jobs.jobs import BATCHES, adamw_learning_rate
from bench.workloads.jobs.rotation import Rotation

if TYPE_CHECKING:
    from bench.framework import Array


UPDATES = {"adamw": "AdamWeightDecay", "sgd": "ApplyMomentum"}
"""What moves weights, by the optimizer in a job. None of them has bfloat16 among the types that its
reference names (2.10: mindspore.ops.AdamWeightDecay, mindspore.ops.ApplyMomentum)."""


class Filled:
    """What a model is filled with, one draw after the other."""

    def __init__(self, draws: Draws, site: Site) -> None:
        """dtype: MindSpore's, of the weights."""
        import mindspore as ms

        self._draws, self._site = draws, site
        self.dtype = getattr(ms, site.precision.weights)

    def normal(self, shape: tuple[int, ...], std: float = 1.0) -> Any:
        """Drawn, and rounded to the weights' dtype."""
        return jobs.placed(self._draws.normal(shape, std), self._site)

    def drawn(self, low: int, high: int, shape: tuple[int, ...]) -> Any:
        """Integers that are drawn."""
        return self.integers(self._draws.integers(low, high, shape))

    def fuses(self, width: int) -> bool:
        """Of heads so wide; see `jobs.fuses`."""
        return jobs.fuses(self._site, width)

    def integers(self, values: Iterable[int] | Array) -> Any:
        """Those, which index."""
        import mindspore as ms
        import numpy as np

        return ms.Tensor(np.asarray(values, np.int32))


class ModelJob(MindSporeJob):
    """One forward of a model; inputs rotate."""

    quantity = "logits"

    def __init__(self, model: Any, inputs: list[Any], site: Site, facts: Mapping[str, str]) -> None:
        """model: a cell, which is put into evaluation mode."""

        def infer(given: Any) -> Any:
            return model(given)

        self._model = model.set_train(False)
        self._site = site
        self._function, self._execution = infer, site.execution
        self._run = jobs.run_as(site.execution, infer)
        self._inputs = Rotation([(given,) for given in inputs])
        self.facts = facts

    def weights(self) -> Sequence[Any]:
        """Its parameters."""
        return parameters_of(self._model)

    def looks(self) -> Iterator[Look]:
        """Besides, at the model."""
        yield from super().looks()
        yield from looks_of(self._model, self._site, training=False)


def parameters_of(model: Any) -> list[Any]:
    """Of a cell, what is trained, in the order of its layers: torch's `parameters()`."""
    return [*model.trainable_params()]


def looks_of(model: Any, site: Site, training: bool) -> Iterator[Look]:
    """Whether each of a model's cells trains, or none; and whether its weights are as wide as the
    site says."""
    asked, other = ("training", "evaluation")[:: 1 if training else -1]
    cells = (cell for _, cell in model.cells_and_names())
    wrong = next((other for cell in cells if cell.training is not training), asked)
    yield Look(what="mode of the model", asked=asked, seen=wrong)
    yield width_look("weights", parameters_of(model), site)


def width_look(what: str, tensors: Iterable[Any], site: Site) -> Look:
    """Whether all of them are as wide as the site says."""
    wide = site.precision.weights
    seen = (str(tensor.dtype).lower() for tensor in tensors)
    other = next((kind for kind in seen if kind != wide), wide)
    return Look(what=f"dtype of the {what}", asked=wide, seen=other)


def require_offered(parameters: Any, site: Site) -> None:
    """Raises `Unsupported` for what torch's twin has and these have not."""
    if site.memory_format != "contiguous":
        raise Unsupported(f"MindSpore: no {site.memory_format} layout, so far; contiguous")
    if getattr(parameters, "gradient_checkpointing", False):
        raise Unsupported("MindSpore: no gradient checkpointing, so far. Leave it out")
    kernel = UPDATES.get(getattr(parameters, "optimizer", ""))
    if kernel is not None and site.precision.weights == "bfloat16":
        raise Unsupported(
            f"MindSpore: its {kernel} moves no bfloat16 weights. Train in fp32 or tf32"
        )


def facts_of(name: str, model: Any, published: int | None) -> dict[str, str]:
    """What the record says of any model. Raises RuntimeError where it has other parameters than the
    published one."""
    count = sum(math.prod(weight.shape) for weight in parameters_of(model))
    if published not in (None, count):
        raise RuntimeError(
            f"{name} was built with {count:,} parameters, but the published model has "
            f"{published:,}."
        )
    return {"parameters": str(count), "memory_format": "contiguous"}


def resnet50(mode: str, parameters: Any, site: Site, draws: Draws) -> Job:
    """As `bench.workloads.resnet50`; batch statistics of a single device are its own."""
    require_offered(parameters, site)
    from bench.frameworks.on_mindspore import resnet50 as cells

    filled = Filled(draws, site)
    model = cells.ResNet50(filled)
    facts = facts_of("ResNet-50", model, resnet.PUBLISHED_PARAMETERS)
    shape = (parameters.batch_size, 3, parameters.image_size, parameters.image_size)
    images = [filled.normal(shape) for _ in range(BATCHES)]
    if mode == "infer":
        return ModelJob(model, images, site, facts)
    from bench.frameworks.on_mindspore import training

    batches = [(each, filled.drawn(0, resnet.CLASSES, shape[:1])) for each in images]
    return training.TrainingJob(
        model, batches, parameters.optimizer, resnet.LEARNING_RATE, site, facts
    )


def bert(mode: str, parameters: Any, site: Site, draws: Draws) -> Job:
    """As `bench.workloads.bert`."""
    require_offered(parameters, site)
    from bench.frameworks.on_mindspore import bert as cells

    size, filled = SIZES[parameters.model], Filled(draws, site)
    shape = (parameters.batch_size, parameters.sequence_length)
    model = cells.Bert(filled, size, shape[1])
    facts = facts_of("BERT", model, size.published_parameters)
    fused = filled.fuses(size.hidden // size.heads)
    facts["attention"] = jobs.FUSED_ATTENTION if fused else jobs.OWN_ATTENTION
    steps = parameters.accumulation_steps if mode == "train" else 1
    count = BATCHES * steps
    tokens = [filled.drawn(1, size.vocabulary, shape) for _ in range(count)]
    if mode == "infer":
        return ModelJob(model, tokens, site, facts)
    from bench.frameworks.on_mindspore import training

    answers = [filled.drawn(0, shape[1], (shape[0], 2)) for _ in range(count)]
    return training.TrainingJob(
        model,
        list(zip(tokens, answers, strict=True)),
        parameters.optimizer,
        adamw_learning_rate(size.hidden),
        site,
        facts,
        accumulation_steps=steps,
    )


BUILDERS: Mapping[tuple[str, str], Builder] = MappingProxyType(
    {("resnet50", mode): resnet50 for mode in ("train", "infer")}
    | {("bert", mode): bert for mode in ("train", "infer")}
)
"""What there is, by workload and mode."""
