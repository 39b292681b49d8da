"""The edges of blocks where several processes do one step: they begin together, the slowest counts.

Every decision that depends on a time (how long a warm-up goes on, how many steps a block holds)
must be the same in all of them, or they would wait for one another for ever.
"""

from __future__ import annotations

from bench.ranks import Ranks


class Edges:
    """Of one process alone: nobody to wait for."""

    def meet(self) -> None:
        """Returns when all ranks have come."""

    def slowest(self, ns: int) -> int:
        """The longest of the ranks' times."""
        return ns

    def quickest(self, ns: int) -> int:
        """The shortest of the ranks' times."""
        return -self.slowest(-ns)

    def all(self, said: bool) -> bool:
        """Whether every rank says so."""
        return said


class Together(Edges):
    """Of a rank: agreed over the control group, so that the measured one carries only the work."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks

    def meet(self) -> None:
        """Returns when all ranks have come."""
        self.slowest(0)

    def slowest(self, ns: int) -> int:
        """The longest of the ranks' times: one MAX reduction."""
        import torch
        import torch.distributed as dist

        edge = torch.tensor(ns, dtype=torch.int64)
        dist.all_reduce(edge, dist.ReduceOp.MAX, group=self._ranks.control)
        return int(edge)

    def all(self, said: bool) -> bool:
        """Whether every rank says so."""
        return not self.slowest(0 if said else 1)


SINGLE = Edges()
