"""What the system gave in bytes that are no text still goes into a record, and comes back."""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec
import pytest

from bench.records import environment
from bench.records.encoding import encoded, readable
from bench.records.run import Line
from bench.records.runfile import Writer, read
from bench.running.header import command_line
from bench.tests.values import failed, make_case, make_launch, make_run


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("plain", "plain"),
        ("ü ±", "ü ±"),
        ("\udcc3\udcbc", "ü"),  # typed in UTF-8 where the locale is C
        ("r\udcfc", r"r\xfc"),  # latin-1
        ("ü\udcff", "ü\\xff"),
        ("\ud800", r"\ud800"),
        ("\ud800\udcff", r"\ud800\udcff"),
    ],
)
def test_a_text_is_readable_everywhere(given: str, text: str) -> None:
    assert readable(given) == text
    text.encode("utf-8")
    assert json.loads(encoded({given: [given, (given,)]})) == {text: [text, [text]]}


def test_what_is_encodable_is_encoded_as_ever() -> None:
    launch = make_launch(failed(message="ü"))
    assert encoded(launch) == msgspec.json.encode(launch)


def test_no_line_of_a_record_is_lost(tmp_path: Path) -> None:
    """Wherever in it the bytes stand; its parts keep their kinds and their order."""
    path = tmp_path / "run.jsonl"
    lines: list[Line] = [
        make_run([make_case()], suite="s\udcff", command=("accelmark", "run", "\udcc3\udcbc")),
        make_launch(
            failed(message="no file /x/\udcfc"), stderr_tail="\udce4", environment={"\udcff": 1}
        ),
    ]
    writer = Writer(path)
    for line in lines:
        writer.append(line)
    writer.close()
    found = read(path)
    assert found.damage is None
    assert (found.run.suite, found.run.command[-1]) == ("s\\xff", "ü")
    (launch,) = found.launches
    assert (launch.outcome, launch.stderr_tail) == (failed(message="no file /x/\\xfc"), "\\xe4")
    assert launch.environment == {"\\xff": 1}


def test_what_is_compared_later_is_readable_from_the_start() -> None:
    """`--resume` compares a record's variables with today's: both have to be spelt alike."""
    assert environment.variables(["A"], {"A": "\udcc3\udcbc"}) == {"A": "ü"}
    assert command_line("accelmark", ["--out", "\udcc3\udcbc \udcff"]) == [
        *("accelmark", "--out", "ü \\xff"),
    ]


@pytest.mark.skipif(os.name != "posix", reason="names of files in bytes")
def test_a_record_in_a_folder_without_a_readable_name(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    writer = Writer(folder / "run.jsonl")
    writer.append(make_run([make_case()]))
    writer.close()
    assert read(folder).run == make_run([make_case()])
