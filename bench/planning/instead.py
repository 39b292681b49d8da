"""In which precision a case is measured where that of its suite will not do.

A suite is written for accelerators, and most laptops multiply bfloat16 by reference code, a hundred
times as slowly as float32: a suite may name what is measured there `instead`. What is measured
is a case of its own, with its own name and fingerprint, never in one ratio with the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol

from bench.errors import UnknownName, suggestion
from bench.precision import PRECISIONS

NOTHING: Mapping[str, str] = MappingProxyType({})
OPTION = "--precision"


class Device(Protocol):
    """A device as it was asked (`bench.backend.DeviceInfo`)."""

    @property
    def precisions(self) -> Sequence[str]:
        """Those that it runs; empty if nobody asked."""

    @property
    def slow(self) -> Mapping[str, str]:
        """Those that it runs by reference code: what was seen of that."""


class Wanted(NamedTuple):
    """What a run makes of the precisions of its suite."""

    runs: frozenset[str] | None = None
    """Names of those that its device was found to run; None where nobody asked: all as written."""
    slow: Mapping[str, str] = NOTHING
    """Those that it runs by reference code: what was seen of that."""
    always: str = ""
    """The one that every case is measured in that has it."""

    def others(
        self, written: str, instead: Mapping[str, Sequence[str]]
    ) -> Iterator[tuple[str, str]]:
        """Each precision that may take the place of the written one, the best first, and why.

        None where the written one is taken, or stays for want of another.
        """
        if self.always:
            if self.always != written:
                yield self.always, f"{self.always} instead of {written}: {OPTION} asks for it"
            return
        if self.runs is None or (written in self.runs and written not in self.slow):
            return
        why = self.slow.get(written, f"this device was not found to run {written}")
        for name in instead.get(written, ()):
            if name in self.runs and name not in self.slow:
                yield name, f"{name} instead of {written}: {why}"


AS_WRITTEN = Wanted()


def slow(device: Device) -> dict[str, list[str]]:
    """The precisions that it runs by reference code, by what was seen of that."""
    found: dict[str, list[str]] = {}
    for name, why in device.slow.items():
        found.setdefault(why, []).append(name)
    return found


def both(one: Wanted, other: Wanted) -> Wanted:
    """What a run on two devices makes of its suite, which is the same on both."""
    if one.runs is None or other.runs is None:
        return one if other.runs is None else other
    return Wanted(one.runs & other.runs, {**one.slow, **other.slow}, one.always)


def wanted(device: Device | None, precision: str | None = None) -> Wanted:
    """What a run makes of its suite on that device; precision: what the user asks for, of all.

    Raises `UnknownName` where that is none.
    """
    if precision is not None and precision not in PRECISIONS:
        raise UnknownName(
            f"{OPTION} {precision}: unknown precision `{precision}`."
            f"{suggestion(precision, PRECISIONS)}"
        )
    if device is None or not device.precisions:
        return Wanted(always=precision or "")
    return Wanted(frozenset(device.precisions), device.slow, precision or "")


def cause(why: str) -> str:
    """Of what `Wanted.others` says: what is measured, and for what reason, whatever it replaces."""
    taken, _, rest = why.partition(" instead of ")
    return f"{taken}\n{rest.partition(': ')[2]}"


def in_place(whys: Iterable[str]) -> str:
    """Several of one cause in one: "fp32 instead of bf16 and bf16-amp: ..."."""
    each = list(dict.fromkeys(whys))
    taken, _, reason = cause(each[0]).partition("\n")
    replaced = [why.partition(" instead of ")[2].partition(": ")[0] for why in each]
    return f"{taken} instead of {' and '.join(replaced)}: {reason}"
