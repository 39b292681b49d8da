"""What plots of many devices show, as plain data: `bench.reports.page.plots` has the others.

A matrix has its rows, columns, `z` and `text` [row][column] with null where there is nothing, and
in `of` what a text says; `frames` are the marked cells, each a row and the first and last of its
columns. A thousand ranks have ten thousand cells: what all share is said once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bench import units
from bench.judging.ranks import links
from bench.judging.ranks.pairs import Pairs
from bench.judging.ranks.scaling import Scaling, scalings
from bench.judging.ranks.slow import RankTimes
from bench.judging.row import Efficiency, Link, Row
from bench.planning.sweep import without_batch
from bench.reports.flat.row import columns
from bench.reports.page.side import Side, name_of, title_of
from bench.reports.wording import scaling
from bench.reports.wording.rows import share, word_of

FIT_POINTS = 33
"""Of a fitted line, evenly spaced on the logarithm of the size: enough for a smooth curve."""
MOST_CELLS = 128
"""A map of more ranks than this is drawn by blocks of them: the page would grow too large."""


def efficiencies(sides: Sequence[Side]) -> Iterator[dict[str, Any]]:
    """Efficiency over devices: a panel for each kind of work, a curve for each run and scheme."""
    found: dict[str, dict[str, Any]] = {}
    for side in sides:
        for curve in scalings(side.rows):
            points = [
                _efficiency_point(side, curve, row, efficiency)
                for row in curve.points
                if (efficiency := curve.efficiency(row)) is not None
            ]
            if curve.absent or len(points) < 2:
                continue
            work = without_batch(curve.work)
            panel = found.setdefault(work.fingerprint, {"title": title_of(work), "curves": []})
            panel["curves"].append(
                {
                    "run": side.number - 1,
                    "weak": curve.kind == "weak",
                    "label": f"{curve.scheme}, {curve.kind}",
                    "words": scaling.title(curve),
                    "points": points,
                }
            )
    yield from found.values()


def _efficiency_point(
    side: Side, curve: Scaling, row: Row, efficiency: Efficiency
) -> dict[str, Any]:
    line = scaling.line(curve, row)
    told = {"a device": line.each, "efficiency": line.efficiency, "exposed": line.exposed}
    return {
        "devices": row.case.devices,
        "value": efficiency.value,
        **columns(efficiency, "low", "high"),
        "hover": [
            f"{scaling.name(curve)}, {curve.kind}",
            side.label,
            units.counted(row.case.devices, "device"),
            line.throughput,
            *(f"{what} {text}" for what, text in told.items() if text),
            word_of(row),
        ],
    }


def over_sizes(sides: Sequence[Side]) -> Iterator[dict[str, Any]]:
    """Bus bandwidth of a collective over its sizes: a panel for each, a curve for each run."""
    found: dict[str, dict[str, Any]] = {}
    for side in sides:
        for key, sweep in links.sweeps(side.measured):
            if len(sweep) < 2:
                continue
            panel = found.setdefault(key, {"title": name_of(sweep[0].case), "curves": []})
            link = sweep[0].link
            panel["curves"].append(
                {
                    "run": side.number - 1,
                    "words": "" if link is None else links.in_words(link),
                    "points": [_size_point(side, row) for row in sweep],
                    "fit": [] if link is None else list(_fit(link, sweep)),
                }
            )
    yield from found.values()


def _size_point(side: Side, row: Row) -> dict[str, Any]:
    assert row.bus_bytes_per_second is not None
    assert row.operation_seconds is not None
    size = int(row.case.parameters[links.SIZE])
    figure = f"{units.prefixed(row.bus_bytes_per_second, 'B/s')} bus bandwidth"
    time = f"{units.duration(row.operation_seconds)} an operation"
    return {
        "size": size,
        "bus": row.bus_bytes_per_second,
        "hover": side.hover(row, units.memory(size), figure, time),
    }


def _fit(link: Link, sweep: Sequence[Row]) -> Iterator[tuple[float, float]]:
    """Size and bus bandwidth of the line that is fitted to the times."""
    largest = sweep[-1]
    assert largest.bus_bytes_per_second is not None
    assert largest.operation_seconds is not None
    first, last = (int(row.case.parameters[links.SIZE]) for row in (sweep[0], largest))
    # Of each byte of size so many cross a link, whatever the size.
    crossing = largest.bus_bytes_per_second * largest.operation_seconds / last
    for k in range(FIT_POINTS):
        size = first * (last / first) ** (k / (FIT_POINTS - 1))
        seconds = link.latency.value + size * crossing / link.bandwidth.value
        yield size, float(f"{size * crossing / seconds:.4g}")


def link_maps(sides: Sequence[Side]) -> Iterator[dict[str, Any]]:
    """How fast each two ranks exchange messages: a map for each such case of each run."""
    return _maps(sides, lambda row: _map(row.pairs) if row.pairs else {})


def rank_maps(sides: Sequence[Side]) -> Iterator[dict[str, Any]]:
    """What each rank computes in each launch, against the launch's median: a map for each case."""
    return _maps(sides, lambda row: _heat(row.ranks, row.rounds) if row.ranks else {})


