"""npu-smi: what real ones print, which die is meant, whose power it says."""

from __future__ import annotations

import os

import msgspec
import pytest

from bench.backend import DeviceInfo
from bench.backends import _npu_smi, ascend
from bench.backends._npu_smi import chip_of, parse_common, parse_info, power_of_card
from bench.telemetry.source import NotObservable, Process, Source
from bench.tests import simulated

A3 = """\
| NPU   Name       | Health       | Power(W)  Temp(C)          Hugepages-Usage(page)|
| Chip  Phy-ID     | Bus-Id       | AICore(%) Memory-Usage(MB) HBM-Usage(MB)        |
+==================+==============+=================================================+
| 0     Ascend910  | OK           | 178.5     36               0    / 0             |
| 0     0          | 0000:9D:00.0 | 0         0    / 0         3416 / 65536         |
+------------------+--------------+-------------------------------------------------+
| 0     Ascend910  | OK           | -         36               0    / 0             |
| 1     1          | 0000:9F:00.0 | 0         0    / 0         3195 / 65536         |
+==================+==============+=================================================+
| 1     Ascend910  | OK           | 181.0     37               0    / 0             |
| 0     2          | 0000:A0:00.0 | 0         0    / 0         3416 / 65536         |
| 1     Ascend910  | Warning      | -         38               0    / 0             |
| 1     3          | 0000:A2:00.0 | 0         0    / 0         3195 / 65536         |
+---------------------------+---------------+-------------------------------------------+
| NPU     Chip              | Process id    | Process name             | Process memory(MB)      |
| No running processes found in NPU 0                                                              |
"""
A2 = """\
| npu-smi 24.1.rc2                 Version: 24.1.rc2                                 |
| NPU   Name       | Health       | Power(W)  Temp(C)          Hugepages-Usage(page)|
| Chip             | Bus-Id       | AICore(%) Memory-Usage(MB) HBM-Usage(MB)        |
+==================+==============+=================================================+
| 0     910B4-1    | OK           | 91.3      33               0    / 0             |
| 0                | 0000:C1:00.0 | 12        0    / 0         2836 / 65536         |
"""
P310 = """\
| NPU   Name       | Health       | Power(W)  Temp(C)          Hugepages-Usage(page)|
| Chip  Device     | Bus-Id       | AICore(%) Memory-Usage(MB)                      |
+==================+==============+=================================================+
| 2     310P3      | OK           | NA        47               0    / 0             |
| 0     0          | 0000:02:00.0 | 0         1603 / 44216                          |
| 2     310P3      | OK           | NA        46               0    / 0             |
| 1     1          | 0000:02:00.0 | 0         1604 / 43757                          |
"""
A950 = """\
| npu-smi 25.7.rc1                                 Version: 25.7.rc1                              |
+--------+------------------+---------------+-----------------------------------------------------+
| NPU ID | Name             | Health        | Power(W)    Temp(C)           Hugepages-Usage(page) |
|        |                  | Bus-Id        | NPU Util(%) Memory-Usage(MB)  HBM-Usage(MB)         |
+========+==================+===============+=====================================================+
| 0      | Ascend950PR      | Alarm         | 205.7       71                0     / 0             |
|        |                  | 0000:71:00.0  | 100         0    / 0          90633 / 114688        |
+========+==================+===============+=====================================================+
| 1      | Ascend950PR      | OK            | 192.7       57                0     / 0             |
|        |                  | 0000:81:00.0  | 0           0    / 0          5413  / 131072        |
+========+==================+===============+=====================================================+
+---------------------------+---------------+-----------------------------------------------------+
| NPU ID                    | Process id    | Process name             | Process memory(MB)       |
+===========================+===============+=====================================================+
| 0                         | 1530715       | python                   | 4724                    |
| 0                         | 1655234       | python                   | 4728                    |
+===========================+===============+=====================================================+
"""
"""Of npu-smi 25.7, which numbers no chips."""
COMMON_950 = """\
NPU ID                         : 1
Memory Usage Rate(%)           : 0
HBM Usage Rate(%)              : 3
Aicore Usage Rate(%)           : 0
Aicore Freq(MHZ)               : 1650
Aicore curFreq(MHZ)            : 100
Aicore Count                   : 32
Temperature(C)                 : 65
NPU Real-time Power(W)         : 298.6
"""
COMMON = """\
\tNPU ID : 0
\tChip Count : 1

\tChip ID : 0
\tMemory Usage Rate(%) : 6
\tHBM Usage Rate(%) : 0
\tAicore Usage Rate(%) : 0
\tAicore Freq(MHZ) : 900
\tAicore curFreq(MHZ) : 900
\tAicore Count : 30
\tTemperature(C) : 41
\tNPU Real-time Power(W) : 71.7
"""


