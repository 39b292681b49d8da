"""Device work of a known length: a chain of matrix products, each waiting for the one before.

Not a check. The factor is a permutation, so the result is exact in any arithmetic, and reading it
back proves that the work was done: a host read must wait for what it reads, whatever else waits.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import msgspec

from bench.conformance.check import Stand

if TYPE_CHECKING:
    from torch import Tensor

SIZES = (64, 256, 1024, 2048, 4096, 8192)
KERNEL_SECONDS = 1e-3
"""A kernel is long enough if it takes this: launches take some microseconds."""
CHAIN_SECONDS = 0.2
"""Length of a whole chain: a wait that goes wrong by a fifth is 40 ms, which no clock misses."""
MOST_KERNELS = 800
"""Launch queues hold about a thousand; a host that fills one waits in it."""
VALUES = 97
"""Entries of the result are below this, which every format holds exactly."""


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """One chain, in seconds of the host's clock."""

    queued: float
    """Until the last kernel was queued."""
    waited: float
    """Until `synchronize` returned."""
    read: float
    """Until the result was read."""
    right: bool
    """Whether the result was the right one."""

    @property
    def rest(self) -> float:
        """What was left to do after the synchronization."""
        return self.read - self.waited


class Chain:
    """A chain whose kernels were made long enough on this device."""

    _shift: Tensor
    _x: Tensor

    def __init__(self, stand: Stand) -> None:
        self.stand = stand
        self._done = 0
        for self.size in SIZES:
            self._make()
            self._timed_read(1)
            self.kernel_seconds = min(self._timed_read(4) for _ in range(3)) / 4
            if self.kernel_seconds >= KERNEL_SECONDS:
                break
        wanted = math.ceil(CHAIN_SECONDS / self.kernel_seconds)
        self.kernels = max(4, min(MOST_KERNELS, wanted)) // 4 * 4

    @property
    def flop(self) -> int:
        """Of one kernel."""
        return 2 * self.size**3

    def queue(self, kernels: int) -> None:
        """Queues that many kernels on the current stream."""
        for _ in range(kernels):
            self._x = self._shift @ self._x
        self._done += kernels

    def right(self) -> bool:
        """Reads the result, which waits for it, and says whether it is right."""
        return bool(self._x[0, 0].item() == -self._done % self.size % VALUES)

    def time(self, kernels: int) -> Timing:
        """Queues, synchronizes and reads, on an idle device."""
        self.right()
        start = time.perf_counter()
        self.queue(kernels)
        queued = time.perf_counter()
        self.stand.device.synchronize()
        waited = time.perf_counter()
        right = self.right()
        read = time.perf_counter()
        return Timing(queued=queued - start, waited=waited - start, read=read - start, right=right)

    def _make(self) -> None:
        """The factor and the start, of this size, on the device."""
        import torch

        eye = torch.eye(self.size)
        column = torch.arange(self.size).remainder(VALUES).float()
        self._shift = eye.roll(1, 0).to(self.stand.place)
        self._x = column[:, None].repeat(1, self.size).to(self.stand.place)
        self._done = 0

    def _timed_read(self, kernels: int) -> float:
        self.right()
        start = time.perf_counter()
        self.queue(kernels)
        self.right()
        return time.perf_counter() - start
