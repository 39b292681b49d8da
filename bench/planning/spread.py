"""Over how many devices a case of a suite is spread, and how: what its entry says, and what may be.

[[case]]
workload = "llama"
mode = "train"
parallelism = "fsdp"      # over all the devices that a run takes; "fsdp8" over eight
batch_size = 32           # of all devices together

[[case]]
workload = "collective"   # what devices do together: over all that a run takes, or
devices = 4               # over so many

A list or a doubling of `devices` is a scaling sweep: one case a number, at 1 the very case of one
device. What is beyond the devices that a run takes is planned and not tried.

[[case]]
workload = "llama"
mode = "train"
parallelism = ["dp", "fsdp"]
devices = { from = 1, doubling_to = 1024 }
batch_size = 32               # of all devices together: strong scaling
# batch_size_per_device = 8   # of each of them: weak scaling
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from bench.errors import SuiteError
from bench.planning.sweep import BATCH
from bench.records import parallelism
from bench.records.parallelism import MOST_DEVICES, NONE, Parallelism
from bench.workload import Mode

ALL = "all"
"""Of `devices`: as many as a run takes, which is also what goes without saying."""
DEVICES = "devices"
PER_DEVICE = f"{BATCH}_per_device"
"""Multiplies out: of the case only the whole batch remains."""
KEYS = (DEVICES, "parallelism", PER_DEVICE)
FEWEST = 2


class Spread(NamedTuple):
    """What a case says of it."""

    devices: int = 1
    parallelism: str = "none"

    @property
    def joined(self) -> bool:
        """Whether several devices compute one model together."""
        return not self.parallelism.startswith(("none", "replicas"))


def swept(entry: Mapping[str, Any]) -> bool:
    """Whether an entry, its lists not yet expanded, is a sweep over devices."""
    return isinstance(entry.get(DEVICES), list | dict)


def is_open(entry: Mapping[str, Any], mode: Mode) -> bool:
    """Whether an entry's values leave the number of devices to the run."""
    if entry.get(DEVICES, ALL) != ALL:
        return False
    return mode.together or parallelism.is_open(str(entry.get("parallelism", "none")))


def spread(place: str, who: str, mode: Mode, values: Mapping[str, Any], devices: int) -> Spread:
    """What the case of these values says. devices: that the run takes.

    Raises `SuiteError` with the nearest setting that works.
    """
    if mode.together:
        return _together(place, who, values, devices)
    text, asked = values.get("parallelism", "none"), values.get(DEVICES, ALL)
    if type(asked) is int and asked == 1 and text in mode.schemes:
        return Spread()  # whatever the scheme
    count = asked if type(asked) is int and asked > 1 else devices
    try:
        found = parallelism.parse(str(text), count)
    except ValueError as error:
        allowed = parallelism.allowed(mode.schemes)
        raise SuiteError(f"{place}: {who}: {error}. {allowed}") from error
    if found.scheme not in mode.schemes:
        allowed = parallelism.allowed(mode.schemes)
        raise SuiteError(f"{place}: {who} has no parallelism `{text}`. {allowed}")
    _agrees(place, who, mode, values, found)
    return Spread(found.devices, str(found))


def batch_of_all(
    place: str, who: str, mode: Mode, values: Mapping[str, Any], over: Spread
) -> dict[str, Any]:
    """The values, with the batch of all devices together where they give that of one.

    Raises `SuiteError` where that cannot be.
    """
    if PER_DEVICE not in values:
        return dict(values)
    each = values[PER_DEVICE]
    if BATCH not in mode.parameters.__struct_fields__:
        raise SuiteError(f"{place}: {who} has no `{BATCH}`. Leave out `{PER_DEVICE}`.")
    if BATCH in values:
        raise SuiteError(
            f"{place}: {who}: `{BATCH}` is of all devices, `{PER_DEVICE}` of each. Give one of "
            "them."
        )
    if type(each) is not int or each < 1:
        raise SuiteError(f"{place}: {who}: `{PER_DEVICE}` must be a whole number from 1 up.")
    return {**values, BATCH: each * over.devices}


def undivided(batch: Any, over: Spread) -> str:
    """Why a batch of all devices together does not go over them, each of which takes as many rows;
    with the nearest that does. Empty where it goes."""
    count = over.devices
    if over.parallelism == str(NONE) or type(batch) is not int or batch % count == 0:
        return ""
    low = batch // count * count
    near = [n for n in (low, low + count) if n > 0]
    counts = parallelism.nearest(batch, count)
    others = f" or {batch} over {' or '.join(map(str, counts))} devices" if counts else ""
    return (
        f"a batch of {batch} does not divide over {count} devices ({over.parallelism}). Nearest "
        f"that do: a batch of {' or '.join(map(str, near))}{others}"
    )


def beyond(over: Spread, devices: int) -> str:
    """Why a point of a sweep is not tried by a run that takes so many devices; else empty."""
    if over.devices <= devices:
        return ""
    return f"it takes more devices than this run, which takes {devices}"


def _together(place: str, who: str, values: Mapping[str, Any], devices: int) -> Spread:
    if values.get("parallelism", "none") != "none":
        raise SuiteError(
            f"{place}: {who} is what devices do together, not a model that is spread over them. "
            "Leave out `parallelism`; `devices` says how many."
        )
    asked = values.get(DEVICES, ALL)
    count = devices if asked == ALL else asked
    if type(count) is not int or not FEWEST <= count <= MOST_DEVICES:
        raise SuiteError(
            f"{place}: {who} takes {FEWEST} devices or more, not {count}. Give `devices` a number "
            f'from {FEWEST} up or "{ALL}", or the run `--devices {FEWEST}`.'
        )
    return Spread(count, "none")


def _agrees(
    place: str, who: str, mode: Mode, values: Mapping[str, Any], found: Parallelism
) -> None:
    """`devices` may stand beside a parallelism that takes as many."""
    asked = values.get(DEVICES, ALL)
    if asked in (ALL, found.devices) and (asked != ALL or DEVICES not in values or found != NONE):
        return
    if found == NONE:
        scheme = next((one for one in mode.schemes if one != str(NONE)), None)
        if scheme is None:
            raise SuiteError(f"{place}: {who} runs on one device only. Leave out `devices`.")
        raise SuiteError(
            f"{place}: {who} runs on one device without a `parallelism`, not on {asked}. Add one, "
            f'e.g. parallelism = "{scheme}{asked if type(asked) is int else ""}", or leave out '
            "`devices`."
        )
    raise SuiteError(
        f"{place}: {who}: parallelism {found} takes {found.devices} devices, not {asked}. Leave "
        "out `devices`, or give both the same number."
    )
