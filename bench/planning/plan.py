"""From a suite to the cases it means: sweeps expanded, defaults written out, nonsense refused."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec

from bench import catalogue, units
from bench.errors import SuiteError, UnknownName, suggestion
from bench.planning.instead import AS_WRITTEN, OPTION, Wanted
from bench.planning.lists import sweep, values_of
from bench.planning.selected import matched, matching, select
from bench.planning.spread import (
    FEWEST,
    PER_DEVICE,
    Spread,
    batch_of_all,
    beyond,
    is_open,
    spread,
    swept,
    undivided,
)
from bench.planning.suite_file import COMMON_KEYS, Suite, elsewhere
from bench.planning.sweep import BATCH
from bench.planning.versions import today, unknown
from bench.planning.wrong_value import wrong_value
from bench.precision import PRECISIONS
from bench.records.case import (
    COMPILER,
    MOST_CHOICES,
    PLAIN,
    SEARCHED,
    TUNABLE,
    TUNED,
    Case,
    Setting,
    ascending,
)
from bench.records.execution import ALL_EXECUTIONS, is_compiled, is_recorded
from bench.workload import Mode, Workload

TUNING = (
    f"For example: {TUNED} = {{ {BATCH} = {{ from = 1, doubling_to = 4096 }}, "
    'execution = ["eager", "compile"] }'
)


class Planned(NamedTuple):
    """A case of a suite, and whether a run tries it."""

    case: Case
    left_out: str = ""
    """Why it is not tried: a point of a sweep over devices that cannot be, or a case that has not
    the precision that all are to have. Else empty."""
    instead: str = ""
    """Why it is not in the precision that the suite says; empty where it is."""
    written: Case | None = None
    """The case in that one, then."""


class Plan(NamedTuple):
    """What a run measures of a suite."""

    cases: tuple[Case, ...]
    left_out: dict[str, str]
    """Which of them are not tried, by fingerprint: why."""
    instead: dict[str, str]
    """Which are in another precision than the suite says, by fingerprint: why."""


def plan(suite: Suite, devices: int = FEWEST) -> tuple[Case, ...]:
    """Every case of a suite as it is written, in its order, without importing torch.

    devices: how many the run takes, for cases that leave it open.

    Raises `SuiteError` for an unknown key or value, naming the file, the case and what is allowed.
    """
    return tuple(one.case for one in _planned(suite, devices, AS_WRITTEN))


def whole(
    suite: Suite,
    devices: int | None = None,
    wanted: Wanted = AS_WRITTEN,
    only: str | None = None,
) -> Plan:
    """The same, with what a run does not try or measures otherwise.

    devices: that it takes; None where it does not say; wanted: what it makes of the precisions;
    only: globs, see `select`. Raises `SuiteError` where they match nothing, too, and for devices
    where no case leaves them open.
    """
    if devices is not None and not leaves_devices_open(suite):
        raise SuiteError(
            f"--devices {devices}: every case of {suite.name} says itself how many devices it "
            'takes. Leave it out, or give a suite whose cases leave it open (parallelism = "dp").'
        )
    planned = _planned(suite, FEWEST if devices is None else devices, wanted)
    if only is not None:
        names = [{*matched(one.case), *matched(one.written or one.case)} for one in planned]
        planned = [planned[k] for k in matching(names, [p.case.name for p in planned], only)]
    return Plan(
        tuple(one.case for one in planned),
        {one.case.fingerprint: one.left_out for one in planned if one.left_out},
        {one.case.fingerprint: one.instead for one in planned if one.instead},
    )


def require(suite: Suite, devices: int | None, wanted: Wanted, only: str | None) -> None:
    """Raises what `whole` would on any device: `only` may name what some measure `instead`."""
    cases = whole(suite, devices, wanted).cases
    if only is not None:
        select((*cases, *any_way(suite, devices or FEWEST)), only)


def any_way(suite: Suite, devices: int = FEWEST) -> tuple[Case, ...]:
    """Every case that a run of a suite may measure of itself on some device."""
    names = sorted({name for names in suite.instead.values() for name in names})
    ways = (AS_WRITTEN, *(Wanted(frozenset((name,))) for name in names))
    cases = (one.case for way in ways for one in _planned(suite, devices, way))
    return tuple({case.fingerprint: case for case in cases}.values())


def _planned(suite: Suite, devices: int, wanted: Wanted) -> list[Planned]:
    found: list[Planned] = []
    seen: dict[str, str] = {}
    otherwise: set[str] = set()
    for place, entry, each in _entries(suite):
        table = entry.get(TUNED)
        make = functools.partial(_point, place, table=table, devices=devices, sweep=swept(entry))
        points = [_wanted(make, values, suite, wanted) for values in each]
        _some_can_be(place, points)
        for point in points:
            case = point.case
            there = seen.get(case.fingerprint)
            # Sweeps meet, e.g. on one device: the point is that of all of them.
            if there is not None and swept(entry) and (there != place or case.devices == 1):
                continue
            # What the suite has in two precisions comes to one in a third.
            if there is not None and (point.instead or case.fingerprint in otherwise):
                continue
            if point.instead:
                otherwise.add(case.fingerprint)
            if there is not None:
                raise SuiteError(
                    f"{place}: {case.label} is already in {there}. Remove one of them."
                    if there != place
                    else f"{place}: {case.label} is planned twice: a list in this table names a "
                    "value twice. Remove one of them."
                )
            seen[case.fingerprint] = place
            found.append(point)
    return found


def _wanted(
    make: Callable[[dict[str, Any]], Planned], values: dict[str, Any], suite: Suite, wanted: Wanted
) -> Planned:
    """The point in the precision that is wanted of it, where it has that; else as it is written.

    make: of the values a point.
    """
    written = make(values)
    precision, refused = written.case.precision, ""
    for name, why in wanted.others(precision, suite.instead):
        try:
            point = make({**values, "precision": name})
        except SuiteError as error:
            refused = str(error).partition(f": {written.case.name}: ")[2]
            continue
        return point._replace(instead=why, written=written.case)
    if wanted.always in ("", precision):
        return written
    why = f"it has no {wanted.always}, which {OPTION} asks for"
    if wanted.always in _mode("", values)[1].precisions:
        why = f"{OPTION} {wanted.always}: {refused}"
    return written._replace(left_out=written.left_out or why)


def _some_can_be(place: str, points: list[Planned]) -> None:
    """Raises `SuiteError` where a sweep's batch divides over none of its numbers of devices."""
    many = [point.case for point in points if point.case.devices > 1]
    whys = [undivided(c.parameters.get(BATCH), Spread(c.devices, c.parallelism)) for c in many]
    if whys and all(whys):
        raise SuiteError(f"{place}: {many[0].name}: {whys[0]}.")


