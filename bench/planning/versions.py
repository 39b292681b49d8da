"""A case of another release: as this one writes the same work, or why it is none that it runs.

A record keeps the cases that it was made of, with their fingerprints. Where they are compared, or
run again, they are brought to today's form, by what a workload declares of its earlier versions
(`bench.workload.Parameters.earlier`). What is declared nowhere stays what it is: a step of a
version that this release does not have is never run as, or taken for, one that it has.
"""

from __future__ import annotations

import functools

import msgspec

from bench import catalogue
from bench.errors import UnknownName
from bench.records.case import Case


def today(case: Case) -> Case:
    """The same work as this release plans it; the case itself where that is not known."""
    return _today(msgspec.json.encode(case))[0]


def unknown(case: Case) -> str:
    """Why this release does not run a case, by name; empty where it does."""
    return _today(msgspec.json.encode(case))[1]


@functools.lru_cache(maxsize=4096)
def _today(encoded: bytes) -> tuple[Case, str]:
    """By the case's JSON, for a case cannot be hashed: a dozen reports ask for the same ones."""
    case = msgspec.json.decode(encoded, type=Case)
    try:
        workload = catalogue.workload(case.workload)
    except UnknownName as error:  # of a package that is not here, or that does not load
        return case, str(error).rstrip(".")
    if case.mode not in workload.modes:
        return case, f"this release knows no mode `{case.mode}` of {case.workload}"
    version, kind = workload.version_of(case.mode), workload.modes[case.mode].parameters
    if case.version != version and case.version not in kind.earlier:
        return case, (
            f"this release runs version {version} of {case.name}, and does not know version "
            f"{case.version} to be the same work"
        )
    lacking = kind.earlier[case.version] if case.version != version else {}
    given = {**lacking, **case.parameters}
    if strange := sorted(given.keys() - set(kind.__struct_fields__)):
        return case, f"this release knows no `{strange[0]}` of {case.name}"
    parameters = kind.written(given)
    return msgspec.structs.replace(case, version=version, parameters=parameters), ""
