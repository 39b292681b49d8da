"""A model on ranks that train it together: whole on each (DDP), or sharded over them (FSDP2).

torch does the work. Ranks average their gradients, which are then those of the mean loss over the
global batch, of which each rank takes as many rows. Weights come from the seed on every rank, so
nothing is sent to make them alike: whether they are is for the numerics gate to see.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from bench.quantized_product import name_of
from bench.ranks import Ranks
from bench.records.execution import is_compiled
from bench.rehearsal import has_no_values
from bench.workload import Look, Site
from bench.workloads.jobs.looks import AGAIN, checkpointing
from bench.workloads.jobs.seeded import place

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.distributed import ProcessGroup

BUCKET_MIB = 25
"""Of gradients that DDP reduces at once, while the backward goes on: torch's own default."""
REDUCED = "parameters reduced"
"""What a job says of how many have a gradient that ranks exchange: those that train."""


class Spread:
    """A model that one process runs by itself."""

    def __init__(self, model: nn.Module) -> None:
        """model: as it is executed."""
        self.module = model
        """What a forward calls."""
        self.facts: dict[str, str] = {}
        """What the record says of it."""
        self.policy: str | None = None
        """The dtype that what shards it rounds weights and activations to, in autocast's stead."""

    def micro_batch(self, last: bool) -> AbstractContextManager[object]:
        """Around forward and backward of a micro-batch. last: of its step."""
        return nullcontext()

    def norm(self, of_shards: Tensor) -> Tensor:
        """The norm of all gradients, from that of the gradients that lie here."""
        return of_shards

    def settle(self) -> None:
        """After a forward without a backward: back to what a step leaves."""

    def looks(self) -> Iterator[Look]:
        """What it was asked for, and what there is; after the timing."""
        yield from ()


class Replicated(Spread):
    """Every rank has all of it."""

    def __init__(self, model: nn.Module, ranks: Ranks) -> None:
        """No buffer is sent at every forward, for none changes that a step reads."""
        from torch.nn.parallel import DistributedDataParallel

        named = inspect.signature(DistributedDataParallel).parameters
        # torch 2.13 renamed it, and warns of its old name.
        sent = "forward_sync_buffers" if "forward_sync_buffers" in named else "broadcast_buffers"
        options: dict[str, Any] = {sent: False}
        self._ddp = DistributedDataParallel(
            model,
            process_group=ranks.group,
            init_sync=False,  # it would hide that a rank began with other weights
            gradient_as_bucket_view=True,
            bucket_cap_mb=BUCKET_MIB,
            **options,
        )
        super().__init__(self._ddp)
        own = self._ddp.parameters_to_ignore
        trained = [p for n, p in model.named_parameters() if p.requires_grad and n not in own]
        self.facts = {
            "parallelism": f"{ranks.parallelism}: DDP, buckets of {BUCKET_MIB} MiB",
            "gradients reduced as": _dtypes(trained),
            REDUCED: _count(trained),
        }

    def micro_batch(self, last: bool) -> AbstractContextManager[object]:
        """The last one's backward reduces what all have added."""
        return nullcontext() if last else self._ddp.no_sync()


class Sharded(Spread):
    """Each rank has a part of every weight, of its gradient and of the optimizer's state.

    Each block is gathered before it runs and let go afterwards, and the rest of the model (the
    embedding and the head) once a step.
    """

    def __init__(
        self, model: nn.Module, mesh: Any, ranks: Ranks | None, policy: str | None = None
    ) -> None:
        """In place: what is in the model afterwards are its shards.

        ranks: None where this one shards it with nobody; policy: the dtype in which it is computed,
        None for that of its weights.
        """
        import torch
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        self._ranks = ranks
        inner = blocks(model)
        kinds = ", ".join(dict.fromkeys(type(block).__name__ for block in inner))
        gathered = policy or _dtypes(model.parameters())
        trained = [p for p in model.parameters() if p.requires_grad]
        reduced, count = _dtypes(trained), _count(trained)  # whole, as they are here yet
        options: dict[str, Any] = {}
        if policy is not None:
            computed, summed = (getattr(torch, name) for name in (policy, reduced))
            rounding = MixedPrecisionPolicy(param_dtype=computed, reduce_dtype=summed)
            options = {"mp_policy": rounding}
        for block in inner:
            fully_shard(block, mesh=mesh, **options)
        self._fsdp: Any = fully_shard(model, mesh=mesh, **options)
        super().__init__(model)
        self.policy = policy
        if ranks is None:
            return
        self.facts = {
            "parallelism": f"{ranks.parallelism}: FSDP2, root and {len(inner)} {kinds}".rstrip(),
            "weights gathered as": gathered,
            "gradients reduced as": reduced,
            REDUCED: count,
        }

    def micro_batch(self, last: bool) -> AbstractContextManager[object]:
        """The last one's backward reduces what all have added, whole until then."""
        self._fsdp.set_requires_gradient_sync(last)
        return nullcontext()

    def norm(self, of_shards: Tensor) -> Tensor:
        """Over all ranks; replicas of a shard count once."""
        if self._ranks is None:
            return of_shards
        replicas = math.prod(self._ranks.parallelism.sizes[:-1])
        total = self._ranks.mean(of_shards**2) * self._ranks.size / replicas
        return total.sqrt()

    def settle(self) -> None:
        """The root stays whole after a forward, for the backward that it expects."""
        self._fsdp.reshard()

    def looks(self) -> Iterator[Look]:
        """At what is gathered; every rank must come."""
        if self.policy is None:
            return
        self._fsdp.unshard()
        whole = (p for p in self._fsdp.parameters() if not hasattr(p, "to_local"))
        seen = _dtypes(whole)
        self._fsdp.reshard()
        yield Look(what="weights as they are gathered", asked=self.policy, seen=seen)


