"""The host's telemetry: RAPL, clocks and temperatures, from a made /sys."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from bench.backends import _host
from bench.telemetry.energy import counter_fault


def sysfs(folder: Path, files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> _host.CpuSource:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    monkeypatch.setattr(_host, "POWERCAP", folder / "powercap")
    monkeypatch.setattr(_host, "CPUS", folder / "cpu")
    monkeypatch.setattr(_host, "HWMON", folder / "hwmon")
    return _host.CpuSource()


BARE_METAL = {
    "powercap/intel-rapl:0/name": "package-0",
    "powercap/intel-rapl:0/energy_uj": "262143000000",
    "powercap/intel-rapl:0/max_energy_range_uj": "262143328850",
    "powercap/intel-rapl:0:0/name": "core",
    "powercap/intel-rapl:0:0/energy_uj": "1",
    "powercap/intel-rapl:1/name": "psys",
    "powercap/intel-rapl:1/energy_uj": "1",
    "cpu/cpu0/cpufreq/scaling_cur_freq": "3400000",
    "cpu/cpu1/cpufreq/scaling_cur_freq": "3000000",
    "cpu/cpu0/thermal_throttle/package_throttle_count": "7",
    "hwmon/hwmon0/name": "nvme",
    "hwmon/hwmon0/temp1_input": "99000",
    "hwmon/hwmon1/name": "k10temp",
    "hwmon/hwmon1/temp1_input": "61500",
}


def test_rapl_wraps_and_is_of_whole_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = sysfs(tmp_path, BARE_METAL, monkeypatch)
    first = source.read()
    assert (source.name, source.scope, first.energy_joules) == ("RAPL", "shared", 0)
    assert (first.clock_mhz, first.temperature_celsius, first.reasons) == (3200, 61.5, ())
    (tmp_path / "powercap/intel-rapl:0/energy_uj").write_text("1000000\n")
    (tmp_path / "cpu/cpu0/thermal_throttle/package_throttle_count").write_text("8\n")
    second = source.read()
    assert second.energy_joules == pytest.approx(1.32885)
    assert second.reasons == ("thermal",)
    assert source.read().reasons == (), "throttled since the last look, not ever"


def test_rapl_for_root_alone_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = sysfs(tmp_path, BARE_METAL, monkeypatch)
    (tmp_path / "powercap/intel-rapl:0/energy_uj").unlink()  # root, who tests too, may read all
    assert source.read().energy_joules is None
    assert "RAPL is for root here" in source.absent["energy"]


def test_a_virtual_machine_has_no_rapl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = sysfs(tmp_path, {}, monkeypatch)
    reading = source.read()
    assert (reading.energy_joules, reading.clock_mhz, reading.reasons) == (None, None, None)
    assert source.absent["energy"] == source.absent["power"] == "no RAPL here"
    assert reading.utilisation_percent is not None and reading.memory_used_bytes


def test_a_counter_that_falls_and_does_not_say_where_it_wraps_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lost 262 kJ: what it counts then is seen as a fall, and refused."""
    files = {n: t for n, t in BARE_METAL.items() if "max_energy_range" not in n}
    source = sysfs(tmp_path, files, monkeypatch)
    counter = tmp_path / "powercap/intel-rapl:0/energy_uj"
    joules = [source.read().energy_joules]
    for microjoules in (262143300000, 1000000, 3000000):
        counter.write_text(f"{microjoules}\n")
        joules.append(source.read().energy_joules)
    assert joules == [0, 0.3, 0, 2]
    points = [(float(at), j) for at, j in enumerate(joules) if j is not None]
    assert "fell from 0.3 to 0 J" in counter_fault(points, [(0.0, 3.0)], 0.5)


def test_a_file_that_cannot_be_read_once_is_no_throttling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "cpu/cpu1/thermal_throttle/package_throttle_count"
    source = sysfs(tmp_path, {**BARE_METAL, name: "9"}, monkeypatch)
    (tmp_path / name).write_text("")
    assert source.read().reasons == ()
    (tmp_path / name).write_text("9")
    assert source.read().reasons == (), "9 after nothing is not hotter"
    (tmp_path / name).write_text("10")
    assert source.read().reasons == ("thermal",)


def test_psutil_that_fails_costs_its_own_quantity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> None:
        raise OSError("no /proc")

    monkeypatch.setattr(psutil, "virtual_memory", fails)
    source = sysfs(tmp_path, BARE_METAL, monkeypatch)
    reading = source.read()
    assert (reading.memory_used_bytes, reading.clock_mhz) == (None, 3200)
    assert source.absent["memory"] == "psutil: OSError: no /proc"