def test_a_910c_is_two_dies_and_its_power_is_the_cards() -> None:
    chips = parse_info(A3)
    assert [(c.npu, c.chip, c.physical) for c in chips] == [
        (0, 0, 0),
        (0, 1, 1),
        (1, 0, 2),
        (1, 1, 3),
    ]
    assert [c.power_watts for c in chips] == [178.5, None, 181.0, None]
    assert power_of_card(chips, 0) == 178.5, "never halved, and the `-` never added"
    assert power_of_card(chips, 1) == 181.0
    assert chips[1].hbm_total_mb == 65536
    assert chips[1].memory_total_mb == 0 and chips[3].health == "Warning"
    assert chips[3].temperature_celsius == 38 and chips[0].name == "Ascend910"


def test_a_910b_has_no_physical_number_and_a_310p_no_power_and_no_hbm() -> None:
    (one,) = parse_info(A2)
    assert (one.npu, one.chip, one.physical, one.name) == (0, 0, None, "910B4-1")
    assert (one.power_watts, one.hbm_total_mb) == (91.3, 65536)
    first, second = parse_info(P310)
    assert (first.npu, first.physical, second.chip, second.physical) == (2, 0, 1, 1)
    assert first.power_watts is None and first.hbm_total_mb is None
    assert first.memory_total_mb == 44216
    assert power_of_card((first, second), 2) is None


def test_a_950_is_one_chip_without_a_number() -> None:
    first, second = parse_info(A950)
    assert [(c.npu, c.chip, c.physical) for c in (first, second)] == [(0, 0, None), (1, 0, None)]
    assert (first.name, first.health, second.health) == ("Ascend950PR", "Alarm", "OK")
    assert (second.power_watts, second.temperature_celsius) == (192.7, 57)
    assert (second.hbm_total_mb, second.memory_total_mb) == (131072, 0)
    assert chip_of((first, second), 1, None) == second
    (page,) = parse_common(COMMON_950)
    assert (page["Chip ID"], page["Aicore curFreq(MHZ)"]) == ("0", "100")
    assert _npu_smi.parse_processes(A950) == (
        (0, 0, Process(1530715, 4724 * 2**20)),
        (0, 0, Process(1655234, 4728 * 2**20)),
    )


def test_a_950_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASCEND_RT_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(
        _npu_smi, "said", lambda *words, **_: COMMON_950 if "common" in words else A950
    )
    source = _npu_smi.NpuSmiSource(1)
    assert (source.scope, source.card, source.card_devices) == ("board", "1", 1)
    reading = source.read()
    assert (reading.power_watts, reading.clock_mhz, reading.temperature_celsius) == (298.6, 100, 65)
    assert (reading.utilisation_percent, reading.memory_used_bytes) == (
        0,
        131072 * 3 * 2**20 // 100,
    )
    assert source.processes() == (), "those of the other card are none of its"
    assert len(_npu_smi.NpuSmiSource(0).processes() or ()) == 2


@pytest.mark.parametrize("text", ["", "dcmi module initialize failed", "| 0 | 1 | 2 |"])
def test_what_is_no_table_has_no_chips(text: str) -> None:
    assert parse_info(text) == () and parse_common(text) == ()


