"""Telemetry of the host's own CPUs: RAPL, cpufreq, hwmon and thermal_throttle of Linux; psutil."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from bench.records.cpu_limits import said_in
from bench.records.observed import Reading
from bench.telemetry.figures import ALL_ONES, figure
from bench.telemetry.source import Source

POWERCAP = Path("/sys/class/powercap")
CPUS = Path("/sys/devices/system/cpu")
HWMON = Path("/sys/class/hwmon")
CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")
SLACK = 1_000_000
"""Microjoules: counters of one package are brought up to date within some milliseconds."""
CLOCKS_LOOKED_AT = 8
"""Asking a core for its clock disturbs it, so no more than this many are asked, evenly spread."""


class CpuSource(Source):
    """All packages of this host: they serve every process on it.

    RAPL counts energy; the power is its rise, so there is no second figure to hold it against. Its
    counters have been for root alone since 2020 on many systems, and virtual machines have none.
    """

    name = "RAPL"
    scope = "shared"
    interval_seconds = 0.5
    card = "the host"

    def __init__(self) -> None:
        super().__init__()
        self._packages: dict[Path, int] = {}
        """What each counts up to."""
        self._mirrors: dict[Path, Path] = {}
        """Dies that have been nothing but the first of their package so far."""
        first: dict[str, Path] = {}
        for path in sorted(POWERCAP.glob("intel-rapl:[0-9]*")):
            package = said_in(path / "name").partition("-die-")[0]
            if path.name.count(":") == 1 and package.startswith("package"):
                self._packages[path] = _integer(path / "max_energy_range_uj") or 0
                if first.setdefault(package, path) != path:
                    self._mirrors[path] = first[package]
        self._counted = 0
        """Microjoules since this source was opened: the counters wrap, this does not."""
        self._last: dict[Path, int] = {}
        clocks = sorted(CPUS.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
        self._clocks = clocks[:: max(1, -(-len(clocks) // CLOCKS_LOOKED_AT))]
        chips = (p for p in sorted(HWMON.glob("hwmon*")) if said_in(p / "name") in CPU_SENSORS)
        self._heat = [_of_the_die(chip) for chip in chips]
        self._throttle = sorted(CPUS.glob("cpu[0-9]*/thermal_throttle/package_throttle_count"))
        self._throttled = self._count_throttled()
        if not self._packages:
            self.name = "the operating system"

    def read(self) -> Reading:
        """What this host says; the reasons for what it does not are in `absent`."""
        import psutil

        self.absent.clear()
        hertz = _figures("clock", self._clocks, "kHz")
        if not hertz:
            self.absent["clock"] = "no cpufreq here"
        heat = _figures("temperature", self._heat, "mC")
        if not heat:
            self.absent["temperature"] = "no sensor of a CPU here"
        counts = self._count_throttled()
        if not counts:
            self.absent["reasons"] = "no thermal_throttle counter here"
        hotter = any(now > self._throttled.get(path, now) for path, now in counts.items())
        self._throttled.update(counts)
        used = self._asked("memory", lambda: int(psutil.virtual_memory().used))
        return Reading(
            energy_joules=self._energy(),
            clock_mhz=sum(hertz) / len(hertz) if hertz else None,
            temperature_celsius=max(heat, default=None),
            utilisation_percent=self._asked("utilisation", psutil.cpu_percent),
            memory_used_bytes=None if used is None else int(used),
            reasons=None if not counts else ("thermal",) if hotter else (),
        )

    def _asked(self, quantity: str, call: Callable[[], float]) -> float | None:
        """What psutil says; None where it fails, which costs that quantity alone."""
        try:
            return call()
        except Exception as error:  # noqa: BLE001 - its files are the kernel's, and may be none
            self.absent[quantity] = f"psutil: {type(error).__name__}: {error}"
            return None

    def _energy(self) -> float | None:
        """Joules of all packages since the source was opened, across wraps of the counters.

        A counter that falls and does not say where it wraps has lost what it counted: all begin
        anew, which whoever takes differences sees as a fall. Dies of one package may have a counter
        each, or all show the package's: one counts from when it is not between two looks at the
        first, which are apart by what the package draws meanwhile.
        """
        if not self._packages:
            why = "powermetrics needs root" if sys.platform == "darwin" else "no RAPL here"
            self.absent["energy"] = self.absent["power"] = why
            return None
        counts = {path: _integer(path / "energy_uj") for path in self._packages}
        later = {first: _integer(first / "energy_uj") for first in {*self._mirrors.values()}}
        for path, span in self._packages.items():
            now = counts[path]
            if now is None or float(now) in ALL_ONES:
                why = "RAPL is for root here: /sys/class/powercap/*/energy_uj"
                if now is not None:
                    why = f"RAPL: {now:,} uJ is all ones of a register: no figure"
                self.absent["energy"] = self.absent["power"] = why
                return None
            if (first := self._mirrors.get(path)) is not None:
                if _is_between(counts[first], now, later[first], span):
                    continue
                del self._mirrors[path]
            before = self._last.get(path, now)
            if now >= before:
                self._counted += now - before
            elif before <= span:
                self._counted += now - before + span
            else:
                self._counted = 0
            self._last[path] = now
        self.absent["power"] = "RAPL counts energy"
        return self._counted / 1e6

    def _count_throttled(self) -> dict[Path, int]:
        """Of each core that says it: a file that cannot be read once is no change of the sum."""
        return {path: n for path in self._throttle if (n := _integer(path)) is not None}


def _figures(quantity: str, paths: Iterable[Path], unit: str) -> list[float]:
    """Of the files that hold one."""
    found = [figure(quantity, _integer(path), unit) for path in paths]
    return [value for value in found if not isinstance(value, str)]


def _of_the_die(chip: Path) -> Path:
    """A sensor's input: of some CPUs the first is what fans go by (Tctl), 10 to 27 C above."""
    labels = (p for p in sorted(chip.glob("temp*_label")) if said_in(p) == "Tdie")
    return next((p.with_name(f"{p.stem[:-6]}_input") for p in labels), chip / "temp1_input")


def _is_between(before: int | None, count: int, after: int | None, span: int) -> bool:
    """Whether a counter that wraps after `span` may be one that was looked at before and after."""
    turn = span or 1 << 64
    if before is None or after is None:
        return True
    return (count - before + SLACK) % turn <= (after - before) % turn + 2 * SLACK


def _integer(path: Path) -> int | None:
    text = said_in(path)
    return int(text) if text.isdecimal() else None
