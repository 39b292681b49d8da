"""Matrix multiplication: the ceiling under every model's arithmetic.

In 8 bits and less the operands are ready, and the product alone is timed. `fp8` and `int8` have one
scale an operand: fp8 gives bfloat16, int8 its exact sums in int32. The formats whose elements share
scales block by block (`bench.formats`) give bfloat16.

In mode `grouped` the rows of several experts are multiplied, each by its own expert's matrix.
"""

from __future__ import annotations

import re
from math import gcd
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

from bench.precision import PRECISIONS, Precision
from bench.quantized_product import quantize
from bench.records.execution import EAGER, EXECUTIONS, is_compiled
from bench.records.outcome import Work
from bench.workload import Burst, Job, Mode, Parameters, Site, Unsupported, Within, Workload
from bench.workloads.jobs import products as product_jobs
from bench.workloads.jobs.executed import executed_function
from bench.workloads.jobs.products import ALIGNMENT, RESULTS, ProductJob, buffers_of
from bench.workloads.jobs.rotation import Rotation
from bench.workloads.jobs.seeded import SeededData
from bench.workloads.spots.spots import Elements

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    Operands = tuple[Tensor, ...]
    """a [M, K], b [K, N] and the output c [M, N], which compiled products are without."""
    Scaled = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
    """a [M, K] and b transposed, [N, K], in 8 bits; the scale of each; the output c [M, N]."""

LARGEST = 262_144
"""Largest dimension."""
TWIN = 256
"""Largest dimension of the twin."""
PRECISIONS_OF_PRODUCTS = tuple(
    name for name, precision in PRECISIONS.items() if precision.autocast is None
)
GROUPED_PRECISIONS = ("bf16", "fp8-row", "mxfp8")
"""Those in which torch has grouped products."""
TWIN_EXPERTS = 8
SUM_BYTES = 4
"""Size of an int8 product's elements."""


class MatmulParameters(Parameters, frozen=True, kw_only=True):
    """a [M, K] times b [K, N]."""

    shape: str = "2048x2048x2048"
    """MxNxK."""

    def __post_init__(self) -> None:
        """Raises ValueError unless `shape` is three dimensions that exist."""
        if not re.fullmatch(r"[1-9]\d*x[1-9]\d*x[1-9]\d*", self.shape) or max(self.mnk) > LARGEST:
            raise ValueError(
                f"shape must be MxNxK, each from 1 to {LARGEST}, as in 2048x2048x2048; "
                f"not {self.shape!r}"
            )

    @property
    def mnk(self) -> tuple[int, int, int]:
        """M, N and K."""
        m, n, k = (int(size) for size in self.shape.split("x"))
        return m, n, k


class GroupedParameters(MatmulParameters, frozen=True, kw_only=True):
    """Rows of all experts [M, K], each times its own expert's matrix, [K, N]."""

    shape: str = "4096x2048x2048"
    """MxNxK; M: rows of all experts together, as many as tokens times experts a token goes to."""
    experts: Annotated[int, Within(1, 4096)] = 64
    skew: float = 1.0
    """Rows of the busiest expert, as a multiple of the mean; 1 where all have as many."""

    def __post_init__(self) -> None:
        """Raises ValueError unless the busiest expert can be so busy."""
        super().__post_init__()
        Parameters.__post_init__(self)
        if not 1.0 <= self.skew <= self.experts:
            raise ValueError(
                f"skew must be from 1 (all experts alike) to {self.experts} (one has all), the "
                f"number of experts; not {self.skew:g}"
            )

    @property
    def rows(self) -> list[int]:
        """Rows of each expert, M together.

        By Zipf's law, rows in proportion to 1 / rank^s, at the s whose first rank has `skew` times
        the mean. The ranks lie scattered over the experts, as busy experts do.
        """
        count = self.experts
        low, high = 0.0, 64.0
        for _ in range(64):
            middle = (low + high) / 2
            shares = [rank**-middle for rank in range(1, count + 1)]
            low, high = (middle, high) if count / sum(shares) < self.skew else (low, middle)
        # Rounded down, and what is left over goes to where most was cut off, the busier first.
        total, whole = self.mnk[0], sum(shares)
        exact = [total * share / whole for share in shares]
        rows = [int(x + 1e-9) for x in exact]
        cut = sorted(range(count), key=lambda i: (rows[i] - exact[i], i))
        for i in cut[: total - sum(rows)]:
            rows[i] += 1
        step = next(
            n for n in range(round(count * 0.618) or 1, 2 * count + 1) if gcd(n, count) == 1
        )
        return [rows[i * step % count] for i in range(count)]