def _entries(suite: Suite) -> Iterator[tuple[str, dict[str, Any], list[dict[str, Any]]]]:
    """Each case table, with the place that messages name before it, and its sweep behind."""
    for number, entry in enumerate(suite.entries, start=1):
        place = f"{suite.source}, case {number}"
        yield place, entry, sweep(place, {k: v for k, v in entry.items() if k != TUNED})


def leaves_devices_open(suite: Suite) -> bool:
    """Whether any case of a suite leaves to the run how many devices it takes."""
    return any(
        swept(entry) or is_open(values, _mode(place, values)[1])
        for place, entry, each in _entries(suite)
        for values in each
    )


def _point(place: str, values: dict[str, Any], table: Any, devices: int, *, sweep: bool) -> Planned:
    """The case of these values.

    table: what the entry says of `tuned`; None where it does not, and the case is fixed. sweep:
    whether it is a point of a sweep over devices: one that cannot be is not tried, and no error.
    """
    workload, mode, name = _mode(place, values)
    who = f"{workload.name}-{name}"
    precision = _choice(place, who, "precision", values.get("precision", "bf16"), mode.precisions)
    execution = _choice(place, who, "execution", values.get("execution", "eager"), mode.executions)
    over = spread(place, who, mode, values, devices)
    values = batch_of_all(place, who, mode, values, over)
    parameters = _parameters(place, who, mode, values)
    uneven = undivided(parameters.get(BATCH), over)
    if uneven and not sweep:
        raise SuiteError(f"{place}: {who}: {uneven}.")
    why = msgspec.convert(parameters, mode.parameters).unfit(precision, execution, over.parallelism)
    if why:
        raise SuiteError(f"{place}: {who}: {why}.")
    narrow = PRECISIONS[precision].autocast or PRECISIONS[precision].weights != "float32"
    if over.joined and is_recorded(execution):
        raise SuiteError(
            f"{place}: {who}: over {over.parallelism} a step is not recorded: what devices send "
            "each other is in no recording. Leave out `parallelism`, or take `eager` or `compile`."
        )
    if over.joined and execution != "eager" and narrow:
        raise SuiteError(
            f"{place}: {who}: over {over.parallelism} `{execution}` is measured in float32 only, "
            f"not in {precision}: what is fused otherwise is rounded otherwise, and the numerics "
            "gate cannot tell that from a narrow sum of gradients. Leave out `execution`, or take "
            "fp32."
        )
    case = Case(
        workload=workload.name,
        version=workload.version_of(name),
        mode=name,
        precision=precision,
        execution=execution,
        parameters=parameters,
        devices=over.devices,
        parallelism=over.parallelism,
    )
    if table is None:
        return Planned(case, (sweep and beyond(over, devices)) or uneven)
    several = case.devices > 1 or sweep
    if several or case.parameters.get("arrival") == "poisson":
        why = "over several devices yet" if several else "at a given rate, which every choice gives"
        raise SuiteError(
            f"{place}: {who}: nothing is tuned {why}. Leave out `{TUNED}`, or "
            f"`{'parallelism' if several else 'arrival'}`."
        )
    formats = (*workload.memory_formats, *mode.layouts)
    compilers = (PLAIN, SEARCHED) if any(map(is_compiled, mode.executions)) else (PLAIN,)
    allowed = {"execution": mode.executions, "memory_format": formats, COMPILER: compilers}
    return Planned(_tuned(place, who, case, mode, _space(place, who, values, table, allowed)))


