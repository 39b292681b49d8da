"""Training steps that are recorded once and replayed: from the weights that the first one had.

A recorder takes some steps before it records one. So weights, and what the optimizer keeps of them,
are put back afterwards; and the gradients lie where the recording writes them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bench.records.execution import is_recorded
from bench.workload import Queued, Recorder, Site, Unsupported
from bench.workloads.jobs.recorded import Replayed, Run, recorder_of, unowned

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from bench.workloads.jobs.optimizers import Chosen


def replayed_training(run: Run, model: nn.Module, chosen: Chosen, site: Site) -> Run:
    """A whole step of training as the site executes it: as it is, or its replay.

    run: from batches to tensors; it moves the model's weights by the optimizer that was chosen.
    Raises `Unsupported` where the device records nothing, where several train together, and where
    the optimizer takes from the host how many steps there were.
    """
    run = unowned(run)
    if not is_recorded(site.execution):
        return run
    if site.ranks is not None:
        raise Unsupported("a step that several devices train together is not recorded")
    (group,) = chosen.optimizer.param_groups
    fused = chosen.implementation == "fused"
    if "betas" in group and not fused:
        name = type(chosen.optimizer).__name__
        raise Unsupported(f"{name} is not fused here: its host counts steps, as no recording does")
    return Replayed(run, _putting_back(recorder_of(site), Moved(model, chosen.optimizer)))


class Moved:
    """What steps of training change, besides gradients."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._model, self._optimizer = model, optimizer
        self._before: list[tuple[Tensor, Tensor]] = []
        self._new: set[int] = set()

    def note(self) -> None:
        """Copies it, to the host: there may be no room for it twice on the device."""
        trained = [p for p in self._model.parameters() if p.requires_grad]
        changed = (*trained, *self._model.buffers(), *self._kept())
        self._before = [(tensor, tensor.detach().to("cpu", copy=True)) for tensor in changed]

    def put_back(self) -> None:
        """As it was; what an optimizer has begun to keep since then is nothing yet: zeros."""
        import torch

        known = {id(tensor) for tensor, _ in self._before}
        with torch.no_grad():
            for tensor, copy in self._before:
                tensor.copy_(copy)
            for tensor in self._kept():
                if id(tensor) not in known:
                    tensor.zero_()
        self._before = []

    def _kept(self) -> Iterator[Tensor]:
        """What the optimizer keeps of each weight."""
        import torch

        for state in self._optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, torch.Tensor))


def _putting_back(recorder: Recorder, moved: Moved) -> Recorder:
    """Records likewise, and puts back what that moved."""

    def recording(work: Queued, prepare: Queued) -> Queued:
        moved.note()
        replay = recorder(work, prepare)
        moved.put_back()
        return replay

    return recording


@contextlib.contextmanager
def gradients_kept_in_place(model: nn.Module, site: Site) -> Iterator[None]:
    """Of a recorded step: new gradients are put where the recording writes its own."""
    import torch

    held = [(p, p.grad) for p in model.parameters()] if is_recorded(site.execution) else []
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, place in held:
                if place is not None:
                    if parameter.grad is not None:
                        place.copy_(parameter.grad)
                    parameter.grad = place
