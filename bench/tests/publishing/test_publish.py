"""Publishing: every reason to refuse, what is taken out, and an index that says what is there."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench import catalogue
from bench.errors import OutputError, PublicationError, RecordError
from bench.publishing import publish
from bench.records import digests
from bench.records.case import Case
from bench.records.outcome import Failed, Outcome, Skipped, Void, Work
from bench.records.run import Launch, RunFile, Settings
from bench.records.runfile import read
from bench.report import Report
from bench.tests.values import failed, make_case, make_file, make_launch, make_measured

CASE = make_case()
CARD: Report = catalogue.load("reports", "table")
HOST: dict[str, Any] = {
    "accelmark": "0.1.0",
    "cpu": "Fake CPU",
    "logical_cores": 2,
    "machine": "x86_64",
    "memory_bytes": 2**33,
    "packages": {"torch": "2.13.0"},
    "python": "CPython 3.11.7",
    "system": "Linux 6.1.0-0.acme.example.lan-amd64",
    "git": {"commit": "a" * 40, "changed": False},
}
DEVICE: dict[str, Any] = {
    "backend": "fake",
    "index": 0,
    "name": "Fake CPU",
    "memory_bytes": 2**33,
    "facts": {"driver": "1.2", "uuid": "GPU-1234", "pci_bus_id": "0000:01:00.0"},
}
STACK: dict[str, Any] = {
    "torch": "2.13.0",
    "packages": {"torch": "2.13.0", "transformers": "5.0.0"},
    "threads": 2,
    "float32_reduced": False,
    "device": DEVICE,
    "device_state": {"sm_clock_mhz": "1980", "serial_number": "S-77"},
    "variables": {"LD_PRELOAD": "libjemalloc.so", "CONFIG": "/home/someone/secret/x.conf"},
}


def run(
    outcomes: Sequence[Outcome] | None = None,
    case: Case = CASE,
    environment: dict[str, Any] = STACK,
    **header: Any,
) -> RunFile:
    """A run that may be published, but for what is changed."""
    outcomes = [make_measured(0.01 + k / 1e5) for k in range(10)] if outcomes is None else outcomes
    launches = [
        make_launch(outcome, case, k, k, environment=environment, stderr_tail="~/private says hi")
        for k, outcome in enumerate(outcomes)
    ]
    fields = {"settings": Settings(launches=10), "host": HOST, "device": DEVICE, **header}
    return make_file([case], launches, **fields)


def changed(facts: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**facts, **changes}


def without(facts: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in facts.items() if key != name}


def test_a_good_run_is_not_refused() -> None:
    assert list(publish.refusals(run())) == []


def test_a_run_of_another_framework_is_published_with_that_one_s_version(tmp_path: Path) -> None:
    theirs = {**without(STACK, "torch"), "mindspore": "2.9.0", "packages": {"mindspore": "2.9.0"}}
    folder = publish.publish(
        run(environment=theirs, framework="mindspore"), tmp_path, "mindspore", CARD
    )
    assert publish.verify(folder, None) == ([], "not signed")
    assert "| mindspore 2.9.0, CPython 3.11.7 |" in publish.index(tmp_path)
    (reason,) = publish.refusals(run(framework="mindspore"))
    assert reason.endswith("launch 1: its environment does not say: mindspore")


FAST = make_case(workload="gemm", precision="bf16")
H100 = changed(DEVICE, name="NVIDIA H100 80GB HBM3")

REFUSED: dict[str, tuple[Callable[[], RunFile], str]] = {
    "damaged": (lambda: msgspec.structs.replace(run(), damage="line 3: cut short"), "line 3"),
    "unfinished": (lambda: msgspec.structs.replace(run(), end=None), "run to its end"),
    "three launches": (
        lambda: run([make_measured()] * 3, settings=Settings(launches=3)),
        "it was measured with --launches 3; a published run needs --launches 10",
    ),
    "adaptive": (
        lambda: run(settings=Settings(launches="auto")),
        "--launches auto; a published run needs --launches 10",
    ),
    "nine of ten": (lambda: run([make_measured()] * 9), "9 measured launches of 10"),
    "uncommitted code": (
        lambda: run(host=changed(HOST, git={"commit": "a", "changed": True})),
        "uncommitted changes",
    ),
    "no cpu named": (lambda: run(host=without(HOST, "cpu")), "its record does not say: cpu"),
    "no torch named": (
        lambda: run(environment=without(STACK, "torch")),
        "launch 1: its environment does not say: torch",
    ),
    "another device": (
        lambda: run(environment=changed(STACK, device=changed(DEVICE, name="Other"))),
        "ran on Other, not on the run's Fake CPU",
    ),
    "simulated by its header": (
        lambda: run(device=changed(DEVICE, simulated=True)),
        "a simulated device",
    ),
    "simulated by its launches": (
        lambda: run(environment=changed(STACK, device=changed(DEVICE, simulated=True))),
        "a simulated device",
    ),
    "wrong numbers": (
        lambda: run([make_measured()] * 9 + [Void(reason="numerics: logits off")]),
        "void: numerics: logits off",
    ),
    "crashed": (lambda: run([failed(), failed()]), "failed: crash in measure: it broke"),
    "above the chip's peak": (
        lambda: run(
            # 2e13 FLOP in 10 ms: 2,000 TFLOP/s of a chip that has 989.
            [make_measured(0.01, work=Work(items=1, unit="FLOP", flop=2 * 10**13))] * 10,
            FAST,
            environment=changed(STACK, device=H100),
            device=H100,
        ),
        "of the bf16 peak of H100 SXM",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_run_that_breaks_a_rule_is_refused_with_the_reason(tmp_path: Path, what: str) -> None:
    make, reason = REFUSED[what]
    with pytest.raises(PublicationError) as caught:
        publish.publish(make(), tmp_path / "results", None, CARD)
    assert reason in str(caught.value)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    "outcome", [Skipped(reason="no fp16 here"), failed("oom", "out of memory")], ids=str
)
def test_what_a_device_cannot_do_is_published_as_such(outcome: Outcome) -> None:
    assert list(publish.refusals(run([outcome]))) == []


def test_memory_that_others_held_is_an_accident() -> None:
    early = Failed(kind="oom", phase="open", message="out of memory")
    assert "oom in open" in "; ".join(publish.refusals(run([early])))


def test_all_reasons_are_given_at_once() -> None:
    reasons = list(publish.refusals(run([make_measured()] * 3, host=without(HOST, "cpu"))))
    assert len(reasons) == 2


def test_what_is_published_keeps_every_sample_and_nothing_private(tmp_path: Path) -> None:
    typed = ("accelmark", "run", "/home/someone/suites/mine.toml", "--launches", "10")
    original = run(command=typed)
    folder = publish.publish(original, tmp_path, None, CARD)
    assert folder == tmp_path / "fake-fake-cpu"
    text = (folder / "run.jsonl").read_text(encoding="utf-8")
    for private in ("someone", "acme", "GPU-1234", "0000:01", "S-77", "says hi", "secret", "mine"):
        assert private not in text
    for kept in ("Linux 6.1", "x.conf", "libjemalloc.so", '"10"', "1980", '"1.2"'):
        assert kept in text
    found = read(folder)
    assert [x.outcome for x in found.launches] == [x.outcome for x in original.launches]
    assert [x.seed for x in found.launches] == [x.seed for x in original.launches]
    assert "gemm-matmul" in (folder / "card.txt").read_text(encoding="utf-8")
    assert list(publish.refusals(found)) == [], "and may be published again"


def test_reasons_lose_their_folders_too() -> None:
    message = "cannot read /home/someone/.cache/kernels/x.so: image/s and 3/4 stay, ~/y/z.so too"
    bare = publish.without_private(run([failed("oom", message)]))
    (launch,) = [line for line in bare if isinstance(line, Launch)]
    outcome = msgspec.to_builtins(launch.outcome)
    assert outcome["message"] == "cannot read x.so: image/s and 3/4 stay, z.so too"


def test_a_published_run_stays(tmp_path: Path) -> None:
    publish.publish(run(), tmp_path, "mine", CARD)
    before = (tmp_path / "mine" / "run.jsonl").read_bytes()
    with pytest.raises(OutputError, match=r"published runs stay\. Give another --name"):
        publish.publish(run(), tmp_path, "mine", CARD)
    assert (tmp_path / "mine" / "run.jsonl").read_bytes() == before


@pytest.mark.parametrize("name", ["../out", "a/b", ".hidden", "UPPER", "x" * 81, "a\nb"])
def test_a_name_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(PublicationError, match="small letters"):
        publish.publish(run(), tmp_path / "results", name, CARD)
    assert list(tmp_path.iterdir()) == []


def test_the_slug_of_a_hostile_device_is_a_safe_name() -> None:
    for name in ("../../etc/passwd", "a\x00b", "..", "é/ü", "", "CON:" * 50):
        assert publish.NAME.fullmatch(publish.slug(f"quick-{name}"))


def test_the_index_is_made_of_the_records_and_notices_an_edit(tmp_path: Path) -> None:
    publish.publish(run(), tmp_path, "b", CARD)
    folder = publish.publish(run(), tmp_path, "a", CARD)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert text == publish.index(tmp_path)
    rows = [line for line in text.splitlines() if line.startswith("| [")]
    assert [row.split("`")[1] for row in rows] == ["a", "b"]
    assert "| fake | Fake CPU (fake) | torch 2.13.0, transformers 5.0.0, CPython 3.11.7 |" in text
    assert "| 1 OK | 2026-01-01 |" in text
    record = folder / "run.jsonl"
    record.write_bytes(record.read_bytes().replace(b'"peak_bytes":3', b'"peak_bytes":4', 1))
    with pytest.raises(RecordError, match="was changed after it was published"):
        publish.index(tmp_path)
    (folder / digests.SUMS).unlink()
    assert publish.index(tmp_path) != text


def test_nothing_that_a_run_says_is_markup_in_the_index(tmp_path: Path) -> None:
    device = changed(DEVICE, name="A <b>b</b> | `c` *d* \n[e](f)")
    environment = changed(STACK, device=device)
    publish.publish(run(device=device, environment=environment), tmp_path, "a", CARD)
    (line,) = [x for x in publish.index(tmp_path).splitlines() if x.startswith("| [")]
    assert r" \<b\>" in line and r"\| \`c\` \*d\* \[e\](f) (fake) | torch" in line


def test_beside_a_run_that_was_edited_nothing_is_published(tmp_path: Path) -> None:
    """And the name of what was to be is free when that is put right."""
    folder = publish.publish(run(), tmp_path, "a", CARD)
    record = folder / "run.jsonl"
    whole = record.read_bytes()
    record.write_bytes(whole.replace(b'"peak_bytes":3', b'"peak_bytes":4', 1))
    with pytest.raises(RecordError, match="was changed after it was published"):
        publish.publish(run(), tmp_path, "b", CARD)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["README.md", "a"]
    record.write_bytes(whole)
    assert publish.publish(run(), tmp_path, "b", CARD) == tmp_path / "b"


def test_an_unwritable_place_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot be written there .*--results"):
        publish.publish(run(), tmp_path / "file", None, CARD)


def test_an_index_that_cannot_be_written_stays_and_the_run_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish.publish(run(), tmp_path, "whole", CARD)
    before = (tmp_path / "README.md").read_bytes()
    written = Path.write_text

    def full(file: Path, text: str, **more: Any) -> int:
        if publish.INDEX not in file.name:
            return written(file, text, **more)
        written(file, text[:10], **more)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(OutputError, match=r"published: .*mine; its index .*\(No space left"):
            publish.publish(run(), tmp_path, "mine", CARD)
    assert (tmp_path / "README.md").read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["README.md", "mine", "whole"]
    publish.publish(run(), tmp_path, "next", CARD)
    assert (tmp_path / "README.md").read_text(encoding="utf-8").count("| [") == 3


@pytest.mark.parametrize("broken", ["record", "card", "signature"])
def test_what_fails_halfway_leaves_nothing_that_passes_for_published(
    tmp_path: Path, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its name is free."""
    publish.publish(run(), tmp_path, "whole", CARD)
    index = (tmp_path / "README.md").read_text(encoding="utf-8")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        if broken == "record":
            patch.setattr(os, "fsync", full)
        if broken == "card":
            patch.setattr(digests, "write", full)
        sign = full if broken == "signature" else lambda folder: None
        with pytest.raises(OutputError, match=r"\(No space left on device\)\. Nothing was publ"):
            publish.publish(run(), tmp_path, "mine", CARD, sign)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["README.md", "whole"]
    assert publish.index(tmp_path) == index
    assert publish.publish(run(), tmp_path, "mine", CARD) == tmp_path / "mine"
    assert publish.verify(tmp_path / "mine", None) == ([], "not signed")
