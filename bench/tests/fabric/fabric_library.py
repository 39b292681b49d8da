"""A collective library of known speed: gloo's results, and a wire that sleeps.

Below torch.distributed's dispatcher, as a vendor's is: its groups are gloo's to torch, and the
operations on them come here. Each operation takes a latency
and the time that its bytes need, counted from the moment when the last rank has come, or, where
that is at once, from the end of the operation before, as if it had been queued: so a process that
is woken up late delays the last operation of a block and no other. What gloo itself took lies
within, so that is the truth as long as gloo is the faster of the two.

Faults of one rank: what it gives is lost (zeros) or doubled, its result is stale (what was there
before) or has one bit turned over; or, of all, the wire is narrower than the numbers (bfloat16), or
what another rank than the first broadcasts does not go out (`unrooted`).
"""

# mypy: ignore-errors

from __future__ import annotations

import dataclasses
import json
import time
import warnings
from collections import deque

import torch
import torch.distributed as dist
from fabric import Fabric
from torch._C._distributed_c10d import _create_work_from_future

from bench.measuring.ranks import hush

NAME = "simulated"
LINKS = {
    "allreduce_": lambda n: 2 * (n - 1) / n,
    "_allgather_base_": lambda n: (n - 1) / n,
    "_reduce_scatter_base_": lambda n: (n - 1) / n,
    "alltoall_base_": lambda n: (n - 1) / n,
    "broadcast_": lambda n: 1.0,
}
"""Share of the largest buffer that crosses each rank's link, of n ranks."""
CPU, BESIDE = torch.device("cpu"), torch.device("privateuseone")
MAX = dist.AllreduceOptions()
MAX.reduceOp = dist.ReduceOp.MAX


class Simulated:
    """What joins the members of a group; each call returns when its wire would have carried it."""

    def __init__(self, store, rank: int, size: int, timeout, fabric: Fabric) -> None:
        self.rank, self.size, self.fabric, self.count, self.end = rank, size, fabric, 0, 0.0
        self.data = dist.ProcessGroupGloo(dist.PrefixStore("data", store), rank, size, timeout)
        """Torch's own operations on a group take it."""
        clock = dist.PrefixStore("clock", store)
        self.clock = dist.ProcessGroupGloo(clock, rank, size, timeout)
        """Tells when the last rank has come."""
        self.works = deque(maxlen=1000)
        """The Python halves of what is on its way."""

    def carry(self, name: str, held, given, call):
        """One collective; call: does it."""
        if self.fabric.dry:
            if held[0] is not given[0]:
                hush.fill(held, given)
            self.until(time.monotonic(), 0.0)
            return
        # One clock for all processes of a host.
        come = torch.tensor(time.monotonic(), dtype=torch.float64)
        self.clock.allreduce([come], MAX).wait()
        start = float(come)
        self.spoilt(given, held, call)
        larger = max(size_of(held), size_of(given))
        start = time.monotonic() if self.fabric.on_top else start
        self.until(start, larger * LINKS[name](self.size))

    def until(self, start: float, crossing: float) -> None:
        """Waits until the wire has carried so many bytes."""
        start = self.end if start - self.end < self.fabric.at_once else start
        self.end = start + self.fabric.latency + crossing / self.fabric.bandwidth
        time.sleep(max(0.0, self.end - time.monotonic()))  # spinning takes others' core

    def spoilt(self, given, held, call):
        """What gloo does, and the planted fault."""
        self.count += 1
        fault = self.fabric.fault if self.count > self.fabric.after else ""
        mine = self.fabric.rank == self.rank
        before = [one.clone() for one in held]
        kept = [one.clone() for one in given]
        if fault in ("lost", "doubled") and mine:
            for one in given:
                one.mul_(0 if fault == "lost" else 2)
        if fault == "narrow":
            for one in given:
                one.copy_(one.to(torch.bfloat16))
        call()
        for one, was in zip(given, kept, strict=True):
            if not any(one is other for other in held):
                one.copy_(was)
        if fault == "stale" and mine:
            for one, was in zip(held, before, strict=True):
                one.copy_(was)
        if fault == "bit" and mine:
            for one in held:
                one.view(-1).view(torch.uint8)[-1].bitwise_xor_(1)

    def send(self, call, tensors):
        start = time.monotonic()
        fault = self.fabric.fault if self.count >= self.fabric.after else ""
        self.count += 1
        spoilt = [one.clone() for one in tensors] if fault else tensors
        for one in spoilt:
            if fault in ("lost", "doubled") and self.fabric.rank == self.rank:
                one.mul_(0 if fault == "lost" else 2)
            if fault == "narrow":
                one.copy_(one.to(torch.bfloat16))
        self.works.append(Sent(self, spoilt, dist.Work.unbox(call(spoilt)), start))
        return self.works[-1].boxed()

    def recv(self, call, tensors):
        into = torch.empty_like(tensors[0]) if self.fabric.fault else tensors[0]
        self.works.append(Received(self, tensors, dist.Work.unbox(call([into])), into))
        return self.works[-1].boxed()


