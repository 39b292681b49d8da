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


def energies(
    names: list[str], looks: list[list[int]], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> list[float | None]:
    """What RAPL says at each look, at which its domains stand at these microjoules."""
    files = {f"powercap/intel-rapl:{k}/name": name for k, name in enumerate(names)}
    files |= {f"powercap/intel-rapl:{k}/max_energy_range_uj": "65532610987" for k in range(99)}
    source = sysfs(folder, files, monkeypatch)
    said: list[float | None] = []
    for counts in looks:
        for k, count in enumerate(counts):
            (folder / f"powercap/intel-rapl:{k}/energy_uj").write_text(f"{count}\n")
        said.append(source.read().energy_joules)
    return said


@pytest.mark.parametrize("dies", [1, 2, 4, 12])
def test_dies_that_show_the_packages_counter_count_once(
    dies: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As AMD's do where the kernel takes a package's counter for each die's: also over a wrap that
    some have behind them at a look and others have not."""
    names = [f"package-{p}-die-{d}" for p in range(2) for d in range(dies)]
    span = 65532610987
    looks = []
    for at in (0, 140_000_000, 280_000_000):
        looks.append([(span - 140_000_000 + at - d * 1000) % span for d in range(dies)])
        looks[-1] += [5_000_000 + at // 2 + d * 90_000 for d in range(dies)]
    assert energies(names, looks, tmp_path, monkeypatch) == pytest.approx([0, 210, 420], abs=0.1)


@pytest.mark.parametrize("behind", [9_000_000_000, 0])
def test_dies_that_count_for_themselves_are_added(
    behind: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a Cascade Lake-AP, even where both stood alike when they were first looked at."""
    names = ["package-0-die-0", "package-0-die-1"]
    looks = [[10_000_000_000 + k * 70, 10_000_000_000 - behind + k * 50] for k in (0, 10**6, 10**7)]
    joules = energies(names, looks, tmp_path, monkeypatch)
    first = 120 if behind else 70  # not yet known to be two
    assert joules == [0, first, first + 9 * 120]


def test_a_first_die_that_was_looked_at_late_is_still_the_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sampler waits for a core between two files: the second shows what was drawn meanwhile."""
    drawn = iter(range(10**9, 2 * 10**9, 20_000_000))
    names = ["package-0-die-0", "package-0-die-1"]
    energies(names, [], tmp_path, monkeypatch)
    source = _host.CpuSource()
    given = _host._integer
    counter = "energy_uj"
    monkeypatch.setattr(
        _host, "_integer", lambda path: next(drawn) if path.name == counter else given(path)
    )
    assert [source.read().energy_joules for _ in range(3)] == [0, 60, 120]


@pytest.mark.parametrize(
    ("labels", "degrees"),
    [(("Tctl", "Tdie"), 68), (("Tdie", "Tctl"), 95), (("Tctl", "Tccd1"), 95), ((), 95)],
)
def test_the_temperature_is_of_the_die(
    labels: tuple[str, ...], degrees: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tctl, which fans go by, is 27 C above on a Threadripper 1950X."""
    chip = "hwmon/hwmon0/"
    files = {f"{chip}name": "k10temp", f"{chip}temp1_input": "95000", f"{chip}temp2_input": "68000"}
    files |= {f"{chip}temp{k}_label": label for k, label in enumerate(labels, 1)}
    assert sysfs(tmp_path, files, monkeypatch).read().temperature_celsius == degrees
