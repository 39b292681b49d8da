"""How a step's work is spread over devices: `none`, `dp8`, `fsdp8`, `hsdp2x4`, `replicas8`.

One canonical grammar, parsed to a value that cannot be nonsense. A suite may leave the number open
(`dp`); then it is that of the devices which a run takes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from typing import Literal, get_args

import msgspec

Scheme = Literal["none", "dp", "fsdp", "hsdp", "replicas", "dlrm-hybrid"]
SCHEMES: tuple[str, ...] = get_args(Scheme)
LATER = {
    "tp": "tensor parallelism",
    "pp": "pipeline parallelism",
    "ep": "expert parallelism",
    "cp": "context parallelism",
}
"""Schemes that people ask for, and that this release does not run."""
MOST_DEVICES = 65_536
EXAMPLES = {"hsdp": "hsdp2x4", "none": "none"}
_GRAMMAR = re.compile(r"([a-z][a-z-]*?)([1-9]\d*(?:x[1-9]\d*)*)?")


class Parallelism(msgspec.Struct, frozen=True):
    """A scheme and the sizes of its dimensions, outermost first."""

    scheme: Scheme = "none"
    sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        dimensions = {"none": 0, "hsdp": 2}.get(self.scheme, 1)
        if len(self.sizes) != dimensions or any(size < 2 for size in self.sizes):
            wanted = ("no number", "one number from 2 up", "two numbers from 2 up")[dimensions]
            raise ValueError(f"parallelism `{self}`: {self.scheme} takes {wanted}")
        if self.devices > MOST_DEVICES:
            raise ValueError(f"parallelism `{self}`: at most {MOST_DEVICES} devices")

    def __str__(self) -> str:
        return self.scheme + "x".join(map(str, self.sizes))

    @property
    def devices(self) -> int:
        """How many devices it takes; of `none` it does not say, which is 1."""
        return math.prod(self.sizes)


NONE = Parallelism()


def allowed(schemes: Collection[str] = SCHEMES) -> str:
    """What may be written, of some schemes: `Allowed: none, dp8, fsdp8, with any number ...`."""
    if set(schemes) == {"none"}:
        return "It cannot be spread over devices: leave out `parallelism`."
    examples = ", ".join(EXAMPLES.get(scheme, f"{scheme}8") for scheme in schemes)
    return f"Allowed: {examples}, with any number from 2 up."


def parse(text: str, devices: int | None = None) -> Parallelism:
    """The parallelism that a text names: `fsdp8`; `fsdp` where `devices` says how many.

    Raises ValueError for anything else, and for sizes that no scheme has (`allowed` says which).
    """
    found = _GRAMMAR.fullmatch(text)
    scheme, numbers = (found[1], found[2]) if found else (text, None)
    for word in re.findall(r"[a-z-]+", text):
        if word in LATER:
            raise ValueError(
                f"parallelism `{text}`: {LATER[word]} ({word}) is not measured by this release"
            )
    if scheme not in SCHEMES:
        raise ValueError(f"unknown parallelism `{text}`")
    if scheme == "none":
        if numbers:
            raise ValueError(f"parallelism `{text}`: none takes no number")
        return NONE
    if numbers is None:
        if devices is None:
            raise ValueError(f"parallelism `{text}` says no number of devices")
        return _filled(scheme, devices)
    return Parallelism(scheme, tuple(map(int, numbers.split("x"))))  # type: ignore[arg-type]


def is_open(text: str) -> bool:
    """Whether a suite's text leaves the number of devices to the run."""
    return text in SCHEMES and text != "none"


def _filled(scheme: str, devices: int) -> Parallelism:
    if scheme != "hsdp":
        return Parallelism(scheme, (devices,))  # type: ignore[arg-type]
    if devices < 4 or devices % 2:
        raise ValueError(
            f"parallelism `hsdp` on {devices} devices: it takes two numbers, whose product they "
            f"are, e.g. hsdp2x{max(2, devices // 2)}"
        )
    return Parallelism("hsdp", (2, devices // 2))


def nearest(batch: int, devices: int) -> tuple[int, ...]:
    """The nearest numbers of devices, below and above, over which a batch divides evenly."""
    fits = [n for n in range(2, batch + 1) if batch % n == 0]
    below = [n for n in fits if n < devices][-1:]
    above = [n for n in fits if n > devices][:1]
    return (*below, *above)
