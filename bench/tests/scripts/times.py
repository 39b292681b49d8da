"""Writes `configs/times.json` anew: how long launches of the published runs took.

    python -m bench.tests.scripts.times

After a run was published; a test holds the file to `results/`.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from bench.catalogue import configs_folder
from bench.planning.expected import FILE, Known
from bench.precision import PRECISIONS
from bench.records.case import Case


def text() -> str:
    """What `results/` says now."""
    results = Path(__file__).parents[3] / "results"
    return written(of_records(sorted(results.glob("*/run.jsonl"))))


class _Work(msgspec.Struct):
    items: float
    flop: float | None = None
    least_flop: float | None = None
    moved_bytes: float | None = None


class _Block(msgspec.Struct):
    wall_ns: int
    step_ns: list[int]


class _Outcome(msgspec.Struct):
    status: str
    work: _Work | None = None
    warmup: list[_Block] = []
    steady: list[_Block] = []


class _Launch(msgspec.Struct):
    """As much of a record's line as is asked for here."""

    line: str
    fingerprint: str = ""
    case: Case | None = None
    launch: int = 0
    seconds: float = 0.0
    outcome: _Outcome | None = None


class _Device(msgspec.Struct):
    name: str
    facts: dict[str, str] = {}


class _Run(msgspec.Struct):
    device: _Device


def of_records(files: Iterable[Path]) -> dict[str, Known]:
    """What records say, by class: cores of a CPU, or a device's name."""
    found: dict[str, list[_Launch]] = {}
    for file in files:
        head, *lines = file.read_bytes().splitlines()
        device = msgspec.json.decode(head, type=_Run).device
        cores = device.facts.get("usable_cores")
        name = device.name if cores is None else f"{cores} CPU cores"
        launches = [msgspec.json.decode(line, type=_Launch) for line in lines]
        found.setdefault(name, []).extend(
            one
            for one in launches
            if one.line == "launch" and one.outcome is not None and one.outcome.status == "measured"
        )
    return {name: _known(launches) for name, launches in sorted(found.items())}


def _known(launches: list[_Launch]) -> Known:
    cases: dict[str, list[_Launch]] = {}
    flop: dict[str, list[float]] = {}
    moved: list[float] = []
    for one in launches:
        cases.setdefault(one.fingerprint, []).append(one)
        assert one.outcome is not None and one.outcome.work is not None and one.case is not None
        work, blocks = one.outcome.work, one.outcome.steady
        steps = sum(len(b.step_ns) for b in blocks) / sum(b.wall_ns for b in blocks) * 1e9
        if work.flop:
            done = work.least_flop or work.flop
            arithmetic = PRECISIONS[one.case.precision].arithmetic
            flop.setdefault(arithmetic, []).append(done * steps)
        if work.moved_bytes:
            moved.append(work.moved_bytes * steps)
    return Known(
        launches={name: _both([(x.launch, x.seconds) for x in of]) for name, of in cases.items()},
        besides=_both([(x.launch, max(x.seconds - _blocks(x), 0.0)) for x in launches]),
        flop_per_second={name: _short(statistics.median(of)) for name, of in sorted(flop.items())},
        bytes_per_second=_short(statistics.median(moved)) if moved else 0.0,
    )


def _blocks(launch: _Launch) -> float:
    assert launch.outcome is not None
    blocks = (*launch.outcome.warmup, *launch.outcome.steady)
    return sum(block.wall_ns for block in blocks) / 1e9


def _both(seconds: Iterable[tuple[int, float]]) -> tuple[float, float]:
    """Of first launches and of the others, the medians."""
    first: list[float] = []
    others: list[float] = []
    for number, taken in seconds:
        (others if number else first).append(taken)
    return _short(statistics.median(first or others)), _short(statistics.median(others or first))


def _short(value: float) -> float:
    return float(f"{value:.3g}")


def written(known: Mapping[str, Known]) -> str:
    """As the file holds it."""
    text = msgspec.json.encode(known, order="sorted")
    return msgspec.json.format(text, indent=1).decode() + "\n"


if __name__ == "__main__":
    (configs_folder() / FILE).write_text(text(), encoding="utf-8")
