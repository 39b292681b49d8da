"""Operators as torch's dispatcher calls them, below autograd, seen by a function of ours."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

See = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]
"""Gets an operator (torch's overload), its arguments and those by name; calls it, and gives what it
gave. What it calls itself goes by it, unless it enters `seen_by` anew."""


def seen_by(see: See) -> AbstractContextManager[object]:
    """Within it `see` is called in the place of every operator."""
    mode: AbstractContextManager[object] = _mode_type()(see)
    return mode


@functools.cache
def _mode_type() -> Any:
    """torch's mode that sees operators, made when torch is there."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Mode(TorchDispatchMode):
        @classmethod
        def _should_skip_dynamo(cls) -> bool:
            return False  # nothing is compiled here, and its compiler takes a second to import

        def __init__(self, see: See) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self._see = see

        def __torch_dispatch__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
        ) -> Any:
            return self._see(func, args, kwargs or {})

    return Mode
