"""Matrix multiplication: the ceiling under every model's arithmetic.

In 8 bits the operands are ready, with one scale each, and the product alone is timed: fp8 gives
bfloat16, int8 its exact sums in int32.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from bench.precision import PRECISIONS, Precision
from bench.quantized_product import quantize
from bench.records.outcome import Work
from bench.records.proof import OUTPUT
from bench.workload import Burst, Job, Mode, Parameters, Site, Unsupported, Workload
from bench.workloads._jobs import Rotation
from bench.workloads._seeded import SeededData

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    Operands = tuple[Tensor, Tensor, Tensor]
    """a [M, K], b [K, N] and the output c [M, N]."""
    Scaled = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
    """a [M, K] and b transposed, [N, K], in 8 bits; the scale of each; the output c [M, N]."""

ROTATION_BYTES = 256 * 2**20
"""Operands rotate through this much memory, more than any last-level cache holds."""
MOST_BUFFERS = 16
LARGEST = 262_144
"""Largest dimension."""
TWIN = 256
"""Largest dimension of the twin."""
PRECISIONS_OF_PRODUCTS = tuple(precision for precision in PRECISIONS if "-" not in precision)
SUM_BYTES = 4
"""Size of an int8 product's elements."""
ALIGNMENT = 16
"""N and K are multiples of this in 8 bits: other shapes have kernels on some devices only."""


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


class Gemm(Workload):
    """C = A B."""

    name = "gemm"
    version = 1
    usual_mode = "matmul"
    modes = MappingProxyType(
        {
            mode: Mode(parameters=MatmulParameters, precisions=PRECISIONS_OF_PRODUCTS, burst=burst)
            for mode, burst in (("matmul", None), ("burst", Burst()))
        }
    )

    def work(self, mode: str, parameters: MatmulParameters, precision: Precision) -> Work:
        """2 M N K FLOP: a multiplication and an addition for each of the M N K products.

        Of integers they are OP. Bytes: both operands are read, the product is written, once each.
        Source: Golub & Van Loan, Matrix Computations, section 1.1.
        """
        m, n, k = parameters.mnk
        flop = 2 * m * n * k
        moved = _set_bytes(parameters, precision)
        return Work(items=flop, unit=precision.operation, flop=flop, moved_bytes=moved)

    def twin(self, mode: str, parameters: MatmulParameters) -> MatmulParameters:
        """Each dimension cut to 256."""
        return MatmulParameters(shape="x".join(str(min(size, TWIN)) for size in parameters.mnk))

    def peak_bytes(self, mode: str, parameters: MatmulParameters, site: Site) -> int:
        """All operands and outputs that a job rotates among."""
        set_bytes = _set_bytes(parameters, site.precision)
        return _buffers(set_bytes) * set_bytes

    def build(self, mode: str, parameters: MatmulParameters, site: Site) -> Job:
        """Operands of normals: zeros would draw less power and run at higher clocks."""
        import torch

        if site.precision.quantized is not None:
            return _in_eight_bits(parameters, site, getattr(torch, site.precision.quantized))
        m, n, k = parameters.mnk
        dtype = site.precision.dtype
        data = SeededData(site.seed)
        buffers = _buffers((m * k + k * n + m * n) * dtype.itemsize)
        return MatmulJob(
            [
                (
                    data.normal((m, k), dtype).to(site.device),
                    data.normal((k, n), dtype).to(site.device),
                    torch.empty((m, n), dtype=dtype, device=site.device),
                )
                for _ in range(buffers)
            ]
        )


def _set_bytes(parameters: MatmulParameters, precision: Precision) -> int:
    """Both operands and the product, once each."""
    m, n, k = parameters.mnk
    return (m * k + k * n) * precision.matrix_bytes + m * n * _product_bytes(precision)


def _product_bytes(precision: Precision) -> int:
    return SUM_BYTES if precision.quantized == "int8" else precision.element_bytes


def _buffers(set_bytes: int) -> int:
    """How many sets of operands it takes that none is in a cache when its turn comes."""
    return min(MOST_BUFFERS, -(-ROTATION_BYTES // set_bytes))


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
    for _ in range(_buffers((m + n) * k + m * n * sums.itemsize)):
        (a, a_scale), (b, b_scale) = operand(m), operand(n)
        if site.precision.weights == "float64":
            scale = 1.0 if integers else (a_scale.double() * b_scale.double()).item()
            output = torch.empty((m, n), dtype=torch.float64)
            return MatmulJob([(a.double() * scale, b.double().t(), output)])
        output = torch.empty((m, n), dtype=sums, device=site.device)
        operands.append((a, b, a_scale, b_scale, output))
    return ScaledMatmulJob(operands)


class _ProductJob(Job):
    """What the products of both widths share: operands that rotate, and the last product."""

    _operands: Rotation[Any]
    _output: Tensor

    def witness(self) -> float:
        """Mean of the last product."""
        return float(self._output.float().mean())

    def probe(self) -> dict[str, Tensor]:
        """The first product."""
        self.step()
        return {"output": self._output}

    def outputs(self) -> Mapping[str, Sequence[Tensor]]:
        """The last product."""
        return {OUTPUT: [self._output]}

    def weights(self) -> Sequence[Tensor]:
        """All operands."""
        return [operand for a, b, *_ in self._operands.items for operand in (a, b)]

    def inputs(self) -> Sequence[Tensor]:
        """The first operand of the last product."""
        return [self._operands.last[0]]

    def again(self) -> bool:
        """The last product once more."""
        self._operands.back()
        self.step()
        return True


class MatmulJob(_ProductJob):
    """One multiplication into a buffer that is there; operands rotate."""

    def __init__(self, operands: list[Operands]) -> None:
        """Starts with the first operands."""
        self._operands = Rotation(operands)
        self.facts = {"operand buffers": str(len(operands))}

    def step(self) -> None:
        """Queues one matmul."""
        import torch

        a, b, self._output = next(self._operands)
        torch.matmul(a, b, out=self._output)


class ScaledMatmulJob(_ProductJob):
    """As `MatmulJob`, in 8 bits. The scales of int8 operands are not applied to its sums."""

    def __init__(self, operands: list[Scaled]) -> None:
        """Starts with the first operands."""
        self._operands = Rotation(operands)
        self.facts = {"operand buffers": str(len(operands)), "scales": "one for each operand"}

    def step(self) -> None:
        """Queues one product."""
        import torch

        a, b, a_scale, b_scale, self._output = next(self._operands)
        if a.dtype == torch.int8:
            torch._int_mm(a, b.t(), out=self._output)
        else:
            torch._scaled_mm(
                *(a, b.t()),
                scale_a=a_scale,
                scale_b=b_scale,
                out_dtype=self._output.dtype,
                out=self._output,
            )


WORKLOAD = Gemm()
