"""An optimizer's law: where one step must move the weights, predicted in float64.

Optimizers work on each weight by itself, so the values of some weights, of their gradients and of
the optimizer's state say where those weights must go. It takes no copy of the model, no second
backward, and no other record.

Sources: Loshchilov and Hutter, arXiv 1711.05101, algorithm 2 (AdamW); Sutskever et al., "On the
importance of initialization and momentum", ICML 2013, as torch writes it (SGD).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.measuring.witness import Sample, positions

if TYPE_CHECKING:
    from torch import Tensor

    from bench.workload import LookedUp, Training

CLOSE = 0.05
"""Largest error. A step that was not taken makes 1, a rate that is a tenth too high makes 0.1.
Measured of six models: float32 weights 4e-3, what an optimizer keeps 6e-3."""
CLOSE_NARROW = 0.6
"""Of 16-bit weights, of which a step moves few, by one rounding each, and the others not at all: a
rate that is a tenth too high is not to be told. Measured: 3e-2 fused, 0.33 otherwise."""
ROWS, MOST_LOOKUPS = 256, 4096
"""Rows of tables that are looked at, and how often they may have been looked up in all."""
STATE = {"exp_avg": "mean of the gradients", "exp_avg_sq": "mean of their squares"}
MOMENTUM = {"momentum_buffer": "momentum"}
"""What optimizers keep of each weight, by torch's names, and in words."""


class Finding(NamedTuple):
    """What a step did to one quantity, against the prediction."""

    quantity: str
    error: float
    """Norm of the difference to the change that must have been, over the norm of that change: 0
    where all is right, 1 where nothing changed. Infinite where nothing must have."""
    most: float
    """Error that is allowed."""

    @property
    def complaint(self) -> str:
        """In words; empty where the error is allowed."""
        if self.error <= self.most:
            return ""
        return (
            f"the optimizer's step is not what was asked for: its {self.quantity} went astray by "
            f"{self.error:.2g} of what they had to change (at most {self.most:.2g})"
        )


