"""Records: nonsense cannot be made, and a file is written safely and read critically."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import OutputError, RecordError
from bench.records.outcome import Block, Check, Cold, Failed, Memory, Numerics, Skipped, Void, Work
from bench.records.run import SCHEMA_VERSION, Launch, Line, RunFile, Settings
from bench.records.runfile import Writer, json_schema, read
from bench.tests.golden_runs import golden_lines
from bench.tests.scripts.regenerate import RUN, SCHEMA, write_run
from bench.tests.values import (
    BAD_NUMERICS,
    COMPLETE,
    make_block,
    make_case,
    make_launch,
    make_measured,
    make_run,
)

# --- Nonsense ------------------------------------------------------------------------------------

nan, inf = math.nan, math.inf

NONSENSE: list[tuple[str, Callable[[], Any], str]] = [
    ("no steady sample", lambda: make_measured(steady=()), "without a steady sample"),
    ("wrong result", lambda: make_measured(numerics=BAD_NUMERICS), "numerics failed: output off"),
    ("witness NaN", lambda: make_measured(witness=(1.0, nan)), "not finite"),
    ("witness infinite", lambda: make_measured(witness=(inf, 1.0)), "not finite"),
    ("energy and its absence", lambda: make_measured(energy_joules=1.0), "either an energy or"),
    ("no word on energy", lambda: make_measured(energy_absent=None), "either an energy or"),
    (
        "negative energy",
        lambda: make_measured(energy_joules=-1.0, energy_absent=None),
        "energy_joules must be finite and above zero",
    ),
    ("unnamed latency", lambda: make_measured(request_ns=(1,)), "latencies without a name"),
    (
        "no request",
        lambda: make_measured(request_ns=(), latency_name="TTFT"),
        "latencies must be above zero",
    ),
    (
        "request without time",
        lambda: make_measured(request_ns=(5, 0), latency_name="TTFT"),
        "latencies must be above zero",
    ),
    ("block without steps", lambda: Block(wall_ns=1, step_ns=()), "a block without steps"),
    ("block without time", lambda: Block(wall_ns=0, step_ns=(1,)), "must be above zero"),
    ("negative block", lambda: Block(wall_ns=-1, step_ns=(1,)), "must be above zero"),
    ("negative step", lambda: Block(wall_ns=1, step_ns=(2, -1)), "must be above zero"),
    (
        "usage of fewer steps",
        lambda: Block(wall_ns=1, step_ns=(1, 1), step_cpu_ns=(1,)),
        "one value >= 0 a step",
    ),
    (
        "negative usage",
        lambda: Block(wall_ns=1, step_ns=(1,), step_switches=(-1,)),
        "one value >= 0 a step",
    ),
    ("no check", lambda: Numerics(reference="fp64", checks=()), "without a check"),
    ("error NaN", lambda: Check(quantity="x", error=nan, tolerance=1.0), "error of x"),
    ("negative error", lambda: Check(quantity="x", error=-0.1, tolerance=1.0), "error of x"),
    ("no tolerance", lambda: Check(quantity="x", error=0.1, tolerance=0.0), "tolerance must be"),
    ("tolerance all", lambda: Check(quantity="x", error=0.1, tolerance=inf), "tolerance must be"),
    ("no memory", lambda: Memory(peak_bytes=0, scope="x", host_rss_bytes=1), "peak memory"),
    ("no items", lambda: Work(items=0, unit="image"), "items must be"),
    ("item without a name", lambda: Work(items=1, unit=""), "item without a name"),
    ("no FLOP", lambda: Work(items=1, unit="image", flop=0), "flop_or_bytes must be"),
    ("no bytes", lambda: Work(items=1, unit="image", moved_bytes=-1), "flop_or_bytes must be"),
    ("no link", lambda: Work(items=1, unit="image", transferred_bytes=0), "flop_or_bytes must be"),
    ("void without reason", lambda: Void(reason=""), "must say why"),
    ("skipped without reason", lambda: Skipped(reason=" "), "must say why"),
    (
        "failed without message",
        lambda: Failed(kind="crash", phase="measure", message=""),
        "must say why",
    ),
    ("cold before its start", lambda: Cold(build_seconds=-0.1), "build_seconds must be"),
    ("cold NaN", lambda: Cold(import_seconds=nan), "import_seconds must be"),
    ("another case's print", lambda: make_launch(fingerprint="0" * 16), "is not that of its case"),
    ("launch before the first", lambda: make_launch(launch=-1, seed=0), "count from 0"),
    ("order before the first", lambda: make_launch(order=-1, started_at=""), "count from 0"),
    ("launch without time", lambda: make_launch(seconds=0.0), "seconds must be"),
    ("launch NaN", lambda: make_launch(seconds=nan), "seconds must be"),
    ("no launches", lambda: Settings(launches=0), "1 to 1000"),
    ("endless launches", lambda: Settings(launches=1001), "1 to 1000"),
    ("no target", lambda: Settings(target_half_width=0.0), "target_half_width must be"),
    ("block of no time", lambda: Settings(block_seconds=-1.0), "block_seconds must be"),
    ("endless block", lambda: Settings(block_seconds=inf), "block_seconds must be"),
    ("no steady time", lambda: Settings(steady_limit_seconds=0.0), "steady_limit_seconds must"),
    ("no warm-up limit", lambda: Settings(warmup_limit_seconds=nan), "warmup_limit_seconds must"),
    ("no time for a launch", lambda: Settings(launch_limit_seconds=0), "launch_limit_seconds must"),
    ("negative warm-up", lambda: Settings(warmup_seconds=-1.0), "warmup_seconds must"),
    ("warm-up NaN", lambda: Settings(warmup_seconds=nan), "warmup_seconds must"),
    ("endless warm-up", lambda: Settings(warmup_seconds=inf), "warmup_seconds must"),
]


@pytest.mark.parametrize(
    ("make", "complaint"), [n[1:] for n in NONSENSE], ids=[n[0] for n in NONSENSE]
)
def test_nonsense_cannot_be_made(make: Callable[[], Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        make()


def test_nonsense_cannot_be_read_either() -> None:
    """The same rules hold for what comes from a file."""
    good = msgspec.json.encode(make_launch())
    assert msgspec.json.decode(good, type=Launch) == make_launch()
    for part, nonsense in (
        (b'"steady":[', b'"steady":[],"ignored":['),
        (b'"witness":[1.0,', b'"witness":[1e999,'),
        (b'"error":0.001', b'"error":0.5'),
        (b'"fingerprint":"', b'"fingerprint":"0'),
        (b'"energy_absent":"not measured"', b'"energy_absent":null'),
        (b'"launch":0', b'"launch":-1'),
        (b'"step_clock":"host"', b'"step_clock":"sundial"'),
        (b'"order":0', b'"order":0,"note":"more"'),
    ):
        assert part in good
        with pytest.raises(msgspec.DecodeError):
            msgspec.json.decode(good.replace(part, nonsense, 1), type=Launch)


def test_values_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        make_measured().flags = ("DRIFT",)  # type: ignore[misc]


# --- What the values say -------------------------------------------------------------------------


def test_figures_of_a_launch_are_computed_from_its_samples() -> None:
    """Three blocks: 2 steps in 1 s, 4 in 1 s, 2 in 2 s, of 5 items each: 8 steps, 40 items, 4 s."""
    steady = (make_block(0.5, 2), make_block(0.25, 4), make_block(1.0, 2))
    measured = make_measured(items=5, steady=steady)
    assert measured.steady_steps == 8
    assert measured.steady_seconds == 4
    assert measured.throughput == 10
    assert measured.samples == [0.5, 0.25, 1.0]


def test_latencies_are_requests_or_on_the_host_clock_steps() -> None:
    steps = (Block(wall_ns=5, step_ns=(2, 3)), Block(wall_ns=4, step_ns=(4,)))
    assert make_measured(steady=steps).latencies is None, "no name, no latency"
    host = make_measured(steady=steps, latency_name="TTFT")
    assert host.latencies == [2e-9, 3e-9, 4e-9]
    queue = make_measured(steady=steps, latency_name="TTFT", step_clock="device event")
    assert queue.latencies is None, "a queued step's device time is no request's latency"
    timed = make_measured(
        steady=steps, latency_name="TTFT", step_clock="device event", request_ns=(7, 8)
    )
    assert timed.latencies == [7e-9, 8e-9]


def test_a_check_at_its_tolerance_passes() -> None:
    assert Check(quantity="x", error=0.01, tolerance=0.01).passed
    assert not Check(quantity="x", error=0.0101, tolerance=0.01).passed


def test_numerics_name_all_that_failed() -> None:
    numerics = Numerics(
        reference="fp64",
        checks=(
            Check(quantity="logits", error=0.5, tolerance=0.01),
            Check(quantity="loss", error=0.001, tolerance=0.01),
            Check(quantity="gradient_norm", error=inf, tolerance=0.01),
        ),
    )
    assert not numerics.passed
    assert numerics.complaint == (
        "logits off by 0.5 (tolerance 0.01); gradient_norm is not finite (tolerance 0.01)"
    )


def test_a_result_that_is_not_finite_survives_the_record() -> None:
    """JSON has no infinity: NaN logits must come back as a void launch, not as a garbled one."""
    check = Check(quantity="logits", error=inf, tolerance=0.01)
    void = Void(reason="numerics", numerics=Numerics(reference="fp64", checks=(check,)))
    assert msgspec.json.decode(msgspec.json.encode(void), type=Void) == void
    assert not check.passed


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
    with pytest.raises(OutputError, match=r"run\.jsonl: cannot write.*File exists.*--out"):
        Writer(path)
    assert path.read_text() == "precious"


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="POSIX permissions")
def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write.*Name a folder"):
        Writer(tmp_path / "file" / "run.jsonl")
    if os.geteuid() == 0:
        return  # permissions do not bind root
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(OutputError, match="Permission denied"):
        Writer(tmp_path / "locked" / "run.jsonl")


@pytest.mark.skipif(os.name != "posix", reason="file size limits")
def test_a_full_disk_is_said_and_loses_no_earlier_line(tmp_path: Path) -> None:
    """By a limit on the size of files, which cuts a write short as a full disk does."""
    import resource

    writer = Writer(tmp_path / "run.jsonl")
    writer.append(make_run([make_case()]))
    room = (tmp_path / "run.jsonl").stat().st_size + 100
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
        with pytest.raises(OutputError, match=r"cannot write the next record.*are safe"):
            writer.append(make_launch())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    found = read(tmp_path / "run.jsonl")
    assert found.run == make_run([make_case()])
    assert found.damage is None and found.launches == (), "the half of a line is taken back"
    writer.append(make_launch())
    writer.close()
    assert read(tmp_path / "run.jsonl").launches == (make_launch(),)


@pytest.mark.skipif(os.name != "posix", reason="deletes an open file")
def test_a_record_that_is_deleted_under_way_is_laid_down_again(tmp_path: Path) -> None:
    path = tmp_path / "out" / "run.jsonl"
    writer = Writer(path)
    lines: list[Line] = [make_run([make_case()]), make_launch(), make_launch(launch=1, order=1)]
    for line in lines:
        writer.append(line)
        shutil.rmtree(path.parent)
    writer.append(COMPLETE)
    found = read(path)
    assert (found.run, *found.launches) == tuple(lines) and found.end == COMPLETE
    with pytest.raises(OutputError, match="End the run that is writing it"):
        Writer.again(found)
    writer.close()


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
        f"{tmp_path / 'run.jsonl'}, line 5: cut short in the middle of a record"
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
    assert found.damage.startswith(f"{tmp_path / 'run.jsonl'}, line 3: not a record (")


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
        (b"{}\n", "line 1: JSON, but not the start of a run"),
        (b"[1, 2]\n", "line 1: JSON, but not the start of a run"),
        (b'{"benchmarks": []}\n', "line 1: JSON, but not the start of a run"),
        (line(make_launch()), "line 1: JSON, but not the start of a run"),
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
    with pytest.raises(RecordError, match=r"a folder with one run file .* found none"):
        read(tmp_path)
    for name in ("b.jsonl", "a.jsonl"):
        (tmp_path / name).write_bytes(header())
    with pytest.raises(RecordError, match=r"found a\.jsonl, b\.jsonl"):
        read(tmp_path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"nowhere: cannot be read \(No such file.*accelmark run"):
        read(tmp_path / "nowhere")


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
