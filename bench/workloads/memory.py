"""Memory bandwidth: the STREAM kernels copy, scale and triad, and reading alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated

from bench.precision import Precision
from bench.records.execution import EXECUTIONS
from bench.records.outcome import Work
from bench.workload import Job, Look, Mode, Parameters, Site, Within, Workload
from bench.workloads.jobs.executed import executed_function
from bench.workloads.jobs.modes import at_most
from bench.workloads.jobs.rotation import OneOutput
from bench.workloads.jobs.seeded import SeededData
from bench.workloads.spots import spots

if TYPE_CHECKING:
    from torch import Tensor

ARRAYS_MOVED = {"copy": 2, "scale": 2, "triad": 3, "read": 1}
"""Arrays read and written by each kernel, as STREAM counts them."""
ROW = 1024
"""Of these many elements `read` keeps the largest: no rounding, and next to nothing to write."""
SCALAR = 3.0
"""STREAM's q."""
PRECISIONS = ("fp32", "bf16")
WIDEST_BYTES = 8
"""An element of the gate's float64 reference."""
TWIN_BYTES = 2**20


class MemoryParameters(Parameters, frozen=True, kw_only=True):
    """Size of each array; a multiple of 8, so that every precision fills it."""

    size_bytes: Annotated[int, Within(WIDEST_BYTES, 2**40, WIDEST_BYTES)] = 2**28
    """256 MiB by default: by STREAM's rule of four enough beside last-level caches of 64 MiB."""


class ReadParameters(MemoryParameters, frozen=True, kw_only=True):
    """Size of the array; a multiple of 8 KiB, so that it has whole rows in every precision."""

    size_bytes: Annotated[int, Within(WIDEST_BYTES * ROW, 2**40, WIDEST_BYTES * ROW)] = 2**28


class Memory(Workload):
    """a = b (copy), a = 3 b (scale), a = b + 3 c (triad); read: the largest of each 1,024."""

    name = "memory"
    version = 1
    modes = MappingProxyType(
        {
            mode: Mode(
                parameters=ReadParameters if mode == "read" else MemoryParameters,
                precisions=PRECISIONS,
                executions=EXECUTIONS,
            )
            for mode in ARRAYS_MOVED
        }
    )

    def work(self, mode: str, parameters: MemoryParameters, precision: Precision) -> Work:
        """Bytes read plus bytes written: 2, 2 and 3 times the array. Write-allocate not counted.
        Of `read` the array, and what it keeps of it.

        Source: McCalpin, STREAM, https://www.cs.virginia.edu/stream/ref.html, "Counting Bytes".
        """
        moved = ARRAYS_MOVED[mode] * parameters.size_bytes
        if mode == "read":
            moved += parameters.size_bytes // ROW
        return Work(items=moved, unit="B", moved_bytes=moved)

    def twin(self, mode: str, parameters: MemoryParameters) -> MemoryParameters:
        """Arrays of 1 MiB at most."""
        return at_most(parameters, size_bytes=TWIN_BYTES)

    def peak_bytes(self, mode: str, parameters: MemoryParameters, site: Site) -> int:
        """The arrays."""
        kept = parameters.size_bytes // ROW if mode == "read" else 0
        return ARRAYS_MOVED[mode] * parameters.size_bytes + kept

    def build(self, mode: str, parameters: MemoryParameters, site: Site) -> Job:
        """Arrays of normals."""
        data = SeededData(site.seed)
        count = parameters.size_bytes // site.precision.dtype.itemsize
        if mode == "read":
            source = data.normal((count,), site.precision.dtype).to(site.device)
            return MemoryJob(mode, [source.new_zeros(count // ROW), source], site)
        arrays = [
            data.normal((count,), site.precision.dtype).to(site.device)
            for _ in range(ARRAYS_MOVED[mode])
        ]
        return MemoryJob(mode, arrays, site)


def copied(target: Tensor, source: Tensor) -> Tensor:
    """a = b."""
    return target.copy_(source)


def scaled(target: Tensor, source: Tensor) -> Tensor:
    """a = 3 b."""
    import torch

    return torch.mul(source, SCALAR, out=target)


def added(target: Tensor, source: Tensor, other: Tensor) -> Tensor:
    """a = b + 3 c."""
    import torch

    return torch.add(source, other, alpha=SCALAR, out=target)


def largest(target: Tensor, source: Tensor) -> Tensor:
    """The largest of each row."""
    import torch

    return torch.amax(source.view(-1, ROW), 1, out=target)


KERNELS: Mapping[str, Callable[..., Tensor]] = {
    "copy": copied,
    "scale": scaled,
    "triad": added,
    "read": largest,
}


class MemoryJob(OneOutput):
    """One pass over the arrays."""

    def __init__(self, mode: str, arrays: list[Tensor], site: Site) -> None:
        """Writes to the first array and reads the others."""
        self._pass, self._mode, self._site = executed_function(KERNELS[mode], site), mode, site
        self._output, *self._sources = arrays
        self.facts: dict[str, str] = {}

    def step(self) -> None:
        """Queues one kernel."""
        self._pass(self._output, *self._sources)

    def _keep(self) -> tuple[Tensor, Tensor]:
        """Some places of the array that was written, and what lies there."""
        where = spots.places(len(self._output), self._site.seed)
        return where, spots.taken(self._output, where)

    def looks(self) -> Iterator[Look]:
        """At elements that the last timed step wrote; what copies and reads rounds nothing."""
        where, found = self._timed()
        shape = (-1, ROW) if self._mode == "read" else (-1,)
        sources = [spots.taken(source.view(shape), where) for source in self._sources]
        kernel = KERNELS[self._mode]
        expected = kernel(found.new_empty(len(where)), *sources)
        terms = kernel(found.new_empty(len(where)), *(source.abs() for source in sources))
        exact = self._mode in ("copy", "read")
        most = 0.0 if exact else spots.allowed(self._site.precision, "output", 1, 1)
        yield spots.look(self._mode, [spots.worst(where, found, expected, terms)], most)

    def probe(self) -> dict[str, Tensor]:
        """The start of the array that was written, as far as it holds one element per 8 bytes.

        So that every precision gives equally many elements, the same ones: rounded, not shifted.
        """
        self.step()
        size_bytes = self._output.numel() * self._output.element_size()
        return {"output": self._output[: size_bytes // WIDEST_BYTES]}

    def weights(self) -> Sequence[Tensor]:
        """The arrays that are read."""
        return self._sources

    def inputs(self) -> Sequence[Tensor]:
        """The same."""
        return self._sources

    def again(self) -> bool:
        """A step: all are alike."""
        self.step()
        return True


WORKLOAD = Memory()
