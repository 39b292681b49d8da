"""The numerics gate on ranks, with faults that are planted in one of them: run by each rank.

The twin of the tiny Llama in float32; `test_rank_numerics.py` reads what comes of it.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import msgspec
import pytest
import torch

from bench import rehearsal
from bench.measuring.asked import complaint
from bench.measuring.gates import rank_numerics, readings
from bench.measuring.ranks import agreed
from bench.measuring.ranks.hush import Hush
from bench.precision import PRECISIONS, REFERENCE
from bench.ranks import Ranks
from bench.records.parallelism import parse
from bench.tests.measuring.proving.wrong_workloads import Wrong, parameters
from bench.tests.small_workloads import WORKLOADS, NoQuestions, site
from bench.tests.values import SMALL_RESNET
from bench.workload import Job, Site, Training
from bench.workloads import dlrm, resnet50
from bench.workloads.jobs import sharded
from bench.workloads.spots import model_spots
from bench.workloads.spots.model_spots import ABSENT, OF_GRADIENTS

GUILTY = 1
Plant = Callable[[Any, Ranks], None]


def wrong_sum(job: Any, ranks: Ranks) -> None:
    """The rank gets another sum than the others."""

    def change(*_: object) -> None:
        for parameter in job._model.parameters():
            parameter.grad.mul_(1.5)

    if ranks.rank == GUILTY:
        job._optimizer.register_step_pre_hook(change)


def not_finite(job: Any, ranks: Ranks) -> None:
    """One value that the rank gets is NaN."""

    def change(*_: object) -> None:
        last = [*job._model.parameters()][-1].grad
        getattr(last, "_local_tensor", last).view(-1)[:1] = float("nan")

    if ranks.rank == GUILTY:
        job._optimizer.register_step_pre_hook(change)


def lost_gradient(job: Any, ranks: Ranks) -> None:
    """What the rank has computed does not get into the sum."""
    loss_of = job._loss_of

    def none(logits: Any, targets: Any) -> Any:
        loss = loss_of(logits, targets)
        return 0 * loss + loss.detach()

    if ranks.rank == GUILTY:
        job._loss_of = none


def stale_replica(job: Any, ranks: Ranks) -> None:
    """The rank's weights stay what they were."""
    before = [parameter.detach().clone() for parameter in job._model.parameters()]

    def restore(*_: object) -> None:
        with torch.no_grad():
            for parameter, was in zip(job._model.parameters(), before, strict=True):
                parameter.copy_(was)

    if ranks.rank == GUILTY:
        job._optimizer.register_step_post_hook(restore)


def narrow_wire(job: Any, ranks: Ranks) -> None:
    """Gradients travel as bfloat16."""
    import torch.distributed as dist

    def send(group, bucket):  # type: ignore[no-untyped-def]  # torch compares types, not words
        sent = bucket.buffer().bfloat16().float()
        work = dist.all_reduce(sent, group=group, async_op=True)
        return work.get_future().then(lambda done: done.value()[0].div(ranks.size))

    job._spread.module.register_comm_hook(ranks.group, send)


def last_bit(job: Any, ranks: Ranks) -> None:
    """The rank's first weight is one bit off, from the start."""
    if ranks.rank == GUILTY:
        first = next(job._model.parameters()).detach()
        getattr(first, "_local_tensor", first).view(torch.int32).view(-1)[0] ^= 1


PLANTS: dict[str, Plant] = {
    plant.__name__: plant
    for plant in (wrong_sum, not_finite, lost_gradient, stale_replica, narrow_wire, last_bit)
}
SCHEMES = {"dp2": (None, *PLANTS), "fsdp2": (None, "wrong_sum", "not_finite", "stale_replica")}


class Spoiled(Wrong):
    """Goes wrong where the ranks compute together in the timed precision."""

    def __init__(self, plant: Plant | None) -> None:
        super().__init__(WORKLOADS["llama"], lambda job: None)
        self._plant = plant

    def build(self, mode: str, parameters: Any, at: Site) -> Job:
        job = self._right.build(mode, parameters, at)
        together = at.ranks is not None and at.ranks.parallelism.scheme != "replicas"
        if self._plant is not None and together and at.precision.name != REFERENCE.name:
            assert at.ranks is not None
            self._plant(job, at.ranks)
        return job