def test_the_common_page_is_one_dictionary_a_chip() -> None:
    (chip,) = parse_common(COMMON)
    assert chip["NPU Real-time Power(W)"] == "71.7" and chip["Aicore curFreq(MHZ)"] == "900"
    assert chip["NPU ID"] == "0" and chip["Chip Count"] == "1"
    two = parse_common(COMMON + "\tChip ID : 1\n\tNPU Real-time Power(W) : -\n")
    assert [c["Chip ID"] for c in two] == ["0", "1"] and two[1]["NPU ID"] == "0"
    assert two[0]["NPU Real-time Power(W)"] == "71.7" and two[1]["NPU Real-time Power(W)"] == "-"


def test_figures_of_a_cards_controller_are_none_of_its_chips() -> None:
    """After the last chip; the power of a 310P's card stands with it alone."""
    controller = "\tChip Name : mcu\n\tTemperature(C) : 40\n\tNPU Real-time Power(W) : 12.3\n"
    (chip,) = parse_common(COMMON + "\n" + controller)
    assert (chip["Temperature(C)"], chip["NPU Real-time Power(W)"]) == ("41", "71.7")
    (chip,) = parse_common(COMMON.partition("\tNPU Real-time")[0] + controller)
    assert (chip["Temperature(C)"], chip["NPU Real-time Power(W)"]) == ("41", "12.3")
    (chip,) = parse_common(COMMON + "\tTemperature(C) : 40\n")
    assert chip["Temperature(C)"] == "", "twice, and no controller: unclear"


@pytest.mark.parametrize(
    ("index", "visible", "physical"),
    [(0, None, 0), (3, None, 3), (0, "2,3", 2), (1, "2, 3", 3), (2, "2,3", None), (0, "x", None)],
)
def test_the_die_that_torch_counts(index: int, visible: str | None, physical: int | None) -> None:
    chip = chip_of(parse_info(A3), index, visible)
    assert (chip and chip.physical) == physical
    assert chip_of((), 0, None) is None


@pytest.mark.parametrize("visible", [None, "0", "2"])
def test_a_container_of_some_dies_counts_them_anew(visible: str | None) -> None:
    """Of the host's dies 2 to 5 its die 2 is the host's 4, and its 0 is none of the table."""
    there = tuple(
        msgspec.structs.replace(chip, physical=number)
        for number, chip in enumerate(parse_info(A3), 2)
    )
    assert [chip_of(there, index, visible) for index in range(4)] == [None] * 4