def _maps(sides: Sequence[Side], of: Callable[[Row], dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Of each row that has one, its map, with what it is called."""
    for side in sides:
        for row in side.measured:
            if found := of(row):
                run = f", run {side.number}" if len(sides) > 1 else ""
                yield {"title": name_of(row.case) + run, **found}


def _map(pairs: Pairs) -> dict[str, Any]:
    ranks = len(pairs.bytes_per_second)
    each = -(-ranks // MOST_CELLS)
    blocks = [range(k, min(k + each, ranks)) for k in range(0, ranks, each)]
    names = [_ranks(block) for block in blocks]
    cells = [[_slowest(pairs, mine, theirs) for theirs in blocks] for mine in blocks]
    first, second = (rank // each for rank in pairs.slowest)
    several = f"; each cell the slowest of {each} x {each} ranks" if each > 1 else ""
    return {
        "words": pairs.words + several,
        "square": True,
        "middle": None,
        "rows": names,
        "columns": names,
        "across": "rank",
        "down": "rank",
        "tickformat": ".3s",
        "z": [[None if rate is None else float(f"{rate:.4g}") for rate in line] for line in cells],
        "text": [
            [
                None
                if rate is None
                else f"{units.prefixed(rate, 'B/s')}, {share(rate / pairs.median)}"
                for rate in line
            ]
            for line in cells
        ],
        "of": "each way, and of the median",
        "marked_rows": sorted({first, second}),
        "frames": [[first, second, second], [second, first, first]],
    }


def _heat(ranks: RankTimes, rounds: Sequence[int]) -> dict[str, Any]:
    """rounds: which launches those are; some may have been left out. Nothing without times."""
    if not ranks.compute_seconds:
        return {}
    slow = [one.rank for one in ranks.slow]
    hosts = len(set(ranks.hosts)) > 1
    names = [
        (f"host {host}, " if hosts else "") + f"{rank}" + (" slow" if rank in slow else "")
        for rank, host in enumerate(ranks.hosts)
    ]
    launches = [str(launch + 1) for launch in rounds]
    relative = ranks.relative
    return {
        "words": ranks.words,
        "square": False,
        "middle": 1.0,
        "rows": names,
        "columns": launches,
        "across": "launch",
        "down": "rank",
        "tickformat": ".0%",
        "z": [[float(f"{value:.4g}") for value in line] for line in relative],
        "text": [
            [
                f"{units.duration(seconds)}, {value - 1:+.1%}"
                for seconds, value in zip(own, line, strict=True)
            ]
            for own, line in zip(ranks.compute_seconds, relative, strict=True)
        ],
        "of": "computing a step, against the launch's median rank",
        "marked_rows": slow,
        "frames": [[rank, 0, len(launches) - 1] for rank in slow],
    }


def _ranks(block: range) -> str:
    return str(block[0]) if len(block) == 1 else f"{block[0]}-{block[-1]}"


def _slowest(pairs: Pairs, mine: range, theirs: range) -> float | None:
    """Of the pairs of two blocks of ranks; None of a rank with itself."""
    rates = (pairs.bytes_per_second[i][j] for i in mine for j in theirs)
    return min((rate for rate in rates if rate is not None), default=None)
