"""The optimizers of training, and a trial of each of torch's implementations of them.

torch has an optimizer several times over: fused (one kernel for all of a step), foreach (an
operator for many tensors), and a loop over the tensors. A fused one can be wrong without a word:
torch 2.13's SGD leaves bfloat16 weights as they are on a CPU (pytorch 191763), and a model then
"trains" at full speed and learns nothing. So each is tried on a few small tensors, once a process,
dtype and device, before a job is given it: two updates against the same in float64.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.quantized_product import name_of
from bench.ranks import local
from bench.records.reason import first_line
from bench.rehearsal import has_no_values
from bench.workload import Wrong

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

SETTINGS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "adamw": {"weight_decay": 0.01},
        "sgd": {"momentum": 0.9, "weight_decay": 1e-4},
        "plain-sgd": {},
    }
)
"""By the name in a job: what is set besides the learning rate."""
CLASSES = {"adamw": "AdamW", "sgd": "SGD", "plain-sgd": "SGD"}
"""torch's own names."""
IMPLEMENTATIONS: Mapping[str, Mapping[str, bool]] = MappingProxyType(
    {"fused": {"fused": True}, "foreach": {"foreach": True}, "loop": {"foreach": False}}
)
"""The fastest first: what torch is told."""

RATE = 0.5
"""Of a trial: each of its updates is far larger than what a narrow dtype rounds away."""
DECAY = 0.5
"""Of a trial, where the optimizer has a decay: the job's own would be lost in that rounding."""
LENGTHS = (7, 64, 1024, 1031)
"""Of a trial's tensors: less than a vector; whole vectors, some and many; and many with a rest."""
STEPS = 2
"""The second takes its momentum, or its moments, from the first."""
ROUNDINGS = 4
"""Units in the last place of 1 by which a weight, of size up to 3, may be off after the trial: two
updates round it, its gradient and its state some six times. In bfloat16 that is 0.031: measured
0.0075 on a CPU, whichever implementation; Adam without its moments makes 0.05, others 0.1."""
LEAST_TOLERANCE = 1e-6
"""Of wide dtypes: a rate may be passed on in float32."""
ADAM_BETAS = (0.9, 0.999)
ADAM_EPSILON = 1e-8


class Trial(NamedTuple):
    """What came of trying an implementation."""

    error: float
    """Largest error of any weight; infinite where a value is not finite."""
    tolerance: float
    refusal: RuntimeError | None = None
    """The runtime's word for: there is no such here; None where it ran."""

    @property
    def passed(self) -> bool:
        """Whether it may be used."""
        return self.refusal is None and self.error <= self.tolerance

    @property
    def wrong(self) -> bool:
        """Whether it ran, and its weights are not what they must be."""
        return self.refusal is None and not self.passed

    @property
    def finding(self) -> str:
        """Its figures, or why there are none."""
        if self.refusal is not None:
            return f"does not run here: {first_line(self.refusal)}"
        return (
            f"weights off by {self.error:.2g} after {STEPS} steps (tolerance {self.tolerance:.2g})"
        )


class Chosen(NamedTuple):
    """An optimizer over a model's weights."""

    optimizer: torch.optim.Optimizer
    implementation: str
    """Of `IMPLEMENTATIONS`."""
    passed_over: str
    """Which faster one is wrong here, and what is used in its place; empty if none is."""


def choose(name: str, learning_rate: float, weights: Iterable[Tensor]) -> Chosen:
    """The named optimizer in the fastest implementation that is right for all of the weights.

    Of fake tensors (a rehearsal) nothing can be tried; they get the fused one, which needs the
    least memory.

    Raises `Wrong`, with the figures, where there is none; where none runs, what the runtime raised.
    """
    trained = list(weights)
    held = [local(weight) for weight in trained]
    kinds = dict.fromkeys((w.dtype, w.device) for w in held if not has_no_values(w))
    wrong: list[str] = []
    refusal: RuntimeError | None = None
    for how in IMPLEMENTATIONS:
        tried = {kind: trial(name, how, *kind) for kind in kinds}
        if all(found.passed for found in tried.values()):
            instead = f"{'; '.join(wrong)}; {how} is used" if wrong else ""
            made = make(name, how, trained, learning_rate, SETTINGS[name])
            return Chosen(made, how, instead)
        refusal = refusal or next(
            (found.refusal for found in tried.values() if found.refusal), None
        )
        for (dtype, _), found in tried.items():
            if found.wrong:
                named = f"{how} {CLASSES[name]} is wrong here in {name_of(dtype)}"
                wrong.append(f"{named}: {found.finding}")
    if refusal is not None and not wrong:
        raise refusal
    raise Wrong("; ".join(wrong))


