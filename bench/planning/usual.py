"""What goes without saying of a case: the parameters that its suite, or else its workload, gives.

A reader who knows the suite knows them. Of a suite that is shipped with this version its own file
says it, so a record of another version of the suite shows in what it is not today's.
"""

from __future__ import annotations

import functools
from typing import Any

import msgspec

from bench import catalogue
from bench.errors import AccelmarkError
from bench.planning.plan import plan
from bench.planning.suite_file import read_suite
from bench.records.case import Case

Kind = tuple[str, str, str]
"""Name, precision and variant: what a case is called without its parameters."""


def kind(case: Case) -> Kind:
    """Cases of one kind differ in parameters only, or in what they leave open."""
    return case.name, case.precision, case.variant


def given(case: Case) -> dict[str, Any]:
    """Every parameter, and every setting that is left open, by name."""
    return {**case.parameters, **case.space}


def unusual(suite: str, case: Case) -> tuple[str, ...]:
    """The parameters that are not what suite and workload would have them, by name."""
    of_suite = _of_suite(suite).get(kind(case))
    usual = _of_workload(case.workload, case.mode) if of_suite is None else of_suite
    # 1 == True == 1.0 for Python, and not for the fingerprint.
    return tuple(name for name, value in given(case).items() if usual.get(name) != {repr(value)})


def usual_of(suite: str) -> str:
    """What those parameters are called that are left out."""
    return f"parameters as in suite {suite}" if _of_suite(suite) else "default parameters"


@functools.cache
def _of_suite(suite: str) -> dict[Kind, dict[str, set[str]]]:
    """Of each kind of a shipped suite the values of each parameter; nothing for any other suite."""
    path = {**catalogue.releases(), **catalogue.suites()}.get(suite)
    if path is None:
        return {}
    found: dict[Kind, dict[str, set[str]]] = {}
    try:
        cases = plan(read_suite(path))
    except AccelmarkError:  # it was changed, or a workload of its is broken: all is shown
        return {}
    for case in cases:
        values = found.setdefault(kind(case), {})
        for name, value in given(case).items():
            values.setdefault(name, set()).add(repr(value))
    return found


@functools.cache
def _of_workload(workload: str, mode: str) -> dict[str, set[str]]:
    """The defaults of a workload's mode; nothing where this installation does not know it."""
    try:
        parameters = catalogue.workload(workload).modes[mode].parameters
    except (AccelmarkError, KeyError):
        return {}
    return {
        field.name: {repr(msgspec.to_builtins(field.default))}
        for field in msgspec.structs.fields(parameters)
        if field.default is not msgspec.NODEFAULT
    }
