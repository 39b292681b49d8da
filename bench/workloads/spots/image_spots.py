"""Values of a model's convolutions, and of their gradients, held to float64.

See `model_spots.py`. A kernel is chosen by size: what is right for the gate's few small
images says little of the one that is timed.
"""

from __future__ import annotations

import functools
import itertools
import math
import random
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from bench.workload import Look, Site
from bench.workloads.spots.calls import Call, Given, floored, most_of, plain, roughly
from bench.workloads.spots.spots import host, look, of_all

if TYPE_CHECKING:
    from torch import Tensor

    from bench.workloads.spots.calls import Gradient

    Of = Callable[..., "Factors"]
    Factors = tuple[Tensor, Tensor]
    Pair = tuple[int, int, int]
    """Place of the output, tap of the kernel, place of the input."""

CONVOLVED = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
NAMES = {"conv1d": CONVOLVED, "conv2d": CONVOLVED}
"""What the functions that are looked at call what they are given, in order."""
ELEMENTS, SUMS = 64, 16
"""Of a convolution; and of its weights' gradient, each of which sums over all images."""
TWIN_LENGTH = 256
"""Of the sums that the gate's tolerances of products are of."""
ROUNDED, ADDED = 8e-3, 1.6e-2
"""Most error of outputs, and of inputs' gradients, which may be added in 16 bits: this for 7 by 7
taps and fewer, of more it grows with the root of their number. Measured of sound
kernels in bfloat16: 2.0e-3 and 5.3e-3, of Winograd's smallest tiles between roundings 5.4e-3 and
6.3e-3; of operands in int8, scaled by rows, 8.0e-3 or more, in e4m3 2.6e-2 or more."""