def verdicts(ranks: Ranks) -> dict[str, Any]:
    """Of each scheme and plant the complaint, and the errors of the checks."""
    found: dict[str, Any] = {}
    for scheme, plants in SCHEMES.items():
        there = msgspec.structs.replace(ranks, parallelism=parse(scheme))
        at = msgspec.structs.replace(site(PRECISIONS["fp32"], seed=5), ranks=there)
        with remembered():
            for name in plants:
                plant = None if name is None else PLANTS[name]
                given = parameters("llama", "train")
                judged = rank_numerics.gate(Spoiled(plant), "train", given, at)
                errors = {check.quantity: check.error for check in judged.numerics.checks}
                found[f"{scheme} {name or 'right'}"] = [judged.complaint, errors]
    found["amp narrow_wire"] = [_narrow_of_wide(ranks), {}]
    found["asked"] = [_asks(ranks, scheme) for scheme in SCHEMES]
    found["copies"] = _copies(ranks)
    found["after timing"] = _after_timing(ranks)
    found["looked"] = {scheme: _looked(ranks, scheme, "llama", batch_size=4) for scheme in SCHEMES}
    with mock.patch.multiple(resnet50, **SMALL_RESNET):
        asked = {"batch_size": 8, "image_size": 32, "batch_statistics": "synchronized"}
        found["looked"]["synchronized"] = _looked(ranks, "dp2", "resnet50", **asked)
    found["looked"]["dlrm-hybrid2"] = _looked(ranks, "dlrm-hybrid2", "dlrm", batch_size=64, rows=64)
    found["silent"] = {scheme: _silent(ranks, scheme) for scheme in SCHEMES}
    found["hushed"] = _hushed(ranks)
    found["statistics"] = _statistics(ranks)
    found["named"] = _named(ranks)
    found["policy"] = _policy(ranks)
    found["adapters"] = _adapters(ranks)
    found["hybrid bytes"] = _hybrid_bytes(ranks)
    return found


def _narrow_of_wide(ranks: Ranks) -> str:
    """Products are bfloat16 anyway: a wire of bfloat16 moves nothing beyond their error."""
    there = msgspec.structs.replace(ranks, parallelism=parse("dp2"))
    at = msgspec.structs.replace(site(PRECISIONS["bf16-amp"], seed=5), ranks=there)
    spoiled = Spoiled(narrow_wire)
    return rank_numerics.gate(spoiled, "train", parameters("llama", "train"), at).complaint


def _asks(ranks: Ranks, scheme: str) -> bool:
    """Whether a step makes the host wait for a value; micro-batches of checkpointed layers."""
    there = msgspec.structs.replace(ranks, parallelism=parse(scheme))
    at = msgspec.structs.replace(site(PRECISIONS["fp32"], seed=5), ranks=there)
    split = {"accumulation_steps": 2, "gradient_checkpointing": True, "batch_size": 4}
    job = WORKLOADS["llama"].build("train", parameters("llama", "train", **split), at)
    job.step()
    try:
        with NoQuestions():  # type: ignore[no-untyped-call]
            job.step()
    except AssertionError:
        return True
    return False


def _copies(ranks: Ranks) -> str:
    there = msgspec.structs.replace(ranks, parallelism=parse("replicas2"))
    at = msgspec.structs.replace(site(PRECISIONS["fp32"], seed=5), ranks=there)
    given = parameters("llama", "prefill")
    return rank_numerics.gate(WORKLOADS["llama"], "prefill", given, at).complaint


def _statistics(ranks: Ranks) -> dict[str, Any]:
    """How far a ResNet's batch statistics lead from those of one process, in one step.

    By whether they are of all ranks' images or of their own; and what the record says of them.
    """
    at = site(PRECISIONS["fp32"], seed=5)
    there = msgspec.structs.replace(at, ranks=ranks)
    resnet = WORKLOADS["resnet50"]
    found: dict[str, Any] = {}
    with mock.patch.multiple(resnet50, **SMALL_RESNET):
        for which in ("synchronized", "own"):
            small = {"batch_size": 8, "image_size": 32, "batch_statistics": which}
            given = parameters("resnet50", "train", **small)
            alone = msgspec.structs.replace(given, batch_statistics="own")
            jobs: list[Any] = [resnet.build("train", given, there)]
            jobs.append(resnet.build("train", alone, at))
            for job in jobs:
                job.step()
            losses = [job.witness() for job in jobs]
            weights, others = ([*job._model.parameters()] for job in jobs)
            apart = max(
                float((one.grad - other.grad).norm() / other.grad.norm())
                for one, other in zip(weights, others, strict=True)
            )
            running = [dict(job._model.named_buffers()) for job in jobs]
            drift = max(float((running[0][k] - v).abs().max()) for k, v in running[1].items())
            facts = {k: v for k, v in jobs[0].facts.items() if "statistics" in k}
            found[which] = {"loss": abs(losses[0] - losses[1]), "gradients": apart}
            found[which] |= {"running": drift, "facts": facts}
    return found


