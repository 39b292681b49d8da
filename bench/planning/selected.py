"""The cases of a suite that globs name."""

from __future__ import annotations

import fnmatch

from bench.errors import SuiteError, suggestion
from bench.records.case import TUNED, Case


def select(cases: tuple[Case, ...], pattern: str) -> tuple[Case, ...]:
    """The cases whose workload, name or name and precision match one of some shell globs.

    `llama`, `llama-*`, `*-train`, `gemm-matmul-bf16`; `*-tuned` for those of the tuned track;
    several with commas between. `SuiteError` if one of them matches none.
    """
    names = [set(matched(case)) for case in cases]
    chosen = matching(names, [case.name for case in cases], pattern)
    return tuple(cases[k] for k in chosen)


def matching(names: list[set[str]], hints: list[str], pattern: str) -> list[int]:
    """Which of those with several names each some globs match, in their order."""
    if not isinstance(pattern, str):
        raise SuiteError(f"only: give one text, with commas between its globs, not {pattern!r}.")
    chosen: set[int] = set()
    for glob in pattern.split(","):
        found = {
            k
            for k, texts in enumerate(names)
            if any(fnmatch.fnmatchcase(text, glob.strip()) for text in texts)
        }
        if not found:
            raise SuiteError(f"--only {glob}: matches no case.{suggestion(glob, set(hints))}")
        chosen |= found
    return sorted(chosen)


def matched(case: Case) -> list[str]:
    """By what a glob may name it."""
    names = [case.workload, case.name, f"{case.name}-{case.precision}"]
    return [*names, *(f"{name}-{TUNED}" for name in names[1:] if case.space)]
