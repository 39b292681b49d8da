"""Published runs: which may be, without what identifies people or machines, and their index.

`results/NAME/` holds `run.jsonl`, every sample of it, `card.txt`, the report card at 100 columns,
and `SHA256SUMS`, so that a record that was edited by hand is refused; `SHA256SUMS.sig` if it was
signed. The index, `results/README.md`, is generated from the records.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import msgspec

from bench.errors import MissingPackage, OutputError, PublicationError, RecordError
from bench.judging.comparing.suites import suite_of
from bench.judging.row import Row
from bench.judging.summary import summarize
from bench.publishing import signing
from bench.publishing.command import allowed
from bench.records import digests, private
from bench.records.environment import section
from bench.records.explained import Explanation
from bench.records.outcome import BEFORE, Measured, Phase
from bench.records.run import Launch, Line, Resumed, Run, RunFile, Settings
from bench.records.runfile import Writer, read
from bench.report import Canvas, Report

if TYPE_CHECKING:
    from _typeshed import StrPath

Header = TypeVar("Header", Run, Resumed)
PUBLICATION_LAUNCHES = 10
"""Exactly this many launches of every case, one look, a 95 % interval."""
RECORD, CARD, INDEX = "run.jsonl", "card.txt", "README.md"
CARD_WIDTH = 100
DIGEST_CHARACTERS = 16
"""Hexadecimal digits of the SHA-256 that the index shows."""
NO_ROOM = tuple(f"oom in {phase}:" for phase in get_args(Phase) if phase not in BEFORE)
"""Begin the reasons of cases that are too large for a device."""
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")

HOST_FACTS = (
    *("accelmark", "cpu", "logical_cores", "machine", "memory_bytes", "packages", "python"),
    "system",
)
STACK_FACTS = ("device", "device_state", "float32_reduced", "packages", "threads")
"""What the header and every measured launch must say of where they come from; a launch its
framework's version too."""

AS_IT_IS = ("line", "plan", "settings", "case", "fingerprint", "choice")
"""Parts of a line that are published as they are: one that says something private is refused."""
SENTENCES = (
    *("message", "reason", "causes", "failed", "left_out", "instead", "no_noise"),
    *("not_written", "not_over", "no_time"),
    *("absent", "absent_because", "telemetry_absent", "energy_absent", "profile_absent"),
)
"""What is said in anybody's words: there, and in facts, whoever publishes is looked for by name."""
KINDS = (
    *("architecture", "backend", "cpu", "machine", "name", "vendor"),
    *("variables_compared", "variables_looked_for"),
)
"""Facts that say of which kind a machine is, or name variables: its host may have the same name."""


