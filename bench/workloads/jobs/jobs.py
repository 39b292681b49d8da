"""A model's jobs: one training step, one forward; how it is executed, and what the record says.

The models that generate have jobs of their own: `bench.workloads.decoding.generation`.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from bench.ranks import local, part
from bench.records.execution import is_recorded
from bench.records.parallelism import Parallelism
from bench.records.proof import GRADIENTS, LOSS, OTHER_INPUTS, OUTPUT
from bench.workload import Job, Look, Site, Training
from bench.workloads.jobs import looks as model_looks
from bench.workloads.jobs.executed import executed
from bench.workloads.jobs.gradients import each_gradient, gradient_norm, running_means
from bench.workloads.jobs.optimizers import chosen_optimizer, described
from bench.workloads.jobs.recorded import (
    gradients_kept_in_place,
    replayed,
    replayed_facts,
    replayed_training,
)
from bench.workloads.jobs.rehearsed_ranks import joined
from bench.workloads.jobs.rotation import RotatingJob, Rotation, leaves
from bench.workloads.jobs.seeded import parameter_count
from bench.workloads.jobs.sharded import Spread, has_kinks, spread
from bench.workloads.layers.batch_statistics import EXCHANGED
from bench.workloads.layers.quantized import products, quantized_facts
from bench.workloads.spots import expert_spots, model_spots

if TYPE_CHECKING:
    from torch import Tensor, nn

    Forward = Callable[[nn.Module, Any], Tensor]
    """Runs a model on one input: a tensor, or whatever its workload calls an input."""
    Loss = Callable[[Tensor, Tensor], Tensor]
    """Mean loss of what the forward returned and the targets."""
    Batch = tuple[Any, Tensor]
    """Input and targets."""

PASSED_OVER = "optimizer passed over"
"""The fact that says which implementation of the optimizer is wrong on the device."""
BATCHES = 4
"""Inputs that a job rotates among, so that no step finds its input where the last one left it."""


def autocast(site: Site) -> AbstractContextManager[object]:
    """The autocast that the site's precision asks for, if any."""
    import torch

    dtype = site.precision.autocast_dtype
    if dtype is None:
        return nullcontext()
    return torch.autocast(site.device.type, dtype)