def test_what_the_record_says_of_a_die(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASCEND_RT_VISIBLE_DEVICES", raising=False)
    pages: dict[tuple[str, ...], str] = {("info",): A3}
    monkeypatch.setattr(ascend, "npu_smi", lambda *arguments: pages.get(arguments))
    info = DeviceInfo(backend="ascend", index=1, name="Ascend910_9391", memory_bytes=1)
    facts = ascend.smi_facts(info)
    assert facts == {
        "health": "OK",
        "card_power_watts": "178.5",
        "temperature_celsius": "36",
        "aicore_mhz": "not observable",
    }
    placed = ascend._placed(info, parse_info(A3)).facts
    assert placed == {"card": "0", "die": "1", "dies_per_package": "2"}
    pages = {("info",): A2, ("info", "-t", "common", "-i", "0"): COMMON}
    one = DeviceInfo(backend="ascend", index=0, name="Ascend910B4", memory_bytes=1)
    assert ascend.smi_facts(one)["aicore_mhz"] == "900"
    assert ascend._placed(one, parse_info(A2)).facts["dies_per_package"] == "1"
    pages = {}
    assert set(ascend.smi_facts(one).values()) == {"not observable"}
    assert ascend._placed(one, ()).facts == {"dies_per_package": "not observable"}


PROCESSES = """\
| NPU     Chip              | Process id    | Process name             | Process memory(MB)      |
+===========================+===============+====================================================+
| 0       0                 | 48988         | python                   | 13330                   |
| 0       1                 | 907864        |                          | 134                     |
+===========================+===============+====================================================+
| No running processes found in NPU 1                                                            |
"""
WITH_CONTAINER = """\
| NPU     Chip       | Process id    | Process name| Process memory(MB) |Process id in container|
| 2       0          | 77            | python      | 100                | 9                     |
"""


def test_npu_smi_processes() -> None:
    assert _npu_smi.parse_processes(PROCESSES) == (
        (0, 0, Process(48988, 13330 * 2**20)),
        (0, 1, Process(907864, 134 * 2**20)),
    )
    assert _npu_smi.parse_processes(WITH_CONTAINER) == ((2, 0, Process(77, 100 * 2**20)),)


def npu(monkeypatch: pytest.MonkeyPatch, index: int, model: str) -> Source:
    for name, value in simulated.environment(smi=model).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("ASCEND_RT_VISIBLE_DEVICES", raising=False)
    return _npu_smi.NpuSmiSource(index)


@pytest.mark.skipif(os.name != "posix", reason="the simulated npu-smi is a shell script")
@pytest.mark.parametrize(
    "index, model, scope, watts, card",
    [
        (0, "A2", "board", 71.7, ("0", 1)),
        (0, "A3", "package", 71.7, ("0", 2)),
        (1, "A3", "package", 71.7, ("0", 2)),
        (2, "A3", "package", 81.7, ("1", 2)),
        (0, "310P", "board", None, ("0", 1)),
    ],
)
def test_npu_smi_power_is_the_cards_and_never_halved(
    index: int,
    model: str,
    scope: str,
    watts: float | None,
    card: tuple[str, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SIMNPU_DEVICES", "4")
    source = npu(monkeypatch, index, model)
    reading = source.read()
    assert (source.scope, (source.card, source.card_devices)) == (scope, card)
    assert (reading.power_watts, reading.clock_mhz, reading.temperature_celsius) == (watts, 900, 41)
    assert ("power" in source.absent) == (watts is None)
    assert reading.reasons is None and "reasons" in source.absent


@pytest.mark.skipif(os.name != "posix", reason="the simulated npu-smi is a shell script")
def test_two_figures_for_a_card_are_neither_added_nor_chosen_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = npu(monkeypatch, 0, "A3")
    page = "Chip ID : 0\nNPU Real-time Power(W) : 90\nChip ID : 1\nNPU Real-time Power(W) : 91\n"
    monkeypatch.setattr(_npu_smi, "said", lambda *_, **__: page)
    assert source.read().power_watts is None
    assert source.absent["power"] == "npu-smi has 2 figures for this card"


@pytest.mark.skipif(os.name != "posix", reason="the simulated npu-smi is a shell script")
def test_a_die_that_npu_smi_does_not_show_is_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotObservable, match="which of its dies"):
        npu(monkeypatch, 5, "A2")


def test_one_die_of_a_910c_in_a_container_has_the_power_of_its_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The table of a container shows the dies that it was given, and the power of both."""
    monkeypatch.delenv("ASCEND_RT_VISIBLE_DEVICES", raising=False)
    rows = A3.splitlines(keepends=True)
    for table in ("".join(rows[:5]), "".join(rows[:3] + rows[6:8])):
        monkeypatch.setattr(_npu_smi, "said", lambda *_, table=table, **__: table)
        (chip,) = parse_info(table)
        monkeypatch.setattr(_npu_smi, "chip_of", lambda *_, chip=chip: chip)
        source = _npu_smi.NpuSmiSource(0)
        assert (source.scope, source.card_devices) == ("package", None)


@pytest.mark.parametrize("name, options", [("910B4-vir05", ""), ("910B4-1", "VIRTUAL")])
def test_a_virtual_npu_is_a_part(name: str, options: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_npu_smi, "said", lambda *_, **__: A2.replace("910B4-1   ", f"{name:10}"))
    for variable in ("ASCEND_RT_VISIBLE_DEVICES", _npu_smi.RUNTIME_OPTIONS):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(_npu_smi.RUNTIME_OPTIONS, options)
    source = _npu_smi.NpuSmiSource(0)
    assert (source.scope, source.part) == ("shared", "it is a virtual NPU")