def publish(
    run: RunFile,
    results: StrPath,
    name: str | None,
    card: Report,
    sign: Callable[[Path], object] = lambda folder: None,
) -> Path:
    """Lays a run into `results` and rewrites the index; gives its folder.

    name: of the folder; None makes one of suite and device. card: the report that prints the card.
    sign: called with the folder once all that is to be signed lies in it.
    Raises `PublicationError` with every reason why the run may not be published, `RecordError` if
    one that lies there already cannot be read, and `OutputError` if the folder is there already or
    cannot be written; if only the index cannot, it says that the run is published.
    """
    reasons = list(refusals(run))
    if reasons:
        listed = "".join(f"\n  - {reason}" for reason in reasons)
        raise PublicationError(f"{run.path} is not published:{listed}")
    lines = without_private(run)
    header = next(lines)
    assert isinstance(header, Run)  # for the type checker
    chosen = name or slug(f"{header.suite}-{header.device.get('name')}")
    if not NAME.fullmatch(chosen):
        raise PublicationError(
            f"--name {chosen}: give small letters, digits, `.`, `_` and `-`; at most 80, the first "
            "a letter or digit."
        )
    results = Path(results)
    folder = results / chosen
    if folder.exists():
        raise OutputError(
            f"{folder}: it exists already, and published runs stay. Give another --name."
        )
    index(results)  # beside a run that it cannot name, nothing is published
    # Under a name that no published run has, until it is whole.
    unfinished = results / f".{chosen}-{os.getpid()}"
    try:
        with contextlib.closing(Writer(unfinished / RECORD, "--results")) as writer:
            for line in (header, *lines):
                writer.append(line)
        text = card.render([read(unfinished)], Canvas(width=CARD_WIDTH))
        (unfinished / CARD).write_text(text, encoding="utf-8")
        digests.write(unfinished, (RECORD, CARD))
        sign(unfinished)
        unfinished.rename(folder)
    except (OSError, OutputError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        why = getattr(cause, "strerror", None) or error
        raise OutputError(
            f"{folder}: the run cannot be written there ({why}). Nothing was published; the run "
            "lies where it lay. Free some space, or give another folder: --results FOLDER."
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    _write_index(results, folder)
    return folder


def _write_index(results: Path, folder: Path) -> None:
    """All of it or nothing; folder: of the run that was published just now."""
    unfinished = results / f".{INDEX}-{os.getpid()}"
    try:
        unfinished.write_text(index(results), encoding="utf-8")
        unfinished.replace(results / INDEX)
    except OSError as error:
        raise OutputError(
            f"published: {folder}; its index could not be written ({error.strerror}): "
            f"{results / INDEX} is as it was. The next `accelmark publish` there names both."
        ) from error
    finally:
        unfinished.unlink(missing_ok=True)


def verify(folder: StrPath, wanted: str | None) -> tuple[list[str], str]:
    """What is wrong with a published folder, and who signed it, in words.

    wanted: the fingerprint of the key by which it must be signed; None where anybody's, or
    nobody's, will do.
    """
    folder, complaints = Path(folder), []
    noted = digests.noted(folder)
    if RECORD not in noted:
        complaints.append(f"no {digests.SUMS} says what was published")
    for name, expected in noted.items():
        file = folder / Path(name).name
        if not file.is_file() or digests.sha256(file) != expected:
            complaints.append(f"{name} is not what was published")
    if not complaints:
        try:
            complaints += refusals(read(folder / RECORD))
        except RecordError as error:
            complaints.append(str(error))
        if _indexed(folder.absolute()) not in (None, digest(folder)):
            complaints.append(f"{RECORD} is not the one that {INDEX} names")
    try:
        key = signing.signer(folder)
    except RecordError as error:
        return [*complaints, str(error)], "signature not good"
    except MissingPackage as error:
        return [*complaints, str(error)], "signed, not checked"
    if wanted is not None and key != wanted:
        complaints.append(f"not signed by {wanted}")
    return complaints, f"signed by {key}" if key else "not signed"


def refusals(run: RunFile) -> Iterator[str]:
    """Every reason why a run may not be published; nothing if it may."""
    if run.damage:
        yield run.damage
    if run.end is None or run.end.reason != "complete":
        yield "it did not run to its end"
    if run.run.settings.launches != PUBLICATION_LAUNCHES:
        yield (
            f"it was measured with --launches {run.run.settings.launches}; a published run needs "
            f"--launches {PUBLICATION_LAUNCHES}"
        )
    if section(run.run.host, "git").get("changed"):
        yield "the code that made it had uncommitted changes"
    missing = [name for name in HOST_FACTS if not run.run.host.get(name)]
    if missing:
        yield f"its record does not say: {', '.join(missing)}"
    cases = (*run.run.plan, *(launch.case for launch in run.launches))
    for case in {case.fingerprint: case for case in cases}.values():
        if (fields := msgspec.to_builtins(case)) != _cleaned(fields):
            yield f"{case.label}: its work is named by a path, an address or somebody's name"
    for row in summarize(run):
        yield from (
            f"{row.case.label}: {reason}" for reason in _row_refusals(row, run.run.settings)
        )
    for launch in run.launches:
        found = list(_launch_refusals(launch, run.run))
        if found:
            yield f"{launch.case.label}, launch {launch.launch + 1}: {', '.join(found)}"
            return  # the next launches will say the same


def _row_refusals(row: Row, settings: Settings) -> Iterator[str]:
    if row.measured:
        if row.verdict == "INVALID":
            yield row.reason
        if row.launches != settings.launches == PUBLICATION_LAUNCHES:
            yield f"{row.launches} measured launches of {PUBLICATION_LAUNCHES}"
    elif not row.reached:
        yield row.reason
    # What does not fit or is not supported is a fact of the device; the rest is an accident.
    elif row.status == "void" or (row.status == "failed" and not row.reason.startswith(NO_ROOM)):
        yield f"{row.status}: {row.reason}"


def _launch_refusals(launch: Launch, run: Run) -> Iterator[str]:
    environment = launch.environment
    device = section(environment, "device")
    if run.device.get("simulated") or device.get("simulated"):
        yield "a simulated device"
    if not isinstance(launch.outcome, Measured):
        return  # one that failed early had no time to say more
    if launch.endpoint is not None:
        yield "a server that was measured from outside: what it ran on was not observed"
        return
    missing = [name for name in (*STACK_FACTS, run.framework) if name not in environment]
    if missing:
        yield f"its environment does not say: {', '.join(missing)}"
    elif device.get("name") != run.device.get("name"):
        yield f"ran on {device.get('name')}, not on the run's {run.device.get('name')}"


def without_private(run: RunFile) -> Iterator[Line]:
    """The lines of a run without stderr and without what tells whose it is (`records.private`).

    Of the command line nothing is left but what the record says elsewhere. Samples are untouched.
    """
    header = _header(run.run, run.run)
    yield header
    for again in run.resumed:
        yield _header(again, run.run)
    workers: Iterator[Launch | Explanation] = itertools.chain(run.launches, run.explanations)
    for worker in workers:
        fields = _said(worker)
        fields["environment"] = _facts(worker.environment)
        fields["stderr_tail"] = ""
        yield msgspec.convert(fields, type(worker))
    if run.end is not None:
        yield msgspec.structs.replace(run.end, finished_at=_time(run.end.finished_at))


def _header(header: Header, run: Run) -> Header:
    fields = _said(header)
    for name in ("host", "device"):
        fields[name] = _facts(getattr(header, name))
    system = fields["host"].get("system")
    if isinstance(system, str):
        fields["host"]["system"] = private.release(system)
    fields["command"] = list(allowed(header.command, run))
    return msgspec.convert(fields, type(header))


def _facts(facts: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = private.cleaned_facts(facts, private.own_names(), kinds=KINDS)
    return found


def _said(line: Line) -> dict[str, Any]:
    """A line as builtins, every text in it cleaned but for what must be as it is."""
    fields: dict[str, Any] = msgspec.to_builtins(line)
    for name, value in fields.items():
        if name.endswith("_at"):
            fields[name] = _time(value)
        elif name not in AS_IT_IS:
            fields |= _cleaned({name: value})
    return fields


def _cleaned(value: Any, own: Sequence[str] = ()) -> Any:
    if isinstance(value, dict):
        return {
            private.cleaned(name): _cleaned(one, private.own_names() if name in SENTENCES else own)
            for name, one in value.items()
        }
    if isinstance(value, list | tuple):
        numbers = value and isinstance(value[0], int | float)  # a series, and it may be long
        return value if numbers else [_cleaned(one, own) for one in value]
    return private.cleaned(value, own=own) if isinstance(value, str) else value


def _time(text: str) -> str:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return private.PRIVATE
    return text


def slug(text: str) -> str:
    """A folder's name: `quick-Acme X100 (80 GB)` -> `quick-acme-x100-80-gb`."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")[:80] or "run"


def digest(folder: StrPath) -> str:
    """The beginning of the SHA-256 of a published record."""
    return digests.sha256(Path(folder) / RECORD)[:DIGEST_CHARACTERS]


def _indexed(folder: Path) -> str | None:
    """The digest of a run in the index beside its folder, if it is there."""
    try:
        text = (folder.parent / INDEX).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    row = re.search(rf"^\| \[`{re.escape(folder.name)}`\].*`(\w+)` \|$", text, re.MULTILINE)
    return row and row[1]


def published(results: Path) -> list[Path]:
    """The folders of published runs, by name."""
    folders = [file.parent for file in results.glob(f"*/{RECORD}")]
    return sorted(folder for folder in folders if not folder.name.startswith("."))


def to_verify(folder: Path) -> list[Path]:
    """What a folder stands for: itself if anything published lies in it, else all folders in it.

    One of which only a part is left counts too: it is not what was published.
    """
    marks = (RECORD, CARD, digests.SUMS)
    if any((folder / mark).exists() for mark in marks):
        return [folder]
    within = {file.parent for mark in marks for file in folder.glob(f"*/{mark}")}
    return sorted(one for one in within if not one.name.startswith(".")) or [folder]


HEADING = """# Results

Runs of real machines as `accelmark publish` laid them here: one folder each, with the record
(`run.jsonl`, every sample) and its report card (`card.txt`). Ten launches of every case, numerics
passed, nothing simulated. Compare your own with one of them:
`accelmark compare results/FOLDER runs/YOURS.jsonl`.

This table is generated from the records; a test checks them, their cards and their digests.

| folder | suite | device | stack | cases | made on | SHA-256 |
|---|---|---|---|---|---|---|
"""


def index(results: Path) -> str:
    """The text of `results/README.md`."""
    return HEADING + "".join(_index_row(folder) for folder in published(results))


def _index_row(folder: Path) -> str:
    run = read(folder)
    host, stack = run.run.host, next((x.environment for x in run.launches if x.environment), {})
    versions = section(stack, "packages")
    framework = run.run.framework
    software = [f"{framework} {stack.get(framework)}"]
    if "transformers" in versions:
        software.append(f"transformers {versions['transformers']}")
    rows = summarize(run)
    words = [str(row.verdict if row.measured else row.status) for row in rows]
    counts = ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(sorted(words)))
    device = run.run.on
    if run.run.device.get("backend") == "cpu":
        device += f", {host.get('usable_cores')} cores"
    cells = [
        f"[`{folder.name}`]({folder.name}/{CARD})",
        _text(suite_of(run.run) or run.run.suite),
        _text(device),
        _text(", ".join([*software, str(host.get("python"))])),
        counts,
        run.run.started_at[:10],
        f"`{digest(folder)}`",
    ]
    return f"| {' | '.join(cells)} |\n"


def _text(text: str) -> str:
    """Plain text in a cell."""
    return re.sub(r"([\\`*\[\]<>|~&])", r"\\\1", " ".join(text.split()))