class Gemm(Workload):
    """C = A B."""

    name = "gemm"
    version = 1
    usual_mode = "matmul"
    modes = MappingProxyType(
        {
            mode: Mode(
                parameters=MatmulParameters,
                precisions=PRECISIONS_OF_PRODUCTS,
                executions=executions,
                burst=burst,
            )
            for mode, executions, burst in (
                ("matmul", EXECUTIONS, None),
                ("burst", (EAGER,), Burst()),
            )
        }
        | {"grouped": Mode(parameters=GroupedParameters, precisions=GROUPED_PRECISIONS)}
    )

    def work(self, mode: str, parameters: MatmulParameters, precision: Precision) -> Work:
        """2 M N K FLOP: a multiplication and an addition for each of the M N K products.

        Of integers they are OP. Bytes: both operands are read with the scales that they have by
        the precision, the product is written, once each; of grouped products the matrices of those
        experts that have rows.
        Source: Golub & Van Loan, Matrix Computations, section 1.1.
        """
        m, n, k = parameters.mnk
        flop = 2 * m * n * k
        moved = _set_bytes(parameters, precision)
        return Work(items=flop, unit=precision.operation, flop=flop, moved_bytes=moved)

    def twin(self, mode: str, parameters: MatmulParameters) -> MatmulParameters:
        """Each dimension cut to 256, and eight experts at most."""
        shape = "x".join(str(min(size, TWIN)) for size in parameters.mnk)
        if not isinstance(parameters, GroupedParameters):
            return MatmulParameters(shape=shape)
        experts = min(parameters.experts, TWIN_EXPERTS)
        return GroupedParameters(shape=shape, experts=experts, skew=min(parameters.skew, experts))

    def peak_bytes(self, mode: str, parameters: MatmulParameters, site: Site) -> int:
        """All operands and outputs that a job rotates among; of a compiled step its own outputs."""
        set_bytes = _set_bytes(parameters, site.precision, held=True)
        sets = buffers_of(set_bytes)
        if not is_compiled(site.execution) or isinstance(parameters, GroupedParameters):
            return sets * set_bytes
        m, n, _ = parameters.mnk
        output = m * n * site.precision.dtype.itemsize
        return sets * (set_bytes - output) + RESULTS * output

    def build(self, mode: str, parameters: MatmulParameters, site: Site) -> Job:
        """Operands of normals: zeros would draw less power and run at higher clocks."""
        import torch

        if is_compiled(site.execution) and site.precision.quantized is not None:
            raise Unsupported(f"{site.precision.name}: its product is an operator, not compiled")
        if isinstance(parameters, GroupedParameters) or site.precision.scales is not None:
            return _ready(parameters, site)
        if site.precision.quantized is not None:
            return _in_eight_bits(parameters, site, getattr(torch, site.precision.quantized))
        m, n, k = parameters.mnk
        dtype = site.precision.dtype
        data = SeededData(site.seed)
        buffers = buffers_of((m * k + k * n + m * n) * dtype.itemsize)

        def output() -> list[Tensor]:
            # What is compiled writes into memory of its own: to any other it copies that.
            if is_compiled(site.execution):
                return []
            return [torch.empty((m, n), dtype=dtype, device=site.device)]

        return MatmulJob(
            [
                (
                    data.normal((m, k), dtype).to(site.device),
                    data.normal((k, n), dtype).to(site.device),
                    *output(),
                )
                for _ in range(buffers)
            ],
            site,
        )


def _set_bytes(parameters: MatmulParameters, precision: Precision, held: bool = False) -> int:
    """Both operands and the product, once each.

    held: with the matrices of experts that have no rows, which nobody reads.
    """
    m, n, k = parameters.mnk
    experts = 1
    if isinstance(parameters, GroupedParameters):
        experts = parameters.experts if held else sum(count > 0 for count in parameters.rows)
    operands = precision.operand_bytes(m, k, False) + experts * precision.operand_bytes(n, k, True)
    product = SUM_BYTES if precision.quantized == "int8" else precision.element_bytes
    return operands + m * n * product


