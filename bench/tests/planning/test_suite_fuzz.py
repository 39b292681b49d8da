"""Suites of every kind of nonsense: a message that names the file, or cases that can exist."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import catalogue
from bench.errors import AccelmarkError
from bench.planning.plan import parameters_of, plan
from bench.planning.suite_file import read_suite

TEXTS = [file.read_text(encoding="utf-8") for file in catalogue.suites().values()]
VALUES = (
    *("nan", "inf", "-inf", "-1", "0", "1e308", "9" * 400, "0x10", "true", '""', '"\\u0000"'),
    *("1979-05-27", "07:32:00", "[]", "[[]]", "[1, 1]", "[nan]", "{}", '{ "" = 1 }', "''''''"),
    *('"' + "x" * 10_000 + '"', "[" * 5000, '["bf16", "bf16"]', '"..\\\\..\\\\etc"', "1e-400"),
    *("[" + ", ".join(str(n) for n in range(1, 40)) + "]", "\"__import__('os').getcwd()\""),
)
KEYS = ("workload", "mode", "precision", "batch_size", "launches", "seed", '""', "case", "x.y")


def spoiled(text: str, source: random.Random) -> str:
    for _ in range(source.choice((1, 1, 2))):
        lines = text.splitlines()
        at = source.randrange(len(lines)) if lines else 0
        match source.randrange(5):
            case 0:
                pairs = [k for k, line in enumerate(lines) if re.match(r"\w+ = ", line)]
                at = source.choice(pairs) if pairs else at
                key = lines[at].partition(" = ")[0] if lines else "x"
                lines[at : at + 1] = [f"{key} = {source.choice(VALUES)}"]
            case 1:
                lines.insert(at, f"{source.choice(KEYS)} = {source.choice(VALUES)}")
            case 2:
                del lines[at : at + 1]
            case 3:
                lines.insert(at, lines[source.randrange(len(lines))] if lines else "")
            case _:
                where = source.randrange(len(text) + 1)
                lines = (text[:where] + chr(source.randrange(1, 700)) + text[where:]).splitlines()
        text = "\n".join(lines) + "\n"
    return text


@settings(max_examples=400, deadline=None)
@given(st.randoms(use_true_random=False))
def test_any_suite_is_a_plan_or_one_message(
    tmp_path_factory: pytest.TempPathFactory, source: random.Random
) -> None:
    path = tmp_path_factory.getbasetemp() / "spoiled.toml"
    path.write_bytes(spoiled(source.choice(TEXTS), source).encode())
    try:
        cases = plan(read_suite(path))
    except AccelmarkError as error:
        assert str(path) in str(error) and "\n\n" not in str(error)
        return
    assert cases and len({case.fingerprint for case in cases}) == len(cases)
    for case in cases:
        workload = catalogue.workload(case.workload)
        assert case.precision in workload.modes[case.mode].precisions
        parameters_of(case, workload)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b"\x00", b"[" * 100_000, b"a = " + b"[" * 9999, b"a = " + b"9" * 9999],
)
def test_files_that_are_no_suite_are_one_message(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.toml"
    path.write_bytes(content)
    with pytest.raises(AccelmarkError, match=re.escape(str(path))):
        plan(read_suite(path))
