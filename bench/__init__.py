"""accelmark: the same step on any accelerator, and who is faster, by how much, how surely.

`import bench` loads nothing else; each name below is loaded when it is first asked for. They are
what a program calls (`bench.api`), and the values that those functions take and give.
"""

# ruff: noqa: F403, F405  # a type checker sees what `bench.api` exports

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.api import *

__version__ = "0.1.0"

__all__ = [
    "AccelmarkError",
    "Case",
    "CaseComparison",
    "Comparison",
    "Failed",
    "Launch",
    "Measured",
    "Prices",
    "Row",
    "RunFile",
    "Settings",
    "Skipped",
    "Void",
    "compare_runs",
    "compare_systems",
    "explain_run",
    "explain_suite",
    "read_run",
    "render",
    "resume_run",
    "run_suite",
    "summarize_run",
]


if not TYPE_CHECKING:  # which would take every name for one that is there

    def __getattr__(name: str) -> object:
        """A public name, from where it is made."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module("bench.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