def _ready(parameters: MatmulParameters, site: Site) -> Job:
    """Products whose operands are ready in an order of the device's own.

    Raises Unsupported for shapes that the format, or the device's operator, does not take.
    """
    m, n, k = parameters.mnk
    if why := product_jobs.refused(n, k, site.precision):
        raise Unsupported(why)
    set_bytes = _set_bytes(parameters, site.precision, held=True)
    if isinstance(parameters, GroupedParameters):
        return product_jobs.groups(parameters.rows, n, k, set_bytes, site)
    return product_jobs.products((m, n, k), set_bytes, site)


def _in_eight_bits(parameters: MatmulParameters, site: Site, dtype: torch.dtype) -> Job:
    """The product of 8-bit operands; in the gate's reference, that of the same values in float64.

    Raises Unsupported for shapes that only some devices multiply.
    """
    import torch

    m, n, k = parameters.mnk
    if n % ALIGNMENT or k % ALIGNMENT:
        raise Unsupported(f"8-bit products want N and K in multiples of {ALIGNMENT}: {n} and {k}")
    data = SeededData(site.seed)

    def operand(rows: int) -> tuple[Tensor, Tensor]:
        values, scale = quantize(data.normal((1, rows * k), torch.float32), dtype)
        return values.view(rows, k).to(site.device), scale.view(()).to(site.device)

    integers = dtype == torch.int8
    sums = torch.int32 if integers else torch.bfloat16
    operands: list[Scaled] = []
    for _ in range(buffers_of((m + n) * k + m * n * sums.itemsize)):
        (a, a_scale), (b, b_scale) = operand(m), operand(n)
        if site.precision.weights == "float64":
            scale = 1.0 if integers else (a_scale.double() * b_scale.double()).item()
            output = torch.empty((m, n), dtype=torch.float64)
            return MatmulJob([(a.double() * scale, b.double().t(), output)], site)
        output = torch.empty((m, n), dtype=sums, device=site.device)
        operands.append((a, b, a_scale, b_scale, output))
    job = ScaledMatmulJob(operands, site)
    product_jobs.tried(job.first, f"{site.precision.name} {m} x {n} x {k}")
    return job


def multiplied(a: Tensor, b: Tensor, output: Tensor | None = None) -> Tensor:
    """a times b, in that output or in memory of its own."""
    import torch

    return torch.matmul(a, b, out=output)


class MatmulJob(ProductJob):
    """One multiplication, into a buffer if one is there; operands rotate."""

    def __init__(self, operands: list[Operands], site: Site) -> None:
        """Starts with the first operands."""
        self._inputs, self._site = Rotation(operands), site
        self._multiply = executed_function(multiplied, site)
        self.facts = {"operand buffers": str(len(operands))}

    def step(self) -> None:
        """Queues one matmul."""
        self._output = self._multiply(*next(self._inputs))


class ScaledMatmulJob(ProductJob):
    """As `MatmulJob`, in 8 bits. The scales of int8 operands are not applied to its sums."""

    def __init__(self, operands: list[Scaled], site: Site) -> None:
        """Starts with the first operands."""
        self._inputs, self._site = Rotation(operands), site
        self._products = site.products
        self.facts = {"operand buffers": str(len(operands)), "scales": "one for each operand"}

    def first(self) -> Tensor:
        """Queues the first product and gives it; the next step is the first again."""
        self.step()
        self._inputs.back()
        return self._output

    def step(self) -> None:
        """Queues one product."""
        import torch

        a, b, a_scale, b_scale, self._output = next(self._inputs)
        if a.dtype == torch.int8:
            self._output = self._products.sums(a, b, self._output)
        else:
            torch._scaled_mm(
                *(a, b.t()),
                scale_a=a_scale,
                scale_b=b_scale,
                out_dtype=self._output.dtype,
                out=self._output,
            )

    def _sides(self, operands: Any, elements: Elements) -> tuple[Tensor, Tensor]:
        a, b, a_scale, b_scale, _ = operands
        rows, columns = super()._sides((a, b.t()), elements)
        if a.dtype.is_floating_point:
            rows = rows * a_scale.cpu().double() * b_scale.cpu().double()
        return rows, columns


WORKLOAD = Gemm()
