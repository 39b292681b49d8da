"""A row beside what its device can do: the box's own measured ceilings, and published peaks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from bench import units
from bench.judging import chips
from bench.judging.load import BURST
from bench.judging.row import UNDISTURBED, Row
from bench.planning.least_flop import fewest
from bench.planning.shapes import ARITHMETIC, BANDWIDTH, is_matmul_ceiling

TRANSFER_CEILING = "transfer-to-device"
"""The case whose best throughput is the rate at which the host's inputs reach the device."""

CACHES = 4
"""A stream's arrays are so many times as large as all last-level caches together, or more."""
TOGETHER = 3
"""And all of them together are, of an accelerator: of what a pass moves no more than one part in so
many may lie there. Of arrays that are passed over in turns that is nothing where the oldest line
goes first, and 6 % where any does."""
UNKNOWN_CACHE, MOST_CACHE = 64 * 2**20, 256 * 2**20
"""Where nobody says how large an accelerator's are: for a ceiling, by which the streams of the
suites are believed and none that is far smaller; and for what is impossible, of those whose peak is
trusted as large as any."""
ARRAYS = {"read": 1, "triad": 3}
"""That a kernel of the streams passes over; two where nothing is said."""
ROUND = 2**20
"""A size that is advised is a multiple: every kernel takes it."""
SHARED_HOST = "its ranks share the cores of one host"
"""Why nothing is said of how well several devices do together."""


class Ceilings(msgspec.Struct, frozen=True, kw_only=True):
    """Of a run: each rate, by the fingerprint of its work, that a ceiling may be the best of."""

    matmul: dict[str, dict[str, float]]
    """FLOP/s, apart by arithmetic; what was not sustained, by another key."""
    bandwidth: dict[str, float]
    """Bytes/s of memory."""
    transfer: dict[str, float]
    """Bytes/s from the host to the device."""
    half_widths: dict[str, float]
    """Of those rates, by the same keys: half the interval's width on the log scale, if any."""


class Best(NamedTuple):
    """A ceiling: the best of the rates that it may be."""

    work: str
    """Its key."""
    rate: float
    half_width: float | None


def ceilings(rows: Iterable[Row]) -> Ceilings:
    """Of the rows of a run that nothing disturbed; none of bursts, which no work that goes on can
    reach."""
    found = Ceilings(matmul={}, bandwidth={}, transfer={}, half_widths={})
    for row in rows:
        if row.verdict not in UNDISTURBED or row.case.mode == BURST:
            continue
        if is_matmul_ceiling(row.case) and row.flop_per_second is not None:
            found.matmul.setdefault(row.arithmetic, {})[_state(row)] = row.flop_per_second
        streams = row.case.workload == BANDWIDTH and not row.in_cache
        if streams and row.bytes_per_second is not None:
            found.bandwidth[row.work.fingerprint] = row.bytes_per_second
        if row.case.name == TRANSFER_CEILING and row.throughput is not None:
            found.transfer[row.work.fingerprint] = row.throughput
        if row.interval is not None:
            found.half_widths[_key(row)] = row.interval.half_width
    return found


def _key(row: Row) -> str:
    """By which a row may be a ceiling."""
    return _state(row) if row.case.workload == ARITHMETIC else row.work.fingerprint


def _state(row: Row) -> str:
    """Its work, and whether it was sustained: of two runs only what is alike in both is divided."""
    brief = row.load is not None and not row.load.sustained
    return row.work.fingerprint + (" not sustained" if brief else "")


def with_ceilings(rows: Sequence[Row]) -> list[Row]:
    """Adds to each row its shares of the box's own measured ceilings, which are one device's."""
    found = ceilings(rows)
    matmul = {arithmetic: _best(found, rates) for arithmetic, rates in found.matmul.items()}
    bandwidth, transfer = _best(found, found.bandwidth), _best(found, found.transfer)
    return [_with_shares(row, matmul.get(row.arithmetic), bandwidth, transfer) for row in rows]


def _best(found: Ceilings, rates: Mapping[str, float]) -> Best | None:
    work = max(rates, key=lambda key: rates[key], default="")
    return Best(work, rates[work], found.half_widths.get(work)) if rates.get(work) else None