GROUPS: list[Simulated] = []
"""Of this process."""


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
        mine = fabric.rank == group.rank and group.count > fabric.after
        if self.into is not self.tensors[0] and not (mine and fabric.fault == "stale"):
            self.tensors[0].copy_(self.into)
        if mine and fabric.fault == "bit":
            self.tensors[0].view(-1).view(torch.uint8)[-1].bitwise_xor_(1)
        return True


def size_of(tensors) -> int:
    return sum(one.numel() * one.element_size() for one in tensors)


def operation(name: str):
    """One of torch's operations as it is on the groups of this library; on others as it was."""
    there = getattr(torch.ops.c10d, name).default
    where = next(i for i, one in enumerate(there._schema.arguments) if one.name == "process_group")
    several = len(there._schema.returns) > 1
    beside = torch._C.DispatchKeySet(torch._C.DispatchKey.PrivateUse1)

    def act(*words):
        on = dist.ProcessGroup.unbox(words[where])
        backend = on._get_backend(CPU)
        if BESIDE not in on._device_types:
            on._register_backend(BESIDE, dist.ProcessGroup.BackendType.GLOO, backend)

        def call(*first):
            # What was here before is still there for devices of another kind, which take the same
            # backend; and called so it gives way to gloo's threads, which want Python too.
            return there.redispatch(beside, *first, *words[len(first) :])

        group = next((one for one in GROUPS if one.data is backend), None)
        if group is None:
            return call()
        if name in ("send", "recv_"):
            return (group.send if name == "send" else group.recv)(call, words[0])
        held, given = (
            one if isinstance(one, list) else [one] for one in (words[0], words[where - 1])
        )

        def done():
            if name == "broadcast_" and group.fabric.fault == "unrooted" and words[where + 1]:
                return
            found = call()
            dist.Work.unbox(found[1] if several else found).wait()

        group.carry(name, held, given, done)
        # Gloo's own work may write its result once more when it is waited for.
        over = torch.futures.Future()
        over.set_result(held)
        work = _create_work_from_future(over).boxed()
        return (words[0], work) if several else work

    return act


def change(**fields) -> None:
    """What joins the groups of this process from now on."""
    for group in GROUPS:
        group.fabric = dataclasses.replace(group.fabric, **fields)


def carried() -> int:
    """Collectives of this process so far."""
    return sum(group.count for group in GROUPS)


def register(described: str) -> str:
    """Makes the library known to torch.distributed, by its name."""
    if NAME not in dist.Backend.backend_list:
        fabric = Fabric(**json.loads(described))
        ours = torch.library.Library("c10d", "IMPL")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that what was there before is replaced
            for name in (*LINKS, "send", "recv_"):
                ours.impl(name, operation(name), "CPU")

        def make(store, rank, size, timeout):
            GROUPS.append(Simulated(store, rank, size, timeout, fabric))
            return GROUPS[-1].data

        make.ours = ours  # which ends with its last reference
        dist.Backend.register_backend(NAME, make, devices=["cpu"])
    return NAME
