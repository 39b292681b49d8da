"""Does a case fit? Its memory, from shapes, against the device's."""

from __future__ import annotations

import traceback
from typing import Any

from bench import units
from bench.records.outcome import DOES_NOT_FIT
from bench.workload import Site, Unsupported, Workload

MARGIN = 0.8
"""A case is skipped only if even this share of its estimate is more than the device has. Estimates
are within 20 % of what is measured (`python -m bench.tests.scripts.fit`); what lies closer is
tried, and what then runs out of memory has failed and says so."""


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


def require(needed: int | None, capacity: int | None) -> None:
    """Raises `Unsupported`, with both figures, if so many bytes cannot fit into so many."""
    if needed is None or capacity is None or MARGIN * needed <= capacity:
        return
    raise Unsupported(
        f"{DOES_NOT_FIT}: needs about {units.memory(needed)}, "
        f"the device has {units.memory(capacity)}"
    )
