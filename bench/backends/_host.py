"""Telemetry of the host's own CPUs: RAPL, cpufreq, hwmon and thermal_throttle of Linux; psutil."""

from __future__ import annotations

import sys
from pathlib import Path

from bench.records.observed import Reading
from bench.telemetry.source import Source

POWERCAP = Path("/sys/class/powercap")
CPUS = Path("/sys/devices/system/cpu")
HWMON = Path("/sys/class/hwmon")
CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")
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

    def __init__(self) -> None:
        super().__init__()
        self._packages = {
            path: _integer(path / "max_energy_range_uj") or 0
            for path in sorted(POWERCAP.glob("intel-rapl:[0-9]*"))
            if path.name.count(":") == 1 and _text(path / "name").startswith("package")
        }
        self._counted = 0
        """Microjoules since this source was opened: the counters wrap, this does not."""
        self._last: dict[Path, int] = {}
        clocks = sorted(CPUS.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
        self._clocks = clocks[:: max(1, -(-len(clocks) // CLOCKS_LOOKED_AT))]
        self._heat = [
            path / "temp1_input"
            for path in sorted(HWMON.glob("hwmon*"))
            if _text(path / "name") in CPU_SENSORS
        ]
        self._throttle = sorted(CPUS.glob("cpu[0-9]*/thermal_throttle/package_throttle_count"))
        self._throttled = self._count_throttled()
        if not self._packages:
            self.name = "the operating system"

    def read(self) -> Reading:
        """What this host says; the reasons for what it does not are in `absent`."""
        import psutil

        self.absent.clear()
        hertz = [f for f in map(_integer, self._clocks) if f is not None]
        if not hertz:
            self.absent["clock"] = "no cpufreq here"
        heat = [t for t in map(_integer, self._heat) if t is not None]
        if not heat:
            self.absent["temperature"] = "no sensor of a CPU here"
        throttled = self._count_throttled()
        if throttled is None:
            self.absent["reasons"] = "no thermal_throttle counter here"
        hotter = throttled is not None and throttled > (self._throttled or 0)
        self._throttled = throttled
        return Reading(
            energy_joules=self._energy(),
            clock_mhz=sum(hertz) / len(hertz) / 1000 if hertz else None,
            temperature_celsius=max(heat) / 1000 if heat else None,
            utilisation_percent=psutil.cpu_percent(),
            memory_used_bytes=int(psutil.virtual_memory().used),
            reasons=None if throttled is None else ("thermal",) if hotter else (),
        )

    def _energy(self) -> float | None:
        """Joules of all packages since the source was opened, across wraps of the counters."""
        if not self._packages:
            why = "powermetrics needs root" if sys.platform == "darwin" else "no RAPL here"
            self.absent["energy"] = self.absent["power"] = why
            return None
        for path, span in self._packages.items():
            now = _integer(path / "energy_uj")
            if now is None:
                why = "RAPL is for root here: /sys/class/powercap/*/energy_uj"
                self.absent["energy"] = self.absent["power"] = why
                return None
            before = self._last.get(path, now)
            self._counted += now - before if now >= before else now - before + span
            self._last[path] = now
        self.absent["power"] = "RAPL counts energy"
        return self._counted / 1e6

    def _count_throttled(self) -> int | None:
        counts = [c for c in map(_integer, self._throttle) if c is not None]
        return sum(counts) if counts else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _integer(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdecimal() else None