def _mode(place: str, values: dict[str, Any]) -> tuple[Workload, Mode, str]:
    workload = _workload(place, values)
    modes = workload.modes
    name = values.get(
        "mode", workload.usual_mode or (next(iter(modes)) if len(modes) == 1 else None)
    )
    if name is None:
        raise SuiteError(f"{place}: {workload.name} needs a `mode`. Allowed: {', '.join(modes)}.")
    if not isinstance(name, str) or name not in modes:
        raise SuiteError(
            f"{place}: unknown mode `{name}` of {workload.name}.{suggestion(str(name), modes)}"
        )
    return workload, modes[name], name


def _space(
    place: str, who: str, values: dict[str, Any], table: Any, allowed: dict[str, tuple[str, ...]]
) -> dict[str, tuple[Setting, ...]]:
    """What a tuned case leaves open, its values ascending. allowed: those that are names."""
    if not isinstance(table, dict) or not table:
        raise SuiteError(
            f"{place}: `{TUNED}` must be a table that says what may be chosen. {TUNING}"
        )
    for key in table:
        if key not in TUNABLE:
            raise SuiteError(
                f"{place}: `{key}` cannot be tuned. Allowed: {', '.join(TUNABLE)}. For a sweep, "
                f"write the list outside `{TUNED}`."
            )
        if key in values:
            raise SuiteError(
                f"{place}: `{key}` is in the case and in its `{TUNED}`. Remove one of them."
            )
    space: dict[str, tuple[Setting, ...]] = {}
    for key in (name for name in TUNABLE if name in table):
        (listed,) = values_of(f"{place}, {TUNED}", {key: table[key]})
        for value in listed if key in allowed else ():
            _choice(place, who, key, value, allowed[key])
        if len(set(map(str, listed))) < len(listed):
            raise SuiteError(
                f"{place}: `{TUNED}` names a value of `{key}` twice. Remove one of them."
            )
        space[key] = tuple(listed)
    executions = space.get("execution", (values.get("execution", "eager"),))
    compiled = any(is_compiled(str(execution)) for execution in executions)
    if COMPILER in space and not (compiled and set(space[COMPILER]) == {PLAIN, SEARCHED}):
        raise SuiteError(
            f'{place}: {who}: `{COMPILER}` in `{TUNED}` must be ["{PLAIN}", "{SEARCHED}"], and one '
            f"of the executions compiled. Add what lacks, or leave `{COMPILER}` out."
        )
    count = math.prod(map(len, space.values()))
    if not 2 <= count <= MOST_CHOICES:
        raise SuiteError(
            f"{place}: `{TUNED}` gives {units.counted(count, 'choice')}. Allowed: 2 to "
            f"{MOST_CHOICES}, for each takes a launch. {TUNING}"
        )
    return space


