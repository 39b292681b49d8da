"""Thousands of spoiled records: a clear error, or figures that follow from what is in the file.

    python -m bench.tests.scripts.fuzz [--files 10000] [--seed 1]

Each file is a golden run with a few changes: bytes flipped, cut or doubled, lines swapped, values
of the JSON replaced by hostile ones, keys lost or added. Every report and `compare` then see it.
Two things must never happen: an exception that is no `AccelmarkError`, and a figure that is not
what a second, plain computation makes of the launches that were accepted. Exit code 1 if one did.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from bench import catalogue
from bench.errors import AccelmarkError
from bench.exchange.benchmark_json import read_any
from bench.judging.comparing.compare import compare
from bench.judging.row import Row
from bench.judging.summary import summarize
from bench.records.outcome import Measured
from bench.records.run import RunFile
from bench.records.runfile import read
from bench.report import Canvas
from bench.reports.flat.comparison import flat
from bench.reports.terminal.comparison import render
from bench.tests.scripts.regenerate import BASE, OTHER, RUN
from bench.tests.values import another

SOURCES = (RUN, OTHER)
QUICK_REPORTS = ("table", "markdown", "csv", "json", "pytest-benchmark")
HTML_EVERY = 20
"""The HTML report is ten times as slow as all others together."""
HOSTILE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 10**30, 1e308, -1e308, 1e-320, 0.1),
    *("", " ", "\x00", "\u202e", "measured", "NaN", "x" * 5000, "<img src=x onerror=alert(1)>"),
    *("[bold]", "{0}", "%s", "=1+1", "cpu", "bf16", "\ud83d\ude00", [], {}, [[]], [0], {"": ""}),
    *([None], {"line": "run"}, {"status": "measured"}),
)
LITERALS = (b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-0", b"0x10", b"[" * 2000, b"{}{}")
"""What JSON does not know, or what is not one value."""


class Broken(Exception):
    """What must never happen."""


def spoiled(content: bytes, source: random.Random) -> bytes:
    """The content with one to four changes."""
    for _ in range(source.choice((1, 1, 1, 2, 4))):
        change = source.choice((_bytes, _lines, _value, _value, _value, _literal))
        content = change(content, source)
    return content


def _bytes(content: bytes, source: random.Random) -> bytes:
    if not content:
        return content
    at, length = source.randrange(len(content)), source.randrange(1, 200)
    match source.randrange(4):
        case 0:
            return content[:at] + bytes([source.randrange(256)]) + content[at + 1 :]
        case 1:
            return content[:at] + content[at + length :]
        case 2:
            return content[:at] + content[at : at + length] + content[at:]
        case _:
            return content[:at]


def _lines(content: bytes, source: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    if len(lines) < 2:
        return content
    first, second = source.randrange(len(lines)), source.randrange(len(lines))
    match source.randrange(3):
        case 0:
            lines[first], lines[second] = lines[second], lines[first]
        case 1:
            lines.insert(first, lines[second])
        case _:
            del lines[first]
    return b"".join(lines)


def _value(content: bytes, source: random.Random) -> bytes:
    """Replaces, removes or adds something within one line's JSON."""
    lines = content.splitlines()
    if not lines:
        return content
    at = source.randrange(len(lines))
    try:
        decoded = msgspec.json.decode(lines[at])
        _change(decoded, source)
        lines[at] = msgspec.json.encode(decoded)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError, ValueError):
        return content  # spoiled already
    return b"\n".join(lines) + b"\n"


def _change(node: Any, source: random.Random) -> None:
    while True:
        if not isinstance(node, dict | list) or not node:
            return
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = source.choice(keys)
        if isinstance(node[key], dict | list) and node[key] and source.random() < 0.85:
            node = node[key]
            continue
        match source.randrange(6):
            case 0:
                del node[key]
            case 1 if isinstance(node, dict):
                node["extra"] = source.choice(HOSTILE)
            case 2 if isinstance(node[key], int | float):
                node[key] = node[key] * source.choice((-1, 0, 0.5, 2, 1000, 1e300))
            case 3 if isinstance(node, list):
                node.append(node[key])
            case _:
                node[key] = source.choice(HOSTILE)
        return


