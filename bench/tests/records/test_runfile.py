"""The file of a run: written safely, and read critically."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import OutputError, RecordError
from bench.records.run import SCHEMA_VERSION, Line, RunFile
from bench.records.runfile import Writer, read
from bench.records.schema import json_schema
from bench.tests.golden_runs import golden_lines
from bench.tests.scripts.regenerate import RUN, SCHEMA, write_run
from bench.tests.values import COMPLETE, make_case, make_launch, make_run

# --- The golden file -----------------------------------------------------------------------------


def test_the_golden_run_is_written_as_it_was(tmp_path: Path) -> None:
    """If a change was meant: raise SCHEMA_VERSION where an old reader would be misled, then
    `python -m bench.tests.scripts.regenerate`.
    """
    write_run(tmp_path / "run.jsonl")
    assert (tmp_path / "run.jsonl").read_bytes() == RUN.read_bytes()


def test_the_golden_run_reads_back_equal() -> None:
    found = read(RUN)
    lines: list[Line] = [found.run, *found.launches]
    assert found.end is not None
    assert [*lines, found.end] == golden_lines()
    assert found.damage is None
    assert found.path == str(RUN)


def test_a_folder_with_one_run_is_that_run(tmp_path: Path) -> None:
    write_run(tmp_path / "run.jsonl")
    (tmp_path / "card.txt").write_text("not a run")
    assert read(tmp_path).launches == read(RUN).launches


def test_every_golden_line_satisfies_the_schema() -> None:
    """By an implementation that is not ours."""
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for line in RUN.read_text(encoding="utf-8").splitlines():
        validator.validate(json.loads(line))


@pytest.mark.parametrize(
    ("part", "replacement"),
    [
        ('"line":"launch"', '"line":"lunch"'),
        ('"status":"measured"', '"status":"assumed"'),
        ('"wall_ns":', '"wall_s":'),
        ('"seed":0,', ""),
        ('"memory":{', '"memory":{"extra":1,'),
        ('"step_clock":"host"', '"step_clock":"sundial"'),
    ],
)
def test_the_schema_refuses_what_the_reader_refuses(part: str, replacement: str) -> None:
    line = RUN.read_text(encoding="utf-8").splitlines()[1]
    assert part in line
    validator = jsonschema.Draft202012Validator(json_schema())
    assert not validator.is_valid(json.loads(line.replace(part, replacement, 1)))


def test_the_schema_is_the_golden_one() -> None:
    """The format of a record. If a change was meant: `python -m bench.tests.scripts.regenerate`."""
    assert json.loads(json.dumps(json_schema())) == json.loads(SCHEMA.read_text(encoding="utf-8"))


def test_the_schema_is_the_same_by_any_version_of_msgspec(monkeypatch: pytest.MonkeyPatch) -> None:
    """From 0.23 on it takes the indentation out of docstrings, as Python does from 3.13 on, and
    says which keys a mapping may have."""
    expected, given = json_schema(), msgspec.json.schema(Line)
    case = given["$defs"]["Case"]
    case["description"] = case["description"].replace("\n", "\n        ")
    case["properties"]["parameters"]["propertyNames"] = {"enum": ["shape"]}
    monkeypatch.setattr(msgspec.json, "schema", lambda _: given)
    assert json_schema() == expected


# --- Writing -------------------------------------------------------------------------------------


def test_every_line_is_on_disk_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each fsync the whole line is in the file; there is one for each line."""
    path = tmp_path / "new" / "folder" / "run.jsonl"
    sizes: list[int] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        sizes.append(os.fstat(descriptor).st_size)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    writer = Writer(path)
    expected = []
    for line in golden_lines():
        writer.append(line)
        assert path.read_bytes().endswith(b"}\n")
        expected.append(path.stat().st_size)
    writer.close()
    assert sizes == expected


def test_a_run_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text("precious")
    with pytest.raises(
        OutputError, match=r"run\.jsonl: the record cannot be written there.*File exists.*--out"
    ):
        Writer(path)
    assert path.read_text() == "precious"


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="POSIX permissions")
def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot be written there.*Give a folder"):
        Writer(tmp_path / "file" / "run.jsonl")
    if os.geteuid() == 0:
        return  # permissions do not bind root
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(OutputError, match="Permission denied"):
        Writer(tmp_path / "locked" / "run.jsonl")


