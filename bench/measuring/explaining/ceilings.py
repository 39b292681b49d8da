"""What this box can do: bandwidth of what reads, copies and writes; products; convolutions.

Each is looked at once in every turn, as the box's own speed drifts, and its best is the ceiling.
A triad is none for what mostly reads: an optimizer runs above it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from bench.measuring.explaining.timing import Stopwatch
from bench.records.explained import Ceilings, Traffic

if TYPE_CHECKING:
    import torch

    from bench.backend import Device

Work = Callable[[], object]

BUFFER_BYTES = 64 << 20
"""Of a host whose caches are no larger than a quarter of that, or not known."""
CACHES = 4
"""A buffer is so many times as large as all last-level caches together, or more: STREAM's rule."""
ROOM = 4
"""And no more than one part in so many of the memory that there is, for both buffers."""
DEVICE_BUFFER_BYTES = 512 << 20
"""The same of a device."""
SIZES = (512, 1024, 2048)
"""Square products M = K = N of a CPU's list."""
DEVICE_SIZES = (2048, 4096, 8192)
FAR = 0.7
"""Of the best product of its kind; what reaches less is looked at once."""
MOST_LOOKS = 8
CONVOLUTIONS = ((8, 64, 56, 56, 64, 3), (8, 256, 14, 14, 256, 3), (8, 256, 14, 14, 1024, 1))
"""N, C, H, W, filters, their side: three layers of ResNet-50; padded, stride 1."""
DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "fp64": "float64"}
"""Precisions that a list of shapes is measured in; of others (int8, fp8) the step's own count."""


class Meter:
    """Measures ceilings, a look at a time."""

    def __init__(self, device: Device, stopwatch: Stopwatch, precisions: Iterable[str]) -> None:
        """precisions: kinds and precisions of the step's products: `matmul bf16`."""
        self.device = device
        self.stopwatch = stopwatch
        self.traffic: dict[Traffic, float] = {}
        self.flop: dict[str, float] = {}
        """FLOP/s, by kind and precision."""
        self._moving = list(_moving(device))
        self._products = [
            (name, flop, work)
            for name in sorted(set(precisions))
            for flop, work in _products(name, device)
        ]
        self._far: set[int] = set()
        """Products that are not looked at again."""
        self._looks = 0
        self._in_a_row = {
            work: stopwatch.in_a_row(work) for _, _, work in (*self._moving, *self._products)
        }

    def look(self) -> None:
        """One look at each; the best is kept. After `MOST_LOOKS` none."""
        self._looks += 1
        if self._looks > MOST_LOOKS:
            return
        for traffic, moved, work in self._moving:
            rate = moved / self._each_ns(work) * 1e9
            self.traffic[traffic] = max(rate, self.traffic.get(traffic, 0.0))
        for k, (name, flop, work) in enumerate(self._products):
            if k not in self._far:
                rate = flop / self._each_ns(work) * 1e9
                self.note(name, rate)
                if rate < FAR * self.flop[name]:
                    self._far.add(k)

    def _each_ns(self, work: Work) -> float:
        return self.stopwatch.each_ns(work, self._in_a_row[work])

    def note(self, name: str, flop_per_second: float) -> None:
        """A shape of the step's own has reached that."""
        self.flop[name] = max(flop_per_second, self.flop.get(name, 0.0))

    def ceilings(self, launch_ns: float | None) -> Ceilings:
        """The best of all looks."""
        return Ceilings(
            bytes_per_second=dict(self.traffic), flop_per_second=self.flop, launch_ns=launch_ns
        )


def on_host(device: Device) -> bool:
    """Whether it computes as fast as a host does: a simulated device is one."""
    return device.synchronous or device.info.simulated


def _moving(device: Device) -> Iterator[tuple[Traffic, int, Work]]:
    """Traffic, bytes, and what moves them.

    Copies twice over: into other memory, and in place, where nothing is fetched to be overwritten.
    Nothing where no buffer that there is room for is sure to be larger than the caches.
    """
    import torch

    size = _buffer_bytes(device)
    if not size:
        return
    where = device.torch_device
    one, two = (_numbers((size // 4,), torch.float32, where) for _ in range(2))
    yield "read", size, lambda: torch.sum(one)
    yield "read", size, lambda: torch.amax(one)
    yield "copy", 2 * size, lambda: two.copy_(one)
    yield "copy", 2 * size, lambda: two.mul_(1.0)
    yield "write", size, lambda: two.fill_(1.0)


def _buffer_bytes(device: Device) -> int:
    """Of each of two; 0 where the caches are too large for any that there is room for."""
    least = BUFFER_BYTES if on_host(device) else DEVICE_BUFFER_BYTES
    size = max(least, CACHES * int(device.info.facts.get("last_level_cache_bytes", 0)))
    room = device.capacity_bytes()
    fits = size == least or room is None or 2 * size * ROOM <= room
    return size if fits else 0


def _products(name: str, device: Device) -> Iterator[tuple[int, Work]]:
    """FLOP of a product of the list, and what does it."""
    import torch

    kind, _, precision = name.partition(" ")
    if precision not in DTYPES:
        return
    dtype, where = getattr(torch, DTYPES[precision]), device.torch_device
    if kind == "matmul":
        for n in SIZES if on_host(device) else DEVICE_SIZES:
            a, b = (_numbers((n, n), dtype, where) for _ in range(2))
            yield 2 * n**3, functools.partial(torch.mm, a, b)
    elif kind == "convolution":
        for n, channels, height, width, filters, side in CONVOLUTIONS:
            image = _numbers((n, channels, height, width), dtype, where)
            weight = _numbers((filters, channels, side, side), dtype, where)
            flop = 2 * n * height * width * filters * channels * side**2
            for layout in _layouts(device):
                x, w = image.to(memory_format=layout), weight.to(memory_format=layout)
                yield flop, functools.partial(torch.conv2d, x, w, padding=side // 2)


def _numbers(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Normals, as a step's: of ones, or of one sign and exponent, fewer bits change, which takes
    less power and lets a limited chip run faster than any step."""
    import torch

    made = torch.empty(shape, dtype=torch.float32, device=device)
    return made.normal_().to(dtype)


def _layouts(device: Device) -> list[torch.memory_format]:
    """Memory formats of images that the device takes."""
    import torch

    one = torch.empty(1, 1, 1, 1, device=device.torch_device)
    try:
        one.to(memory_format=torch.channels_last)
    except RuntimeError:
        return [torch.contiguous_format]
    return [torch.contiguous_format, torch.channels_last]
