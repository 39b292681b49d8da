"""What is private stays out of everything published, in whatever field and form it was."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import inspect

from bench import catalogue
from bench.errors import PublicationError
from bench.publishing import publish
from bench.publishing.command import allowed
from bench.records.endpoint import Endpoint, Server
from bench.records.executed import Executed
from bench.records.observed import Contention, Reading, Telemetry, Watched
from bench.records.outcome import Block, Cold, Memory, Outcome, Share, Skipped, Void
from bench.records.private import PRIVATE
from bench.records.proof import Noise, Proof, StepReading, Vector
from bench.records.run import Launch, Line, Resumed, Run, RunFile, Settings
from bench.records.runfile import Writer, read
from bench.records.served import Served, ServedRequest
from bench.report import Canvas
from bench.reports.wording.again import REPEATED, typed
from bench.tests.publishing import test_publish as examples
from bench.tests.publishing.forms import AROUND, FORMS, IDENTIFIERS, bare, forms
from bench.tests.values import NUMERICS, failed, make_case, make_file, make_launch, make_measured

CASE = make_case()
FACTS = {
    "note": "x",
    "inner": {"listed": ["x", {"deep": "x"}]},
    "driver": "x",
    "packages": {"a": "x"},
}
TELEMETRY = Telemetry(
    source="the device", scope="board", interval_seconds=0.1,
    readings=(Reading(power_watts=1.0, reasons=("thermal",)),), absent={"energy": "none here"},
)  # fmt: skip
WATCHED = Watched(
    absent_because="x", source="x", energy_absent="x", reasons={"x": 1}, absent={"energy": "x"},
)  # fmt: skip
RANK = Share(
    rank=0, device=0, busy_ns=(5,) * 10, causes={"CONTENDED": "x"}, watched=WATCHED,
    memory=Memory(peak_bytes=1, scope="process RSS", host_rss_bytes=1),
)  # fmt: skip
ENDPOINT = Endpoint(
    server=Server(
        name="x", version="x", model="x", settings={"block_size": "x"}, command=("x",),
        started="by the run", same_host=True,
    ),
    weights="x", prompts="text", warm_up_requests=1, wrong={"x": 0.5},
    load=Served(
        requests=(ServedRequest(prompt_tokens=1, due_ns=0, failed="x"),),
        arrived_ns=(), arrived_tokens=(), ramp=1, load="x", schedule="x",
    ),
)  # fmt: skip
OUTCOMES: tuple[Outcome, ...] = (
    make_measured(
        0.01, latency_name="latency", causes={"CONTENDED": "another process"},
        contention=Contention(elapsed_seconds=1.0, threads=1, cores=2),
        warmup=(Block(wall_ns=5, step_ns=(5,)),),
        proof=Proof(
            readings=(StepReading(step=1, quantities={"output": Vector(size=1, norm=1.0)}),),
            noise={"output": Noise(error=0.1, norm_error=0.1)},
            written={"output": 0.1},
        ),
    ),
    make_measured(0.01, proof=Proof(absent="x"), executed=Executed(absent="x")),
    make_measured(
        0.01, ranks=(RANK,),
        executed=Executed(
            operators={"attention": ("x",)}, expert_tokens=(1,), kernels={"host": ("x",)}
        ),
    ),
    failed("oom", "out of memory"),
    Void(reason="numerics: off", numerics=NUMERICS),
    Skipped(reason="no fp16 here"),
)  # fmt: skip


def full() -> RunFile:
    """A run in which every field of a record that can hold words holds some."""
    launches = [
        make_launch(
            outcome, CASE, k, k, environment=FACTS, stderr_tail="x", cold=Cold(),
            telemetry=TELEMETRY, telemetry_absent="x", endpoint=ENDPOINT,
        )
        for k, outcome in enumerate(OUTCOMES)
    ]  # fmt: skip
    run = make_file(
        [CASE], launches, host={**FACTS, "system": "Linux 6.1"}, device=FACTS,
        left_out={CASE.fingerprint: "x"}, instead={CASE.fingerprint: "x"},
    )  # fmt: skip
    again = Resumed(started_at="x", command=("accelmark", "run"), host=FACTS, device=FACTS)
    return msgspec.structs.replace(run, resumed=(again,))


def lines(run: RunFile) -> list[Line]:
    return [run.run, *run.resumed, *run.launches, *([run.end] if run.end else [])]


# --- Every place for words -----------------------------------------------------------------------

AS_IT_IS = {"Launch.fingerprint"}
"""Held to its case; a case that says something private is refused."""
Place = tuple[str | int, ...]


def holds_words(kind: inspect.Type) -> bool:
    """Whether a field of this type can hold any word at all, not only some."""
    if isinstance(kind, inspect.StrType | inspect.AnyType):
        return True
    inner = [getattr(kind, name, None) for name in ("item_type", "key_type", "value_type")]
    inner += [*getattr(kind, "types", ()), *getattr(kind, "item_types", ())]
    return any(holds_words(one) for one in inner if isinstance(one, inspect.Type))


def structs(kind: inspect.Type) -> Iterator[inspect.StructType]:
    """Every struct within a type, but for the case's."""
    if isinstance(kind, inspect.StructType):
        if kind.cls is type(CASE):
            return
        yield kind
        for field in kind.fields:
            yield from structs(field.type)
    inner = [getattr(kind, name, None) for name in ("item_type", "value_type")]
    for one in [*inner, *getattr(kind, "types", ()), *getattr(kind, "item_types", ())]:
        if isinstance(one, inspect.Type):
            yield from structs(one)


