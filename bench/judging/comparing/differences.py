"""In what two runs differ beside their figures: devices, settings, hosts, software."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import msgspec

from bench.judging.endpoint import read_elsewhere
from bench.records.environment import SECRET, section
from bench.records.private import release
from bench.records.run import RunFile

NOT_COMPARED = (
    *("load_1min", "memory_bytes", "git", "packages", "sm_clock_mhz", "memory_clock_mhz"),
    *("cpu_limits", "variables_looked_for", "variables_compared"),
)
"""Facts that differ between any two runs, or are listed in another form."""
FLATTENED = ("device_state", "plug_ins", "variables")
"""Sections whose keys are clear without the section's name."""
MOST_VALUES = 3
"""A fact that took more values than this within one run is given by its first ones."""
MOST_SETTINGS = 200
"""That older versions recorded of a server."""
ABSENT = "absent"
"""What stands for a fact of one run only."""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """Something in which the two runs differ, and may."""

    name: str
    base: str
    other: str


def differences(base: RunFile, other: RunFile) -> Iterator[Difference]:
    """Each fact that took other values in one run than in the other; of what launches say none
    where those of a run say nothing."""
    if not all(any(x.environment or x.endpoint for x in run.launches) for run in (base, other)):
        base, other = (msgspec.structs.replace(run, launches=()) for run in (base, other))
    names = {x.case.name for x in base.launches} & {x.case.name for x in other.launches}
    mine, theirs = (_facts(file, names) for file in (base, other))
    asked = {x.run.host.get("accelmark") for x in (base, other)}
    # What only one of two versions asks a device is in one run alone.
    device = _device_facts(base) ^ _device_facts(other) if len(asked) > 1 else set()
    for name in dict.fromkeys((*mine, *theirs)):
        values = mine.get(name, []), theirs.get(name, [])
        if name in device and not all(values):
            continue
        if name == "host system":
            first, second = ([release(value) for value in side] for side in values)
            if first == values[0] or second == values[1]:  # as it is published
                values = first, second
        lacking = [file for file, said in zip((base, other), values, strict=True) if not said]
        if set(values[0]) != set(values[1]) and not any(_left_out(name, x) for x in lacking):
            yield Difference(name=name, base=in_words(values[0]), other=in_words(values[1]))


def _device_facts(file: RunFile) -> set[str]:
    """Names of what a run says of its device, to the session or to a launch."""
    said = (file.run.device, *(section(x.environment, "device") for x in file.launches))
    return {name for one in said for name in section(one, "facts")}


def states(*files: RunFile) -> set[str]:
    """Names of the facts by which a device says how it stands, as far as each version asked."""
    environments = (launch.environment for file in files for launch in file.launches)
    return {name for one in environments for name in section(one, "device_state")}


def in_words(values: Sequence[str]) -> str:
    """The values that a fact took."""
    more = ", ..." if len(values) > MOST_VALUES else ""
    return ", ".join(values[:MOST_VALUES]) + more if values else ABSENT


def _left_out(name: str, file: RunFile) -> bool:
    """Whether it may be a server's setting that older versions left out: by a word in its name,
    where no other has such a one, or behind so many."""
    told = [x.endpoint.server.settings for x in file.launches if x.endpoint is not None]
    withheld = SECRET.search(name) and not any(SECRET.search(key) for one in told for key in one)
    cut = withheld or any(len(one) == MOST_SETTINGS for one in told)
    return name.startswith("server ") and bool(cut)


def _facts(file: RunFile, names: Set[str]) -> dict[str, list[str]]:
    """What a run was made on and with, flat: every value that a fact took, in order.

    names: the kinds of work of which it is told how they were run, as both runs have them.
    """
    found: dict[str, list[str]] = {}

    def add(prefix: str, facts: Mapping[str, Any]) -> None:
        for key, value in facts.items():
            name = f"{prefix}{key}"
            if key in NOT_COMPARED:
                continue
            if isinstance(value, dict):
                inner = "" if key in FLATTENED else f"{key} "
                add(inner, value)
            elif value is not None:
                values = found.setdefault(name, [])
                if str(value) not in values:
                    values.append(str(value))

    add("", {"device": file.run.device.get("name"), "backend": file.run.device.get("backend")})
    add("", {"framework": file.run.framework})
    if commit := section(file.run.host, "git"):
        changed = " with changes" if commit.get("changed") else ""
        add("", {"accelmark commit": f"{str(commit.get('commit'))[:12]}{changed}"})
    add("", section(file.run.device, "facts"))
    settings: dict[str, Any] = msgspec.to_builtins(file.run.settings)
    add("setting ", {k: v for k, v in settings.items() if k != "timing"})
    add("host ", {k: v for k, v in file.run.host.items() if not isinstance(v, dict)})
    for launch in file.launches:
        if launch.endpoint is not None:
            server, prompts = launch.endpoint.server, launch.endpoint.prompts
            told = {"started": server.started, "same_host": server.same_host, "prompts": prompts}
            add("server ", {"name": server.name, "version": server.version})
            add("server ", server.settings | told)
            # None of its settings, which `_left_out` looks at: these were never cut.
            add("", {"server's command": shlex.join(server.command) or None})
            add("", {"server's prefill": "another process" if read_elsewhere(launch) else None})
        environment = {k: v for k, v in launch.environment.items() if k not in ("device", "job")}
        add("", environment)
        add("", section(launch.environment, "packages"))
        add("", section(section(launch.environment, "device"), "facts"))
        if launch.case.name in names and not launch.case.space:
            add(f"{launch.case.name} ", section(launch.environment, "job"))
    return found
