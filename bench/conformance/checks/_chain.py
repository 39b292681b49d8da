"""Device work of a known length: a chain of matrix products, each waiting for the one before.

Not a check. The factor is a permutation, so the result is exact in any arithmetic, and reading it
back proves that the work was done: a host read must wait for what it reads, whatever else waits.
"""

from __future__ import annotations

import itertools
import math
import time
from typing import TYPE_CHECKING

import msgspec

from bench.conformance.check import Stand
from bench.conformance.checks import _jobs
from bench.records.proof import OUTPUT

if TYPE_CHECKING:
    from torch import Tensor

    from bench.workload import Job

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
    again: float = 0.0
    """To read it again, when nothing is left to do."""
    right: bool
    """Whether the result was the right one."""

    @property
    def rest(self) -> float:
        """What was left to do after the synchronization."""
        return max(self.read - self.waited - self.again, 0.0)


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
        self.right()
        return Timing(
            queued=queued - start,
            waited=waited - start,
            read=read - start,
            right=right,
            again=time.perf_counter() - read,
        )

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


class JobChain(Chain):
    """Steps of a framework's products, whose operands rotate: the last one tells its number."""

    _job: Job

    def queue(self, kernels: int) -> None:
        """Queues that many products."""
        for _ in range(kernels):
            self._job.step()
        self._done += kernels

    def right(self) -> bool:
        """Reads of the last product what came into its first place, which waits for it."""
        import numpy as np

        (made,) = self._job.outputs()[OUTPUT] if self._done else self._job.weights()[:1]
        (found,) = self.stand.framework.tensors.picked([made], [np.zeros(1, np.int64)])
        number = (self._done - 1) % self._sets
        return bool(found == ((self.size - 1 + number) % VALUES if self._done else 0))

    def _make(self) -> None:
        """A rotation of rows, and as many starts as there are sets of operands."""
        import numpy as np

        shift = np.roll(np.eye(self.size, dtype=np.float32), 1, 0)
        column = np.arange(self.size)[:, None]
        starts = (
            np.repeat((column + number) % VALUES, self.size, 1).astype(np.float32)
            for number in itertools.count()
        )
        draws = _jobs.Given(x for start in starts for x in (shift, start))
        self._job = _jobs.product(self.stand, self.size, draws)
        self._sets = draws.count // 2
        self._done = 0


def chain(stand: Stand) -> Chain:
    """Of torch's own products, or of a framework's."""
    return JobChain(stand) if stand.framework.hands_over else Chain(stand)
