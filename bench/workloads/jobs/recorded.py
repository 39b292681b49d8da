"""Steps that are recorded once, in the first one, and replayed from then on.

A recording has no arguments. So what a step reads lies in one place, into which each input is
copied before its replay, as in a user's server; and what it gives lies where it lay: gradients
too.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from types import MethodType
from typing import TYPE_CHECKING, Any

from bench.records.execution import NO_GRAPHS, is_recorded
from bench.workload import Queued, Recorder, Site, Unsupported

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from bench.workloads.jobs.optimizers import Chosen

Run = Callable[[Any], Any]
"""Queues the work on one input: a tensor, or tuples, lists and dicts of them; gives tensors."""


def replayed(run: Run, site: Site) -> Run:
    """`run` as the site executes it: as it is, or its replay, recorded with the first input.

    run: takes from the host nothing but which input it is given, and queues the same kernels for
    each. What its replay gives is overwritten by the next one. Raises `Unsupported` where the
    device records nothing.
    """
    run = unowned(run)
    return Replayed(run, recorder_of(site)) if is_recorded(site.execution) else run


def unowned(run: Run) -> Run:
    """`run`; if that is a job's own method, one that the job may keep and still goes when it is let
    go, with all its weights: the gate's twin must not stay until somebody looks for circles."""
    if not isinstance(run, MethodType):
        return run
    method = weakref.WeakMethod(run)

    def call(given: Any) -> Any:
        bound = method()
        assert bound is not None
        return bound(given)

    return call


def recorder_of(site: Site) -> Recorder:
    """What records there; raises `Unsupported` where nothing does."""
    if site.recorder is None:
        raise Unsupported(NO_GRAPHS)
    return site.recorder


def replayed_facts(site: Site, what: str = "step") -> dict[str, str]:
    """What the record says of a job whose `what` is recorded; nothing of another."""
    return {"replayed": f"one graph a {what}"} if is_recorded(site.execution) else {}


class Replayed:
    """Work on one input, recorded with the first one."""

    def __init__(self, run: Run, recorder: Recorder) -> None:
        """recorder: the device's; see `bench.backend.Device.recorder`."""
        self._run = run
        self._recorder = recorder
        self._replay: Queued | None = None
        self._held: list[Tensor] = []

    def __call__(self, given: Any) -> Any:
        """Queues a copy of the input to where the work reads it, and the replay."""
        import torch
        from torch.utils import _pytree

        leaves, spec = _pytree.tree_flatten(given)
        if self._replay is None:
            self._held = [leaf.clone() for leaf in leaves]
            held = _pytree.tree_unflatten(self._held, spec)
            self._replay = self._recorder(lambda: self._work(held), lambda: None)
        with torch.no_grad():
            for place, leaf in zip(self._held, leaves, strict=True):
                place.copy_(leaf)
        self._replay()
        return self._found

    def _work(self, held: Any) -> None:
        self._found = self._run(held)


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
    """What steps of training change, besides gradients: a recorder takes some before it records
    one, and then all is put back as the first one had it."""

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
