"""Steps that are recorded once, in the first one, and replayed from then on.

A recording has no arguments. So what a step reads lies in one place, into which each input is
copied before its replay, as in a user's server; and what it gives lies where it lay.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from types import MethodType
from typing import TYPE_CHECKING, Any

from bench.records.execution import NO_GRAPHS, is_recorded
from bench.workload import Queued, Recorder, Site, Unsupported

if TYPE_CHECKING:
    from torch import Tensor

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
