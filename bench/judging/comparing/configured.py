"""Settings in which two runs differ, and that may be why one is faster: then no chip is judged.

A ratio of measured ceilings is one of chips only where nothing else can have made it: a variable
that forbids instructions makes a ceiling three hundred times lower on the same chip. What a record
does not say is not known: one from before families of variables were recorded may hide any.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from bench import catalogue
from bench.errors import AccelmarkError
from bench.judging.chips import one_kind
from bench.judging.comparing import clock_settings
from bench.judging.comparing.differences import ABSENT, Difference, states
from bench.judging.comparing.reasons import Code
from bench.records.environment import (
    OF_TORCHRUN,
    is_among,
    is_idle,
    may_change_speed,
    section,
    selects,
    threads_given,
)
from bench.records.run import Run, RunFile

HOST_SETTINGS = ("cpu_quota_cores", "affinity_cores", "governor")
"""Facts of a host that somebody sets, and that slow what computes on it."""
DEVICE_SETTINGS = re.compile(r"limit|_max_mhz|_mode$|^ecc")
"""Facts of a device that somebody sets; told as such between devices of one kind."""
STACK_SETTINGS = ("threads", "cpu_capability", "mkldnn")
"""What torch made of its settings on a host; told where no variable that differs explains it."""
VERSION = re.compile(r"v?\d+(\.\d+)+")
"""How a fact of a device begins that is a version of its software."""


class Configured(msgspec.Struct, frozen=True, kw_only=True):
    """In what two runs are configured differently, as far as their records say."""

    settings: tuple[Difference, ...] = ()
    """Those that may change speed."""
    compared: tuple[str, ...] = ()
    """Names of those in which `ab --env` made the sides differ."""
    not_recorded: tuple[str, ...] = ()
    """What a side's record does not say, in words; empty where both say all."""
    frameworks: tuple[str, ...] = ()
    """Of base and other, where those differ: a ceiling is then what each makes of its chip."""
    versions: tuple[Difference, ...] = ()
    """Of framework, driver and the like, where they differ on devices of one kind: what they make
    of one chip, which is then no chip's doing."""

    clocks: tuple[str, ...] = ()
    """Cases that are ceilings, and differ on devices of one kind by their clock alone."""

    @property
    def unintended(self) -> tuple[Difference, ...]:
        """Those that are not what was to be compared."""
        return tuple(one for one in self.settings if one.name not in self.compared)

    @property
    def chip_doubt(self) -> str:
        """Why a ratio of ceilings is not one of chips; empty where nothing speaks against it."""
        return self._doubt[1]

    @property
    def doubt_code(self) -> Code | None:
        """The rule behind `chip_doubt`."""
        return self._doubt[0]

    @property
    def _doubt(self) -> tuple[Code | None, str]:
        """The first thing that speaks against it."""
        one = "it is one kind of device,"
        settings, versions = (
            [f"{d.name} ({d.base}, {d.other})" for d in some]
            for some in (self.settings, self.versions)
        )
        for code, why, what in (
            (Code.SETTINGS_DIFFER, "a setting may be the cause", settings),
            (
                Code.SETTINGS_UNKNOWN,
                "whether a setting is the cause is not known",
                ["; ".join(self.not_recorded)],
            ),
            (Code.FRAMEWORKS_DIFFER, "a ceiling is each framework's own", self.frameworks),
            (Code.VERSIONS_DIFFER, f"{one} and a ceiling is each version's own", versions),
            (Code.CLOCKS_DIFFER, f"{one} at other clocks", self.clocks),
        ):
            if said := ", ".join(what):
                return code, f"{why}: {said}"
        return None, ""


def configured(base: RunFile, other: RunFile, differences: Sequence[Difference]) -> Configured:
    """Of two runs, with all in which they differ."""
    files = (base, other)
    sides = zip(("base", "other"), files, strict=True)
    unsaid = tuple(f"{who}: {words}" for who, file in sides if (words := _unsaid(file)))
    named = tuple(file.run.framework for file in files)
    return Configured(
        settings=tuple(_settings(files, differences)),
        compared=_compared(files),
        not_recorded=unsaid,
        frameworks=named if len({*named}) > 1 else (),
        versions=tuple(_versions(files, differences)),
    )


def _versions(
    files: tuple[RunFile, RunFile], differences: Sequence[Difference]
) -> Iterator[Difference]:
    devices = [file.run.device for file in files]
    if not one_kind(*devices):
        return
    names = {file.run.framework for file in files}
    names.update(*(section(device, "facts") for device in devices))
    for one in differences:
        if one.name in names and VERSION.match(one.base) and VERSION.match(one.other):
            yield one