def wordy_fields() -> set[str]:
    """`Launch.stderr_tail`: every field that can hold any word, by the types alone."""
    every = [
        one
        for kind in (Run, Launch, publish_end(), Resumed)
        for one in structs(inspect.type_info(kind))
    ]
    found = {f"{s.cls.__name__}.{f.name}" for s in every for f in s.fields if holds_words(f.type)}
    return found - AS_IT_IS - {"Launch.choice"}


def publish_end() -> type:
    return type(examples.run().end)


def places(value: Any, at: Place = (), field: str = "") -> Iterator[tuple[Place, str]]:
    """Where in a line, as builtins, a word stands, and of which field it is."""
    if isinstance(value, type(CASE)):
        return
    if isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield from places(getattr(value, name), (*at, name), f"{type(value).__name__}.{name}")
    elif isinstance(value, dict):
        for name, one in value.items():
            yield from places(one, (*at, name), field)
            yield (*at, name, "key"), field
    elif isinstance(value, list | tuple):
        for position, one in enumerate(value):
            yield from places(one, (*at, position), field)
    elif isinstance(value, str):
        yield at, field


RUN = full()
WORDY = wordy_fields()
PLACES = [
    (number, at)
    for number, line in enumerate(lines(RUN))
    for at, field in places(line)
    if field in WORDY
]


def test_every_field_that_can_hold_a_word_is_tried() -> None:
    """By the types: a field that is added to a record is planted too, or this fails."""
    assert {field for line in lines(RUN) for _, field in places(line)} & WORDY == WORDY
    assert {"Failed.message", "Telemetry.absent", "Check.quantity", "Run.command"} <= WORDY


def planted(content: list[Any], number: int, at: Place, text: str) -> None:
    """Puts a text in its place; of a mapping's key, in the key's."""
    inner = content[number]
    key = at[-1] == "key" and len(at) > 1
    path = at[:-2] if key else at[:-1]
    for step in path:
        inner = inner[step]
    if key:
        inner[text] = inner[at[-2]]
    else:
        inner[at[-1]] = text