def _named(ranks: Ranks) -> dict[str, Any]:
    """Of each scheme what the record says of it, and which modules were compiled."""
    found = {}
    for scheme, precision in (("dp2", "fp32"), ("fsdp2", "bf16-amp")):
        there = msgspec.structs.replace(ranks, parallelism=parse(scheme))
        at = site(PRECISIONS[precision], seed=5)
        at = msgspec.structs.replace(at, ranks=there, execution="compile")
        again = scheme == "fsdp2"
        how = {"accumulation_steps": 2 if again else 1, "gradient_checkpointing": again}
        with mock.patch.object(torch.nn.Module, "compile", autospec=True) as compiled:
            job = WORKLOADS["llama"].build("train", parameters("llama", "train", **how), at)
        asked = [type(call.args[0]).__name__.removeprefix("FSDP") for call in compiled.mock_calls]
        found[scheme] = [dict(job.facts), asked]
    return found


def _policy(ranks: Ranks) -> dict[str, Any]:
    """Of FSDP2's mixed precision what is said, seen and computed; and of a copy by itself."""
    there = msgspec.structs.replace(ranks, parallelism=parse("fsdp2"))
    at = msgspec.structs.replace(site(PRECISIONS["bf16-amp"], seed=5), ranks=there)
    given = parameters("llama", "train", mixed_precision="policy", sequence_length=16)
    job: Any = WORKLOADS["llama"].build("train", given, at)
    logits = str(job._evaluate(job._next_batches()[0])[0].dtype)
    job._spread.settle()
    looks = {look.what: [look.asked, look.seen] for look in job.looks()}
    alone = msgspec.structs.replace(at, ranks=None, as_ranks=2)
    copy: Any = WORKLOADS["llama"].build("train", given, alone)
    policies = [job._spread.policy, copy._spread.policy]
    return {"facts": dict(job.facts), "looks": looks, "policies": policies, "logits": logits}


def _adapters(ranks: Ranks) -> dict[str, Any]:
    """Of weights that stay, and one beside them that trains: what travels, and what is said of one
    that changed."""
    there = msgspec.structs.replace(ranks, parallelism=parse("fsdp2"))
    at = msgspec.structs.replace(site(PRECISIONS["bf16"]), ranks=there)

    def model() -> torch.nn.Sequential:
        layers = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
        layers[0].to(torch.bfloat16).requires_grad_(False)
        for weight in layers.parameters():
            torch.nn.init.constant_(weight, 0.5)
        return layers

    facts = sharded.spread(model(), at).facts
    replicated = sharded.spread(model(), msgspec.structs.replace(at, ranks=ranks)).facts
    stays, trains = model()
    training = Training(
        optimizer=torch.optim.SGD(trains.parameters()), settings={}, fixed=(*stays.parameters(),)
    )
    job: Any = SimpleNamespace(training=lambda: training)
    said = [agreed.of_all(ranks, "", job)]
    if ranks.rank == GUILTY:
        next(stays.parameters()).detach().view(torch.int16).view(-1)[0] ^= 1
    said.append(agreed.of_all(ranks, "", job))
    return {"facts": facts, "replicated": replicated, "said": said}


def _hybrid_bytes(ranks: Ranks) -> list[int]:
    """Of DLRM with shared tables: the estimate of its memory, and what a step holds.

    The least of some: gloo's thread lets go of what it has sent when it comes to it.
    """
    there = msgspec.structs.replace(ranks, parallelism=parse("dlrm-hybrid2"))
    at = msgspec.structs.replace(site(PRECISIONS["fp32"], seed=5), ranks=there)
    workload, ledger = WORKLOADS["dlrm"], rehearsal._Ledger()
    given = parameters("dlrm", "train", batch_size=64, rows=64, embedding_dim=16)
    with mock.patch.multiple(dlrm, BOTTOM=(13, 32), TOP=(32, 1)):
        with ledger.watch():
            job = workload.build("train", given, at)
            ledger.follow(job.step)
            peaks = []
            for _ in range(5):
                gc.collect()
                ledger.follow(job.step)
                peaks.append(ledger.peak)
        estimate = [workload.peak_bytes("train", given, at)] if ranks.rank == 0 else []
    return [min(peaks), *estimate]


