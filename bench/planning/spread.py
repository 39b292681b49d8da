"""Over how many devices a case of a suite is spread, and how: what its entry says, and what may be.

[[case]]
workload = "llama"
mode = "train"
parallelism = "fsdp"      # over all the devices that a run takes; "fsdp8" over eight
batch_size = 32           # of all devices together

[[case]]
workload = "collective"   # what devices do together: over all that a run takes, or
devices = [2, 4, 8]       # over so many
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
KEYS = ("devices", "parallelism")
FEWEST = 2


class Spread(NamedTuple):
    """What a case says of it."""

    devices: int = 1
    parallelism: str = "none"

    @property
    def joined(self) -> bool:
        """Whether several devices compute one model together."""
        return not self.parallelism.startswith(("none", "replicas"))


def is_open(entry: Mapping[str, Any], mode: Mode) -> bool:
    """Whether an entry's values leave the number of devices to the run."""
    if mode.together:
        return bool(entry.get("devices", ALL) == ALL)
    return parallelism.is_open(str(entry.get("parallelism", "none")))


def spread(place: str, who: str, mode: Mode, values: Mapping[str, Any], devices: int) -> Spread:
    """What the case of these values says. devices: that the run takes.

    Raises `SuiteError` with the nearest setting that works.
    """
    if mode.together:
        return _together(place, who, values, devices)
    text = values.get("parallelism", "none")
    try:
        found = parallelism.parse(str(text), devices)
    except ValueError as error:
        allowed = parallelism.allowed(mode.schemes)
        raise SuiteError(f"{place}: {who}: {error}. {allowed}") from error
    if found.scheme not in mode.schemes:
        allowed = parallelism.allowed(mode.schemes)
        raise SuiteError(f"{place}: {who} has no parallelism `{text}`. {allowed}")
    _agrees(place, who, values, found)
    if found != NONE:
        _divides(place, who, values, found)
    return Spread(found.devices, str(found))


def _together(place: str, who: str, values: Mapping[str, Any], devices: int) -> Spread:
    if values.get("parallelism", "none") != "none":
        raise SuiteError(
            f"{place}: {who} is what devices do together, not a model that is spread over them. "
            "Leave out `parallelism`; `devices` says how many."
        )
    asked = values.get("devices", ALL)
    count = devices if asked == ALL else asked
    if type(count) is not int or not FEWEST <= count <= MOST_DEVICES:
        raise SuiteError(
            f"{place}: {who} takes {FEWEST} devices or more, not {count}. Give `devices` a number "
            f'from {FEWEST} up or "{ALL}", or the run `--devices {FEWEST}`.'
        )
    return Spread(count, "none")


def _agrees(place: str, who: str, values: Mapping[str, Any], found: Parallelism) -> None:
    """`devices` may stand beside a parallelism that takes as many."""
    asked = values.get("devices", ALL)
    if asked in (ALL, found.devices) and (asked != ALL or "devices" not in values or found != NONE):
        return
    if found == NONE:
        raise SuiteError(
            f"{place}: {who} runs on one device without a `parallelism`, not on {asked}. Add one, "
            f'e.g. parallelism = "dp{asked if type(asked) is int else ""}", or leave out `devices`.'
        )
    raise SuiteError(
        f"{place}: {who}: parallelism {found} takes {found.devices} devices, not {asked}. Leave "
        "out `devices`, or give both the same number."
    )


def _divides(place: str, who: str, values: Mapping[str, Any], found: Parallelism) -> None:
    """The batch is that of all devices together: each takes as many rows."""
    batch = values.get(BATCH)
    if batch is None or type(batch) is not int or batch % found.devices == 0:
        return
    low = batch // found.devices * found.devices
    near = [n for n in (low, low + found.devices) if n > 0]
    counts = parallelism.nearest(batch, found.devices)
    over = f" or {batch} over {' or '.join(map(str, counts))} devices" if counts else ""
    raise SuiteError(
        f"{place}: {who}: a batch of {batch} does not divide over {found.devices} devices "
        f"({found}). Nearest that do: a batch of {' or '.join(map(str, near))}{over}."
    )