def adamw_learning_rate(hidden: int) -> float:
    """Learning rate at which two steps lower a transformer's loss by some percent, at any width.

    Enough for the numerics gate to see that the steps were taken, too little for the loss to reach
    zero. AdamW moves every weight by about as much as this, and the effect adds up over the width.
    Source: Yang et al., Tensor Programs V, arXiv 2203.03466 (1 / width).
    """
    return 2**-8 / hidden


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of logits [..., classes] and targets [...], in float32 or wider."""
    import torch
    from torch.nn import functional

    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    loss: Tensor = functional.cross_entropy(wide.flatten(0, -2), targets.flatten())
    return loss


class TrainingJob(Job):
    """zero_grad, forward, loss in float32, backward, optimizer step; inputs rotate.

    With accumulation, forward and backward of several micro-batches before one optimizer step; the
    loss is their mean. On several ranks each takes its rows of the batches, and they average their
    gradients; what the record and the gate are told of the loss is the mean over the global batch.
    """

    def __init__(
        self,
        model: nn.Module,
        forward: Forward,
        batches: list[Batch],
        optimizer: str,
        learning_rate: float,
        site: Site,
        facts: dict[str, str],
        loss: Loss = cross_entropy,
        accumulation_steps: int = 1,
        policy: bool = False,
    ) -> None:
        """Puts the model into training mode, spreads it, and makes its optimizer.

        batches: this rank's rows; policy: whether what shards it rounds, where others autocast.
        """
        self._model = executed(model.train(), site)
        self._spread = spread(self._model, site, accumulation_steps, policy)
        self._forward = forward
        self._batches: Any = Rotation(batches)
        self._taken: list[Batch] = []
        self._accumulation_steps = accumulation_steps
        self._site = site
        self._loss_of = loss
        chosen = chosen_optimizer(optimizer, learning_rate, model)
        self._optimizer, self._implementation = chosen.optimizer, chosen.implementation
        # As asked: what changes a group of the optimizer later must not change this.
        (group,) = chosen.optimizer.param_groups
        asked = {name: value for name, value in group.items() if name != "params"}
        self._settings = {**asked, "lr": learning_rate}
        self.facts = model_facts(model, site) | self._spread.facts | facts
        self.facts |= {"optimizer": described(chosen.optimizer, chosen.implementation)}
        if chosen.passed_over:
            self.facts |= {PASSED_OVER: chosen.passed_over}
        self._run = replayed_training(self._whole, self._model, chosen, site)
        self.facts |= replayed_facts(site)

    def step(self) -> None:
        """Queues one training step, or its replay."""
        self._loss = self._run(self._next_batches())[1]

    def _whole(self, batches: list[Batch]) -> tuple[Tensor, Tensor]:
        logits, loss = self._update(batches)
        self._optimizer.step()
        return logits.detach(), loss

    def witness(self) -> float:
        """Loss of the last step, over the global batch."""
        return float(self._mean(self._loss))

    def probe(self) -> dict[str, Tensor]:
        """Two steps and a forward on the same micro-batches, then a step on others; logits of the
        last of them.

        On several ranks the logits are of its own rows, all else of the global batch, and of each
        gradient nothing: see `bench.measuring.gates.rank_numerics`.
        """
        import torch

        batches = self._next_batches()
        if is_recorded(self._site.execution):  # whole, or it were no step that is timed
            logits, loss = (found.clone() for found in self._run(batches))
            gradients = self._told()
        else:
            logits, loss = self._update(batches)
            gradients = self._told()
            self._optimizer.step()
        self._run(batches)
        last = torch.stack([self._evaluate(batch)[1].detach() for batch in batches]).mean()
        others, _ = self._run(self._next_batches())
        self._spread.settle()
        return {
            "logits": logits.detach(),
            "loss": self._mean(loss),
            **gradients,
            "loss after 2 steps": self._mean(last),
            OTHER_INPUTS: others.detach(),
        }

    def looks(self) -> Iterator[Look]:
        """At model, batches, autocast, attention, a forward, and the optimizer's kernels."""
        batches = self._next_batches()
        yield from model_looks.placed(self._model, batches, self._site)
        yield model_looks.mode(self._model, training=True)
        yield from model_looks.computed_again(self._model, self.facts)
        yield from model_looks.experts(self._model, self.facts)
        if self._spread.policy is None:
            yield from model_looks.autocasting(autocast(self._site), self._site)
        yield from self._spread.looks()
        read = functools.partial(self._read, batches[0])
        yield from expert_spots.looks(self, self._model, read, self._site)
        yield from model_looks.attention(self._model, self.facts)
        # Its kernels are torch's choice, and the case asks for none: the record says what ran.
        ran = model_looks.optimizer_kernels(self._optimizer.step)
        self.facts = {**self.facts, "optimizer": described(self._optimizer, ran)}
        if PASSED_OVER in self.facts:
            yield Look(what="kernels of the optimizer", asked=self._implementation, seen=ran)
        yield from self._values(batches[-1])

    def _values(self, batch: Batch) -> list[Look]:
        """Last: it may end amid a step, without gradients. Of ranks each looks at its own rows.
        Where they wait for each other in a backward it takes none: with what is kept meanwhile that
        may need more memory than is timed, and who ended in it would leave the others waiting."""
        if not self.thorough:
            return []
        ranks = self._site.ranks
        scheme = "none" if ranks is None else ranks.parallelism.scheme
        if scheme not in ("none", "replicas", "dp") or EXCHANGED in self.facts:
            why = "not observable: in the backward ranks wait for each other"
            self.facts = {**self.facts, model_spots.OF_GRADIENTS: why}
            return model_spots.looks(self, self._site, lambda: self._read(batch))
        spread, held = self._spread, []
        if scheme == "dp":  # past what reduces
            self._spread = Spread(self._model)
            held = [(weight, weight.grad) for weight in self._model.parameters()]
        of = (lambda: self._update([batch])), (lambda: self._evaluate(batch))
        try:
            with gradients_kept_in_place(self._model, self._site):
                return model_spots.looks(self, self._site, *of)
        finally:
            self._spread = spread
            for weight, gradient in held:
                weight.grad = gradient

    def outputs(self) -> Mapping[str, Sequence[Tensor]]:
        """Loss, and the gradients of all that have one; of this rank's rows, and its shards."""
        held = (*self._model.parameters(), *self._leaves_besides())
        gradients = [local(leaf.grad) for leaf in held if leaf.grad is not None]
        return {LOSS: [self._loss], GRADIENTS: gradients}

    def weights(self) -> Sequence[Tensor]:
        """All parameters, those that are not trained too; this rank's shards of them."""
        return [local(parameter) for parameter in self._model.parameters()]

    def inputs(self) -> Sequence[Tensor]:
        """Of the last step's first batch."""
        return leaves(self._taken[0][0]) if self._taken else ()

    def back(self) -> bool:
        """By the rotation, where what was taken is kept."""
        for _ in self._taken:
            self._batches.back()
        return bool(self._taken)

    def again(self) -> bool:
        """Gradients of the last batches; no update."""
        if self._taken:
            with gradients_kept_in_place(self._model, self._site):
                _, self._loss = self._update(self._taken)
        return bool(self._taken)

    def training(self) -> Training:
        """Its optimizer, with the learning rate that it was given."""
        (group,) = self._optimizer.param_groups
        moved = set(map(id, group["params"]))
        return Training(
            optimizer=self._optimizer,
            settings=self._settings,
            parts=tuple(part(weight) for weight in group["params"]),
            fixed=tuple(p for p in self._model.parameters() if id(p) not in moved),
            kinks=has_kinks(self._model),
        )

    def joined(self, kind: Parallelism) -> Iterable[tuple[Tensor, int]]:
        """With DDP or FSDP2."""
        self._spread, parts = joined(self._spread, self._optimizer, kind, self._site)
        return parts

    def rehearsed(self) -> bool:
        """Two micro-batches hold as much as more; after the last the optimizer makes its state."""
        self._accumulation_steps = min(self._accumulation_steps, 2)
        return True

    def _next_batches(self) -> list[Batch]:
        self._taken = list(itertools.islice(self._batches, self._accumulation_steps))
        return self._taken

    def _evaluate(self, batch: Batch) -> tuple[Tensor, Tensor]:
        inputs, targets = batch
        with nullcontext() if self._spread.policy else autocast(self._site):
            logits = self._forward(self._spread.module, inputs)
            return logits, self._loss_of(logits, targets)

    def _read(self, batch: Batch) -> None:
        import torch

        with torch.no_grad():
            self._evaluate(batch)
        self._spread.settle()

    def _mean(self, value: Tensor) -> Tensor:
        """The mean over the ranks, in their order; waits for them, outside the clock."""
        return value if self._site.ranks is None else self._site.ranks.mean(value)

    def _gradient_norm(self) -> Tensor:
        """Of all gradients, the leaves' besides too; of the global batch."""
        return self._spread.norm(gradient_norm(self._model, self._leaves_besides()))

    def _told(self) -> dict[str, Tensor]:
        """What the gate compares of the first step's gradients, and of what its forward keeps."""
        norm = {"gradient_norm": self._gradient_norm()}
        if self._site.ranks is not None:
            return norm
        each = each_gradient(self._model, self._leaves_besides())
        return norm | each | running_means(self._model)

    def _leaves_besides(self) -> Iterable[Tensor]:
        """Tensors outside the model's parameters that the last backward gave a gradient."""
        return ()

    def _update(self, batches: list[Batch]) -> tuple[Tensor, Tensor]:
        """Logits of the last batch, mean loss, and new gradients in the parameters."""
        self._optimizer.zero_grad(set_to_none=True)
        *others, last = batches
        before = []
        for batch in others:
            with self._spread.micro_batch(last=False):
                before.append(self._accumulate(batch)[1])
        with self._spread.micro_batch(last=True):
            logits, loss = self._accumulate(last)
        return logits, sum(before, loss)

    def _accumulate(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits, and the batch's share of the mean loss; adds its gradients."""
        logits, loss = self._evaluate(batch)
        share = loss / self._accumulation_steps
        share.backward()
        return logits, share.detach()


class InferenceJob(RotatingJob):
    """One forward; inputs rotate."""

    quantity = "logits"

    def __init__(
        self,
        model: nn.Module,
        forward: Forward,
        inputs: list[Any],
        site: Site,
        facts: dict[str, str],
    ) -> None:
        """Puts the model into evaluation mode."""
        self._model = executed(model.eval(), site)
        self._forward = forward
        self._site = site
        self._inputs = Rotation(inputs)
        self._run = replayed(self._infer, site)
        self.facts = model_facts(model, site) | facts | replayed_facts(site)

    def step(self) -> None:
        """Queues one forward, or its replay."""
        self._output = self._run(next(self._inputs))

    def _infer(self, given: Any) -> Tensor:
        import torch

        with torch.inference_mode():
            return self._forward(self._model, given)

    def probe(self) -> dict[str, Tensor]:
        """Output for the first input, and what its quantized layers give."""
        return super().probe() | products(self._model)

    def weights(self) -> Sequence[Tensor]:
        """Its parameters, quantized ones too."""
        return [*self._model.parameters()]

    def as_written(self) -> Mapping[str, Sequence[Tensor]]:
        """Of the last input."""
        return {OUTPUT: [self._infer(self._inputs.last)]}

    def looks(self) -> Iterator[Look]:
        """At model, inputs, attention and what a step computes."""
        given = next(self._inputs)
        yield from model_looks.placed(self._model, given, self._site)
        yield model_looks.mode(self._model, training=False)
        yield from model_looks.attention(self._model, self.facts)
        yield from model_spots.looks(self, self._site, lambda: self._infer(given))


def model_facts(model: nn.Module, site: Site) -> dict[str, str]:
    """What the record says of any model."""
    return {
        "parameters": str(parameter_count(model)),
        "memory_format": site.memory_format,
        **quantized_facts(model),
    }
