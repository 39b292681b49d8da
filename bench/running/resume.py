"""Going on with a run that ended early: only where nothing would be mixed.

What decides is the host and the device as the parent sees them, and what each launch says of its
interpreter, its packages and its environment variables.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from bench import catalogue, stats
from bench.backend import DeviceInfo
from bench.errors import RecordError
from bench.planning import versions
from bench.records import environment, flaws
from bench.records.cpu_limits import usable_cores
from bench.records.explained import Explanation
from bench.records.run import Launch, Resumed, Run, RunFile
from bench.records.runfile import Writer
from bench.running import child
from bench.running.elsewhere import TORCH
from bench.running.header import utc_now
from bench.running.hosts import seating
from bench.running.hosts.seating import ONE, Hosts

HOST_FACTS = (
    *("accelmark", "git", "packages", "python", "system", "machine", "cpu", "usable_cores"),
    *("cpu_quota_cores", "affinity_cores", "governor"),
)
COUNTED = ("threads_used", "read_back")
"""Facts of a device that are counted anew each time; what makes them is compared itself."""
DEVICE_FACTS = ("backend", "index", "name", "memory_bytes", "facts")
SOFTWARE = ("python", "packages")
"""What a launch says of its software, if it came so far."""


def resume(
    file: RunFile,
    device: DeviceInfo,
    command: Sequence[str],
    hosts: Hosts = ONE,
    here: int | None = None,
) -> Writer:
    """The record of a run that ended early, open again, a line saying so on disk.

    here: how many devices of its kind there are, on all hosts; None where that is no question.
    Raises `RecordError` if it was not made by `accelmark run`, or if the rest of it would be
    measured under other conditions, and as `seating.require_first` does.
    """
    require_run(file)
    whys = [(case.label, versions.unknown(case)) for case in file.run.plan]
    if any(why for _, why in whys):
        listed = "".join(f"\n  - {label}: {why}" for label, why in whys if why)
        raise RecordError(
            f"{file.path}: this release does not run all that was planned:{listed}\n"
            "Go on with the accelmark that planned it, or start a new run."
        )
    made = Counter(launch.case.fingerprint for launch in file.launches)
    wanted = file.run.settings.launches
    most = stats.LOOKS[-1] if wanted == "auto" else wanted
    lacking = [case for case in file.run.plan if made[case.fingerprint] < most]
    seating.require_first(lacking, device, file.run.left_out)
    host, described = environment.host(), msgspec.to_builtins(device)
    differences = mixture(file.run, host, described)
    apart = {"packages", "python"} if file.run.framework != TORCH else set()  # another interpreter
    alike = {k: v for k, v in host.items() if k not in apart}
    differences += mixed_launches(file.launches, alike, device.backend, file.run.framework)
    differences += other_hosts(file.launches, device.backend, hosts, here)
    if differences:
        listed = "".join(f"\n  - {difference}" for difference in differences)
        raise RecordError(
            f"{file.path}: launches of two environments do not mix:{listed}\n"
            "Restore what was there, or start a new run."
        )
    writer = Writer.again(file)
    writer.append(
        Resumed(started_at=utc_now(), command=tuple(command), host=host, device=described)
    )
    return writer


def require_run(file: RunFile) -> None:
    """Raises `RecordError` unless the record can go on.

    It must be made by `accelmark run`, lie in a file of its own, and be whole up to its last line.
    """
    if file.passing:
        raise RecordError(
            f"{file.path}: nothing can be added to a record that came through a pipe or out of a "
            "compressed file or another format. Go on with its plain .jsonl file."
        )
    if file.damage and not file.cut_short:
        raise RecordError(f"{file.damage}. This record cannot go on. {file.remedy}")
    command = file.run.command
    if command[:2] == ("accelmark", "run"):
        return
    if command[:2] == ("accelmark", "ab"):
        raise RecordError(
            f"{file.path}: one side of `accelmark ab`. The sides take turns, so one alone cannot "
            "go on. Start a new `accelmark ab`."
        )
    raise RecordError(
        f"{file.path}: `{' '.join(command[:2])}` made it, and only a run of `accelmark run` can go "
        "on. Run the same command again."
    )


def mixture(run: Run, host: Mapping[str, Any], device: Mapping[str, Any]) -> list[str]:
    """In what today's host and device are not those of the run: reasons not to go on with it."""
    pairs = [(name, run.host.get(name), host.get(name)) for name in HOST_FACTS]
    before, after = _without_counted(run.device), _without_counted(device)
    was, is_now = (one.get("memory_bytes") or 0 for one in (before, after))
    if abs(is_now - was) < was / 100:  # pages that a system or a driver keeps, from start to start
        before["memory_bytes"] = is_now
    pairs += [(f"device {name}", before.get(name), after.get(name)) for name in DEVICE_FACTS]
    return [f"{name} was {then}, is {now}" for name, then, now in pairs if then != now]