def with_planted(texts: dict[int, str]) -> RunFile:
    """The full run with texts at those of `PLACES`."""
    content = [msgspec.json.decode(msgspec.json.encode(line)) for line in lines(RUN)]
    for index, text in texts.items():
        planted(content, *PLACES[index], text)
    changed = [msgspec.convert(c, type(line)) for c, line in zip(content, lines(RUN), strict=True)]
    run, again, *rest = changed
    launches = tuple(one for one in rest if isinstance(one, Launch))
    assert isinstance(run, Run) and isinstance(again, Resumed)
    return msgspec.structs.replace(RUN, run=run, resumed=(again,), launches=launches, end=rest[-1])


def published(run: RunFile, formats: tuple[str, ...]) -> str:
    """The published record, and the pages made of it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.jsonl"
        writer = Writer(path)
        for line in publish.without_private(run):
            writer.append(line)
        writer.close()
        found = read(path)
        assert found.damage is None
        pages = [catalogue.load("reports", name).render([found], Canvas()) for name in formats]
        return "\n".join([path.read_text(encoding="utf-8"), *pages])


words = st.text(alphabet="zqxj", min_size=6, max_size=9).map("zq".__add__)
texts = st.builds(
    lambda form, around, word: (around.format(form.format(word)), word),
    st.sampled_from(FORMS), st.sampled_from(AROUND), words,
) | st.builds(
    lambda one, around: (around.format(one), bare(one)),
    st.sampled_from(IDENTIFIERS), st.sampled_from(AROUND),
)  # fmt: skip
plantings = st.dictionaries(st.integers(0, len(PLACES) - 1), texts, min_size=1, max_size=25)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plantings)
def test_no_field_and_no_form_brings_a_name_into_a_published_record(
    chosen: dict[int, tuple[str, str]],
) -> None:
    run = with_planted({index: text for index, (text, _) in chosen.items()})
    text = published(run, ())
    for index, (_, word) in chosen.items():
        assert word not in text, PLACES[index]


@pytest.mark.parametrize(("text", "gone"), forms())
def test_every_place_at_once_and_every_page(text: str, gone: str) -> None:
    found = published(
        with_planted(dict.fromkeys(range(len(PLACES)), f"is {text}, or so")),
        ("table", "html", "markdown", "csv", "json"),
    )
    assert gone not in found


@pytest.mark.parametrize(("text", "gone"), forms())
def test_no_published_byte_says_it(text: str, gone: str, tmp_path: Path) -> None:
    """By the whole of `publish`: the record, the card, the index, and what they are called."""
    name = f"Chip of {text}"
    device = {**examples.DEVICE, "name": name, "facts": {"note": text, text: "x"}}
    run = examples.run(
        host={**examples.HOST, "cpu": f"CPU of {text}", "system": text},
        device=device,
        environment={**examples.STACK, "device": device, "variables": {"CONFIG": text}},
        suite=f"is {text}",
        command=("accelmark", "run", text, "--only", text, f"--out={text}", f"--{text}"),
    )
    folder = publish.publish(run, tmp_path / "results", None, examples.CARD)
    files = [file for file in (tmp_path / "results").rglob("*") if file.is_file()]
    assert len(files) == 4
    for file in files:
        assert gone.lower() not in str(file.relative_to(tmp_path)).lower()
        assert gone not in file.read_text(encoding="utf-8"), file.name
    assert list(publish.without_private(read(folder))) == lines(read(folder)), "and once is enough"


@pytest.mark.parametrize("where", ["parameters", "mode", "workload"])
@pytest.mark.parametrize(("text", "gone"), forms())
def test_a_case_that_says_it_is_refused(text: str, gone: str, where: str) -> None:
    """It cannot be changed: its fingerprint would be another's."""
    changes: dict[str, Any] = {where: {"model": text} if where == "parameters" else text}
    reasons = list(publish.refusals(examples.run(case=make_case(**changes))))
    assert any("its work is named by a path, an address or somebody's name" in r for r in reasons)
    assert gone in text


# --- The command line ----------------------------------------------------------------------------