def _after_timing(ranks: Ranks) -> list[str]:
    """What is said of a job that is right, and of one whose replica went astray later."""
    at = msgspec.structs.replace(site(PRECISIONS["fp32"], seed=5), ranks=ranks)
    job: Any = WORKLOADS["llama"].build("train", parameters("llama", "train", batch_size=4), at)
    job.step()
    said = [agreed.of_all(ranks, "", job)]
    last_bit(job, ranks)
    said.append(agreed.of_all(ranks, "", job))
    said.append(agreed.of_all(ranks, "its work is wrong" if ranks.rank == GUILTY else "", job))
    return said


def _looked(ranks: Ranks, scheme: str, name: str, **given: Any) -> list[Any]:
    """What is looked at of the timed size, and what is wrong of it; where a look of one rank fails,
    what it says; and of the step behind it, what is said of the replicas."""
    there = msgspec.structs.replace(ranks, parallelism=parse(scheme))
    at = msgspec.structs.replace(site(PRECISIONS["fp32"], seed=5), ranks=there)
    job: Any = WORKLOADS[name].build("train", parameters(name, "train", **given), at)
    job.step()
    looks = [*job.looks()]
    kinds = {each.what.partition(" ")[0] for each in looks if each.what.endswith("timed size")}
    told = [sorted(kinds), complaint(looks), job.facts.get(OF_GRADIENTS)]
    fails = ValueError("no room") if ranks.rank == GUILTY else model_spots._call
    with mock.patch.object(model_spots, "_call", side_effect=fails):
        told.append(complaint(job.looks()))
    job.step()
    absent = agreed.facts_of(there, job.facts).get(ABSENT)
    return [*told, absent, agreed.of_all(there, "", job)]


def _silent(ranks: Ranks, scheme: str) -> list[Any]:
    """A silent step of one rank, for which another would wait for ever; and a real one of all.

    Operations that did nothing; and whether the losses are finite, and the weights all moved.
    """
    there = msgspec.structs.replace(ranks, parallelism=parse(scheme))
    at = msgspec.structs.replace(site(PRECISIONS["fp32"], seed=5), ranks=there)
    small = parameters("llama", "train", batch_size=4, sequence_length=8)
    job: Any = WORKLOADS["llama"].build("train", small, at)
    for _ in range(2):  # with its second step DDP agrees on its buckets
        job.step()
    hush = Hush("cpu", ranks.control)
    before = [weight.clone() for weight in job.weights()]
    if ranks.rank == GUILTY:
        with hush.silence():
            job.step()
    moved = all(not torch.equal(was, now) for was, now in zip(before, job.weights(), strict=True))
    silent = [hush.calls, moved, bool(job._loss.isfinite())]
    job.step()
    return [*silent, bool(job._loss.isfinite()), hush.calls]


def _hushed(ranks: Ranks) -> dict[str, Any]:
    """What operations give a rank that is alone with them, of its values 0 to 3."""
    import torch.distributed as dist

    if ranks.rank != GUILTY:
        return {}
    own, hush = torch.arange(4.0), Hush("cpu", ranks.control)
    both, half, uneven = torch.full((8,), -1.0), torch.full((2,), -1.0), torch.full((3,), -1.0)
    lists, sums, refused = [torch.full((4,), -1.0) for _ in range(2)], own.clone(), ""
    with hush.silence():
        dist.all_gather_into_tensor(both, own)
        dist.reduce_scatter_tensor(half, own)
        dist.all_to_all_single(uneven, own, [1, 2], [2, 2])
        dist.all_gather(lists, own)
        (future,) = dist.all_reduce(sums, async_op=True).get_future().wait()
        dist.broadcast(sums, src=0)
        try:
            ranks.told("anything")
        except RuntimeError as error:
            refused = str(error)
    found = {"gathered": both, "scattered": half, "exchanged": uneven, "listed": lists[1]}
    values = {name: tensor.tolist() for name, tensor in found.items()}
    return {**values, "summed": sums.tolist(), "future": future is sums, "refused": refused}


@contextlib.contextmanager
def remembered() -> Iterator[None]:
    """What is the same for each plant is computed once."""
    real = readings.read
    known: dict[Any, Any] = {}

    def read(workload: Any, mode: str, twin: Any, at: Site, first_step: bool = False) -> Any:
        spread = at.ranks is not None and at.ranks.parallelism.scheme != "replicas"
        if spread and at.precision.name != REFERENCE.name:
            return real(workload, mode, twin, at, first_step)
        key = (at.precision.name, at.ranks and at.ranks.parallelism)
        if key not in known:
            known[key] = real(workload, mode, twin, at, first_step)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rank_numerics, "read", read)
        patch.setattr(readings, "read", read)
        yield