def _with_shares(
    row: Row, matmul: Best | None, bandwidth: Best | None, transfer: Best | None
) -> Row:
    """matmul, bandwidth, transfer: the ceilings; None where none was measured."""
    if row.shared_host or row.case.mode == BURST:
        return row
    changes: dict[str, Any] = {}
    half_widths = {}
    devices = row.case.devices
    for name, share, ceiling, rate, best in (
        ("matmul", "ceiling_fraction", "matmul_ceiling", row.least_flop_per_second, matmul),
        ("memory", "bandwidth_fraction", "bandwidth_ceiling", row.bytes_per_second, bandwidth),
        (
            *("transfer", "transfer_fraction", "transfer_ceiling"),
            *(row.transferred_bytes_per_second, transfer),
        ),
    ):
        if rate is None or best is None:
            continue
        changes |= {share: rate / devices / best.rate, ceiling: best.rate}
        own = row.interval.half_width if row.interval else None
        known = [width for width in (own, best.half_width) if width is not None]
        if known and best.work != _key(row):
            half_widths[name] = math.hypot(*known)
    return msgspec.structs.replace(row, **changes, share_half_widths=half_widths)


def with_cache(row: Row, device: Mapping[str, Any]) -> Row:
    """Says of a stream whether the device's last-level caches may hold too much of it.

    On a host, STREAM's rule: each array is at least four times as large as all of them together;
    where the record does not say how large they are, as older ones do not, the case is believed.
    Of an accelerator three times, the arrays together. device: as the run's header has it.
    Source: McCalpin, STREAM, https://www.cs.virginia.edu/stream/ref.html.
    """
    size = row.case.parameters.get("size_bytes")
    if not row.measured or row.case.workload != BANDWIDTH or not isinstance(size, int):
        return row
    cache, on_host = chips.cache_of(device), device.get("backend", "cpu") == "cpu"
    times = CACHES if on_host or cache is None else TOGETHER
    needed = times * (cache if cache is not None else 0 if on_host else UNKNOWN_CACHE)
    if not on_host:
        needed = -(-needed // ARRAYS.get(row.case.mode, 2))
    if size >= needed:
        return row
    together = "" if on_host else "together "
    whose = (
        f"{together}less than {times} times the {units.memory(cache)} of last-level caches"
        if cache is not None
        else "small, and how large the last-level caches are is not known"
    )
    words = (
        f"arrays of {units.memory(size)} are {whose}, so no ceiling. "
        f"Take size_bytes = {-(-needed // ROUND) * ROUND}"
    )
    return msgspec.structs.replace(row, in_cache=words)


def _from_memory(row: Row, device: Mapping[str, Any]) -> float:
    """The part of its traffic that the memory must carry, of work that is nothing but such traffic;
    0 of all other: any may find in a cache what it must move."""
    size, cache = row.case.parameters.get("size_bytes"), chips.cache_of(device)
    if row.case.workload != BANDWIDTH or not isinstance(size, int):
        return 0.0
    held = MOST_CACHE if cache is None else cache
    return max(0.0, 1 - held / (size * ARRAYS.get(row.case.mode, 2)))


def of_each(row: Row, rate: float | None) -> float | None:
    """What each of its devices has of a rate."""
    return None if rate is None else rate / row.case.devices


def with_peak(row: Row, device: Mapping[str, Any]) -> Row:
    """Adds the shares of the chip's published peaks; what a trusted one rules out is void.

    device: as the run's header has it.
    Of several devices each has its part of the work; the ranks of a shared host have no share.
    """
    if not row.measured:
        return row
    if row.shared_host:
        why = SHARED_HOST
        return msgspec.structs.replace(
            row,
            mfu_absent="" if row.flop_per_second is None else why,
            mbu_absent="" if row.bytes_per_second is None else why,
        )
    rates = (
        of_each(row, row.flop_per_second),
        of_each(row, fewest(row.case, row.least_flop_per_second)),
        of_each(row, row.bytes_per_second),
    )
    name, units = str(device.get("name")), chips.units_of(device.get("facts"))
    clock = max((mhz for mhz in row.clocks_mhz if mhz), default=None)
    from_memory = _from_memory(row, device)
    found = chips.shares(name, units, row.arithmetic, *rates, from_memory, clock)
    if found.impossible:
        return Row(
            case=row.case,
            status="void",
            reason=found.impossible,
            choice=row.choice,
            trials=row.trials,
            untried=row.untried,
        )
    in_cache = row.in_cache
    if row.case.workload == BANDWIDTH and found.above_memory and not in_cache:
        in_cache = f"{found.above_memory}, so a cache had a part of it, and it is no ceiling"
    return msgspec.structs.replace(
        row,
        in_cache=in_cache,
        mfu=found.mfu,
        mfu_absent=found.mfu_absent,
        mbu=found.mbu,
        mbu_absent=found.mbu_absent,
        **chips.whose(name, units, row.arithmetic, found.mfu, found.mbu),
    )