class Law:
    """One step against the prediction: `before` it, then `findings` after it."""

    def __init__(self, training: Training, seed: int) -> None:
        """training: of a job that has taken a step, so that its optimizer has a state."""
        self._optimizer = training.optimizer
        self._settings = training.settings
        self._looked_up = training.looked_up
        self._kept = STATE if "betas" in training.settings else {}
        if training.settings.get("momentum"):
            self._kept = MOMENTUM
        self._seed = seed
        self._sample: Sample | None = None
        self._trained: list[Tensor] = []
        self._before: dict[str, Tensor] = {}

    def before(self) -> None:
        """Notes weights and state of what the last step gave a gradient."""
        groups = self._optimizer.param_groups
        self._trained = [p for g in groups for p in g["params"] if p.grad is not None]
        if not self._trained:
            return
        if self._sample is None or self._sample.shapes != [tuple(p.shape) for p in self._trained]:
            self._sample = Sample(self._seed, "law", self._trained)
        self._before = self._state(self._sample)

    def findings(self) -> Iterator[Finding]:
        """What the step since `before` did; nothing where it trains nothing."""
        import torch

        if not self._trained or self._sample is None:
            return
        sample = self._sample
        gradients = torch.from_numpy(sample.gather([p.grad for p in self._trained]))
        steps = torch.from_numpy(sample.spread([self._steps(p) for p in self._trained]))
        must = predicted(self._before, gradients, steps, self._settings)
        after = self._state(sample)
        for name, words in {"weights": "weights", **self._kept}.items():
            held = self._held(must[name], name, sample.counts)
            before = _weighted(sample, self._before[name])
            off = _weighted(sample, after[name] - held)
            narrow = any(p.itemsize < 4 for p in self._trained)
            wide = CLOSE_NARROW if narrow and name == "weights" else CLOSE
            yield _finding(words, _weighted(sample, held) - before, off, narrow, wide)
        if (looked_up := self._looked_up()) is not None:
            yield self._rows(looked_up)

    def _rows(self, found: LookedUp) -> Finding:
        """Of some rows that a step looked up; where one was several times, its gradients add up."""
        import torch

        every = found.rows.cpu()
        drawn = torch.from_numpy(positions(self._seed, "law/rows", every.numel(), ROWS))
        rows = every[drawn].unique()
        lookups = torch.isin(every, rows).nonzero().flatten()
        which = torch.searchsorted(rows, every[lookups])
        times = which.bincount(minlength=len(rows))
        kept = max(1, int((times.cumsum(0) <= MOST_LOOKUPS).sum()))
        rows, times = rows[:kept], times[:kept, None]
        lookups, which = lookups[which < kept], which[which < kept]

        def values(tensor: Tensor, index: Tensor) -> Tensor:
            return tensor.index_select(0, index.to(tensor.device)).cpu().to(torch.float64)

        gradients = values(found.gradients, lookups)
        total = torch.zeros(len(rows), gradients.shape[1], dtype=torch.float64)
        total.index_add_(0, which, gradients)
        before = torch.empty_like(total)
        before[which] = values(found.before, lookups)
        settings = self._settings
        must = predicted({"weights": before}, total, torch.ones(()), settings)["weights"]
        dtype = found.tables.dtype
        held = must.to(dtype).to(torch.float64)
        # Added one after the other, each is rounded to what holds the sum.
        last_place = torch.finfo(dtype).eps * 2.0 ** (torch.frexp(held).exponent - 1)
        rounded = torch.where(times > 1, times * last_place, 0.0)
        off = ((values(found.tables, rows) - held).abs() - rounded).clamp_min(0.0)
        narrow = dtype.itemsize < 4
        wide = CLOSE_NARROW if narrow else CLOSE
        return _finding("looked-up rows", held - before, off, narrow, wide)

    def _state(self, sample: Sample) -> dict[str, Tensor]:
        """The sampled weights, and what the optimizer keeps of them."""
        import torch

        state = self._optimizer.state
        found = {"weights": torch.from_numpy(sample.gather(self._trained))}
        for name in self._kept:
            held = [state.get(p, {}).get(name) for p in self._trained]
            found[name] = torch.from_numpy(sample.gather(held))
        return found

    def _held(self, values: Tensor, name: str, counts: list[int]) -> Tensor:
        """The values as what holds them can: rounded once."""
        import torch

        state = self._optimizer.state
        dtypes = [state.get(p, {}).get(name, p).dtype for p in self._trained]
        if len(set(dtypes)) == 1:
            return values.to(dtypes[0]).to(torch.float64)
        parts = zip(values.split(counts), dtypes, strict=True)
        return torch.cat([part.to(dtype).to(torch.float64) for part, dtype in parts])

    def _steps(self, parameter: Tensor) -> float:
        """Steps that this weight has had, the last one included."""
        return float(self._optimizer.state.get(parameter, {}).get("step", 0))


def _weighted(sample: Sample, values: Tensor) -> Tensor:
    import torch

    return torch.from_numpy(sample.weighted(values.numpy()))


def _finding(quantity: str, move: Tensor, off: Tensor, narrow: bool, most: float) -> Finding:
    """Of a change that was to be `move`, and is off by `off`; narrow: held in 16 bits."""
    length, difference = float(move.norm()), float(off.norm())
    moves = int((move != 0).sum())
    if narrow and moves:  # a rounding to the other side counts for more, the fewer there are
        most += moves**-0.5
    error = difference / length if length else math.inf if difference else 0.0
    return Finding(quantity, error, most)


def predicted(
    before: Mapping[str, Tensor], gradients: Tensor, steps: Tensor, settings: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Where an update moves weights and state [n], float64, from the gradients and those before.

    steps: that each weight has had, this one included.
    """
    rate, decay = float(settings["lr"]), float(settings["weight_decay"])
    weights = before["weights"]
    if "betas" in settings:
        first, second = settings["betas"]
        mean = first * before["exp_avg"] + (1 - first) * gradients
        square = second * before["exp_avg_sq"] + (1 - second) * gradients**2
        root = (square / (1 - second**steps)).sqrt() + settings["eps"]
        moved = weights * (1 - rate * decay) - rate * mean / (1 - first**steps) / root
        return {"weights": moved, "exp_avg": mean, "exp_avg_sq": square}
    gradients = gradients + decay * weights
    if not settings["momentum"]:
        return {"weights": weights - rate * gradients}
    buffer = settings["momentum"] * before["momentum_buffer"] + gradients
    return {"weights": weights - rate * buffer, "momentum_buffer": buffer}
