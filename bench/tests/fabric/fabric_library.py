"""A collective library of known speed: gloo's results, and a wire that sleeps.

Registered below torch.distributed's dispatcher, as a vendor's is. Each operation takes a latency
and the time that its bytes need, counted from the moment when the last rank has come, or, where
that is at once, from the end of the operation before, as if it had been queued: so a process that
is woken up late delays the last operation of a block and no other. What gloo itself took lies
within, so that is the truth as long as gloo is the faster of the two.

Faults of one rank: what it gives is lost (zeros) or doubled, its result is stale (what was there
before) or has one bit turned over; or, of all, the wire is narrower than the numbers (bfloat16).
"""

# mypy: ignore-errors

from __future__ import annotations

import json
import time

import torch
import torch.distributed as dist
from fabric import Fabric

NAME = "simulated"
LINKS = {
    "allreduce": lambda n: 2 * (n - 1) / n,
    "allgather": lambda n: (n - 1) / n,
    "reduce_scatter": lambda n: (n - 1) / n,
    "alltoall": lambda n: (n - 1) / n,
    "broadcast": lambda n: 1.0,
}
"""Share of the largest buffer that crosses each rank's link, of n ranks."""
AT_ONCE = 2e-3
"""Seconds after an operation within which the next one counts as queued."""
MAX = dist.AllreduceOptions()
MAX.reduceOp = dist.ReduceOp.MAX


class Simulated(dist.ProcessGroup):
    """Wraps a gloo group; each call returns when its wire would have carried it."""

    def __init__(self, store, rank, size, timeout, fabric: Fabric) -> None:
        super().__init__(rank, size)
        self.fabric, self.count, self.end = fabric, 0, 0.0

        def gloo(name: str):
            return dist.ProcessGroupGloo(dist.PrefixStore(name, store), rank, size, timeout)

        # The second tells when the last rank has come; the third takes what C++ asks for itself.
        self.data, self.clock = gloo("data"), gloo("clock")
        custom = dist.ProcessGroup.BackendType.CUSTOM
        self._register_backend(torch.device("cpu"), custom, gloo("other"))

    def getBackendName(self) -> str:  # noqa: N802 - as torch.distributed calls it
        return NAME

    def carry(self, kind: str, counted, given, held, call, *words):
        # One clock for all processes of a host.
        come = torch.tensor(time.monotonic(), dtype=torch.float64)
        self.clock.allreduce([come], MAX).wait()
        start = float(come)
        self.spoilt(given, held, call, words)
        self.until(start, size_of(counted) * LINKS[kind](self.size()))
        return Done()

    def until(self, start: float, crossing: float) -> None:
        """Waits until the wire has carried so many bytes."""
        start = self.end if start - self.end < AT_ONCE else start
        self.end = start + self.fabric.latency + crossing / self.fabric.bandwidth
        time.sleep(max(0.0, self.end - time.monotonic()))  # spinning takes others' core

    def spoilt(self, given, held, call, words):
        """What gloo does, and the planted fault."""
        self.count += 1
        fault = self.fabric.fault if self.count > self.fabric.after else ""
        mine = self.fabric.rank == self.rank()
        before = [one.clone() for one in held]
        kept = [one.clone() for one in given]
        if fault in ("lost", "doubled") and mine:
            for one in given:
                one.mul_(0 if fault == "lost" else 2)
        if fault == "narrow":
            for one in given:
                one.copy_(one.to(torch.bfloat16))
        call(*words).wait()
        for one, was in zip(given, kept, strict=True):
            if not any(one is other for other in held):
                one.copy_(was)
        if fault == "stale" and mine:
            for one, was in zip(held, before, strict=True):
                one.copy_(was)
        if fault == "bit" and mine:
            for one in held:
                one.view(-1).view(torch.uint8)[-1].bitwise_xor_(1)

    def allreduce(self, tensors, opts=None):
        words = (tensors, opts or dist.AllreduceOptions())
        return self.carry("allreduce", tensors, tensors, tensors, self.data.allreduce, *words)

    def broadcast(self, tensors, opts):
        call = self.data.broadcast
        return self.carry("broadcast", tensors, tensors, tensors, call, tensors, opts)

    def all_gather_single(self, held, given, opts=None):
        call = self.data._allgather_base
        return self.carry("allgather", [held], [given], [held], call, held, given)

    def reduce_scatter_single(self, held, given, opts=None):
        call, words = self.data._reduce_scatter_base, filter(None, [opts])
        return self.carry("reduce_scatter", [given], [given], [held], call, held, given, *words)

    def all_to_all_single(self, held, given, received, sent, opts=None):
        call, words = self.data.alltoall_base, (held, given, received, sent)
        return self.carry("alltoall", [given], [given], [held], call, *words)

    _allgather_base, _reduce_scatter_base = all_gather_single, reduce_scatter_single
    alltoall_base = all_to_all_single  # the names before torch 2.13

    def send(self, tensors, to: int, tag: int):
        start = time.monotonic()
        fault = self.fabric.fault if self.count >= self.fabric.after else ""
        self.count += 1
        spoilt = [one.clone() for one in tensors] if fault else tensors
        for one in spoilt:
            if fault in ("lost", "doubled") and self.fabric.rank == self.rank():
                one.mul_(0 if fault == "lost" else 2)
            if fault == "narrow":
                one.copy_(one.to(torch.bfloat16))
        return Sent(self, spoilt, self.data.send(spoilt, to, tag), start)

    def recv(self, tensors, source: int, tag: int):
        into = torch.empty_like(tensors[0]) if self.fabric.fault else tensors[0]
        return Received(self, tensors, self.data.recv([into], source, tag), into)


class Done(dist._Work):
    """What has been carried. (gloo's own may write its result once more when it is waited for.)"""

    def wait(self, timeout=None) -> bool:
        return True


class Sent(dist._Work):
    """What is sent; its wire has carried it when this was waited for."""

    def __init__(self, group: Simulated, tensors, work, start: float) -> None:
        super().__init__()
        self.group, self.tensors, self.work, self.start = group, tensors, work, start

    def wait(self, timeout=None) -> bool:
        self.work.wait()
        self.group.until(self.start, size_of(self.tensors))
        return True


class Received(dist._Work):
    """What is received, spoilt where this rank's results are."""

    def __init__(self, group: Simulated, tensors, work, into) -> None:
        super().__init__()
        self.group, self.tensors, self.work, self.into = group, tensors, work, into

    def wait(self, timeout=None) -> bool:
        self.work.wait()
        fabric, group = self.group.fabric, self.group
        mine = fabric.rank == group.rank() and group.count > fabric.after
        if self.into is not self.tensors[0] and not (mine and fabric.fault == "stale"):
            self.tensors[0].copy_(self.into)
        if mine and fabric.fault == "bit":
            self.tensors[0].view(-1).view(torch.uint8)[-1].bitwise_xor_(1)
        return True


def size_of(tensors) -> int:
    return sum(one.numel() * one.element_size() for one in tensors)


def register(described: str) -> str:
    """Makes the library known to torch.distributed, by its name."""
    if NAME not in dist.Backend.backend_list:
        fabric = Fabric(**json.loads(described))

        def make(store, rank, size, timeout):
            return Simulated(store, rank, size, timeout, fabric)

        dist.Backend.register_backend(NAME, make, devices=["cpu"])
    return NAME
