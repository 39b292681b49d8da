"""From a suite to the cases it means: sweeps expanded, defaults written out, nonsense refused."""

from __future__ import annotations

import fnmatch
import itertools
import math
from typing import Any

import msgspec

from bench import catalogue
from bench.case import Case
from bench.config import Suite
from bench.errors import SuiteError, UnknownName, suggestion
from bench.precision import PRECISIONS
from bench.sweep import BATCH
from bench.workload import Mode, Workload

MOST_CASES = 10_000
"""Of one `[[case]]` table: more is a slip of the pen."""
COMMON_KEYS = ("workload", "mode", "precision", "execution")
DOUBLING_KEYS = ("from", "doubling_to")
DOUBLING = f"It doubles until memory runs out: {BATCH} = {{ from = 1, doubling_to = 4096 }}"


def plan(suite: Suite) -> tuple[Case, ...]:
    """Every case of a suite, in its order, without importing torch.

    Raises `SuiteError` for an unknown key or value, naming the file, the case and what is allowed.
    """
    cases: list[Case] = []
    seen: dict[str, str] = {}
    for number, entry in enumerate(suite.entries, start=1):
        place = f"{suite.source}, case {number}"
        for values in _sweep(place, entry):
            case = _case(place, values)
            if case.fingerprint in seen:
                raise SuiteError(
                    f"{place}: {case.label} is already in {seen[case.fingerprint]}. Remove one."
                )
            seen[case.fingerprint] = place
            cases.append(case)
    return tuple(cases)


def select(cases: tuple[Case, ...], pattern: str) -> tuple[Case, ...]:
    """The cases whose workload, name or name and precision match a shell glob.

    `llama`, `llama-*`, `*-train`, `gemm-matmul-bf16`. `SuiteError` if none does.
    """
    chosen = tuple(
        case
        for case in cases
        if any(
            fnmatch.fnmatchcase(text, pattern)
            for text in (case.workload, case.name, f"{case.name}-{case.precision}")
        )
    )
    if not chosen:
        names = {case.name for case in cases}
        raise SuiteError(f"--only {pattern}: matches no case.{suggestion(pattern, names)}")
    return chosen


def _sweep(place: str, entry: dict[str, Any]) -> list[dict[str, Any]]:
    """The cartesian product of an entry's lists, the last key varying fastest."""
    choices = []
    for key, value in entry.items():
        values = _doubled(place, key, value) if isinstance(value, dict) else value
        if values == []:
            raise SuiteError(f"{place}: `{key}` is an empty list. Give at least one value.")
        choices.append(values if isinstance(values, list) else [values])
    count = math.prod(map(len, choices))
    if count > MOST_CASES:
        raise SuiteError(
            f"{place}: its lists make {count} cases; at most {MOST_CASES} are planned."
        )
    return [dict(zip(entry, values, strict=True)) for values in itertools.product(*choices)]


def _doubled(place: str, key: str, table: dict[str, Any]) -> list[int]:
    """`{ from = 1, doubling_to = 100 }`: 1, 2, 4, ... 64."""
    if key != BATCH:
        raise SuiteError(f"{place}: `{key}` is a table. Only `{BATCH}` may be one. {DOUBLING}")
    for name in table:
        if name not in DOUBLING_KEYS:
            hint = suggestion(name, DOUBLING_KEYS)
            raise SuiteError(f"{place}: unknown key `{name}` of `{BATCH}`.{hint}")
    low, high = (table.get(name) for name in DOUBLING_KEYS)
    if type(low) is not int or type(high) is not int or not 1 <= low <= high:
        raise SuiteError(
            f"{place}: `{BATCH}` doubles from a whole number of 1 or more up to one that is no "
            f"smaller. {DOUBLING}"
        )
    return [low << power for power in range((high // low).bit_length())]


def _case(place: str, values: dict[str, Any]) -> Case:
    workload = _workload(place, values)
    modes = workload.modes
    name = values.get("mode", next(iter(modes)) if len(modes) == 1 else None)
    if name is None:
        raise SuiteError(f"{place}: {workload.name} needs a `mode`: {', '.join(modes)}.")
    if not isinstance(name, str) or name not in modes:
        raise SuiteError(
            f"{place}: unknown mode `{name}` of {workload.name}.{suggestion(str(name), modes)}"
        )
    mode = modes[name]
    who = f"{workload.name}-{name}"
    precision = _choice(place, who, "precision", values.get("precision", "bf16"), mode.precisions)
    execution = _choice(place, who, "execution", values.get("execution", "eager"), mode.executions)
    return Case(
        workload=workload.name,
        version=workload.version,
        mode=name,
        precision=precision,
        execution=execution,
        parameters=_parameters(place, who, mode, values),
    )


def _workload(place: str, values: dict[str, Any]) -> Workload:
    name = values.get("workload")
    if name is None:
        known = ", ".join(catalogue.plug_ins("workloads"))
        raise SuiteError(f"{place}: no `workload`. Allowed: {known}.")
    try:
        return catalogue.workload(str(name))
    except UnknownName as error:
        raise SuiteError(f"{place}: {error}") from error


def _choice(place: str, who: str, key: str, value: Any, allowed: tuple[str, ...]) -> str:
    if value in allowed:
        return str(value)
    if key == "precision" and isinstance(value, str) and value in PRECISIONS:
        raise SuiteError(
            f"{place}: {who} is not defined at precision `{value}`. Allowed: {', '.join(allowed)}."
        )
    raise SuiteError(
        f"{place}: unknown {key} `{value}` for {who}.{suggestion(str(value), allowed)}"
    )


def _parameters(place: str, who: str, mode: Mode, values: dict[str, Any]) -> dict[str, Any]:
    given = {key: value for key, value in values.items() if key not in COMMON_KEYS}
    allowed = mode.parameters.__struct_fields__
    for key in given:
        if key not in allowed:
            hint = suggestion(key, (*allowed, *COMMON_KEYS))
            raise SuiteError(f"{place}: unknown key `{key}` for {who}.{hint}")
    try:
        parameters = msgspec.convert(given, mode.parameters)
    except msgspec.ValidationError as error:
        raise SuiteError(f"{place}: {who}: {error}.") from error
    complete: dict[str, Any] = msgspec.to_builtins(parameters)
    return complete


def parameters_of(case: Case, workload: Workload) -> Any:
    """The case's parameters as its workload's own type."""
    return msgspec.convert(case.parameters, workload.modes[case.mode].parameters)
