"""The numerics gate: a device's figure counts only if its numbers are right.

Before timing, the workload's twin (the same code, small) runs where and how the job will be timed,
and again on the CPU in float64, with the same seeded weights and inputs. Where products are
quantized, each layer's product is compared besides with that of the same 8-bit values in float64.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import msgspec

from bench import catalogue
from bench.framework import Draws, Framework
from bench.measuring.gates.handed import built
from bench.measuring.gates.references import answered_no, few_threads
from bench.measuring.kept import NOTHING, Kept, key
from bench.precision import REFERENCE, reference
from bench.ranks import on_host
from bench.records.outcome import Check, Numerics
from bench.records.proof import BY_ROW
from bench.records.tolerances import TOLERANCES
from bench.workload import Site, Workload

if TYPE_CHECKING:
    from torch import Tensor

    from bench.framework import Array

    Values = Tensor | Array

NEARLY_NONE = 0.1
"""Of the usual gradient, what none counts as smaller than; see `worst_row`."""
NONE = 1e-9
"""Of the usual gradient, below which one in float64 is zero: measured 1e-15; others from 1e-2."""


def gate(
    workload: Workload,
    mode: str,
    parameters: Any,
    site: Site,
    switches: Collection[str] = (),
    kept: Kept = NOTHING,
    framework: Framework | None = None,
    draws: Draws | None = None,
    twin: Any = None,
) -> Numerics:
    """Compares the twin at `site` with its float64 reference.

    switches: libraries' questions after a vendor's software, which the reference must not call; see
    `bench.backend.Backend.library_switches`; kept: references of earlier launches of the run, or
    those that were handed over; framework: by default torch; draws: what another one is given;
    twin: another one's parameters than those of `Workload.twin`.

    Relative error of each quantity: norm of the difference over norm of the reference. Raises what
    the device raises.
    """
    import numpy as np

    twin = workload.twin(mode, parameters) if twin is None else twin
    framework = framework or catalogue.framework("torch")
    found = _probe(workload, mode, twin, site, framework, draws)
    if str(site.device) != "cpu":
        # Frees device memory even where the twin sits in a reference cycle. The host can wait for
        # the next collection, which takes 0.16 s with transformers loaded.
        gc.collect()

    def computed() -> dict[str, Tensor]:
        return referred(workload, mode, twin, reference_of(site), switches)

    expected = kept.get(lambda: key("probe", workload, mode, twin, reference_of(site)), computed)
    tolerances = TOLERANCES[site.precision.name]
    checks = tuple(
        Check(
            quantity=quantity,
            error=error_of(quantity, found[quantity], np.asarray(value)),
            tolerance=tolerances[quantity],
        )
        for quantity, value in expected.items()
    )
    return Numerics(reference=f"{REFERENCE.name} on cpu", checks=checks)


def reference_of(site: Site) -> Site:
    """The site of the reference: eager, in float64, on the host; of ranks, theirs."""
    import torch

    return msgspec.structs.replace(
        site,
        device=torch.device("cpu"),
        precision=reference(site.precision),
        execution="eager",
        ranks=None if site.ranks is None else on_host(site.ranks),
    )


def referred(
    workload: Workload, mode: str, twin: Any, reference_site: Site, switches: Collection[str]
) -> dict[str, Tensor]:
    """What torch computes of the twin at the site of the reference."""
    import torch

    with answered_no(switches), few_threads(workload):
        found = _probe(workload, mode, twin, reference_site, catalogue.framework("torch"))
        return {quantity: torch.from_numpy(value) for quantity, value in found.items()}


def relative_error(found: Values, expected: Values) -> float:
    """Norm of the difference over norm of what is expected; infinite if a value is not finite.

    Infinite, too, where the shapes differ: that is another result.
    """
    if found.shape != expected.shape:
        return math.inf
    difference = _norm(found - expected)
    scale = _norm(expected)
    if not math.isfinite(difference):
        return math.inf
    if difference == 0.0:
        return 0.0
    return difference / scale if scale > 0.0 else math.inf


def error_of(quantity: str, found: Array, expected: Array) -> float:
    """`relative_error` of a quantity; of one that has rows by weight, the worst of any."""
    return worst_row(found, expected) if quantity in BY_ROW else relative_error(found, expected)


def worst_row(found: Array, expected: Array) -> float:
    """The largest `relative_error` of any row [rows, sums].

    A row that is far smaller than most counts as a tenth of those. One that is zero but for
    float64's rounding (the gradient of a bias that a softmax does not see) is in the timed format a
    rounding of what cancels in it, however large that is: it counts as the largest.
    """
    import numpy as np

    if found.shape != expected.shape or not np.isfinite(found).all():
        return math.inf
    off, sizes = (np.sqrt(np.square(x).sum(1)) for x in (found - expected, expected))
    usual = np.median(sizes)
    scale = np.where(sizes < NONE * usual, sizes.max(), np.maximum(sizes, NEARLY_NONE * usual))
    if (off[scale == 0.0] > 0.0).any():
        return math.inf
    return float((off / np.where(scale > 0.0, scale, 1.0)).max(initial=0.0))


def _norm(values: Values) -> float:
    """Euclidean: of a tensor, or of an array."""
    import numpy as np

    if isinstance(values, np.ndarray | np.generic):
        return float(np.sqrt(np.square(values).sum()))
    return float(values.norm())


def _probe(
    workload: Workload,
    mode: str,
    twin: Any,
    site: Site,
    framework: Framework,
    draws: Draws | None = None,
) -> dict[str, Array]:
    """What the twin computes at a site, in float64 on the CPU; the twin is gone afterwards."""
    job = built(framework, workload, mode, twin, site, draws)
    if site.ranks is not None:
        site.ranks.arrive()
    probed = job.probe().items()
    found = {quantity: framework.tensors.on_host(value) for quantity, value in probed}
    job.close()
    return found
