"""The command line of a published run: what the record says elsewhere, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from bench.records.private import PRIVATE, cleaned
from bench.records.run import Run

PROGRAMS = ("accelmark", "pytest")
WORDS = ("run", "ab", "--explain", "--wide", "--pyargs", "bench.suite")
"""Kept wherever they stand: they mean one thing only."""
PYTEST_PREFIX = "accelmark-"
"""Of the options of `accelmark run` in a pytest run."""


def _suite(value: str, run: Run) -> bool:
    known = (run.suite, run.suite.partition("@")[0])
    return run.suite == cleaned(run.suite) and value.removesuffix(".toml") in known


def _device(value: str, run: Run) -> bool:
    backend, index = run.device.get("backend"), run.device.get("index")
    return value in (backend, f"{backend}:{index}")


def _only(value: str, run: Run) -> bool:
    """Whether every word of a glob is one of the cases' own."""
    names = [f"{case.name}-{case.precision}-{case.track}" for case in run.plan]
    words = re.findall(r"[^-*?!\[\],]+", value)
    return all(any(word in name for name in names) for word in words)


def _alike(form: str) -> Callable[[str, Run], bool]:
    return lambda value, run: re.fullmatch(form, value) is not None


OPTIONS: dict[str, Callable[[str, Run], bool]] = {
    "device": _device,
    "devices": _alike(r"\d{1,5}"),
    "framework": lambda value, run: value == run.framework,
    "only": _only,
    "precision": lambda value, run: any(value == case.precision for case in run.plan),
    "launches": _alike(r"\d{1,4}|auto"),
    "budget-minutes": _alike(r"\d{1,6}(\.\d{0,6})?"),
    "suite": _suite,
    **dict.fromkeys(("resume", "out", "env", "python"), lambda value, run: False),
}
"""Every option of which the name is published, and of which values."""


def allowed(command: Sequence[str], run: Run) -> Iterator[str]:
    """The words of a command line that are known; `PRIVATE` for each that is not."""
    keeps: Callable[[str, Run], bool] | None = None
    for position, word in enumerate(command):
        if position == 0:
            yield word if word in PROGRAMS else PRIVATE
        elif keeps is not None:
            yield word if keeps(word, run) else PRIVATE
            keeps = None
        elif word.startswith("--") and word not in WORDS:
            option, equals, value = word.partition("=")
            judge = OPTIONS.get(option[2:].removeprefix(PYTEST_PREFIX))
            if judge is None:
                yield PRIVATE
            elif equals:
                yield option + equals + (value if judge(value, run) else PRIVATE)
            else:
                yield option
                keeps = judge
        else:
            yield word if word in WORDS or _suite(word, run) else PRIVATE
