"""Does a case fit? Its memory, from shapes, against the device's."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable
from typing import Any

import msgspec

from bench import units
from bench.planning.sweep import BATCH
from bench.records.cpu_limits import memory_limit
from bench.records.outcome import DOES_NOT_FIT
from bench.records.parallelism import MOST_DEVICES, NONE, Parallelism
from bench.workload import Site, Unsupported, Workload

INSTEAD = ". Over "
"""Begins what would do instead, where a case does not fit."""
MARGIN = 0.8
"""A case is skipped only if even this share of its estimate is more than the device has. Estimates
are within 20 % of what is measured (`python -m bench.tests.scripts.fit`); what lies closer is
tried, and what then runs out of memory has failed and says so."""
MARGIN_OF_HOST = 1 / MARGIN
"""Where a device takes the host's own memory: what may not fit into what is available is not tried
there, as long as others have more than a little of it (`FREE`)."""
FREE = 0.9
"""Share of all that is available where nobody else uses it: more cannot be waited for."""


def estimate(workload: Workload, mode: str, parameters: Any, site: Site) -> int | None:
    """Most device bytes of a steady step; None, with the reason on stderr, where none can be had.

    Without an estimate the case runs as it is: a rehearsal is no reason not to measure.
    """
    try:
        return workload.peak_bytes(mode, parameters, site)
    except Unsupported:
        raise
    except Exception:  # noqa: BLE001 - whatever it is, the job itself will say it better
        traceback.print_exc()
        return None


def require(
    needed: int | None,
    capacity: int | None,
    remedy: Callable[[], str] = lambda: "",
    ranks: int = 1,
    available: int | None = None,
    margin: float = MARGIN,
) -> None:
    """Raises `Unsupported`, with both figures, if so many bytes cannot fit into so many.

    needed: of one rank; remedy: what to do about it, if anything; ranks: how many share the
    capacity; available: what others leave of it now. Where only that is too little it raises
    RuntimeError: at another time the case may fit. margin: `MARGIN_OF_HOST` where trying harms it;
    against the capacity no more than the estimate itself counts.
    """
    if needed is None:
        return
    total = needed * ranks
    each = f" ({ranks} ranks of this host, {units.memory(needed)} each)" if ranks > 1 else ""
    needs = f"needs about {units.memory(total)}{each}"
    if capacity is not None and min(margin, 1) * total > capacity:
        has = f"the device has {units.memory(capacity)}{remedy()}"
        raise Unsupported(f"{DOES_NOT_FIT}: {needs}, {has}")
    least = margin * total
    if margin > 1 and capacity is not None:
        least = min(least, max(total, FREE * capacity))
        needs += f", to be safe {units.memory(int(least))}" if least > total else ""
    if available is not None and least > available:
        raise RuntimeError(f"{needs}, and the host has {units.memory(available)} available now")


def of_host(total: int | None) -> int | None:
    """Bytes that a job of a host may have, whatever others use of them now; total: its memory."""
    return min((size for size in (total, memory_limit()) if size is not None), default=None)


def more_devices(
    workload: Workload,
    mode: str,
    parameters: Any,
    site: Site,
    capacity: int | None,
    until: float = math.inf,
    margin: float = MARGIN,
) -> str:
    """Over how many devices it would fit, the fewest of which the batch is a multiple; empty where
    there is no such number, or none is known by then (`time.monotonic`)."""
    ranks = site.ranks
    if ranks is None or capacity is None or not hasattr(parameters, BATCH):
        return ""
    for size in range(ranks.size + 1, min(parameters.batch_size, MOST_DEVICES) + 1):
        kind = _wider(ranks.parallelism, size)
        if kind is None or parameters.batch_size % size:
            continue
        if time.monotonic() > until:
            return ""
        wider = msgspec.structs.replace(ranks, rank=0, size=size, parallelism=kind)
        there = msgspec.structs.replace(site, ranks=wider)
        try:
            needed = estimate(workload, mode, parameters, there)
        except Unsupported:  # over so many it does not run at all
            return ""
        if needed is None:
            return ""
        if margin * needed <= capacity:
            return (
                f'{INSTEAD}{size} devices it would fit: parallelism = "{kind}", or --devices '
                f"{size} where the suite leaves it open"
            )
    return ""


def _wider(kind: Parallelism, size: int) -> Parallelism | None:
    """The same scheme over so many; None where its replicas do not divide them."""
    *replicas, _ = kind.sizes or (1,)
    shards, rest = divmod(size, math.prod(replicas))
    if kind == NONE or rest or shards < kind.sizes[-1]:
        return None
    return Parallelism(kind.scheme, (*replicas, shards))