def _tuned(
    place: str, who: str, case: Case, mode: Mode, space: dict[str, tuple[Setting, ...]]
) -> Case:
    """The case with what the space leaves open taken out of it."""
    if BATCH in space and BATCH not in mode.parameters.__struct_fields__:
        raise SuiteError(f"{place}: {who} has no `{BATCH}`. Remove it from `{TUNED}`.")
    for batch in space.get(BATCH, ()):
        _parameters(place, who, mode, {**case.parameters, BATCH: batch})
    return msgspec.structs.replace(
        case,
        execution=TUNED if "execution" in space else case.execution,
        parameters={key: v for key, v in case.parameters.items() if key not in space},
        tuned={key: ascending(values) for key, values in space.items()},
    )


def _workload(place: str, values: dict[str, Any]) -> Workload:
    name = values.get("workload")
    if name is None:
        known = ", ".join(catalogue.usable("workloads"))
        raise SuiteError(f"{place}: it has no `workload`. Allowed: {known}.")
    try:
        return catalogue.workload(str(name))
    except UnknownName as error:
        raise SuiteError(f"{place}: {error}") from error


def _choice(place: str, who: str, key: str, value: Any, allowed: tuple[str, ...]) -> str:
    if value in allowed:
        return str(value)
    if key == "precision" and isinstance(value, str) and value in PRECISIONS:
        raise SuiteError(
            f"{place}: {who} has no precision `{value}`. Allowed: {', '.join(allowed)}."
        )
    if key == "execution" and value in ALL_EXECUTIONS:
        raise SuiteError(
            f"{place}: {who} has no execution `{value}`: compiled are models and a few kernels, "
            "and recorded is only what takes nothing from the host but which input is next. "
            f"Allowed: {', '.join(allowed)}."
        )
    raise SuiteError(
        f"{place}: unknown {key} `{value}` for {who}.{suggestion(str(value), allowed)}"
    )


def _parameters(place: str, who: str, mode: Mode, values: dict[str, Any]) -> dict[str, Any]:
    given = {key: value for key, value in values.items() if key not in COMMON_KEYS}
    allowed = mode.parameters.__struct_fields__
    for key in given:
        if key not in allowed:
            common = [k for k in COMMON_KEYS if k != PER_DEVICE or BATCH in allowed]
            hint = elsewhere(key) or suggestion(key, (*allowed, *common, TUNED))
            if key in TUNABLE and key not in allowed:
                hint = f" Only a table `{TUNED}` may name it: a fixed case has the workload's own."
            raise SuiteError(f"{place}: unknown key `{key}` for {who}.{hint}")
    try:
        parameters = msgspec.convert(given, mode.parameters)
    except msgspec.ValidationError as error:
        raise SuiteError(
            f"{place}: {who}: {wrong_value(error, mode.parameters, given)}."
        ) from error
    return mode.parameters.written(msgspec.to_builtins(parameters))


def parameters_of(case: Case, workload: Workload) -> Any:
    """The case's parameters as its workload's own type.

    Raises `SuiteError` for a case of a version that this release does not run.
    """
    if why := unknown(case):
        raise SuiteError(f"{case.label}: {why}. Run it with the accelmark that planned it.")
    return msgspec.convert(today(case).parameters, workload.modes[case.mode].parameters)
