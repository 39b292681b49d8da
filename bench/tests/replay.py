"""A graph without a device that has them: operators are recorded, and replayed into their outputs.

As on a device, a replay runs the recorded operators on the memory they ran on, in their order, and
no Python: what the host computed while it recorded is a constant from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.workload import Queued

Call = tuple[Callable[..., Any], Any, Any, Any]
"""An operator, its arguments, and what it gave."""


class _Recording(TorchDispatchMode):
    def __init__(self, calls: list[Call]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's has no types
        self.calls = calls

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, outputs))
        return outputs


class FakeRecorder:
    """Counts its recordings and replays."""

    def __init__(self) -> None:
        self.recordings = 0
        self.replays = 0

    def __call__(self, work: Queued, prepare: Queued) -> Queued:
        for _ in range(3):
            prepare()
            work()
        prepare()
        calls: list[Call] = []
        with self._recording(calls):
            work()
        self.recordings += 1

        def replay() -> None:
            self.replays += 1
            with torch.inference_mode():
                for func, args, kwargs, outputs in calls:
                    _again(func, args, kwargs, outputs)

        return replay

    def _recording(self, calls: list[Call]) -> Any:
        """While it holds, operators are recorded."""
        return _Recording(calls)


class CompiledRecorder(FakeRecorder):
    """Records what compiled code does, and nothing besides: a step that is not all compiled is not
    all replayed. (With a mode that sees every operator around it, torch would run the code as it
    was written.)"""

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[Call] | None = None

    def compiler(self, graph: torch.fx.GraphModule, inputs: Any) -> Any:
        """A backend of torch.compile."""

        def run(*arguments: Any) -> Any:
            if self._calls is None:
                return graph(*arguments)
            recording: Any = _Recording(self._calls)
            with recording:
                return graph(*arguments)

        return run

    @contextmanager
    def _recording(self, calls: list[Call]) -> Iterator[None]:
        self._calls = calls
        yield
        self._calls = None


def _again(func: Any, args: Any, kwargs: Any, outputs: Any) -> None:
    fresh = func(*args, **kwargs)
    for old, new in zip(tree_leaves(outputs), tree_leaves(fresh), strict=True):
        if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
            old.copy_(new)  # not a view, nor in place: those lie where they lay
