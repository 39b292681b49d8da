"""`hccl`: the collectives of dies, over gloo and copies on the host."""

# mypy: ignore-errors

from __future__ import annotations

import torch
import torch.distributed as dist

from ._settings import SETTINGS

NAME = "hccl"


class Hccl(dist.ProcessGroup):
    """Each call returns when it is done."""

    def __init__(self, store, rank, size, timeout) -> None:
        super().__init__(rank, size)
        store = dist.PrefixStore(NAME, store)
        self.gloo = dist.ProcessGroupGloo(store, rank, size, timeout)
        custom = dist.ProcessGroup.BackendType.CUSTOM
        self._register_backend(torch.device(SETTINGS.type), custom, self.gloo)

    def getBackendName(self) -> str:  # noqa: N802 - as torch.distributed calls it
        return NAME

    def _carry(self, call, held, given, *words):
        """held: what is written; given: what else is read. Copies of both are on the host."""
        into, of = [one.cpu() for one in held], [one.cpu() for one in given]
        call(*([into] if not given else [into[0], of[0]]), *words).wait()
        for one, new in zip(held, into, strict=True):
            one.copy_(new)
        return Done()

    def allreduce(self, tensors, opts=None):
        return self._carry(self.gloo.allreduce, tensors, (), opts or dist.AllreduceOptions())

    def broadcast(self, tensors, opts):
        return self._carry(self.gloo.broadcast, tensors, (), opts)

    def all_gather_single(self, held, given, opts=None):
        return self._carry(self.gloo._allgather_base, [held], [given])

    def reduce_scatter_single(self, held, given, opts=None):
        words = filter(None, [opts])
        return self._carry(self.gloo._reduce_scatter_base, [held], [given], *words)

    def all_to_all_single(self, held, given, received, sent, opts=None):
        return self._carry(self.gloo.alltoall_base, [held], [given], received, sent)

    _allgather_base, _reduce_scatter_base = all_gather_single, reduce_scatter_single
    alltoall_base = all_to_all_single  # the names before torch 2.13


class Done(dist._Work):
    """What has been carried."""

    def wait(self, timeout=None) -> bool:
        return True


def register() -> None:
    """Makes it what torch.distributed takes for this device."""
    dist.Backend.register_backend(NAME, Hccl, devices=[SETTINGS.type])
