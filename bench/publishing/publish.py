"""Published runs: which may be, without what identifies people or machines, and their index.

`results/NAME/` holds `run.jsonl`, every sample of it, `card.txt`, the report card at 100 columns,
and `SHA256SUMS`, so that a record that was edited by hand is refused; `SHA256SUMS.sig` if it was
signed. The index, `results/README.md`, is generated from the records.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from bench.errors import OutputError, PublicationError, RecordError
from bench.judging.row import Row
from bench.judging.summary import summarize
from bench.publishing import signing
from bench.records import digests
from bench.records.outcome import Measured
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
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")

HOST_FACTS = (
    *("accelmark", "cpu", "logical_cores", "machine", "memory_bytes", "packages", "python"),
    "system",
)
STACK_FACTS = ("device", "device_state", "float32_reduced", "packages", "threads", "torch")
"""What the header and every measured launch must say of where they come from."""

PRIVATE = re.compile(r"uuid|serial|hostname|user|(^|_)bus(_|$)|(^|_)pci(_|$)|\bpath", re.IGNORECASE)
"""Names of facts that tell one machine, or its owner, from others like it."""
FOLDERS = re.compile(r"(?<![\w/.~])~?(?:/[\w.+@-]+)+/(?=[\w.+@-])")
"""The folders of a path within a text."""
RELEASE = re.compile(r"^(\S+ \d+\.\d+)\S*")
"""An operating system's name and release; what follows may name whoever built the kernel."""


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
    Raises `PublicationError` with every reason why the run may not be published, and `OutputError`
    if the folder is there already or cannot be written.
    """
    reasons = list(refusals(run))
    if reasons:
        listed = "".join(f"\n  - {reason}" for reason in reasons)
        raise PublicationError(f"{run.path} is not published:{listed}")
    chosen = name or slug(f"{run.run.suite}-{run.run.device.get('name')}")
    if not NAME.fullmatch(chosen):
        raise PublicationError(
            f"--name {chosen}: small letters, digits, `.`, `_` and `-`, at most 80, beginning with "
            "a letter or digit."
        )
    results = Path(results)
    folder = results / chosen
    if folder.exists():
        raise OutputError(f"{folder} is there already: published runs stay. Give another --name.")
    with contextlib.closing(Writer(folder / RECORD)) as writer:
        for line in without_private(run):
            writer.append(line)
    text = card.render([read(folder)], Canvas(width=CARD_WIDTH))
    (folder / CARD).write_text(text, encoding="utf-8")
    digests.write(folder, (RECORD, CARD))
    sign(folder)
    (results / INDEX).write_text(index(results), encoding="utf-8")
    return folder


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
        complaints += refusals(read(folder))
    try:
        key = signing.signer(folder)
    except RecordError as error:
        return [*complaints, str(error)], "signature not good"
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
            f"published runs have {PUBLICATION_LAUNCHES} launches of every case, fixed beforehand "
            f"(--launches {PUBLICATION_LAUNCHES}), not {run.run.settings.launches}"
        )
    git = run.run.host.get("git")
    if isinstance(git, dict) and git.get("changed"):
        yield "the code that made it had uncommitted changes"
    missing = [name for name in HOST_FACTS if not run.run.host.get(name)]
    if missing:
        yield f"its header does not say: {', '.join(missing)}"
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
    if row.status == "measured":
        if row.verdict == "INVALID":
            yield row.reason
        if row.launches != settings.launches == PUBLICATION_LAUNCHES:
            yield f"{row.launches} measured launches of {PUBLICATION_LAUNCHES}"
    elif not row.reached:
        yield row.reason
    # What does not fit or is not supported is a fact of the device; the rest is an accident.
    elif row.status == "void" or (row.status == "failed" and not row.reason.startswith("oom")):
        yield f"{row.status}: {row.reason}"


def _launch_refusals(launch: Launch, run: Run) -> Iterator[str]:
    environment = launch.environment
    device = environment.get("device")
    devices = [run.device, device if isinstance(device, dict) else {}]
    if any(one.get("simulated") for one in devices):
        yield "a simulated device"
    if not isinstance(launch.outcome, Measured):
        return  # one that failed early had no time to say more
    missing = [name for name in STACK_FACTS if name not in environment]
    if missing:
        yield f"its environment does not say: {', '.join(missing)}"
    elif devices[1].get("name") != run.device.get("name"):
        yield f"ran on {devices[1].get('name')}, not on the run's {run.device.get('name')}"


def without_private(run: RunFile) -> Iterator[Line]:
    """The lines of a run without stderr, folders, and facts that identify a machine.

    Samples are untouched.
    """
    yield _without_private(run.run)
    for again in run.resumed:
        yield _without_private(again)
    for launch in run.launches:
        fields = msgspec.to_builtins(launch)
        fields["environment"] = _scrubbed(fields["environment"])
        for key in ("message", "reason"):
            if key in fields["outcome"]:
                fields["outcome"][key] = _without_folders(fields["outcome"][key])
        fields["stderr_tail"] = ""
        yield msgspec.convert(fields, Launch)
    if run.end is not None:
        yield run.end


def _without_private(header: Header) -> Header:
    fields = msgspec.to_builtins(header)
    for section in ("host", "device"):
        fields[section] = _scrubbed(fields[section])
    system = fields["host"].get("system")
    if isinstance(system, str):
        fields["host"]["system"] = RELEASE.sub(r"\1", system)
    fields["command"] = [_without_folders(word) for word in fields["command"]]
    return msgspec.convert(fields, type(header))


def _scrubbed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _scrubbed(v) for k, v in value.items() if not PRIVATE.search(str(k))}
    if isinstance(value, list):
        return [_scrubbed(one) for one in value]
    return _without_folders(value) if isinstance(value, str) else value


def _without_folders(text: str) -> str:
    return FOLDERS.sub("", text)


def slug(text: str) -> str:
    """A folder's name: `quick-Acme X100 (80 GB)` -> `quick-acme-x100-80-gb`."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")[:80] or "run"


def digest(folder: StrPath) -> str:
    """The beginning of the SHA-256 of a published record."""
    return digests.sha256(Path(folder) / RECORD)[:DIGEST_CHARACTERS]


def published(results: Path) -> list[Path]:
    """The folders of published runs, by name."""
    return sorted(file.parent for file in results.glob(f"*/{RECORD}"))


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
    packages = stack.get("packages")
    versions = packages if isinstance(packages, dict) else {}
    software = [f"torch {stack.get('torch')}", f"transformers {versions.get('transformers')}"]
    rows = summarize(run)
    words = [str(row.verdict if row.status == "measured" else row.status) for row in rows]
    counts = ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(sorted(words)))
    device = f"{run.run.device.get('name')} ({run.run.device.get('backend')})"
    if run.run.device.get("backend") == "cpu":
        device += f", {host.get('usable_cores')} cores"
    cells = [
        f"[`{folder.name}`]({folder.name}/{CARD})",
        run.run.suite,
        device,
        ", ".join([*software, str(host.get("python"))]),
        counts,
        run.run.started_at[:10],
        f"`{digest(folder)}`",
    ]
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |\n"
