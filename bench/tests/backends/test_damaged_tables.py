"""Vendors' tables cut off, blanked, re-ordered: no traceback, no figure but the intact table's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.backends import _amd_smi, _npu_smi, _nvml, _xpu_smi
from bench.backends._npu_smi import Chip, chip_of, common_figure, dies_of, parse_common, parse_info
from bench.records.observed import Reading
from bench.telemetry.figures import Sheet, possible
from bench.telemetry.source import NotObservable
from bench.tests.backends.test_amd_smi import AMD_SMI, ROCM_SMI, FakeAmdSmi, amd
from bench.tests.backends.test_host import BARE_METAL, sysfs
from bench.tests.backends.test_npu_smi import (
    A2,
    A3,
    A950,
    COMMON,
    COMMON_950,
    P310,
    PROCESSES,
    WITH_CONTAINER,
)
from bench.tests.backends.test_nvml import FakeNvml, nvml_source
from bench.tests.backends.test_xpu_smi import NEWER, XPU_PS, XPU_STATS

REPEATED = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
THREE_A2 = A2 + "".join(
    f"""\
| {n}     910B4-1    | OK           | 9{n + 4}.3      3{n}               0    / 0             |
| 0                | 0000:C{n}:00.0 | 1{n}        0    / 0         28{n}6 / 65536         |
"""
    for n in (1, 2)
)
TWO_CHIPS = COMMON + (
    COMMON.partition("\n\n")[2]
    .replace("Chip ID : 0", "Chip ID : 1")
    .replace(": 41", ": 44")
    .replace(": 900", ": 800")
    .replace("71.7", "-")
)
NONES: list[Any] = [None, "N/A", "", "-", 65535, 2**32 - 1, 2**64 - 1, {}, [], {"value": "N/A"}]


def tokens(line: str) -> list[tuple[int, int]]:
    """Where the words of a line are."""
    found, start = [], None
    for at, letter in enumerate(line + " "):
        if letter in " |+=-" if start is None else letter in " |":
            if start is not None:
                found.append((start, at))
            start = None
        elif start is None:
            start = at
    return found


@st.composite
def damaged(draw: st.DrawFn, text: str) -> str:
    """Cut off anywhere, one line left out, or one word blanked."""
    how = draw(st.sampled_from(["cut", "line", "blank"]))
    if how == "cut":
        return text[: draw(st.integers(0, len(text)))]
    lines = text.splitlines(keepends=True)
    at = draw(st.integers(0, len(lines) - 1))
    if how == "line":
        return "".join(lines[:at] + lines[at + 1 :])
    words = tokens(lines[at].rstrip("\n"))
    if words:
        start, end = draw(st.sampled_from(words))
        lines[at] = lines[at][:start] + " " * (end - start) + lines[at][end:]
    return "".join(lines)


def within(part: Chip, whole: Chip) -> bool:
    """Whether every field of a die is that of the intact one, or none."""
    return all(
        getattr(part, name) in (None, "", getattr(whole, name)) for name in Chip.__struct_fields__
    )


@pytest.mark.parametrize("table", [A3, THREE_A2, P310, A950], ids=["A3", "A2", "310P", "950"])
@REPEATED
@given(data=st.data())
def test_dies_of_a_damaged_table_are_those_of_the_intact_one(
    table: str, data: st.DataObject
) -> None:
    intact = parse_info(table)
    text = data.draw(damaged(table))
    chips = parse_info(text)
    for index, whole in enumerate(intact):
        chip = chip_of(chips, index, None)
        assert chip is None or within(chip, whole)
        if chip is not None and len(chips) == len(intact):
            assert dies_of(chips, chip) in (None, dies_of(intact, whole))


@pytest.mark.parametrize("blank", ["91.3", "33  ", "12 ", "2836", "910B4-1"])
def test_a_blank_cell_hides_no_die_and_shifts_no_figure(blank: str) -> None:
    table = THREE_A2.replace(blank, " " * len(blank))
    chips = parse_info(table)
    assert [c.npu for c in chips] == [0, 1, 2]
    assert chips[0].power_watts in (None, 91.3) and chips[0].temperature_celsius in (None, 33)
    assert [c.power_watts for c in chips[1:]] == [95.3, 96.3]


def test_a_row_that_cannot_be_read_keeps_its_place() -> None:
    chips = parse_info(THREE_A2.replace("| 1     910B4-1", "|       910B4-1"))
    assert chips[1] == _npu_smi.UNREADABLE
    assert chip_of(chips, 1, None) is None, "it is not known to be card 1"
    third = chip_of(chips, 2, None)
    assert third is not None and (third.npu, third.power_watts) == (2, 96.3)
    assert dies_of(chips, third) is None, "the row may be of its card"


def test_columns_are_read_by_their_names_and_units() -> None:
    swapped = A2.replace("Power(W)  Temp(C) ", "Temp(C)  Power(mW)").replace(
        "91.3      33", "33       91300"
    )
    (chip,) = parse_info(swapped)
    assert (chip.power_watts, chip.temperature_celsius) == (91.3, 33)


def figures_of(page: str) -> dict[str, dict[str, Any]]:
    """Of `npu-smi info -t common`, by chip."""
    return {
        chip["Chip ID"]: {
            name: common_figure(chip, quantity, name)
            for quantity, name in {**_npu_smi.COMMON, "power": "NPU Real-time Power"}.items()
        }
        for chip in parse_common(page)
    }


@pytest.mark.parametrize("page", [TWO_CHIPS, COMMON_950], ids=["two chips", "950"])
@REPEATED
@given(data=st.data())
def test_a_damaged_common_page_gives_no_other_figure(page: str, data: st.DataObject) -> None:
    text = page
    if data.draw(st.booleans()):
        text = data.draw(damaged(text))
    else:
        lines = text.splitlines(keepends=True)
        line = lines.pop(data.draw(st.integers(0, len(lines) - 1)))
        lines.insert(data.draw(st.integers(0, len(lines))), line)
        text = "".join(lines)
    intact = figures_of(page)
    for number, found in figures_of(text).items():
        for name, value in found.items():
            assert isinstance(value, str) or value == intact[number][name]


@pytest.mark.parametrize("table", [PROCESSES, WITH_CONTAINER, A950])
@REPEATED
@given(data=st.data())
def test_damaged_processes_are_some_of_the_intact(table: str, data: st.DataObject) -> None:
    intact = _npu_smi.parse_processes(table)
    for npu, chip, process in _npu_smi.parse_processes(data.draw(damaged(table))):
        ours = next(i for i in intact if (i[0], i[1], i[2].pid) == (npu, chip, process.pid))
        assert process.memory_bytes in (None, ours[2].memory_bytes)


# --- JSON -----------------------------------------------------------------------------------------

Parse = Callable[[str], Sheet]
PRINTED: list[tuple[str, str, Parse]] = [
    ("amd-smi 0", AMD_SMI, lambda text: _amd_smi.parse_amd_smi(text, 0)),
    ("amd-smi 1", AMD_SMI, lambda text: _amd_smi.parse_amd_smi(text, 1)),
    ("rocm-smi", ROCM_SMI, lambda text: _amd_smi.parse_rocm_smi(text, 0)),
    ("xpu-smi", XPU_STATS, _xpu_smi.parse_stats),
    ("xpu-smi 2", NEWER, _xpu_smi.parse_stats),
]
LOGS = ("", "[WARNING] no permission\n", "WARNING: {bad}\n", "[2026-01-01 10:00] [error] x\n")


@st.composite
def damaged_json(draw: st.DrawFn, text: str) -> str:
    """One value of it replaced by none, or its members in another order, or its end cut off."""
    whole = json.loads(text[text.index("{") :])
    here: Any = whole
    while True:
        keys = list(here) if isinstance(here, dict) else list(range(len(here)))
        key = draw(st.sampled_from(keys))
        inner = here[key]
        if not isinstance(inner, dict | list) or not inner or draw(st.booleans()):
            break
        here = inner
    how = draw(st.sampled_from(["none", "gone", "order", "cut"]))
    if how == "none":
        here[key] = draw(st.sampled_from(NONES))
    elif how == "gone":
        del here[key]
    elif how == "order" and isinstance(here, dict):
        members = draw(st.permutations(list(here.items())))
        here.clear()
        here.update(members)
    printed = draw(st.sampled_from(LOGS)) + json.dumps(
        whole, indent=draw(st.sampled_from([None, 2]))
    )
    return printed[: draw(st.integers(0, len(printed)))] if how == "cut" else printed + "\n"


@pytest.mark.parametrize("text, parse", [p[1:] for p in PRINTED], ids=[p[0] for p in PRINTED])
@REPEATED
@given(data=st.data())
def test_damaged_json_gives_no_other_figure(text: str, parse: Parse, data: st.DataObject) -> None:
    intact = parse(text).reading()
    try:
        sheet = parse(data.draw(damaged_json(text)))
    except NotObservable:
        return
    holds_no_other(sheet.reading(), intact)


def holds_no_other(reading: Reading, intact: Reading) -> None:
    for name in Reading.__struct_fields__:
        allowed = [None, getattr(intact, name)]
        if name == "temperature_celsius":
            allowed.append(33)  # rocm-smi's other sensor, where the better one is blank
        assert getattr(reading, name) in allowed, name


@pytest.mark.parametrize("log", LOGS)
def test_lines_of_a_log_before_json_do_not_hide_it(log: str) -> None:
    for _, text, parse in PRINTED:
        bare = text[text.index("{") :]
        assert parse(log + bare).reading() == parse(text).reading()
        as_list = log + json.dumps(json.loads(bare).get("gpu_data"), indent=1)
        if "gpu_data" in bare:
            assert parse(as_list).reading() == parse(text).reading()


@pytest.mark.parametrize("cards", ["null", "{}", "7", "[null]", '"N/A"'])
def test_no_list_of_gpus_is_a_reason(cards: str) -> None:
    with pytest.raises(NotObservable, match="says nothing of GPU 0"):
        _amd_smi.parse_amd_smi(f'{{"gpu_data": {cards}}}', 0)


@REPEATED
@given(data=st.data())
def test_damaged_users_of_a_card_are_some_of_the_intact(data: st.DataObject) -> None:
    intact = {p.pid: p.memory_bytes for p in _xpu_smi.parse_ps(XPU_PS, 0)}
    try:
        found = _xpu_smi.parse_ps(data.draw(damaged_json(XPU_PS)), 0)
    except NotObservable:
        return
    for process in found:
        if process.pid in intact:  # not xpu-smi itself, where its name is gone
            assert process.memory_bytes in (None, intact[process.pid])


# --- libraries and files --------------------------------------------------------------------------


@REPEATED
@given(data=st.data())
def test_a_library_whose_calls_fail_or_give_all_ones(
    data: st.DataObject, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeNvml()
    source = nvml_source(monkeypatch, fake)
    intact = source.read()
    calls = [n for n in dir(FakeNvml) if n.startswith("nvmlDeviceGet")]
    for name in data.draw(st.lists(st.sampled_from(calls), unique=True)):
        how = data.draw(st.sampled_from([*NONES[:1], *NONES[4:7], AttributeError, "error"]))
        if how == "error":
            fake.broken[name] = "Unknown Error"
        elif how is AttributeError:
            monkeypatch.setattr(fake, name, property(), raising=False)  # not to be called
        else:
            monkeypatch.setattr(fake, name, lambda *_, answer=how: answer, raising=False)
    try:
        reading, _ = possible(source.read())
    except NotObservable:
        return
    finally:
        monkeypatch.undo()
    older = _nvml.reasons_of(0x40)
    holds_no_other(reading, intact if reading.reasons != older else _with(intact, older))


def _with(reading: Reading, reasons: Any) -> Reading:
    fields = {name: getattr(reading, name) for name in Reading.__struct_fields__}
    return Reading(**{**fields, "reasons": reasons})


@REPEATED
@given(data=st.data())
def test_amds_library_that_gives_none_of_many_kinds(
    data: st.DataObject, monkeypatch: pytest.MonkeyPatch
) -> None:
    intact = amd(monkeypatch, FakeAmdSmi()).read()
    fake = FakeAmdSmi()
    calls = [n for n in dir(FakeAmdSmi) if n.startswith("amdsmi_get_")]
    source = amd(monkeypatch, fake)
    for name in data.draw(st.lists(st.sampled_from(calls), unique=True)):
        answer = data.draw(st.sampled_from(NONES))
        field = data.draw(st.sampled_from([None, *AMD_FIELDS.get(name, ())]))
        monkeypatch.setattr(fake, name, spoiled(getattr(fake, name), field, answer), raising=False)
    try:
        reading, _ = possible(source.read())
        users = source.processes()
    except NotObservable:
        return
    finally:
        monkeypatch.undo()
    assert reading.reasons in (None, (), intact.reasons)
    holds_no_other(_with(reading, None), intact)
    assert all(u.memory_bytes in (None, 2**20) for u in users or ())


AMD_FIELDS = {
    "amdsmi_get_power_info": ("current_socket_power",),
    "amdsmi_get_energy_count": ("energy_accumulator", "counter_resolution"),
    "amdsmi_get_clock_info": ("clk",),
    "amdsmi_get_gpu_activity": ("gfx_activity",),
    "amdsmi_get_gpu_vram_usage": ("vram_used",),
    "amdsmi_get_violation_status": ("active_ppt_pwr",),
}


def spoiled(call: Callable[..., Any], field: str | None, answer: Any) -> Callable[..., Any]:
    """The call with this answer, or with it in a field of its own."""
    return lambda *given: answer if field is None else {**call(*given), field: answer}


@REPEATED
@given(data=st.data())
def test_a_hosts_files_that_are_blank_or_nonsense(
    data: st.DataObject, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    intact = sysfs(tmp_path_factory.mktemp("sys"), BARE_METAL, monkeypatch).read()
    names = st.lists(st.sampled_from(sorted(BARE_METAL)), unique=True)
    spoiled = {
        n: data.draw(st.sampled_from(["", "N/A", "-1", "\0", "é"])) for n in data.draw(names)
    }
    folder: Path = tmp_path_factory.mktemp("sys")
    reading, _ = possible(sysfs(folder, {**BARE_METAL, **spoiled}, monkeypatch).read())
    for name in ("energy_joules", "temperature_celsius", "reasons"):
        assert getattr(reading, name) in (None, getattr(intact, name))
    assert reading.clock_mhz in (None, 3000, 3200, 3400), "of the cores that say it"
