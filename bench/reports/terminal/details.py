"""Everything that is known of a case, in words: what `--wide` shows below its line."""

from __future__ import annotations

from collections.abc import Iterator

from bench import units
from bench.judging.row import Row
from bench.planning.tuning import in_words
from bench.records.executed import Executed
from bench.reports.wording.labels import plain
from bench.reports.wording.rows import (
    about,
    energy_of,
    first_step,
    of_peaks,
    packed,
    share,
    spread,
    tail,
    whose,
)

MOST_NAMED = 4
"""Of the kernels of one place."""


def details(row: Row) -> Iterator[str]:
    """Lines of text: the case, what came of it, its shares of ceilings, its costs."""
    case = row.case
    chosen = [] if row.choice is None else [f"best: {in_words(row.choice)}"]
    yield plain("; ".join([part for part in (case.detail, *chosen) if part] + [case.fingerprint]))
    if row.measured:
        for parts in (_figures(row), _shares(row), _ran(row), _costs(row)):
            if found := "; ".join(parts):
                yield plain(found)
    flags = [f"{flag}{whose(row, flag)}" for flag in row.flags]
    said = "; ".join(
        part for part in (row.reason, row.left_out, row.instead, ", ".join(flags)) if part
    )
    if said:
        yield plain(said)


def _figures(row: Row) -> Iterator[str]:
    yield f"{units.counted(row.launches, 'launch')}, {units.counted(row.steps, 'step')}"
    item = row.item
    if row.case.devices > 1:
        each = row.throughput_per_device
        alone = [] if each is None else [f"{units.rate(each, item)} each"]
        if packed(row) and row.throughput_per_package is not None:
            alone.append(f"{units.rate(row.throughput_per_package, item)} a package")
        shared = ["shared host"] if row.shared_host else []
        yield ", ".join([packed(row) or f"{row.case.devices} devices", *alone, *shared])
    if row.flop_per_second is not None and item != row.operation:
        yield units.rate(row.flop_per_second, row.operation)
    if row.bytes_per_second is not None and item != "B":
        yield units.prefixed(row.bytes_per_second, "B/s")
    if row.operation_seconds is not None and row.bus_bytes_per_second is not None:
        yield f"{units.prefixed(row.bus_bytes_per_second, 'B/s')} bus bandwidth"
        yield f"{units.duration(row.operation_seconds)} an operation"
    latency = row.latency
    if latency is not None:
        yield (
            f"{latency.name} p50 {units.duration(latency.p50)}, {tail(latency)}, "
            f"{latency.requests} requests a launch"
        )


def _shares(row: Row) -> Iterator[str]:
    """Of every ceiling, measured and published."""
    known = [
        (row.ceiling_fraction, "of the best matmul", "matmul"),
        (row.bandwidth_fraction, "of the best memory bandwidth", "memory"),
        (row.transfer_fraction, "of the best transfer", "transfer"),
        (row.host_fraction, "of a step to queue it", ""),
        (row.input_fraction, "of the time waiting for input", ""),
    ]
    parts = [
        f"{about(row.share_half_widths.get(ceiling))}{share(value)} {words}"
        for value, words, ceiling in known
        if value is not None
    ]
    if parts:
        yield ", ".join(parts)
    yield from of_peaks(row)
    for name, why in (("MFU", row.mfu_absent), ("MBU", row.mbu_absent)):
        if why:
            yield f"no {name}: {why}"


def _ran(row: Row) -> Iterator[str]:
    """Which implementations a step ran through, and how evenly its experts were loaded."""
    ran = row.executed or Executed()
    if ran.absent:
        yield f"operators {ran.absent}"
    for kind, operators in ran.operators.items():
        yield f"{kind}: {', '.join(operators)}"
    for place, kernels in (ran.kernels or {}).items():
        yield f"kernels on {place}: {units.first_ones(kernels, MOST_NAMED)}"
    if tokens := ran.expert_tokens:
        even = units.significant(sum(tokens) / len(tokens))
        yield f"tokens an expert: {min(tokens)} to {max(tokens)}, {even} if even"
    if row.experts_hit is not None:
        yield f"experts hit: {units.significant(row.experts_hit)} a layer, whose bytes are counted"
    elif ran.experts_hit is not None:
        yield f"experts hit: {units.significant(ran.experts_hit)} a layer"


def _costs(row: Row) -> Iterator[str]:
    if row.peak_memory_bytes:
        yield f"{units.memory(row.peak_memory_bytes)} {row.memory_scope}"
    if first_step(row):
        yield f"first step {first_step(row)}"
    if row.input_wait_seconds is not None:
        yield f"{units.duration(row.input_wait_seconds)} a step waiting for input"
    if row.items_per_joule is None:
        if row.energy_absent:
            yield f"no energy: {row.energy_absent}"
        return
    energy = f"{units.joules(1 / row.items_per_joule, row.item)} {spread(row.joule_interval)}"
    each = row.watts_per_package if packed(row) else None
    drawn = "" if each is None else f"; {units.significant(each)} W a package"
    yield f"energy {energy} ({energy_of(row, drawn)})"