def make_optimizer(
    name: str, learning_rate: float, model: nn.Module
) -> tuple[torch.optim.Optimizer, str]:
    """The named optimizer over what the model trains, and what the record says of it.

    Of torch's implementations the fastest that a trial finds right on the device: fused is one
    launch instead of one per tensor, 0.3 s of a 1.7 s step on a CPU. It is the same arithmetic
    whichever it is, and so the same work; which it was, two records differ in.

    Raises `bench.workload.Wrong` where none is right.
    """
    chosen = chosen_optimizer(name, learning_rate, model)
    description = described(chosen.optimizer, chosen.implementation)
    return chosen.optimizer, ": ".join(filter(None, (description, chosen.passed_over)))


def chosen_optimizer(name: str, learning_rate: float, model: nn.Module) -> Chosen:
    """`make_optimizer`, with what was passed over apart."""
    return choose(name, learning_rate, [p for p in model.parameters() if p.requires_grad])


def described(optimizer: torch.optim.Optimizer, implementation: str) -> str:
    """What the record says of an optimizer; implementation: of `IMPLEMENTATIONS`."""
    how = {"fused": "fused=True", "foreach": "foreach=True"}.get(implementation, "fused=False")
    return f"{type(optimizer).__name__}({how})"


def make(
    name: str, how: str, weights: list[Tensor], rate: float, settings: Mapping[str, float]
) -> torch.optim.Optimizer:
    """The named optimizer; raises RuntimeError where torch has no such implementation here."""
    import torch

    kind: Any = getattr(torch.optim, CLASSES[name])
    given: dict[str, Any] = {**settings, **IMPLEMENTATIONS[how]}
    if name == "adamw" and how == "fused" and any(w.device.type != "cpu" for w in weights):
        # In every execution, so that all take the same step: the same kernels, whose count of steps
        # lies on the device either way, and which torch then lets a graph record.
        given["capturable"] = True
    made: torch.optim.Optimizer = kind(weights, lr=rate, **given)
    return made


@functools.cache
def trial(name: str, how: str, dtype: torch.dtype, device: torch.device) -> Trial:
    """Two updates of a few small tensors, against the same in float64 on the CPU."""
    import torch

    settings = {key: DECAY if key == "weight_decay" else v for key, v in SETTINGS[name].items()}
    weights = [_pattern(length, dtype) for length in LENGTHS]
    gradients = [[_pattern(n, dtype, shift) for n in LENGTHS] for shift in range(1, STEPS + 1)]
    tolerance = max(ROUNDINGS * torch.finfo(dtype).eps, LEAST_TOLERANCE)
    given = [torch.nn.Parameter(w.to(device, copy=True)) for w in weights]
    try:
        optimizer = make(name, how, [*given], RATE, settings)
        for of_step in gradients:
            for weight, gradient in zip(given, of_step, strict=True):
                weight.grad = gradient.to(device, copy=True)
            optimizer.step()
        found = [w.detach().cpu().to(torch.float64) for w in given]
    except RuntimeError as error:  # no such implementation, or no kernel for it
        return Trial(math.inf, tolerance, error)
    worst = 0.0
    for index, after in enumerate(found):
        expected = predicted(name, settings, weights[index], [g[index] for g in gradients])
        off = float((after - expected).abs().max())
        worst = max(worst, off) if math.isfinite(off) else math.inf
    return Trial(worst, tolerance)


def predicted(
    name: str, settings: Mapping[str, float], weight: Tensor, gradients: Iterable[Tensor]
) -> Tensor:
    """A weight after an update by each of the gradients, in float64, by the published formulas.

    Sources: Sutskever et al., ICML 2013, in torch's form (the rate outside the momentum);
    Loshchilov and Hutter, arXiv 1711.05101, algorithm 2.
    """
    import torch

    value = weight.double()
    decay = settings.get("weight_decay", 0.0)
    first, second = torch.zeros_like(value), torch.zeros_like(value)
    for step, gradient in enumerate((g.double() for g in gradients), start=1):
        if name == "adamw":
            one, two = ADAM_BETAS
            first = one * first + (1 - one) * gradient
            second = two * second + (1 - two) * gradient**2
            spread = (second / (1 - two**step)).sqrt() + ADAM_EPSILON
            value = value * (1 - RATE * decay) - RATE * first / (1 - one**step) / spread
        else:
            slope = gradient + decay * value
            first = slope if step == 1 else settings.get("momentum", 0.0) * first + slope
            value = value - RATE * first
    return value


def _pattern(length: int, dtype: torch.dtype, shift: int = 0) -> Tensor:
    """Values of size 0.25 to 1.75 and both signs, no two neighbours alike; the same signs for each
    shift, so that no update undoes another. On the CPU."""
    import torch

    index = torch.arange(length)
    size = 0.25 + (index * 7 + shift * 5) % 13 / 8
    return torch.where(index % 3 == 0, size, -size).to(dtype)
