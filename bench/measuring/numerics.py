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
from bench.measuring import few_threads
from bench.measuring.handed import built
from bench.measuring.kept import NOTHING, References, key
from bench.measuring.library_switches import answered_no
from bench.precision import REFERENCE, reference
from bench.ranks import on_host
from bench.records.outcome import Check, Numerics
from bench.records.proof import (
    BY_ROW,
    EACH_GRADIENT,
    EACH_GRADIENT_OVER_KINKS,
    OTHER_INPUTS,
    RUNNING,
)
from bench.workload import Site, Workload

if TYPE_CHECKING:
    from torch import Tensor

    from bench.framework import Array

    Values = Tensor | Array

NEARLY_NONE = 0.1
"""Of the usual gradient, what none counts as smaller than; see `worst_row`."""
NONE = 1e-9
"""Of the usual gradient, below which one in float64 is zero: measured 1e-15; others from 1e-2."""

# Largest relative error, by precision and quantity. Below, `u` is the unit roundoff of the format,
# "measured" the worst over all twins on a CPU, two to six seeds each, and "coarser" the range of
# the same twins when the operands of every product had only the mantissa of a coarser format: what
# a device does that quietly computes in less than it was asked for. A tolerance lies between the
# two where it can, at twice the measured error or more, as kernels sum in different orders.
TOLERANCES: dict[str, dict[str, float]] = {
    # u = 2^-8: bfloat16 keeps 7 bits of the mantissa. Coarser: 3 bits, as fp8 has.
    "bf16": {
        # Three roundings (a, b, c), 1.7e-3 each in root mean square: measured 2.9e-3, coarser 4e-2.
        "output": 5e-3,
        # Of rows by weights in mxfp4, both as they are: measured 1.7e-3; with rows of e4m3 2.6e-2.
        "products": 5e-3,
        # Measured 3.2e-3 and 4.5e-3, coarser 4e-2 and 5e-2; a fused kernel rounds its weights too.
        "attention": 8e-3,
        "gradients": 1.2e-2,
        # Over a latent, through two matrices more: measured 4.4e-3, 7.9e-3 where it is narrow;
        # coarser 4e-2.
        "latent attention": 1.2e-2,
        # Measured 1.6e-2 in two transformer layers, 2.7e-2 in ResNet's 50 with batch statistics;
        # coarser 5.9e-2 (BERT) to 2.2e-1 (ResNet).
        "logits": 5e-2,
        "loss": 1e-2,  # measured 2.6e-3, coarser 4e-4 to 2e-2
        "gradient_norm": 5e-2,  # measured 9.8e-3, coarser 9e-4 to 4e-2
        # An update below half a unit in the last of 8 bits is lost, so the loss stays where the
        # float64 loss falls, by 1 % (Llama) to 15 % (BERT large): measured 1.5e-1. Only a step
        # that does harm is caught.
        "loss after 2 steps": 3e-1,
        # Of the worst weight. A gradient that is missing makes 1, one of the other sign 2, those of
        # experts that were exchanged 1.4. Measured 8.6e-2 (gpt-oss), 6.6e-2 (BERT), 3e-2 (others).
        EACH_GRADIENT: 3e-1,
        EACH_GRADIENT_OVER_KINKS: 9e-1,  # measured 1.6e-1 (DLRM), 6.5e-1 (ResNet)
        # After two steps, of what they did not train on: measured 7.4e-2. A step that does not read
        # its inputs makes 5e-1 and more.
        OTHER_INPUTS: 2e-1,
        RUNNING: 6e-2,  # measured 2.3e-2; a momentum of 0.9 for 0.1 makes 8
    },
    # Only the matrix arithmetic is bfloat16; weights and updates are float32.
    "bf16-amp": {
        "logits": 5e-2,  # measured 2.5e-2 (ResNet), 1.4e-2 (others), coarser as above
        "loss": 5e-3,  # measured 2.1e-3 (DLRM), coarser 4e-4 to 2e-2
        "gradient_norm": 5e-2,  # measured 1.3e-2, coarser 2e-3 to 3e-2
        # Measured 2.0e-3, 3.4e-3 in a toy (DiT); without the optimizer's steps 1.3e-2 or more.
        "loss after 2 steps": 5e-3,
        EACH_GRADIENT: 2e-1,  # measured 5.1e-2 (BERT)
        EACH_GRADIENT_OVER_KINKS: 9e-1,  # measured 5.7e-1 (ResNet)
        OTHER_INPUTS: 1e-1,  # measured 2.5e-2
        RUNNING: 6e-2,  # measured 2.0e-2
    },
    # u = 2^-11: float16 keeps 10 bits. Coarser: 7 bits, as bfloat16 has.
    "fp16": {
        "output": 1e-3,  # measured 3.6e-4, coarser 2.4e-3
        "attention": 1e-3,  # measured 4.0e-4, coarser 2.6e-3
        "gradients": 1.4e-3,  # measured 5.7e-4, coarser 3.3e-3
        "latent attention": 1.6e-3,  # measured 7.3e-4, coarser 3.6e-3
        # Measured 2.2e-3, coarser 1e-2 (Llama), 3.5e-3 at the least (BERT).
        "logits": 4e-3,
    },
    # u = 2^-24: float32 keeps 23 bits. Coarser: 10 bits, as TF32 has, which is not fp32.
    "fp32": {
        # Sums of 256 products: measured 2.9e-7, coarser 2.9e-4.
        "output": 1e-5,
        "attention": 1e-5,  # measured 2.8e-7, coarser 3.1e-4
        "gradients": 1e-5,  # measured 4.3e-7, coarser 3.9e-4
        "latent attention": 1e-5,  # measured 3.4e-7
        # Measured 1.8e-6, coarser 4.3e-4; a fast convolution (Winograd) may lose another digit.
        "logits": 1e-4,
        "loss": 2e-6,  # measured 2e-7, coarser 2.4e-6 to 2e-4
        "gradient_norm": 1e-3,  # measured 3e-5, coarser 4e-6 to 5e-3
        "loss after 2 steps": 5e-5,  # measured 3.8e-6, coarser 2e-7 to 2e-4
        EACH_GRADIENT: 1e-4,  # measured 2.6e-6
        # Measured 1.7e-2 (ResNet), 6e-6 with other seeds: by one ReLU that turns.
        EACH_GRADIENT_OVER_KINKS: 1e-1,
        OTHER_INPUTS: 2e-3,  # measured 4.7e-4 (BERT)
        RUNNING: 1e-4,  # measured 1.6e-6
    },
    # The operands of products keep 10 bits, sums and all else 23. No CPU does so: measured with the
    # operands of each product cut to 10 bits (hardware may cut where a library would round, which
    # is worth twice the error, to one side). Coarser: 7 bits, as bfloat16 has, rounded.
    "tf32": {
        "output": 1.6e-3,  # measured 7.7e-4 (2.9e-4 rounded), coarser 2.3e-3
        # Measured 5.5e-3 (ResNet's infer, BERT, DLRM), 3e-3 (others); coarser 4e-3 to 1.7e-2, so
        # that bfloat16 in TF32's stead is told by gemm alone.
        "logits": 1e-2,
        "loss": 5e-3,  # measured 2.1e-3 (DLRM), coarser 6e-5 to 2e-3
        "gradient_norm": 2e-2,  # measured 7.7e-3, coarser 8e-5 to 9e-3
        # Measured 2.2e-3; without the optimizer's steps 1.3e-2 or more.
        "loss after 2 steps": 5e-3,
        EACH_GRADIENT: 5e-2,  # measured 9.2e-3
        EACH_GRADIENT_OVER_KINKS: 5e-1,  # measured 1.6e-1 (ResNet)
        OTHER_INPUTS: 5e-2,  # measured 5.9e-3
        RUNNING: 1e-2,  # measured 2.1e-3
    },
    # u = 2^-4: e4m3 keeps 3 bits, scaled by rows.
    "fp8": {
        # The same 8-bit values multiplied in float64, so all that differs is the sum, in float32,
        # and the rounding of the result to bfloat16, 1.7e-3: measured 1.7e-3. A scale that is off
        # by a tenth in one layer of fourteen makes 2.7e-2.
        "output": 5e-3,
        "products": 5e-3,
        # Of the model as it is, not quantized: what 3 bits lose, 2.6e-2 an operand and 3.7e-2 a
        # product, fourteen times over. Measured 1.7e-1; of a reranker's few logits 1.9e-1.
        "logits": 3e-1,
    },
    # Steps of 1/127 of the largest value in a row.
    "int8": {
        "output": 1e-9,  # sums of integers: exact, or wrong
        "products": 5e-3,  # as above; measured 1.7e-3
        # Of the model as it is: steps of 2 to 4 % of a row's deviation, the longer the row the
        # larger. Measured 2e-2 to 6.5e-2 (Llama, 2,048 wide).
        "logits": 1.5e-1,
    },
    # Formats of products by themselves. Their reference multiplies the same narrow values in
    # float64, so what differs is the sum, in float32, and the rounding of the result to bfloat16:
    # measured 1.7e-3 in each that a CPU has or a stand-in has there. Coarser: the operands once
    # more in the next coarser format (`bench/tests/workloads/test_formats.py`).
    "fp8-row": {"output": 4e-3},  # coarser, one scale an operand: 3.7e-2
    "fp8-block128": {"output": 4e-3},  # coarser, one scale a row: 3.2e-2
    "mxfp8": {"output": 4e-3},  # coarser, nvfp4: 1.3e-1
    "nvfp4": {"output": 4e-3},  # coarser, mxfp4: 1.7e-1
    "mxfp4": {"output": 4e-3},  # coarser, without its bit of mantissa: 4.0e-1
    # Weights are widened to bfloat16 first, a rounding more: measured 2.3e-3. Coarser, weights of
    # 3 bits: 2.9e-1.
    "int4-weights": {"output": 5e-3},
}


