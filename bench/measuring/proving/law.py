"""An optimizer's law: where one step must move the weights, predicted in float64.

Optimizers work on each weight by itself, so the values of some weights, of their gradients and of
the optimizer's state say where those weights must go. It takes no copy of the model, no second
backward, and no other record.

Sources: Loshchilov and Hutter, arXiv 1711.05101, algorithm 2 (AdamW); Sutskever et al., "On the
importance of initialization and momentum", ICML 2013, as torch writes it (SGD).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from bench import catalogue
from bench.measuring.proving.witness import POSITIONS, Sample, positions
from bench.measuring.ranks.edges import SINGLE, Edges

if TYPE_CHECKING:
    from bench.framework import Array, Moved, Tensors
    from bench.workload import LookedUp, Training

CLOSE = 0.05
"""Largest error. A step that was not taken makes 1, a rate that is a tenth too high makes 0.1.
Measured of six models: float32 weights 4e-3, what an optimizer keeps 6e-3."""
CLOSE_NARROW = 0.6
"""Of 16-bit weights, of which a step moves few, by one rounding each, and the others not at all: a
rate that is a tenth too high is not to be told. Measured: 3e-2 fused, 0.33 otherwise."""
CLOSE_OVER = 0.25
"""Of several steps, each of which is rounded: one that was not taken makes that of so many."""
SMALLEST = 16
"""Tensors of which that is seen, at most."""
EACH = 1024
"""Values of each tensor that are looked at, at least."""
FEWEST = 8
"""Of those, that surely had to change: a tensor of which none did was never stepped."""
SURELY = 0.75
"""So much of its change changes a value too, that another order of roundings cannot leave out."""
CLOSE_EACH, LAST_PLACES = 0.5, 2.0**-21
"""Largest error of one wide tensor, beside four units in the last place of each value: measured of
all models, none."""
LEAST_CHANGE = 2.0**-100
"""Of what is less, a device may make zeros on the way."""
ROWS, MOST_LOOKUPS = 256, 4096
"""Rows of tables that are looked at, and how often they may have been looked up in all."""
NOT_OVER = "of no small tensor is the gradient to be had while steps are queued"
MOST_TIMES = 2.0**100
"""By how much gradients are enlarged at most: float32 and bfloat16 hold them then."""
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
    never: bool = False
    """Whether nothing changed that had to."""

    @property
    def complaint(self) -> str:
        """In words; empty where the error is allowed."""
        if self.error <= self.most:
            return ""
        how = (
            f"went astray by {self.error:.2g} of what they had to change (at most {self.most:.2g})"
        )
        if self.never:
            how = "were never stepped"
        return f"the optimizer's step is not what was asked for: its {self.quantity} {how}"


class _Lookups(NamedTuple):
    """Some rows of tables, and where a step looked them up."""

    rows: Array
    times: Array
    """How often each was, [rows, 1]."""
    lookups: Array
    """Which of all lookups are of them."""
    which: Array
    """Of each of those the row, by its place in `rows`."""


class Law:
    """One step against the prediction: `before` it, then `findings` after it."""

    def __init__(self, training: Training, seed: int, kit: Tensors | None = None) -> None:
        """training: of a job that has taken a step, so that its optimizer has a state; kit: of its
        framework, by default torch's."""
        self._kit = kit or catalogue.framework("torch").tensors
        self._optimizer = training.optimizer
        self._settings = training.settings
        self._looked_up = training.looked_up
        self._kept = STATE if "betas" in training.settings else {}
        if training.settings.get("momentum"):
            self._kept = MOMENTUM
        self._seed = seed
        self._sample: Sample | None = None
        self._trained: list[int] = []
        """Which of what the optimizer moves the last step gave a gradient."""
        self._before: dict[str, Array] = {}
        self.not_over = ""
        """Why `over` said nothing of what it was to; empty where it did."""

    def before(self) -> None:
        """Notes weights and state of what the last step gave a gradient."""
        every = self._kit.moved(self._optimizer)
        self._trained = [n for n, one in enumerate(every) if one.gradient is not None]
        if not self._trained:
            return
        moved = [every[number] for number in self._trained]
        shapes = [self._kit.shape(one.weight) for one in moved]
        if self._sample is None or self._sample.shapes != shapes:
            weights = [one.weight for one in moved]
            self._sample = Sample(self._seed, "law", weights, self._kit, EACH)
        self._before = self._state(self._sample, moved)

    def findings(self) -> Iterator[Finding]:
        """What the step since `before` did; nothing where it trains nothing."""
        if not self._trained or self._sample is None:
            return
        sample, every = self._sample, self._kit.moved(self._optimizer)
        moved = [every[number] for number in self._trained]
        gradients = sample.gather([one.gradient for one in moved])
        steps = sample.spread([max(one.steps, 1) for one in moved])
        must = predicted(self._before, gradients, steps, self._settings)
        after = self._state(sample, moved)
        for name, words in {"weights": "weights", **self._kept}.items():
            held = self._held(must[name], name, moved, sample.counts)
            before = sample.weighted(self._before[name])
            off = sample.weighted(after[name] - held)
            narrow = any(self._kit.itemsize(one.weight) < 4 for one in moved)
            wide = CLOSE_NARROW if narrow and name == "weights" else CLOSE
            yield from _finding(words, sample.weighted(held) - before, off, narrow, wide)
            yield from self._of_each(words, name, must[name], after[name], moved)
        if (looked_up := self._looked_up()) is not None:
            yield from self._rows(looked_up)

    def over(
        self, step: Callable[[], object], count: int, edges: Edges = SINGLE
    ) -> Iterator[Finding]:
        """What so many steps do back to back to the smallest tensors, whose gradients are noted on
        the way; nothing where a rank cannot do that. Takes them."""
        import numpy as np

        kit, every = self._kit, self._kit.moved(self._optimizer)
        sizes = [math.prod(kit.shape(one.weight)) for one in every]
        held = self._trained or range(len(every))  # where the last step gave no gradient, any
        small = sorted(filter(sizes.__getitem__, held), key=sizes.__getitem__)[:SMALLEST]
        ends = np.cumsum([sizes[number] for number in small])
        small = [number for number, end in zip(small, ends, strict=True) if end <= POSITIONS]
        if not edges.all(bool(small and kit.gradients(self._optimizer, small))):
            self.not_over = NOT_OVER
            return
        moved = [every[number] for number in small]
        sample = Sample(self._seed, "law/block", [one.weight for one in moved], kit)
        before = self._state(sample, moved)
        found = []
        for _ in range(count):
            step()
            found.append(kit.gradients(self._optimizer, small) or [None])
        every = kit.moved(self._optimizer)
        after = self._state(sample, [every[number] for number in small])
        there = [all(each is not None for each in of_one) for of_one in zip(*found, strict=False)]
        seen = np.repeat(there, sample.counts)
        must = before
        for number, gradients in enumerate(found, 1):
            steps = sample.spread([one.steps + number for one in moved])
            must = predicted(must, sample.gather(gradients), steps, self._settings)
            must = {name: self._held(must[name], name, moved, sample.counts) for name in must}
        narrow = any(kit.itemsize(one.weight) < 4 for one in moved)
        most = CLOSE_NARROW if narrow else CLOSE_OVER
        after_steps = f", of {count} steps back to back,"
        if not any(there):
            yield Finding("weights" + after_steps, math.inf, most, never=True)
        for name, words in {"weights": "weights", **self._kept}.items():
            move, off = must[name] - before[name], abs(after[name] - must[name])
            off = (off - LAST_PLACES * np.maximum(abs(must[name]), abs(before[name]))).clip(min=0.0)
            yield from _finding(words + after_steps, move[seen], off[seen], narrow, most)

    def _of_each(
        self, words: str, name: str, must: Array, after: Array, moved: list[Moved]
    ) -> Iterator[Finding]:
        """Of the tensors that a step left as they were, and of wide ones that went far astray: of
        all together each may be the least part."""
        import numpy as np

        assert self._sample is not None
        before, counts = self._before[name], self._sample.counts
        change = must - before
        surely = self._held(before + SURELY * change, name, moved, counts) != before
        surely &= abs(change) > LEAST_CHANGE
        off = abs(after - must) - LAST_PLACES * np.maximum(abs(must), abs(before))
        ends = np.cumsum(counts)[:-1]
        parts = (np.split(x, ends) for x in (surely, after == before, off, change))
        wrong: dict[bool, dict[int, float]] = {True: {}, False: {}}
        for number, (which, same, error, size) in enumerate(zip(*parts, strict=True)):
            if which.sum() < FEWEST:
                continue
            never = bool(same[which].all())
            far = _length(error[which].clip(min=0.0)) / _length(size[which])
            one = moved[number]
            if never or (
                far > CLOSE_EACH and self._kit.itemsize(one.kept.get(name, one.weight)) >= 4
            ):
                wrong[never][number] = far
        for never, found in wrong.items():
            if found:
                first = next(iter(found))
                shape = " x ".join(map(str, self._sample.shapes[first]))
                where = f"{len(found)} of {len(moved)} tensors (first number {first + 1}, {shape})"
                yield Finding(f"{words} of {where}", max(found.values()), CLOSE_EACH, never)

    def _rows(self, found: LookedUp) -> Iterator[Finding]:
        """Of some rows that a step looked up, whose gradients add up where one was several times.

        Of a narrow table, whose values a step's own gradients may be too small to move, by larger
        ones too: an update that is left out would be right otherwise.
        """
        import numpy as np

        kit = self._kit
        every = kit.on_host(found.rows).astype(np.int64)
        drawn = positions(self._seed, "law/rows", every.size, ROWS)
        rows = np.unique(every[drawn])
        lookups = np.flatnonzero(np.isin(every, rows))
        which = np.searchsorted(rows, every[lookups])
        times = np.bincount(which, minlength=len(rows))
        kept = max(1, int((times.cumsum() <= MOST_LOOKUPS).sum()))
        looked = _Lookups(
            rows[:kept], times[:kept, None], lookups[which < kept], which[which < kept]
        )
        before, total = self._values(found, looked)
        yield from self._of_rows("looked-up rows", found, looked)
        size = float(self._settings["lr"]) * _length(total)
        larger_by = _length(before) / size if size else 0.0
        if (
            kit.itemsize(found.tables) < 4
            and found.enlarged is not None
            and 0 < larger_by < MOST_TIMES
        ):
            factor = 2.0 ** round(math.log2(larger_by))
            with found.enlarged(looked.lookups, factor) as larger:
                if larger is not None:
                    alone = looked._replace(lookups=np.arange(len(looked.lookups)))
                    yield from self._of_rows("looked-up rows, by larger gradients,", larger, alone)

    def _values(self, found: LookedUp, looked: _Lookups) -> tuple[Array, Array]:
        """Of each row [rows, d] what was there, and the sum of its gradients."""
        import numpy as np

        before = np.empty((len(looked.rows), self._kit.shape(found.tables)[1]))
        total = np.zeros_like(before)
        np.add.at(total, looked.which, self._picked(found.gradients, looked.lookups))
        before[looked.which] = self._picked(found.before, looked.lookups)
        return before, total

    def _picked(self, tensor: Any, index: Array) -> Array:
        """Rows of a tensor [..., d]."""
        import numpy as np

        width = self._kit.shape(tensor)[1]
        places = index[:, None] * width + np.arange(width)
        return self._kit.picked([tensor], [places.reshape(-1)]).reshape(-1, width)

    def _of_rows(self, quantity: str, found: LookedUp, looked: _Lookups) -> Iterator[Finding]:
        import numpy as np

        kit = self._kit
        before, total = self._values(found, looked)
        must = predicted({"weights": before}, total, np.ones(()), self._settings)["weights"]
        held = kit.rounded(must, found.tables)
        # Added one after the other, each is rounded to what holds the sum.
        parts = 2.0 ** -np.arange(1, 53)
        epsilon = parts[kit.rounded(1 + parts, found.tables) == 1 + parts].min()
        last_place = epsilon * 2.0 ** (np.frexp(held)[1] - 1)
        rounded = np.where(looked.times > 1, looked.times * last_place, 0.0)
        with np.errstate(invalid="ignore"):  # infinite both: an error that is no number, and told
            off = np.abs(self._picked(found.tables, looked.rows) - held) - rounded
        narrow = kit.itemsize(found.tables) < 4
        wide = CLOSE_NARROW if narrow else CLOSE
        yield from _finding(quantity, held - before, off.clip(min=0.0), narrow, wide)

    def _state(self, sample: Sample, moved: list[Moved]) -> dict[str, Array]:
        """The sampled weights, and what the optimizer keeps of them."""
        found = {"weights": sample.gather([one.weight for one in moved])}
        for name in self._kept:
            found[name] = sample.gather([one.kept.get(name) for one in moved])
        return found

    def _held(self, values: Array, name: str, moved: list[Moved], counts: list[int]) -> Array:
        """The values as what holds them can: rounded once."""
        import numpy as np

        parts = np.split(values, np.cumsum(counts)[:-1])
        pairs = zip(parts, moved, strict=True)
        return np.concatenate(
            [self._kit.rounded(part, one.kept.get(name, one.weight)) for part, one in pairs]
        )


