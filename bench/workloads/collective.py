"""Collectives: what devices do together, and nothing beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated

from bench.precision import Precision
from bench.records.outcome import Work
from bench.records.proof import OUTPUT
from bench.workload import Job, Mode, Parameters, Site, Within, Workload

if TYPE_CHECKING:
    from torch import Tensor

    from bench.ranks import Ranks

MOST_BYTES = 2**32


class CollectiveParameters(Parameters, frozen=True, kw_only=True):
    """How much there is to exchange."""

    size_bytes: Annotated[int, Within(8, MOST_BYTES, 8)] = 2**20
    """Of the largest buffer of a rank, as nccl-tests counts."""


class Collective(Workload):
    """One operation of all devices together."""

    name = "collective"
    version = 1
    modes = MappingProxyType(
        {
            "all-reduce": Mode(
                parameters=CollectiveParameters, precisions=("fp32", "bf16"), together=True
            )
        }
    )

    def work(self, mode: str, parameters: CollectiveParameters, precision: Precision) -> Work:
        """Bytes of the buffer: algorithm bandwidth, as nccl-tests defines it."""
        return Work(items=parameters.size_bytes, unit="B")

    def twin(self, mode: str, parameters: CollectiveParameters) -> CollectiveParameters:
        """At most 64 KiB."""
        return CollectiveParameters(size_bytes=min(parameters.size_bytes, 65536))

    def build(self, mode: str, parameters: CollectiveParameters, site: Site) -> Job:
        """The buffers of this rank."""
        assert site.ranks is not None
        return AllReduce(site.ranks, parameters.size_bytes // 8, site)


class AllReduce(Job):
    """A sum over all ranks, in place."""

    def __init__(self, ranks: Ranks, count: int, site: Site) -> None:
        import torch

        self._ranks = ranks
        self._given = torch.ones(count, dtype=site.precision.dtype, device=site.device)
        self._held = self._given.clone()
        self.facts = {"operation": "all_reduce"}

    def step(self) -> None:
        """Queues one operation."""
        import torch.distributed as dist

        dist.all_reduce(self._held, group=self._ranks.group)
        self._held.mul_(1 / self._ranks.size)

    def witness(self) -> float:
        """The mean of the sum."""
        return float(self._held.mean())

    def probe(self) -> dict[str, Tensor]:
        """The sum."""
        self.step()
        return {"output": self._held}

    def outputs(self) -> Mapping[str, Sequence[Tensor]]:
        """The sum."""
        return {OUTPUT: [self._held]}


WORKLOAD = Collective()
