"""What a workload sees of the processes that do its step together: a rank each, and its groups.

The harness joins them (`bench.measuring.ranks`); a workload that can be spread finds them at its
site (`Site.ranks`) and leaves them alone where there are none. torch.distributed does the work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from bench.records.parallelism import Parallelism

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.distributed import ProcessGroup


def nowhere() -> None:
    """Nobody is told."""


class Ranks(msgspec.Struct, frozen=True, kw_only=True):
    """The group of one launch, as one of its ranks has it."""

    rank: int
    """0-based."""
    size: int
    parallelism: Parallelism
    group: ProcessGroup
    """Carries the work and nothing else: on it every collective is a part of the step."""
    control: ProcessGroup
    """Of the hosts (gloo): what the harness and its proofs exchange, never the work."""
    arrive: Callable[[], None] = nowhere
    """Tells the parent that this rank is about to wait for the others: who stays away is late."""
    host: int = 0
    """0-based."""
    card: str = ""
    """What its device is called from any container of its machine; empty where nothing says."""

    def part(self, count: int) -> slice:
        """This rank's part of so many rows of a global batch. Raises ValueError if they divide not.

        Ranks take consecutive rows in their order.
        """
        if count % self.size:
            raise ValueError(f"{count} rows do not divide over {self.size} ranks")
        each = count // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def mean(self, value: Tensor) -> Tensor:
        """The mean of every rank's tensor, in float64 on the host; over the control group."""
        import torch
        import torch.distributed as dist

        total = value.detach().cpu().to(torch.float64, copy=True)
        dist.all_reduce(total, group=self.control)
        return total / self.size

    def told(self, value: Any) -> list[Any]:
        """What each rank says, in their order: small values; over the control group."""
        import torch.distributed as dist

        self.arrive()
        every: list[Any] = [None] * self.size
        dist.all_gather_object(every, value, group=self.control)
        return every


class Part(msgspec.Struct, frozen=True):
    """Which rows of a tensor lie on a rank: one of so many parts, as even as can be."""

    index: int = 0
    count: int = 1
    unit: int = 1
    """Rows that are never divided."""

    def __str__(self) -> str:
        return "whole" if self.count == 1 else f"part {self.index + 1} of {self.count}"

    def rows(self, count: int) -> slice:
        """Which of so many rows: the last parts have fewer, or none."""
        each = -(-count // self.unit // self.count) * self.unit
        return slice(min(self.index * each, count), min((self.index + 1) * each, count))

    def of(self, whole: Tensor) -> Tensor:
        """Those rows of the whole [R, ...], where they lie."""
        return whole if self.count == 1 else whole[self.rows(len(whole))]


WHOLE = Part()


def part(tensor: Tensor) -> Part:
    """Which rows of a tensor lie here: of one that is sharded (DTensor), by its first dimension.

    Raises NotImplementedError where it is sharded otherwise.
    """
    if not hasattr(tensor, "to_local"):
        return WHOLE
    sharded: Any = tensor
    found = [(dim, place) for dim, place in enumerate(sharded.placements) if place.is_shard()]
    if not found:
        return WHOLE
    if len(found) > 1 or not found[0][1].is_shard(0):
        raise NotImplementedError(f"a tensor that is sharded as {sharded.placements}")
    mesh = sharded.device_mesh
    return Part(mesh.get_local_rank(found[0][0]), mesh.size(found[0][0]))


def on_host(ranks: Ranks) -> Ranks:
    """The same ranks where the hosts do the work too: of a reference in float64."""
    return msgspec.structs.replace(ranks, group=ranks.control)


def each_alone(ranks: Ranks) -> Ranks:
    """The same ranks where each computes its rows by itself, and nothing is exchanged."""
    return msgspec.structs.replace(ranks, parallelism=Parallelism("replicas", (ranks.size,)))


def local(tensor: Tensor) -> Tensor:
    """What of a tensor lies here: of one that is sharded (DTensor) this rank's shard."""
    found: torch.Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return found