def _length(values: Array) -> float:
    """Euclidean; without a product, whose library would start threads of its own."""
    import numpy as np

    return float(np.sqrt(np.square(values).sum()))


def _finding(
    quantity: str, move: Array, off: Array, narrow: bool, most: float
) -> Iterator[Finding]:
    """Of a change that was to be `move`, and is off by `off`; narrow: held in 16 bits.

    Where nothing was to move, and nothing did, nothing was seen.
    """
    length, difference = _length(move), _length(off)
    if not length and not difference:
        return
    moves = int((move != 0).sum())
    if narrow and moves:  # a rounding to the other side counts for more, the fewer there are
        most += moves**-0.5
    yield Finding(quantity, difference / length if length else math.inf, most)


def predicted(
    before: Mapping[str, Array], gradients: Array, steps: Array, settings: Mapping[str, Any]
) -> dict[str, Array]:
    """Where an update moves weights and state [n], float64, from the gradients and those before.

    steps: that each weight has had, this one included.
    """
    rate, decay = float(settings["lr"]), float(settings["weight_decay"])
    weights = before["weights"]
    if "betas" in settings:
        first, second = settings["betas"]
        mean = first * before["exp_avg"] + (1 - first) * gradients
        square = second * before["exp_avg_sq"] + (1 - second) * gradients**2
        root = (square / (1 - second**steps)) ** 0.5 + settings["eps"]
        moved = weights * (1 - rate * decay) - rate * mean / (1 - first**steps) / root
        return {"weights": moved, "exp_avg": mean, "exp_avg_sq": square}
    gradients = gradients + decay * weights
    if not settings["momentum"]:
        return {"weights": weights - rate * gradients}
    buffer = settings["momentum"] * before["momentum_buffer"] + gradients
    return {"weights": weights - rate * buffer, "momentum_buffer": buffer}