@contextlib.contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """A limit that cuts a write short as a full disk does."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.skipif(os.name != "posix", reason="file size limits")
def test_a_full_disk_is_said_and_loses_no_earlier_line(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run.jsonl")
    writer.append(make_run([make_case()]))
    room = (tmp_path / "run.jsonl").stat().st_size + 100
    with (
        no_file_above(room),
        pytest.raises(OutputError, match=r"the next line cannot be written.*are safe"),
    ):
        writer.append(make_launch())
    found = read(tmp_path / "run.jsonl")
    assert found.run == make_run([make_case()])
    assert found.damage is None and found.launches == (), "the half of a line is taken back"
    writer.append(make_launch())
    writer.close()
    assert read(tmp_path / "run.jsonl").launches == (make_launch(),)


@pytest.mark.skipif(os.name != "posix", reason="file size limits")
@pytest.mark.parametrize(
    ("command", "lines", "advice"),
    [
        (("accelmark", "run", "quick"), 1, "go on with it: accelmark run --resume '{}'"),
        (("accelmark", "run", "quick"), 0, "run the same command again"),
        (("accelmark", "serve-bench"), 1, "run the same command again"),
        (("accelmark", "explain"), 1, "run the same command again"),
    ],
)
def test_a_full_disk_advises_what_is_not_refused(
    tmp_path: Path, command: tuple[str, ...], lines: int, advice: str
) -> None:
    """Only a run of `accelmark run` goes on, and none without its header."""
    path = tmp_path / "a folder" / "run.jsonl"
    wanted = re.escape("Free some space, then " + advice.format(path)) + "$"
    header = make_run([make_case()], command=command)
    with contextlib.closing(Writer(path)) as writer:
        for _ in range(lines):
            writer.append(header)
        with no_file_above(path.stat().st_size + 100), pytest.raises(OutputError, match=wanted):
            writer.append(make_launch() if lines else header)
    if not lines:
        return
    with contextlib.closing(Writer.again(read(path))) as writer:
        size = path.stat().st_size
        with no_file_above(size + 100), pytest.raises(OutputError, match=wanted):
            writer.append(make_launch())


def test_what_another_has_written_since_it_was_read_is_not_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    writer = Writer(path)
    writer.append(make_run([make_case()]))
    writer.append(make_launch())
    early = read(path)
    writer.append(make_launch(launch=1, order=1))
    writer.close()
    with pytest.raises(OutputError, match="went on while it was looked at"):
        Writer.again(early)
    assert len(read(path).launches) == 2
    Writer.again(read(path)).close()


# --- Reading what is not whole -------------------------------------------------------------------


def written(folder: Path, content: bytes) -> Path:
    path = folder / "run.jsonl"
    path.write_bytes(content)
    return path


def header(**changes: Any) -> bytes:
    value = {**msgspec.to_builtins(make_run([make_case()])), **changes}
    return json.dumps(value).encode() + b"\n"


def line(value: Line) -> bytes:
    return msgspec.json.encode(value) + b"\n"


def test_a_last_line_that_is_cut_short_costs_only_itself(tmp_path: Path) -> None:
    whole = RUN.read_bytes().split(b"\n")
    cut = b"\n".join(whole[:4]) + b"\n" + whole[4][:200]
    found = read(written(tmp_path, cut))
    assert found.launches == read(RUN).launches[:3]
    assert found.end is None
    assert found.damage == (
        f"{tmp_path / 'run.jsonl'}, line 5: cut short in the middle of the line"
    )


@pytest.mark.parametrize(
    "garbage",
    [
        b"not json",
        b"\x00\xff\xfe\x00",
        b'{"line":"launch"}',
        b"[]",
        b'"\xff"',
        b"[" * 100_000,
        b'{"line":"launch","order":1e999}',
    ],
    ids=["text", "binary", "empty record", "list", "not UTF-8", "deep", "huge"],
)
def test_a_garbled_line_is_named_and_ends_the_reading(tmp_path: Path, garbage: bytes) -> None:
    launch = line(make_launch())
    found = read(written(tmp_path, header() + launch + garbage + b"\n" + launch))
    assert len(found.launches) == 1
    assert found.damage is not None
    assert found.damage.startswith(f"{tmp_path / 'run.jsonl'}, line 3: not a line of a record (")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "line 1: not an accelmark record"),
        (b"\n", "line 1: not an accelmark record"),
        (b"hello\n", "line 1: not an accelmark record"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "line 1: not an accelmark record"),
        (b'"\xff\xfe"', "line 1: not an accelmark record"),
        (b"[" * 100_000, "line 1: not an accelmark record"),
        (b"1" * 5_000, "line 1:"),
        (b"{}\n", "line 1: JSON, but not the start of a record"),
        (b"[1, 2]\n", "line 1: JSON, but not the start of a record"),
        (b'{"benchmarks": []}\n', "line 1: JSON, but not the start of a record"),
        (line(make_launch()), "line 1: JSON, but not the start of a record"),
        (header(schema=2), "line 1: schema 2; this version reads schema 1"),
        (header(schema="1"), "line 1: schema '1'; this version reads schema 1"),
        (b'{"line":"run"}\n', "line 1: schema None; this version reads schema 1"),
        (header(plan="all"), "line 1: not a valid run header"),
        (header(note="more"), "line 1: not a valid run header"),
        (b'{"line":"run","schema":1}\n', "line 1: not a valid run header"),
        (header()[:300], "line 1: not an accelmark record"),
    ],
)
def test_what_is_no_run_is_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(RecordError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}, {complaint}")
    assert "accelmark" in message and "\n" not in message
    assert len(message) < 1000


def test_the_schema_version_is_the_tested_one() -> None:
    assert SCHEMA_VERSION == 1


def test_a_folder_without_exactly_one_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"this folder has no record \(\*\.jsonl\)"):
        read(tmp_path)
    for name in ("b.jsonl", "a.jsonl"):
        (tmp_path / name).write_bytes(header())
    with pytest.raises(
        RecordError, match=r"holds 2 records\. Give one of them: a\.jsonl, b\.jsonl"
    ):
        read(tmp_path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"nowhere: there is no such file\..*accelmark run"):
        read(tmp_path / "nowhere")


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_copy_with_other_ends_of_lines_and_an_empty_one_is_whole(
    tmp_path: Path, end: bytes
) -> None:
    path = tmp_path / "run.jsonl"
    path.write_bytes(RUN.read_bytes().replace(b"\n", end) + end)
    found = read(path)
    assert found.damage is None and found.launches == read(RUN).launches


def test_a_run_without_an_end_is_unfinished_and_not_damaged(tmp_path: Path) -> None:
    found = read(written(tmp_path, header() + line(make_launch())))
    assert found.end is None and found.damage is None and len(found.launches) == 1
    ended = read(written(tmp_path, header() + line(make_launch()) + line(COMPLETE)))
    assert ended.end == COMPLETE


@settings(max_examples=200, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(min_value=1, max_value=5))
def test_no_damage_whatever_gives_anything_but_a_clear_answer(
    tmp_path_factory: pytest.TempPathFactory, source: random.Random, changes: int
) -> None:
    """Bytes of the golden run changed, cut out, doubled or cut off: a RecordError or a RunFile."""
    content = bytearray(RUN.read_bytes())
    for _ in range(changes):
        if not content:
            break
        at = source.randrange(len(content))
        match source.randrange(4):
            case 0:
                content[at] = source.randrange(256)
            case 1:
                del content[at : at + source.randrange(1, 200)]
            case 2:
                content[at:at] = content[at : at + source.randrange(1, 200)]
            case _:
                del content[at + 1 :]
    path = tmp_path_factory.getbasetemp() / "mutated.jsonl"
    path.write_bytes(content)
    try:
        found = read(path)
    except RecordError as error:
        assert str(error).startswith(str(path))
        return
    assert isinstance(found, RunFile)