RAN = examples.run(suite="tuned-quick@3", settings=Settings(launches=10)).run

COMMANDS = [
    ("accelmark run tuned-quick --launches 10", "accelmark run tuned-quick --launches 10"),
    ("accelmark run tuned-quick.toml", "accelmark run tuned-quick.toml"),
    ("accelmark run me.toml", "accelmark run (private)"),
    ("accelmark run tuned-quick@3", "accelmark run tuned-quick@3"),
    ("accelmark run tuned-quick@2", "accelmark run (private)"),
    ("accelmark run --only gemm-*,gemm", "accelmark run --only gemm-*,gemm"),
    ("accelmark run --only gemm-*,me", "accelmark run --only (private)"),
    ("me run tuned-quick", "(private) run tuned-quick"),
    ("accelmark run --device fake:0", "accelmark run --device fake:0"),
    ("accelmark run --device=fake", "accelmark run --device=fake"),
    ("accelmark run --device me:0", "accelmark run --device (private)"),
    ("accelmark run --only gemm-*", "accelmark run --only gemm-*"),
    ("accelmark run --only *me-corp*", "accelmark run --only (private)"),
    ("accelmark run --precision bf16", "accelmark run --precision bf16"),
    ("accelmark run --precision fp61", "accelmark run --precision (private)"),
    ("accelmark run --devices 4 --explain", "accelmark run --devices 4 --explain"),
    ("accelmark run --devices=me --wide", "accelmark run --devices=(private) --wide"),
    ("accelmark run --framework torch", "accelmark run --framework torch"),
    ("accelmark run --framework me", "accelmark run --framework (private)"),
    ("accelmark run --launches=me", "accelmark run --launches=(private)"),
    ("accelmark run --budget-minutes 2.5", "accelmark run --budget-minutes 2.5"),
    ("accelmark run --resume r.jsonl --out me", "accelmark run --resume (private) --out (private)"),
    ("accelmark ab --env ME=run --python=py", "accelmark ab --env (private) --python=(private)"),
    ("accelmark run --me-too me -m", "accelmark run (private) (private) (private)"),
    (
        "pytest --pyargs bench.suite --accelmark-suite tuned-quick --accelmark-only=me -x",
        "pytest --pyargs bench.suite --accelmark-suite tuned-quick --accelmark-only=(private)"
        " (private)",
    ),
]


@pytest.mark.parametrize(("typed", "kept"), COMMANDS)
def test_of_a_command_line_only_known_words_are_kept(typed: str, kept: str) -> None:
    assert " ".join(allowed(typed.split(), RAN)) == kept


def test_what_is_published_of_a_command_measures_the_same_again() -> None:
    """On the same devices, by the same framework."""
    said = {"device": "fake:0", "devices": "2", "framework": "torch", "precision": "bf16"}
    said["only"] = "gemm-*"
    words = ("accelmark", "run", "tuned-quick", *(f"--{name}={said[name]}" for name in REPEATED))
    ran = msgspec.structs.replace(RAN, command=words)
    published = msgspec.structs.replace(ran, command=tuple(allowed(words, ran)))
    assert typed(published) == typed(ran) and len(typed(ran).options) == len(REPEATED)


@given(
    st.lists(st.sampled_from([*COMMANDS[0][0].split(), "--out", "--device", "=", "--x"]) | words)
)
def test_an_unknown_word_is_never_kept(typed: list[str]) -> None:
    kept = list(allowed(typed, RAN))
    assert len(kept) == len(typed)
    known = {*COMMANDS[0][0].split(), "--out", "--device", PRIVATE}
    assert set(kept) <= known


def test_a_run_that_is_refused_is_not_published_in_part(tmp_path: Path) -> None:
    run = examples.run(case=make_case(parameters={"model": "/home/me/model"}))
    with pytest.raises(PublicationError, match="is named by a path"):
        publish.publish(run, tmp_path / "results", None, examples.CARD)
    assert list(tmp_path.iterdir()) == []
