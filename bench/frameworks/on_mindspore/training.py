"""Training in MindSpore: forward, gradients and the optimizer's update, as one plain function.

Imported by jobs alone, so MindSpore is imported where it loads; see `steps.py`.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import mindspore as ms
from mindspore import nn, ops

from bench.framework import Moved
from bench.frameworks.on_mindspore.jobs import execution_look, run_as
from bench.frameworks.on_mindspore.models import looks_of, parameters_of
from bench.records.proof import (
    EACH_GRADIENT,
    EACH_GRADIENT_OVER_KINKS,
    GRADIENTS,
    LOSS,
    OTHER_INPUTS,
    RUNNING,
)
from bench.workload import Job, Look, Site, Training
from bench.workloads.jobs.gradients import SUMS, signs
from bench.workloads.jobs.optimizers import ADAM_BETAS, ADAM_EPSILON, SETTINGS
from bench.workloads.jobs.rotation import Rotation


class Sgd(nn.Cell):  # type: ignore[misc]
    """With momentum, and the decay in the gradient: as torch has it, the rate outside the momentum.

    By MindSpore's own kernel. Source: Sutskever et al., ICML 2013.
    """

    name = "SGD(ApplyMomentum)"

    def __init__(self, weights: Any, rate: float) -> None:
        """weights: a `ParameterTuple`."""
        super().__init__()
        settings = SETTINGS["sgd"]
        self.rate, self.momentum = rate, settings["momentum"]
        self.decay = settings["weight_decay"]
        self.trained = weights
        self.buffers = weights.clone(prefix="momentum_buffer", init="zeros")
        self.update = ops.ApplyMomentum()

    @property
    def settings(self) -> dict[str, Any]:
        """By torch's names."""
        return {"lr": self.rate, "momentum": self.momentum, "weight_decay": self.decay}

    @property
    def state(self) -> dict[str, Sequence[Any]]:
        """What it keeps of each weight, by torch's names."""
        return {"momentum_buffer": self.buffers}

    def construct(self, gradients: Any) -> Any:
        """Moves each weight by its gradient."""
        for weight, buffer, gradient in zip(self.trained, self.buffers, gradients):  # noqa: B905
            slope = gradient + weight * self.decay
            self.update(weight, buffer, self.rate, slope, self.momentum)
        return gradients


class AdamW(nn.Cell):  # type: ignore[misc]
    """Loshchilov and Hutter, arXiv 1711.05101, algorithm 2, by MindSpore's own kernel.

    That one moves a weight w by `rate (m / (sqrt(v) + epsilon) + decay w)`: it does not correct the
    means m and v for having begun at zero. So each step it is given the rate, epsilon and decay by
    which this is the same as the algorithm's.
    """

    name = "AdamW(AdamWeightDecay)"

    def __init__(self, weights: Any, rate: float) -> None:
        """weights: a `ParameterTuple`."""
        super().__init__()
        self.rate, self.decay = rate, SETTINGS["adamw"]["weight_decay"]
        self.first, self.second = ADAM_BETAS
        self.trained = weights
        self.means = weights.clone(prefix="exp_avg", init="zeros")
        self.squares = weights.clone(prefix="exp_avg_sq", init="zeros")
        self.steps = ms.Parameter(ms.Tensor(0.0, ms.float32), name="steps", requires_grad=False)
        self.logarithms = ms.Tensor([self.first, self.second], ms.float64).log().astype(ms.float32)
        self.update = ops.AdamWeightDecay()

    @property
    def settings(self) -> dict[str, Any]:
        """By torch's names."""
        betas = (self.first, self.second)
        return {"lr": self.rate, "weight_decay": self.decay, "betas": betas, "eps": ADAM_EPSILON}

    @property
    def state(self) -> dict[str, Sequence[Any]]:
        """What it keeps of each weight, by torch's names."""
        return {"exp_avg": self.means, "exp_avg_sq": self.squares}

    def construct(self, gradients: Any) -> Any:
        """Moves each weight by its gradient."""
        steps = ops.assign_add(self.steps, 1.0)
        # 1 - beta^t, of which next to nothing is left in float32 where it is taken so.
        corrections = -ops.expm1(self.logarithms * steps)
        first, root = corrections[0], ops.sqrt(corrections[1])
        rate, epsilon = self.rate * root / first, ADAM_EPSILON * root
        decay = self.decay * first / root
        held = zip(self.trained, self.means, self.squares, gradients)  # noqa: B905
        for weight, mean, square, gradient in held:
            self.update(
                weight, mean, square, rate, self.first, self.second, epsilon, decay, gradient
            )
        return gradients


OPTIMIZERS: Mapping[str, Callable[[Any, float], Any]] = {"sgd": Sgd, "adamw": AdamW}
"""By the name in a job."""


def cross_entropy(logits: Any, targets: Any) -> Any:
    """Mean cross-entropy of logits [..., classes] and targets [...], in float32."""
    wide = logits.astype(ms.float32)
    return ops.cross_entropy(wide.reshape(-1, wide.shape[-1]), targets.reshape(-1))


def trained(model: Any, optimizer: Any, count: int) -> Callable[..., Any]:
    """The step, of `count` micro-batches: inputs and targets of the first, of the second, ...

    It gives the mean loss, the logits of the last of them, and the gradients.
    """

    def share(inputs: Any, targets: Any) -> Any:
        logits = model(inputs)
        return cross_entropy(logits, targets) / count, logits

    evaluated = ms.value_and_grad(share, None, optimizer.trained, has_aux=True)

    def step(*batches: Any) -> Any:
        (loss, logits), gradients = evaluated(batches[0], batches[1])
        for turn in range(1, count):
            (more, logits), others = evaluated(batches[2 * turn], batches[2 * turn + 1])
            loss = loss + more
            gradients = added(gradients, others)
        optimizer(gradients)
        return loss, logits, gradients

    return step