class _Side(NamedTuple):
    """How a convolution goes along one side of its images."""

    size: int
    """Of the input."""
    out: int
    kernel: int
    stride: int
    padding: int
    dilation: int

    def pairs(self, outs: Iterable[int], taps: Iterable[int]) -> list[Pair]:
        """Of these places of the output and taps of the kernel, those that read no padding."""
        each = (
            (out, tap, out * self.stride - self.padding + tap * self.dilation)
            for out, tap in itertools.product(outs, taps)
        )
        return [pair for pair in each if 0 <= pair[2] < self.size]

    def reading(self, place: int) -> list[Pair]:
        """Those that read that place of the input."""
        each = [place + self.padding - tap * self.dilation for tap in range(self.kernel)]
        return [
            (start // self.stride, tap, place)
            for tap, start in enumerate(each)
            if start % self.stride == 0 and 0 <= start // self.stride < self.out
        ]


class _Convolution:
    """x [N, C, *sizes] by w [O, C / groups, *kernel], and [O] or nothing; see torch's `conv2d`.

    Gives the factors of each value, two tensors whose products sum to it.
    """

    def __init__(self, given: Given, output: Tensor) -> None:
        self.x, self.w = given["input"].detach(), given["weight"].detach()
        dims = self.x.dim() - 2
        groups = given.get("groups", 1)
        self._in, self._out = self.w.shape[1], len(self.w) // groups
        """Channels of a group."""
        steps = [
            [step] * dims if isinstance(step, int) else step
            for name, usual in (("stride", 1), ("padding", 0), ("dilation", 1))
            for step in [given.get(name, usual)]
        ]
        sizes = self.x.shape[2:], output.shape[2:], self.w.shape[2:]
        self._sides = [_Side(*side) for side in zip(*sizes, *steps, strict=True)]

    def output(self, image: int, channel: int, *at: int) -> Factors:
        first = channel // self._out * self._in
        pairs = [side.pairs([o], range(side.kernel)) for side, o in self._along(at)]
        read = self.x[image, first : first + self._in]
        return _taken(read, pairs, 2), _taken(self.w[channel], pairs, 1)

    def of_input(self, upstream: Tensor, image: int, channel: int, *at: int) -> Factors:
        group, within = divmod(channel, self._in)
        outs = slice(group * self._out, (group + 1) * self._out)
        pairs = [side.reading(place) for side, place in self._along(at)]
        return _taken(upstream[image, outs], pairs, 0), _taken(self.w[outs, within], pairs, 1)

    def of_weight(self, upstream: Tensor, channel: int, within: int, *taps: int) -> Factors:
        read = self.x[:, channel // self._out * self._in + within]
        pairs = [side.pairs(range(side.out), [tap]) for side, tap in self._along(taps)]
        return _taken(upstream[:, channel], pairs, 0), _taken(read, pairs, 2)

    def _along(self, places: Sequence[int]) -> Iterable[tuple[_Side, int]]:
        return zip(self._sides, places, strict=True)


def _taken(x: Tensor, pairs: Sequence[Sequence[Pair]], which: int) -> Tensor:
    """Of the last dimensions those places, in order."""
    import torch

    for dim, along in enumerate(pairs, -len(pairs)):
        where = torch.tensor([pair[which] for pair in along], device=x.device, dtype=torch.int64)
        x = x.index_select(dim, where)
    return x


def call(given: Given, output: Tensor) -> Call | None:
    """None of what is computed in another way, or empty."""
    x, weight, bias = (given.get(name) for name in CONVOLVED[:3])
    if not plain(x, weight, bias, output) or isinstance(given.get("padding"), str):
        return None
    if x is None or weight is None or x.dim() != weight.dim():
        return None
    of, dtype = _Convolution(given, output), output.dtype

    def looked(
        what: str, site: Site, found: Tensor, count: int, within: float, factors: Of
    ) -> list[Look]:
        import torch

        where = _elements(found.shape, count, site.seed)
        terms = [
            (host(a, dtype) * host(b, dtype)).flatten()
            for place in where
            for a, b in [factors(*place)]
        ]
        added = [0.0] * len(where)
        if bias is not None and found is output:
            added = [float(bias[channel]) for _, channel, *_ in where]
        made = torch.tensor(
            [
                [float(t.sum()) + b, math.hypot(float(t.norm()), b)]
                for t, b in zip(terms, added, strict=True)
            ],
            dtype=torch.float64,
        )
        had = torch.stack([host(found[place], dtype) for place in where])
        spot = of_all([f"element {list(place)}" for place in where], had, *made.t())
        length = max(map(len, terms))
        most = max(most_of(site, "output", length, min(length, TWIN_LENGTH)), roughly(site))
        sizes = " by ".join(" x ".join(map(str, each.shape)) for each in (x, weight))
        return [look(f"{what} ({sizes})", [floored(spot, dtype)], min(most, within))]

    def seen(what: str, site: Site) -> list[Look]:
        return looked(what, site, output, ELEMENTS, ROUNDED, of.output)

    def gradient(factors: Callable[..., Factors], count: int, within: float) -> Gradient:
        def made(upstream: Tensor, found: Tensor) -> Call:
            by = functools.partial(factors, upstream.detach())

            def seen(what: str, site: Site) -> list[Look]:
                return looked(what, site, found, count, within, by)

            return Call("convolution", (), seen)

        return made

    taps = math.prod(weight.shape[2:])
    gradients = {
        "input": gradient(of.of_input, ELEMENTS, ADDED * max(1.0, math.sqrt(taps) / 7)),
        # A library may add up those of each image, in 16 bits.
        "weight": gradient(of.of_weight, SUMS, math.inf),
    }
    return Call("convolution", (output.numel(), weight.numel()), seen, gradients)


def _elements(shape: Sequence[int], count: int, seed: int) -> list[tuple[int, ...]]:
    """The corners of all, and drawn ones."""
    draw = random.Random(seed)
    found = {tuple(0 for _ in shape), tuple(size - 1 for size in shape)}
    drawn = (tuple(draw.randrange(size) for size in shape) for _ in range(count - len(found)))
    return sorted({*found, *drawn})
