"""Kernel launches: how fast the host queues work that takes next to no time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated

from bench.precision import Precision
from bench.records.outcome import Work
from bench.workload import Job, Look, Mode, Parameters, Site, Within, Workload
from bench.workloads.jobs.rotation import OneOutput
from bench.workloads.jobs.seeded import SeededData

if TYPE_CHECKING:
    from torch import Tensor

LEFT_OUT = "Kernels were left out, repeated or joined: report it, and try another version of torch"


class QueueParameters(Parameters, frozen=True, kw_only=True):
    """How many kernels a step queues."""

    kernels: Annotated[int, Within(1, 100_000)] = 100
    """Enough that the device event after each step is a hundredth of it."""


class SingleParameters(Parameters, frozen=True, kw_only=True):
    """Nothing to choose."""


class Launch(Workload):
    """An addition of one element to one element, through torch, as eager code queues it.

    `queue`: a hundred a step; the rate at which a host can feed the device, and on a device whose
    kernels are slower to start than to queue, the rate of starting them. `single`: one a step; its
    latency is what it takes to queue one kernel and wait for its end, the synchronization included.
    """

    name = "launch"
    version = 1
    modes = MappingProxyType(
        {
            "queue": Mode(parameters=QueueParameters, precisions=("fp32",)),
            "single": Mode(parameters=SingleParameters, precisions=("fp32",), latency="latency"),
        }
    )

    def work(
        self, mode: str, parameters: QueueParameters | SingleParameters, precision: Precision
    ) -> Work:
        """Kernels; arithmetic and bytes are nothing."""
        kernels = parameters.kernels if isinstance(parameters, QueueParameters) else 1
        return Work(items=kernels, unit="kernel")

    def twin(
        self, mode: str, parameters: QueueParameters | SingleParameters
    ) -> QueueParameters | SingleParameters:
        """Itself: nothing is smaller, and a hundred additions show each one that is lost."""
        return parameters

    def build(self, mode: str, parameters: QueueParameters | SingleParameters, site: Site) -> Job:
        """Two scalars."""
        kernels = parameters.kernels if isinstance(parameters, QueueParameters) else 1
        data = SeededData(site.seed)
        total, addend = (data.normal((1,), site.precision.dtype).to(site.device) for _ in range(2))
        return LaunchJob(total, addend, kernels)


class LaunchJob(OneOutput):
    """Additions in place, one after the other."""

    def __init__(self, total: Tensor, addend: Tensor, kernels: int) -> None:
        """total grows by addend, kernels times a step."""
        self._output, self._addend, self._kernels = total, addend, kernels
        self.facts = {"kernel": "in-place addition of one element"}

    def step(self) -> None:
        """Queues the kernels."""
        add, addend = self._output.add_, self._addend
        for _ in range(self._kernels):
            add(addend)

    def weights(self) -> Sequence[Tensor]:
        """What is added."""
        return [self._addend]

    def looks(self) -> Iterator[Look]:
        """Whether a step adds as often as asked: in the same memory ones, whose sum is exact; and
        each by itself: to a number whose neighbours are 2 apart, what is lost but in a sum."""
        import torch

        far = 2.0 / torch.finfo(self._output.dtype).eps
        each = " by themselves"
        for how, start, addend, end in (("", 0.0, 1.0, self._kernels), (each, far, 0.75, far)):
            self._output.fill_(start)
            self._addend.fill_(addend)
            self.step()
            what, asked, seen = f"additions of a step{how}", f"{end:,.0f}", float(self._output)
            yield Look(what=what, asked=asked, seen=f"{seen:,.0f}", then=LEFT_OUT)


WORKLOAD = Launch()
