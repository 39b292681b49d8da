"""The gate that a launch passes before it is timed: the one that its case has, and no trace of it.

Of every launch the gate uses the run's seed, and the timed job the launch's: so a reference is
computed once a run.
"""

from __future__ import annotations

import gc
import time
from typing import TYPE_CHECKING, Any

import msgspec

from bench.measuring import kept
from bench.measuring.gates import serving_gate
from bench.records.execution import is_recorded
from bench.records.outcome import Numerics

if TYPE_CHECKING:
    from bench.backend import Device
    from bench.measuring.gates.handed import HandedOver
    from bench.measuring.launch import Launch
    from bench.workload import Site, Workload


def gated(
    launch: Launch,
    workload: Workload,
    parameters: Any,
    site: Site,
    device: Device,
    handed: HandedOver | None,
) -> tuple[Numerics, str]:
    """Holds the case's twin to its reference; gives the verdict, and what is wrong with the
    numbers, empty where nothing is. site: of the timed job; handed: what another framework than
    torch is handed over. Raises what the device raises."""
    from bench.measuring.gates import numerics, rank_numerics

    start = time.perf_counter()
    request, backend = launch.request, launch.backend
    mode = request.case.mode
    together = workload.modes[mode].together
    there = msgspec.structs.replace(site, seed=request.settings.seed)
    asking = (workload, mode, parameters, there, backend.library_switches)
    earlier = kept.references(request.scratch)
    if handed is not None:
        verdict = numerics.gate(*asking, handed, launch.framework, handed.draws("twin"))
        wrong = verdict.complaint
    elif site.ranks is None or together:
        if workload.modes[mode].serves:
            verdict = serving_gate.gate(*asking, earlier, backend.shorten_float32)
        else:
            verdict = numerics.gate(*asking, kept.NOTHING if together else earlier)
        wrong = verdict.complaint
    else:
        verdict, wrong = rank_numerics.gate(*asking, earlier)
    if is_recorded(request.case.execution):
        gc.collect()  # the twin keeps its recording, which keeps the twin
    device.release_memory()
    launch.environment["reference_kept"] = earlier.found  # left by an earlier launch of the run
    launch.cold["numerics_seconds"] = time.perf_counter() - start
    return verdict, wrong