def _literal(content: bytes, source: random.Random) -> bytes:
    """A number in the text becomes one that JSON does not know."""
    at = content.find(b":", source.randrange(max(len(content), 1)))
    if at < 0:
        return content
    end = at + 1
    while end < len(content) and content[end : end + 1] in b"0123456789.-e":
        end += 1
    return content[: at + 1] + source.choice(LITERALS) + content[end:]


def judge(path: Path, base: RunFile, html: bool) -> str:
    """What came of a file: `refused`, `damaged` or `read`. Raises `Broken`."""
    try:
        run = read_any(path)
        rows = summarize(run)
        for row in rows:
            check(row, run)
        for name in (*QUICK_REPORTS, *(("html",) if html else ())):
            text = catalogue.load("reports", name).render([run], Canvas(width=100))
            text.encode("utf-8")
        if not run.damage:
            comparison = compare(another(base), run)
            render([comparison], Canvas(width=100)).encode("utf-8")
            msgspec.json.encode(flat(comparison))
    except AccelmarkError as error:
        if str(path) not in str(error):
            raise Broken(f"an error that does not name the file: {error}") from error
        return "refused"
    return "damaged" if run.damage else "read"


def check(row: Row, run: RunFile) -> None:
    """Raises `Broken` unless a row says what its launches say, by a computation of its own."""
    launches = [x for x in run.launches if x.fingerprint == row.case.fingerprint]
    if any(x.case != row.case for x in launches):
        raise Broken("a launch of another case under this fingerprint")
    if row.status != "measured":
        if row.throughput is not None or row.interval is not None:
            raise Broken(f"a number for a case that is {row.status}")
        return
    rates = []
    for launch in launches:
        if isinstance(launch.outcome, Measured):
            steps = sum(len(block.step_ns) for block in launch.outcome.steady)
            seconds = sum(block.wall_ns for block in launch.outcome.steady) / 1e9
            rates.append(launch.outcome.work.items * steps / seconds)
    if any(launch.outcome.__class__.__name__ == "Void" for launch in launches):
        raise Broken("measured although a launch is void")
    expected = math.exp(statistics.fmean(math.log(rate) for rate in rates))
    found = row.throughput
    if (
        found is None
        or not math.isclose(found, expected, rel_tol=1e-9)
        or row.launches > len(rates)
    ):
        raise Broken(f"throughput {found}, where its launches say {expected}")
    interval = row.interval
    if interval and not 0 < interval.low <= found * (1 + 1e-9) <= interval.high * (1 + 2e-9):
        raise Broken(f"interval {interval} beside throughput {found}")


def fuzz(files: int, seed: int, folder: Path) -> tuple[Counter[str], list[str]]:
    """How many files came to what, and what was broken."""
    base = read(BASE)
    contents = [path.read_bytes() for path in SOURCES]
    counts: Counter[str] = Counter()
    broken = []
    for number in range(files):
        source = random.Random(f"{seed}-{number}")
        path = folder / "spoiled.jsonl"
        path.write_bytes(spoiled(source.choice(contents), source))
        try:
            counts[judge(path, base, html=number % HTML_EVERY == 0)] += 1
        except Exception:  # noqa: BLE001 - any other exception is the finding
            counts["broken"] += 1
            broken.append(f"--seed {seed}, file {number}:\n{traceback.format_exc()}")
    return counts, broken


def main() -> None:
    """The script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts, broken = fuzz(arguments.files, arguments.seed, Path(folder))
    for text in broken[:10]:
        print(text)
    print(", ".join(f"{counts[word]} {word}" for word in sorted(counts)))
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