def spread(
    model: nn.Module, site: Site, accumulation_steps: int = 1, policy: bool = False
) -> Spread:
    """The model as the ranks of its site train it; to be called before its optimizer is made.

    policy: whether FSDP2 rounds to the precision's dtype, where others autocast. What is compared
    with it is then sharded too, each process by itself: the arithmetic is the same. A rehearsal
    shards nothing; its weights are as the policy gathers them.
    """
    import torch

    ranks = site.ranks
    dtype = site.precision.autocast if policy else None
    by_itself = ranks is None or ranks.parallelism.scheme in ("none", "replicas")
    if has_no_values(next(model.parameters())) or (by_itself and dtype is None):
        alone = Spread(model)
        alone.policy = dtype
        if dtype is not None:
            for weight in model.parameters():
                weight.data = weight.data.to(getattr(torch, dtype))
        return alone
    if by_itself:
        return Sharded(model, _mesh_of_one(site.device.type), None, dtype)
    assert ranks is not None
    facts = _named(model, site, accumulation_steps, dtype)  # of its modules as they are called
    if _is_sharded(site):
        mesh = _mesh(ranks.group, ranks.parallelism.sizes, site.device.type)
        found: Spread = Sharded(model, mesh, ranks, dtype)
    else:
        found = Replicated(model, ranks)
    found.facts |= facts
    return found


def _named(
    model: nn.Module, site: Site, accumulation_steps: int, policy: str | None
) -> dict[str, str]:
    """What decides how much is computed, kept and sent, also where it is nothing."""
    dtype = site.precision.autocast
    mixed = f"autocast to {dtype}" if dtype else "none: as the weights lie"
    many = f"{accumulation_steps} micro-batches a step, reduced once, after the last"
    facts = {
        "accumulation": many if accumulation_steps > 1 else "none",
        AGAIN: checkpointing(model),
        "mixed precision": f"FSDP2's policy: all computed in {policy}" if policy else mixed,
    }
    if is_compiled(site.execution):
        parts = compiled_parts(model, site)
        kinds = ", ".join(dict.fromkeys(type(part).__name__ for part in parts))
        each = f"each of {len(parts)} {kinds}; the rest is eager"
        facts["compiled"] = each if _is_sharded(site) else f"{kinds}, inside DDP"
    return facts


def compiled_parts(model: nn.Module, site: Site) -> list[nn.Module]:
    """What is compiled, each by itself: of a model that is sharded what is gathered by itself.

    Before it is wrapped: between two of its blocks FSDP2 gathers, which no compiler sees through.
    What DDP wraps is one module to it, which it cuts by itself where a bucket is full.
    """
    return (blocks(model) if _is_sharded(site) else []) or [model]


def blocks(model: nn.Module) -> list[nn.Module]:
    """What is gathered by itself: the members of the longest list of modules."""
    from torch.nn import ModuleList

    lists = [module for module in model.modules() if isinstance(module, ModuleList)]
    return [*max(lists, key=len)] if lists else []


def has_kinks(model: nn.Module) -> bool:
    """Whether any of its modules decides by comparing values."""
    from torch import nn

    return any(isinstance(module, nn.ReLU | nn.MaxPool2d) for module in model.modules())


def rows(value: Tensor, site: Site) -> Tensor:
    """What of a global batch [B, ...] is this rank's, placed at the site; all of it where there is
    one process."""
    if site.ranks is not None:  # what is not its own need not be kept
        value = value[site.ranks.part(len(value))].clone()
    return place(value, site)


def _is_sharded(site: Site) -> bool:
    return site.ranks is not None and site.ranks.parallelism.scheme in ("fsdp", "hsdp")


@functools.cache
def _mesh(group: ProcessGroup, sizes: tuple[int, ...], device_type: str) -> Any:
    """The ranks in so many dimensions, outermost first, the last the one that shards.

    Its groups are the launch's own, or are made here, once: every rank must come.
    """
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import DeviceMesh

    if len(sizes) == 1:
        return DeviceMesh.from_group(group, device_type)
    ranks = torch.arange(math.prod(sizes)).view(sizes)
    library, here = dist.get_backend(group), dist.get_rank()
    own = []
    for lists in (ranks.T.tolist(), ranks.tolist()):
        made = [(members, dist.new_group(members, backend=library)) for members in lists]
        own.append(next(new for members, new in made if here in members))
    names = ("replicate", "shard")
    return DeviceMesh.from_group(own, device_type, mesh=ranks, mesh_dim_names=names)


@functools.cache
def _mesh_of_one(device_type: str) -> Any:
    """Of this process alone, over the library that the launch has."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import DeviceMesh

    library, here = dist.get_backend(), dist.get_rank()
    group = dist.new_group([here], backend=library, use_local_synchronization=True)
    return DeviceMesh.from_group(group, device_type)


def _count(tensors: Sequence[Tensor]) -> str:
    return str(sum(tensor.numel() for tensor in tensors))


def _dtypes(tensors: Iterable[Tensor]) -> str:
    return ", ".join(dict.fromkeys(name_of(t.dtype) for t in tensors))