def _without_counted(device: Mapping[str, Any]) -> dict[str, Any]:
    facts = device.get("facts")
    if not isinstance(facts, Mapping):
        return dict(device)
    return {**device, "facts": {k: v for k, v in facts.items() if k not in COUNTED}}


def mixed_launches(
    launches: Sequence[Launch], host: Mapping[str, Any], backend: str, framework: str = TORCH
) -> list[str]:
    """In what a worker would now differ from those of the launches that there are.

    A launch that failed before it could say anything of itself says nothing here either.
    """
    found: dict[str, None] = {}  # a set that keeps its order
    for launch in launches:
        then = launch.environment
        if "packages" in then and then["packages"] != host.get("packages", then["packages"]):
            found[f"a launch's packages were {then['packages']}, are {host.get('packages')}"] = None
        if (
            "python" in then
            and then["python"] not in str(host.get("python", then["python"])).split()
        ):
            found[f"a launch's python was {then['python']}, is {host.get('python')}"] = None
        was = environment.section(then, "plug_ins")
        if was and framework == TORCH:
            now = catalogue.versions(launch.case.workload, backend, framework).get("plug_ins", {})
            if was != now:
                found[f"a launch's plug-ins were {was}, are {now}"] = None
        if isinstance(variables := then.get("variables"), Mapping):
            found |= dict.fromkeys(_changed_variables(then, variables, backend, framework))
    return list(found)


def other_hosts(
    launches: Sequence[Launch], backend: str, hosts: Hosts, here: int | None = None
) -> list[str]:
    """Cases whose ranks were on other hosts than they would be now, or on more devices than there
    are."""
    found: dict[str, None] = {}
    for launch in launches:
        world = launch.environment.get("world")
        if isinstance(world, Mapping):
            then = world.get("hosts", 1)
            own_devices = not catalogue.backend(backend).is_host
            seats = seating.seats(launch.case.devices, hosts, own_devices=own_devices)
            now = 1 + seats[-1].host if seats else hosts.total
            if own_devices and here is not None and here < (count := launch.case.devices):
                found[f"{launch.case.label} went over {count} devices, {here} are here"] = None
            elif then != now:
                found[f"{launch.case.label} went over {then} hosts, would go over {now}"] = None
            elif then > 1 and world.get("cores") != hosts.cores:
                found[f"{launch.case.label} went over hosts with other cores"] = None
    return list(found)


def _changed_variables(
    launch: Mapping[str, Any], then: Mapping[str, Any], backend: str, framework: str
) -> list[str]:
    """Of a launch's variables, those that a worker of the same case would now have otherwise."""
    plug_in = catalogue.backend(backend)
    own = plug_in.recorded_variables(), catalogue.framework(framework).recorded_variables()
    threads = environment.threads_given(launch, usable_cores(), plug_in.is_host)
    given = threads | child.variables(plug_in)
    words = environment.looked_for(*own, then)
    now = environment.variables(words, plug_in.heeded(given))
    return [
        f"variable {name} was {then.get(name, 'not set')}, is {now.get(name, 'not set')}"
        for name in sorted({*then, *now})
        if then.get(name) != now.get(name)
        and environment.may_change_speed(name)
        and not environment.is_idle(name, launch)
    ]


def _software(launch: Launch | Explanation) -> dict[str, Any]:
    """Each fact by its name; a package of plug-ins is one, as each case has its own."""
    said = {k: v for k, v in launch.environment.items() if k in SOFTWARE}
    return said | dict(environment.section(launch.environment, "plug_ins"))


class Software:
    """What the launches of a run were measured with, and its explanations: all of one, as what is
    installed meanwhile would be mixed in."""

    def __init__(self, done: Iterable[Launch | Explanation] = ()) -> None:
        """done: those that the record holds already."""
        self._first: dict[str, Any] = {}
        for launch in done:
            self._note(launch)

    def _note(self, launch: Launch | Explanation) -> None:
        self._first = _software(launch) | self._first

    def require(self, launch: Launch | Explanation, writer: Writer) -> None:
        """Raises `RecordError` if a launch that is to be added to the record had other software."""
        changed = [
            f"{name} was {self._first[name]}, is {now}"
            for name, now in _software(launch).items()
            if self._first.get(name, now) != now
        ]
        if changed:
            raise RecordError(
                f"{writer.path}: software changed while the run went on, and launches of two do "
                f"not mix: {'; '.join(changed)}. What was measured before is on disk. Restore "
                f"what was there, then {flaws.go_on(str(writer.path), writer.command)}"
            )
        self._note(launch)