def gate(
    workload: Workload,
    mode: str,
    parameters: Any,
    site: Site,
    switches: Collection[str] = (),
    kept: References = NOTHING,
    framework: Framework | None = None,
    draws: Draws | None = None,
) -> Numerics:
    """Compares the twin at `site` with its float64 reference.

    switches: libraries' questions after a vendor's software, which the reference must not call; see
    `bench.backend.Backend.library_switches`; kept: references of earlier launches of the run, or
    those that were handed over; framework: by default torch; draws: what another one is given.

    Relative error of each quantity: norm of the difference over norm of the reference. Raises what
    the device raises.
    """
    twin = workload.twin(mode, parameters)
    return compare(workload, mode, twin, site, switches, kept, framework, draws)


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


def compare(
    workload: Workload,
    mode: str,
    twin: Any,
    site: Site,
    switches: Collection[str] = (),
    kept: References = NOTHING,
    framework: Framework | None = None,
    draws: Draws | None = None,
) -> Numerics:
    """`gate` of that twin."""
    framework = framework or catalogue.framework("torch")
    found = _probe(workload, mode, twin, site, framework, draws)
    if str(site.device) != "cpu":
        # Frees device memory even where the twin sits in a reference cycle. The host can wait for
        # the next collection, which takes 0.16 s with transformers loaded.
        gc.collect()

    def computed() -> dict[str, Tensor]:
        return referred(workload, mode, twin, reference_of(site), switches)

    expected = kept.get(lambda: key("probe", workload, mode, twin, reference_of(site)), computed)
    import numpy as np

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


def referred(
    workload: Workload, mode: str, twin: Any, reference_site: Site, switches: Collection[str]
) -> dict[str, Tensor]:
    """What torch computes of the twin at the site of the reference."""
    import torch

    with answered_no(switches), few_threads.for_reference(workload):
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
