"""What `accelmark explain` is given: a suite, or the name of a case of a shipped one."""

from __future__ import annotations

import fnmatch

from bench.catalogue import suites
from bench.errors import AccelmarkError, SuiteError, UnknownName, meant
from bench.planning.plan import any_way, plan
from bench.planning.selected import matched, select
from bench.planning.spread import FEWEST
from bench.planning.suite_file import Suite, find_suite, read_suite

FIRST = ("quick", "standard")
"""Suites in which a case is looked for before the others."""


def suite_of(name: str, only: str | None) -> tuple[Suite, str | None]:
    """The suite of that name, or the first shipped one that has cases of that name; and which of
    its cases, None for all.

    name: of a suite, a .toml file, or a glob over names of cases (`resnet50-train`, `llama-*`).
    only: globs over those cases. Raises `UnknownName` where there is neither, `SuiteError` where
    no case of that name matches them.
    """
    try:
        return read_suite(find_suite(name)), only
    except AccelmarkError:
        if "/" in name or name.endswith(".toml"):
            raise
    known = suites()
    near = {*known}
    for shipped in (*FIRST, *sorted(known.keys() - {*FIRST})):
        suite = read_suite(find_suite(shipped))
        cases = plan(suite, FEWEST)
        names = {text for case in cases for text in (case.name, f"{case.name}-{case.precision}")}
        if fnmatch.filter(sorted(names), name):
            if only is not None:
                try:
                    both = select(select(cases, name), only)
                except SuiteError:  # what some device measures instead
                    both = select(select((*cases, *any_way(suite)), name), only)
                name = ",".join(dict.fromkeys(matched(case)[-1] for case in both))
            return suite, name
        near |= names
    raise UnknownName(
        f"{name}: no shipped suite and no case of one.{meant(name, near)} See `accelmark list "
        "suites`, give a .toml file, or the name of a case, as `resnet50-train`."
    )
