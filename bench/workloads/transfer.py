"""Copies between the host's memory and the device's, from pinned and from pageable memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated

from bench.precision import Precision
from bench.records.outcome import Work
from bench.workload import Job, Look, Mode, OneOf, Parameters, Site, Unsupported, Within, Workload
from bench.workloads.jobs.modes import at_most
from bench.workloads.jobs.rotation import RotatingJob, Rotation
from bench.workloads.jobs.seeded import SeededData
from bench.workloads.spots import spots

if TYPE_CHECKING:
    from torch import Tensor

ELEMENT_BYTES = 4
TWIN_BYTES = 2**20
BUFFERS = 4
"""Pairs that a job rotates among, so that no cache holds what comes next."""


class TransferParameters(Parameters, frozen=True, kw_only=True):
    """One copy."""

    size_bytes: Annotated[int, Within(ELEMENT_BYTES, 2**40, ELEMENT_BYTES)] = 2**26
    memory: Annotated[str, OneOf(["pageable", "pinned"])] = "pageable"
    """The host's side: `pageable`, as any tensor, or `pinned` (page-locked)."""


class Transfer(Workload):
    """Bytes a second over the link; on a CPU, where both sides are the host's memory, of a copy."""

    name = "transfer"
    version = 1
    modes = MappingProxyType(
        {
            mode: Mode(parameters=TransferParameters, precisions=("fp32",))
            for mode in ("to-device", "to-host")
        }
    )

    def work(self, mode: str, parameters: TransferParameters, precision: Precision) -> Work:
        """The bytes that cross the link, once each."""
        return Work(items=parameters.size_bytes, unit="B")

    def twin(self, mode: str, parameters: TransferParameters) -> TransferParameters:
        """1 MiB at most."""
        return at_most(parameters, size_bytes=TWIN_BYTES)

    def peak_bytes(self, mode: str, parameters: TransferParameters, site: Site) -> int:
        """The device's side of the pairs; on a CPU both sides are its memory."""
        sides = 2 if site.device.type == "cpu" else 1
        return sides * BUFFERS * parameters.size_bytes

    def build(self, mode: str, parameters: TransferParameters, site: Site) -> Job:
        """Normals on the side that is read; `Unsupported` where no memory can be pinned."""
        import torch

        pinned = parameters.memory == "pinned"
        # The gate's reference runs on the CPU, where a pinned copy is a copy.
        pins = site.device.type != "cpu"
        if pinned and not pins and site.precision.name != "fp64":
            raise Unsupported("pinned memory is for a device other than the host")
        data = SeededData(site.seed)
        count = parameters.size_bytes // ELEMENT_BYTES
        pairs = []
        for _ in range(BUFFERS):
            host = data.normal((count,), site.precision.dtype)
            if pinned and pins:
                host = host.pin_memory()
            there = host.to(site.device, copy=True)
            if mode == "to-device":
                pairs.append((there.zero_(), host))
            else:
                pairs.append((torch.zeros_like(host, pin_memory=pinned and pins), there))
        return TransferJob(pairs, pinned and pins, parameters.memory, site.seed)


class TransferJob(RotatingJob):
    """One copy into memory that is there; pairs rotate."""

    def __init__(
        self, pairs: list[tuple[Tensor, Tensor]], queued: bool, memory: str, seed: int = 0
    ) -> None:
        """pairs: target and source; queued: the copy may go on while the host does; seed: which
        elements are looked at."""
        self._inputs = Rotation(pairs)
        self._queued, self._seed = queued, seed
        self.facts = {"host memory": memory}

    def step(self) -> None:
        """Queues one copy; from pageable memory it is over when the call returns."""
        self._output, self._source = next(self._inputs)
        self._output.copy_(self._source, non_blocking=self._queued)

    def _keep(self) -> tuple[Tensor, Tensor, Tensor]:
        """Some places of what arrived, what lies there, and what was sent."""
        where = spots.places(len(self._output), self._seed)
        return where, spots.taken(self._output, where), self._source

    def probe(self) -> dict[str, Tensor]:
        """What arrived."""
        found = super().probe()
        # Reading an element of the device's side waits for what was queued there before.
        for side in (self._output, self._source):
            float(side[0])
        return found

    def weights(self) -> Sequence[Tensor]:
        """All that is copied."""
        return [source for _, source in self._inputs.items]

    def inputs(self) -> Sequence[Tensor]:
        """What was copied."""
        return [self._source]

    def looks(self) -> Iterator[Look]:
        """At the host's side, whether it is pinned; at what arrived with the last timed step."""
        target, source = next(self._inputs)
        host = source if source.device.type == "cpu" else target
        seen = "pinned" if host.is_pinned() else "pageable"
        yield Look(what="host memory", asked=self.facts["host memory"], seen=seen)
        if self._kept is not None:
            where, found, source = self._kept
            sent = spots.taken(source, where)
            yield spots.look("copy", [spots.worst(where, found, sent, sent.abs())], 0.0)


WORKLOAD = Transfer()