def _unsaid(file: RunFile) -> str:
    """What a run does not say of its environment variables; empty where it says all."""
    said = [x.environment for x in file.launches if x.environment]
    if not said:
        return "no launch says its environment variables"
    if any(launch.endpoint is not None for launch in file.launches):
        return "environment variables of its server, which are not seen from outside"
    if all("variables_looked_for" in one for one in said):
        return ""
    return "an older version, which recorded environment variables by a list of names only"


def _settings(
    files: tuple[RunFile, RunFile], differences: Sequence[Difference]
) -> Iterator[Difference]:
    devices = [file.run.device for file in files]
    alike = one_kind(*devices)
    on_hosts = any(device.get("backend") == "cpu" for device in devices)
    variables = [_variables(file) for file in files]
    switches = states(*files)
    of_variables = [one for one in differences if any(one.name in found for found in variables)]
    set_apart = [one for one in of_variables if _counts(one.name, files, variables)]
    yield from set_apart
    for one in differences:
        host = one.name.removeprefix("host ")
        if one in of_variables:
            continue
        # What one framework alone has, or an older version did not ask, is no difference.
        of_host = host in HOST_SETTINGS and all(host in file.run.host for file in files)
        both = alike and ABSENT not in (one.base, one.other)
        if (
            (on_hosts and one.name != host and of_host)
            or (both and one.name in switches and DEVICE_SETTINGS.search(one.name))
            or (both and one.name in STACK_SETTINGS and not set_apart)
        ):
            yield one
    yield from clock_settings.settings(files, alike)


def _counts(
    name: str, files: tuple[RunFile, RunFile], variables: Sequence[Mapping[str, set[str]]]
) -> bool:
    """Whether a variable may be why two runs differ.

    One that a backend itself sets on every machine is part of that backend, and no setting where
    the other run is of another; nor between two vendors' devices is one that voids where it is on;
    nor is one of which no worker is given a user's.
    """
    compared = _compared(files)
    values = {value for found in variables for value in found.get(name, ())}
    if not may_change_speed(name) or (values and all(selects(name, one) for one in values)):
        return False
    for file, found in zip(files, variables, strict=True):
        if name not in found and name not in compared and not _looked_for(file, name):
            return False
    backends = [str(file.run.device.get("backend")) for file in files]
    vendors = {file.run.device.get("vendor") for file in files}
    told = [_told(backend) for backend in backends]
    if len(vendors) > 1 and any(name in voiding for _, voiding, _ in told):
        return False
    if any(name in unset for *_, unset in told):
        return False
    defaults = [given.get(name) for given, *_ in told]
    own = all(
        values.get(name, set()) <= {default}
        for values, default in zip(variables, defaults, strict=True)
    )
    return not (own and backends[0] != backends[1])


def _looked_for(file: RunFile, name: str) -> bool:
    """Whether a run would have a variable, if it was set; an old one does not say."""
    words = [one.get("variables_looked_for") for one in _environments([file])]
    return any(not isinstance(one, list) or is_among(name, map(str, one)) for one in words)


def _told(backend: str) -> tuple[Mapping[str, str], Mapping[str, str], tuple[str, ...]]:
    """Variables that a backend sets, those that void where they are on, and those of which no
    worker is given a user's."""
    try:
        plug_in = catalogue.backend(backend)
    except AccelmarkError:  # of a package that is not here
        return {}, {}, ()
    return (
        plug_in.worker_environment(),
        plug_in.harmful_variables(),
        plug_in.silencing_variables(),
    )


def _variables(file: RunFile) -> dict[str, set[str]]:
    """Values of each, but for what accelmark itself gives ranks that share a host's cores, and for
    those of links where one device worked."""
    found: dict[str, set[str]] = {}
    cores = file.run.host.get("usable_cores")
    shared = file.run.device.get("backend") == "cpu"
    for launch in file.launches:
        given = launch.environment
        own = threads_given(given, cores, shared) if isinstance(cores, int) else {}
        for name, value in section(given, "variables").items():
            passed_over = is_idle(name, given) or OF_TORCHRUN.fullmatch(f"{name}={value}")
            if own.get(name) != value and not passed_over:
                found.setdefault(name, set()).add(str(value))
    return found


def in_turns(base: Run, other: Run) -> bool:
    """Whether they are the sides of one `accelmark ab`."""
    return sorted((base.run_id, other.run_id)) == [base.run_id[:-2] + end for end in ("-a", "-b")]


def _compared(files: tuple[RunFile, RunFile]) -> tuple[str, ...]:
    """Where both are sides of one `ab`: the variables that side B alone was given."""
    if not in_turns(*(file.run for file in files)):
        return ()
    named = [one.get("variables_compared") for one in _environments(files)]
    return tuple(sorted({str(n) for names in named if isinstance(names, list) for n in names}))


def _environments(files: Sequence[RunFile]) -> Iterator[Mapping[str, Any]]:
    """Of each launch."""
    return (launch.environment for file in files for launch in file.launches)
