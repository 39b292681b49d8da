"""Published peaks of chips, each with its source and trust; `configs/chips.toml` holds them.

A file of the user's own, named by `ACCELMARK_CHIPS`, is asked before ours. A chip that is in
neither has no peak, hence no MFU: another chip's peak never stands in for it.
"""

from __future__ import annotations

import functools
import math
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from bench.catalogue import configs_folder
from bench.errors import SuiteError
from bench.records.environment import section
from bench.units import significant

USER_FILE = "ACCELMARK_CHIPS"
Trust = Literal["high", "medium", "low"]
UNNAMED = re.compile(r"\W*|\D*\b(graphics|device|gpu|unknown)\b\D*", re.IGNORECASE)
"""What a driver calls a device that it does not know."""
ALIKE = 1.05
"""Times one driver may say that a chip has of what another does."""
SLICE = re.compile(r"-\d{1,3}[abcq]\w*$")
"""Behind a chip's name: a virtual device that has so many GB of it, or so much of its time, and not
the whole, unless `match` names that one: `H200X-35C`, `H200X-1-18C`, and `H200X-141C` of all 141
GB. Source: the vendor's table of vGPU types, which `configs/chips.toml` names."""


class Chip(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One chip's specification, per device as torch counts devices."""

    name: str
    match: tuple[str, ...]
    """Texts of which one must be in the device's name; case and spaces do not matter."""
    unless: tuple[str, ...] = ()
    """Texts of which none may be in it: other chips, or slices of this one, with longer names."""
    units: int | None = None
    """Multiprocessors of the whole, as torch counts them: a device of its name that is known to
    have others is a part of it, or another chip. None where that is not certain."""
    peaks: dict[str, float] = {}
    """`bf16_tflops`, ...: dense 10^12 FLOP/s at boost clock, by arithmetic."""
    peak_clock_mhz: float | None = None
    """At which the peaks are stated, where the chip can run faster: then it can do more than they
    say, in proportion. None where that is its highest clock, or not known."""
    highest_clock_mhz: float | None = None
    """At which it can run: what counts of a result whose clock nobody saw."""
    at_highest_clock: tuple[str, ...] = ()
    """Arithmetics whose peaks are stated at that one all the same."""
    peak_trust: dict[str, Trust] = {}
    """Of peaks that may be trusted less than the rest."""
    sparse: dict[str, float] = {}
    """As `peaks`, of operands every second value of which is zero. Nothing refers to them: they are
    here so that they are not taken for the dense ones."""
    memory_gb: float | None = None
    memory_tbps: float | None = None
    """10^12 bytes/s."""
    cache_mib: float | None = None
    """2^20 bytes of its last-level cache."""
    watts: float | None = None
    source: str
    trust: Trust

    def __post_init__(self) -> None:
        if not self.match or not all(text.strip() for text in (*self.match, *self.unless)):
            raise ValueError(f"chip {self.name}: `match` needs a text, and no text may be empty")
        if not self.name.strip() or not self.source.strip():
            raise ValueError(f"chip {self.name}: a peak needs a name and a source")
        clocks = ("peak_clock_mhz", "highest_clock_mhz")
        for name in ("units", *clocks, "memory_gb", "memory_tbps", "cache_mib", "watts"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"chip {self.name}: {name} = {value} is not above zero")
        if more := sorted({*self.peak_trust} - {*self.peaks}):
            raise ValueError(f"chip {self.name}: {more[0]} has a trust and is no peak")
        for name, value in (*self.peaks.items(), *self.sparse.items()):
            if not name.endswith("_tflops") or not math.isfinite(value) or value <= 0:
                raise ValueError(f"chip {self.name}: {name} = {value} is no peak in TFLOP/s")
        for name, value in self.peaks.items():
            if value >= self.sparse.get(name, math.inf):
                raise ValueError(
                    f"chip {self.name}: {name} = {value:g} is dense, and sparse it is "
                    f"{self.sparse[name]:g}: the dense one is less"
                )

    def peak_flop_per_second(self, arithmetic: str) -> float | None:
        """Dense peak at an arithmetic (`bf16`, `fp32`, ...); None where there is no figure."""
        tflops = self.peaks.get(f"{arithmetic}_tflops")
        return None if tflops is None else tflops * 1e12

    def trust_of(self, arithmetic: str) -> Trust:
        """How far its peak at an arithmetic may be trusted."""
        return self.peak_trust.get(f"{arithmetic}_tflops", self.trust)

    def matches(self, device_name: str) -> bool:
        """Whether a device of this name is this chip."""
        name = _plain(device_name)
        found = (name.partition(_plain(text)) for text in self.match)
        return any(text and not SLICE.search(rest) for _, text, rest in found) and not any(
            _plain(text) in name for text in self.unless
        )

    @property
    def summary(self) -> str:
        """Its figures, their source and trust, on one line."""
        name, peak = next(iter(self.peaks.items()), ("", None))
        arithmetic = name.removesuffix("_tflops")
        figures = ["no peak" if peak is None else f"{significant(peak)} TFLOP/s {arithmetic}"]
        if self.memory_gb is not None:
            figures.append(f"{self.memory_gb:g} GB")
        if self.memory_tbps is not None:
            figures.append(f"{self.memory_tbps:g} TB/s")
        return f"{', '.join(figures)} ({self.source}; trust {self.trust})"

    @property
    def bytes_per_second(self) -> float | None:
        """Peak memory bandwidth."""
        return None if self.memory_tbps is None else self.memory_tbps * 1e12


class Shares(msgspec.Struct, frozen=True, kw_only=True):
    """What a result is of the published peaks of its chip, and why it is not known."""

    mfu: float | None = None
    """Model FLOP utilization: of the dense peak at the same arithmetic."""
    mfu_absent: str = ""
    mbu: float | None = None
    """Model bandwidth utilization: the bytes that must move, of the memory bandwidth."""
    mbu_absent: str = ""
    impossible: str = ""
    """Why the result cannot be true; empty if it can."""
    above_memory: str = ""
    """That it is above a trusted memory bandwidth, which caches may explain; else empty."""


def shares(
    device_name: str,
    units: int | None,
    arithmetic: str,
    flop_per_second: float | None,
    least_flop_per_second: float | None,
    bytes_per_second: float | None,
    from_memory: float,
    clock_mhz: float | None = None,
) -> Shares:
    """Shares of the chip that a device is; what is not counted has neither share nor reason.

    units: multiprocessors of the device; None where they are not known.
    least_flop_per_second: of the FLOP those that every kernel must do, by which a result is
    impossible: an MFU counts what a causal one leaves out. from_memory: the part of the bytes that
    no cache can have held; that much of more bytes a second than the chip has is impossible.
    clock_mhz: at which it ran; None where that is not known.
    """
    chip = find(device_name, units)
    if chip is None:
        absent = unknown(device_name, units)
        return Shares(
            mfu_absent="" if flop_per_second is None else absent,
            mbu_absent="" if bytes_per_second is None else absent,
        )
    mfu, mfu_absent = _share(
        flop_per_second, chip.peak_flop_per_second(arithmetic), f"{arithmetic} peak", chip
    )
    mbu, mbu_absent = _share(bytes_per_second, chip.bytes_per_second, "memory bandwidth", chip)
    least, _ = _share(least_flop_per_second, chip.peak_flop_per_second(arithmetic), "", chip)
    whose, impossible, above = f"of {chip.name} ({chip.source})", "", ""
    stated = None if arithmetic in chip.at_highest_clock else chip.peak_clock_mhz
    ran = clock_mhz or chip.highest_clock_mhz
    most = max(1.0, ran / stated) if ran and stated else 1.0
    if chip.trust_of(arithmetic) == "high" and least is not None and least > most:
        impossible = f"{least:.0%} of the {arithmetic} peak {whose}: impossible"
        if stated:
            seen = "at" if clock_mhz else "at up to"
            at = f" {seen} {ran:.0f} MHz" if ran else ", unless it ran faster"
            impossible += f"{at}; the peak is at {stated:.0f} MHz"
    elif chip.trust == "high" and mbu is not None and mbu > 1:
        above = f"{mbu:.0%} of the memory bandwidth {whose}"
        if mbu * from_memory > 1:
            impossible = f"{above}: impossible, even if its caches held what they can"
    return Shares(
        mfu=mfu,
        mfu_absent=mfu_absent,
        mbu=mbu,
        mbu_absent=mbu_absent,
        impossible=impossible,
        above_memory=above,
    )


def _share(
    rate: float | None, peak: float | None, what: str, chip: Chip
) -> tuple[float | None, str]:
    """Of a peak; or why not. Neither where there is no rate."""
    if rate is None:
        return None, ""
    if peak is None:
        return None, f"no {_published(chip)}{what} of {chip.name}"
    return rate / peak, ""


def whose(
    device_name: str, units: int | None, arithmetic: str, mfu: float | None, mbu: float | None
) -> dict[str, str]:
    """A row's `mfu_of` and `mbu_of`, by its shares: the chip, and how far its peak is trusted."""
    chip = find(device_name, units)
    if chip is None:
        return {}
    by = "" if _published(chip) else f"by {USER_FILE}; "

    def of(share: float | None, trust: Trust) -> str:
        above = share is not None and share > 1 and trust != "high"
        why = ", so not void: it may be too low" if above else ""
        return "" if share is None else f"{chip.name} ({by}trust {trust}{why})"

    return {"mfu_of": of(mfu, chip.trust_of(arithmetic)), "mbu_of": of(mbu, chip.trust)}


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    chip: tuple[Chip, ...]


def chips() -> tuple[Chip, ...]:
    """Every known chip: the user's file first. `SuiteError` says what is wrong in it."""
    return _chips(os.environ.get(USER_FILE))


@functools.cache
def _chips(user_file: str | None) -> tuple[Chip, ...]:
    own = () if user_file is None else _read(Path(user_file))
    return (*own, *_ours())


@functools.cache
def _ours() -> tuple[Chip, ...]:
    return _read(configs_folder() / "chips.toml")


def _published(chip: Chip) -> str:
    """What its peaks are called; nothing of a user's own."""
    return "published " if any(chip is one for one in _ours()) else ""


def _read(path: Path) -> tuple[Chip, ...]:
    try:
        content: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        return msgspec.convert(content, _File).chip
    except (OSError, ValueError, RecursionError) as error:  # msgspec's and TOML's are ValueErrors
        raise SuiteError(
            f"{path}: this file of chips cannot be used ({error}). Write it like "
            f"configs/chips.toml, or take {USER_FILE}, which names it, out of the environment."
        ) from error


def find(device_name: str, units: int | None = None) -> Chip | None:
    """The chip of a device by the name that its driver gives, and by its multiprocessors where they
    are known; None if no entry matches."""
    named = _named(device_name)
    return next((c for c in named if None in (units, c.units) or units == c.units), None)


def unknown(device_name: str, units: int | None = None) -> str:
    """Why `find` finds nothing: no entry has the name, or the device is a part of what has it."""
    for chip in _named(device_name):
        return f"no {_published(chip)}peak of a part of {chip.name}: {units} of {chip.units} units"
    return f"no published peak: {device_name} is not in configs/chips.toml"


def cache_of(device: Mapping[str, Any]) -> int | None:
    """Bytes of the last-level caches of a run's device, as it says or its chip has: the larger, as
    some drivers leave the last level out. None if neither is known."""
    facts = section(device, "facts")
    said = facts.get("last_level_cache_bytes")
    chip = find(str(device.get("name")), units_of(facts))
    own = int(said) if isinstance(said, str) and said.isdecimal() else 0
    known = (chip.cache_mib if chip else None) or 0
    return max(own, round(known * 2**20)) or None


def units_of(facts: Any) -> int | None:
    """Multiprocessors of a device, by its facts in a record; None where it does not say."""
    said = facts.get("multiprocessors") if isinstance(facts, Mapping) else None
    return int(said) if isinstance(said, str) and said.isdecimal() else None


def one_kind(base: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two devices, as headers of runs have them, are of one name, architecture and number
    of multiprocessors.

    What a side does not say does not count. A name of general words, or one that is made of the
    architecture, is a driver's that does not know the chip: then the other two tell, and the
    memory, by which a chip may differ alone.
    """
    names = [str(device.get("name")) for device in (base, other)]
    facts = [section(device, "facts") for device in (base, other)]
    architectures = [str(one.get("architecture", "")).partition(":")[0] for one in facts]
    units = [units_of(one) for one in facts]
    known = all(re.search(r"\d", said) for said in architectures) and None not in units
    if known and (len({*architectures}) > 1 or len({*units}) > 1):
        return False
    unnamed = [
        bool(UNNAMED.fullmatch(name)) or architecture in name
        for name, architecture in zip(names, architectures, strict=True)
    ]
    sizes = [device.get("memory_bytes") for device in (base, other)]
    told = [float(size) for size in sizes if isinstance(size, int)]
    alike = max(told, default=0) <= ALIKE * min(told, default=0)
    return names[0] == names[1] or (known and any(unnamed) and alike)


def _named(device_name: str) -> Iterator[Chip]:
    return (chip for chip in chips() if chip.matches(device_name))


@functools.cache
def _plain(text: str) -> str:
    return "".join(text.lower().split())
