"""Suites: read, and refused with what is wrong, where, and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import catalogue
from bench.errors import SuiteError, UnknownName
from bench.planning.suite_file import Suite, find_suite, read_suite

MINIMAL = '[[case]]\nworkload = "gemm"\n'


def suite(folder: Path, text: str) -> Suite:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return read_suite(path)


def test_a_suite_as_it_stands(tmp_path: Path) -> None:
    found = suite(
        tmp_path,
        'description = "mine"\n[settings]\nlaunches = 7\nblock_seconds = 1\n'
        '[[case]]\nworkload = "gemm"\nprecision = ["bf16", "fp32"]\n[[case]]\nworkload = "bert"\n',
    )
    assert found.name == "mine"
    assert found.source == str(tmp_path / "mine.toml")
    assert found.description == "mine"
    assert found.settings.launches == 7 and found.settings.block_seconds == 1
    assert found.settings.warmup_seconds == 10, "the rest has its defaults"
    assert found.entries == (
        {"workload": "gemm", "precision": ["bf16", "fp32"]},
        {"workload": "bert"},
    )


def test_a_shipped_suite_is_found_by_name_and_named_shortly() -> None:
    assert find_suite("smoke") == catalogue.suites()["smoke"]
    assert read_suite(find_suite("smoke")).source == "smoke.toml"


@pytest.mark.parametrize(
    ("name", "error", "parts"),
    [
        ("smok", UnknownName, ["unknown suite `smok`", "Did you mean `smoke`?", "quick", ".toml"]),
        ("xyz", UnknownName, ["unknown suite `xyz`. Allowed: ", "smoke"]),
        (
            "mine.toml",
            SuiteError,
            ["mine.toml: there is no such file", "the name of a suite", "smoke"],
        ),
        ("my/smoke", SuiteError, ["my/smoke: there is no such file", "smoke"]),
        ("here", SuiteError, ["here: this is a folder", "Give a .toml file", "smoke"]),
        ("here/", SuiteError, ["here/: this is a folder"]),
        ("here/it", SuiteError, ["here/it: this is a folder", "Give a .toml file", "smoke"]),
        ("here.toml", SuiteError, ["here.toml: this is a folder"]),
    ],
)
def test_a_suite_that_is_not_there(
    name: str,
    error: type[Exception],
    parts: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("here/it", "here.toml", "smoke"):
        (tmp_path / folder).mkdir(parents=True)
    assert find_suite("smoke").is_file(), "a suite's name is the suite, whatever lies here"
    with pytest.raises(error) as caught:
        find_suite(name)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[[case]\n", "not valid TOML: "),
        ("a = 1\na = 2\n" + MINIMAL, "not valid TOML: Cannot overwrite a value"),
        ("", "it has no case. Add a [[case]] table with a `workload`."),
        ("case = []\n", "it has no case. Add"),
        ("case = 3\n", "each case must be a table headed [[case]]."),
        ("[case]\nworkload = 'gemm'\n", "each case must be a table headed [[case]]."),
        ("case = [1, 2]\n", "each case must be a table"),
        (
            "setings = 1\n" + MINIMAL,
            "unknown key `setings`. Did you mean `settings`? Allowed: budget_minutes, case, "
            "description, instead, settings.",
        ),
        ("launches = 3\n" + MINIMAL, "unknown key `launches`. It belongs in the table [settings]."),
        ("workload = 'gemm'\n", "unknown key `workload`. It belongs in a [[case]] table."),
        ("budget_minutes = 0\n" + MINIMAL, "`budget_minutes` must be a number above 0, not 0."),
        ("budget_minutes = true\n" + MINIMAL, "`budget_minutes` must be a number above 0, not T"),
        ("budget_minutes = inf\n" + MINIMAL, "`budget_minutes` must be a number above 0, not inf"),
        ("budget_minutes = '5'\n" + MINIMAL, "`budget_minutes` must be a number above 0, not '5'"),
        ("description = 3\n" + MINIMAL, "`description` must be a text."),
        ("settings = 3\n" + MINIMAL, "`settings` must be a table, headed [settings]."),
    ],
)
def test_a_suite_that_is_wrong(text: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(SuiteError) as caught:
        suite(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'mine.toml'}: {complaint}")


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("lunches = 3", ["unknown key `lunches`. Did you mean `launches`? Allowed: ", "seed"]),
        ("budget_minutes = 3", ["unknown key `budget_minutes`. It belongs above every table, at"]),
        ("precision = 'fp32'", ["unknown key `precision`. It belongs in a [[case]] table."]),
        ('launches = "many"', ["`launches` must be a whole number or `auto`, not "]),
        ("launches = 0", ["1 to 1000"]),
        ("launches = true", ["`launches` must be a whole number or `auto`, not "]),
        ("block_seconds = -1.0", ["block_seconds must be finite and above zero"]),
        ("block_seconds = nan", ["block_seconds must be finite"]),
        ("target_half_width = 2", ["`target_half_width` is a share below 1, not 2: 0.02 is ±2 %."]),
        ("warmup_seconds = inf", ["warmup_seconds must be finite"]),
        ("seed = 9223372036854775808", ["seed: a whole number below 2^63"]),
        ('seed = "x"', ['`seed` must be a whole number, not "x".']),
    ],
)
def test_settings_that_are_wrong(line: str, parts: list[str], tmp_path: Path) -> None:
    with pytest.raises(SuiteError) as caught:
        suite(tmp_path, f"[settings]\n{line}\n{MINIMAL}")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'mine.toml'}, settings: ")
    for part in parts:
        assert part in message


def test_a_suite_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match="cannot be read"):
        read_suite(tmp_path)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SuiteError, match="cannot be read"):
        read_suite(tmp_path / "binary.toml")


def test_an_editors_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    assert suite(tmp_path, f"\ufeff{MINIMAL}").entries == ({"workload": "gemm"},)