def added(gradients: Any, others: Any) -> Any:
    """Sums of each two."""
    return tuple([one + other for one, other in zip(gradients, others)])  # noqa: B905


def _sums(tensors: Sequence[Any]) -> Any:
    """Of each, as `each_gradient` of `bench.workloads.jobs.gradients`; on the host in float64."""
    import numpy as np

    found = []
    for tensor in tensors:
        each = -(-tensor.size // SUMS)
        parts = np.zeros(SUMS * each)
        parts[: tensor.size] = tensor.asnumpy().reshape(-1)
        found.append((parts.reshape(SUMS, each) * signs(np.arange(each))).sum(1))
    return ms.Tensor(np.stack(found).astype(np.float32))


class TrainingJob(Job):
    """One training step; batches rotate. See `bench.workloads.jobs.jobs.TrainingJob`."""

    def __init__(
        self,
        model: Any,
        batches: list[tuple[Any, Any]],
        optimizer: str,
        learning_rate: float,
        site: Site,
        facts: Mapping[str, str],
        accumulation_steps: int = 1,
    ) -> None:
        """model: a cell, which is put into training mode."""
        self._model, self._site = model.set_train(True), site
        self._weights: Sequence[Any] = ms.ParameterTuple(parameters_of(model))
        self._optimizer = OPTIMIZERS[optimizer](self._weights, learning_rate)
        self._settings = self._optimizer.settings  # as asked, whatever changes it later
        self._function = trained(model, self._optimizer, accumulation_steps)
        self._run = run_as(site.execution, self._function)
        self._accumulation_steps = accumulation_steps
        self._batches = Rotation(batches)
        self._taken: list[tuple[Any, Any]] = []
        self._steps = 0
        self._gradients: Sequence[Any] = ()
        self.facts = {**facts, "optimizer": self._optimizer.name}

    def step(self) -> None:
        """Queues one training step."""
        self._taken = list(itertools.islice(self._batches, self._accumulation_steps))
        self._take()

    def _take(self) -> None:
        """A step on the batches that were taken last."""
        given = [tensor for batch in self._taken for tensor in batch]
        self._loss, self._logits, self._gradients = self._run(*given)
        self._steps += 1

    def witness(self) -> float:
        """Loss of the last step."""
        return float(self._loss)

    def probe(self) -> dict[str, Any]:
        """Three steps on the same micro-batches, the loss of the third is that after two; and in
        the third's place one on others."""
        self.step()
        found = {"logits": self._logits, "loss": self._loss, "gradient_norm": self._norm()}
        each = EACH_GRADIENT_OVER_KINKS if self.training().kinks else EACH_GRADIENT
        found[each] = _sums(self._gradients)
        if running := [p for p in self._model.get_parameters() if p.name.endswith("moving_mean")]:
            found[RUNNING] = _sums(running)
        self._take()
        with self._unmoved():
            self._take()
            found["loss after 2 steps"] = self._loss
        self.step()
        return {**found, OTHER_INPUTS: self._logits}

    def _norm(self) -> Any:
        """Of all gradients together; summed on the host in float64."""
        import numpy as np

        total = sum(float(np.square(g.asnumpy(), dtype=np.float64).sum()) for g in self._gradients)
        return ms.Tensor(np.float32(total**0.5))

    def outputs(self) -> Mapping[str, Sequence[Any]]:
        """Loss, and the gradients."""
        return {LOSS: [self._loss], GRADIENTS: self._gradients}

    def weights(self) -> Sequence[Any]:
        """All parameters."""
        return self._weights

    def inputs(self) -> Sequence[Any]:
        """Of the last step's first micro-batch."""
        return self._taken[0][:1] if self._taken else ()

    def back(self) -> bool:
        """By the rotation."""
        for _ in self._taken:
            self._batches.back()
        return bool(self._taken)

    def again(self) -> bool:
        """The last step once more, and all that it moves back where it was."""
        if self._taken:
            with self._unmoved():
                self._take()
        return bool(self._taken)

    @contextlib.contextmanager
    def _unmoved(self) -> Iterator[None]:
        """Puts parameters and what the optimizer keeps back as they were, by way of the host."""
        import numpy as np

        every = [*self._model.get_parameters(), *self._optimizer.get_parameters()]
        moved = {id(parameter): parameter for parameter in every}.values()
        before = [np.array(parameter.asnumpy()) for parameter in moved]
        steps = self._steps
        try:
            yield
        finally:
            for parameter, was in zip(moved, before, strict=True):
                parameter.copy_(ms.Tensor(was))
            self._steps = steps

    def training(self) -> Training:
        """Its optimizer, with the learning rate that it was given."""
        cells = (cell for _, cell in self._model.cells_and_names())
        kinks = any(isinstance(cell, nn.ReLU | nn.MaxPool2d) for cell in cells)
        return Training(optimizer=self, settings=self._settings, kinks=kinks)

    def moved(self) -> Sequence[Moved]:
        """For `training`: each weight with its gradient and what the optimizer keeps of it."""
        state = self._optimizer.state
        gradients = self._gradients or [None] * len(self._weights)
        return [
            Moved(weight, gradient, {name: held[i] for name, held in state.items()}, self._steps)
            for i, (weight, gradient) in enumerate(zip(self._weights, gradients, strict=True))
        ]

    def looks(self) -> Iterator[Look]:
        """At the execution and the model."""
        yield execution_look(self._function, self.step, self._site.execution)
        yield from looks_of(self._model, self._site, training=True)
