"""What a twin computes, as a rank of several is judged by it: float64 on the host."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import msgspec

from bench.measuring.kept import Kept, key
from bench.measuring.ranks.agreed import digests_of
from bench.ranks import WHOLE, Part, local
from bench.workload import Job, Site, Workload

if TYPE_CHECKING:
    from torch import Tensor


class Reading(msgspec.Struct, frozen=True):
    """What a twin computed, float64 on the host: of what lies on this rank."""

    found: dict[str, Tensor]
    """What its probe gives."""
    gradients: list[Tensor | None]
    """Of the first step, of each weight that the optimizer moves."""
    update: list[Tensor]
    """What that step did to them."""
    parts: tuple[Part, ...]
    digests: dict[str, str]
    """After the last step; see `bench.measuring.ranks.agreed.digests`."""
    devices: tuple[str, ...]
    """Where the weights lie."""
    dtype: str
    """Of the gradients."""
    kinks: bool = False
    """See `bench.workload.Training`."""


def read(workload: Workload, mode: str, twin: Any, site: Site, first_step: bool = False) -> Reading:
    """Builds the twin at a site and runs its probe; the twin is gone afterwards.

    first_step: its gradients alone.
    """
    job = workload.build(mode, twin, site)
    if site.ranks is not None:
        site.ranks.arrive()
    reading = _observed(job, site, first_step)
    job.close()
    del job
    if site.device.type != "cpu":  # see `bench.measuring.gates.numerics.gate`
        gc.collect()
    return reading


def truth_of(workload: Workload, mode: str, twin: Any, site: Site, kept: Kept) -> Reading:
    """`read` by one process, which has all of every weight; once a run."""

    def computed() -> dict[str, Any]:
        return {**msgspec.structs.asdict(read(workload, mode, twin, site)), "parts": ()}

    found = kept.get(lambda: key("reading", workload, mode, twin, site), computed)
    return Reading(**{**found, "parts": (WHOLE,) * len(found["update"])})


def _observed(job: Job, site: Site, first_step: bool) -> Reading:
    training = job.training()
    assert training is not None, "a job that is spread says how it trains"
    weights = [weight for group in training.optimizer.param_groups for weight in group["params"]]
    before: list[Tensor] = []
    gradients: list[Tensor | None] = []
    update: list[Tensor] = []

    def note(*_: object) -> None:
        if not gradients:
            before.extend(() if first_step else (_host(weight) for weight in weights))
            gradients.extend(None if w.grad is None else _host(w.grad) for w in weights)

    def compare(*_: object) -> None:
        if before and not update:
            pairs = zip(weights, before, strict=True)
            update.extend(_host(weight) - was for weight, was in pairs)

    training.optimizer.register_step_pre_hook(note)
    training.optimizer.register_step_post_hook(compare)
    found: dict[str, Tensor] = {}
    if first_step:
        job.step()
    else:
        found = {name: _host(value) for name, value in job.probe().items()}
    return Reading(
        found=found,
        gradients=gradients,
        update=update,
        parts=training.parts or (WHOLE,) * len(weights),
        digests={} if first_step or site.ranks is None else digests_of(job),
        devices=tuple(dict.fromkeys(_place(weight.device, site) for weight in weights)),
        dtype=str(weights[0].dtype).removeprefix("torch."),
        kinks=training.kinks,
    )


def _host(tensor: Tensor) -> Tensor:
    import torch

    return local(tensor.detach()).cpu().to(torch.float64, copy=True)


def full(site: Site) -> str:
    """The site's device, with its number where it has one."""
    return _place(site.device, site)


def _place(device: Any, site: Site) -> str:
    """A device, with its number where the site has one."""
    return device.type if site.device.index is None else str(device)
