"""Matrix multiplication: the ceiling under every model's arithmetic."""

from __future__ import annotations

import itertools
import re
from types import MappingProxyType
from typing import TYPE_CHECKING

from bench.models import SeededData
from bench.precision import Precision
from bench.record import Work
from bench.workload import Job, Mode, Parameters, Site, Workload

if TYPE_CHECKING:
    from torch import Tensor

    Operands = tuple[Tensor, Tensor, Tensor]
    """a [M, K], b [K, N] and the output c [M, N]."""

ROTATION_BYTES = 256 * 2**20
"""Operands rotate through this much memory, more than any last-level cache holds."""
MOST_BUFFERS = 16
LARGEST = 262_144
"""Largest dimension."""
TWIN = 256
"""Largest dimension of the twin."""


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
    modes = MappingProxyType(
        {"matmul": Mode(parameters=MatmulParameters, precisions=("bf16", "fp16", "fp32"))}
    )

    def work(self, mode: str, parameters: MatmulParameters, precision: Precision) -> Work:
        """2 M N K FLOP: a multiplication and an addition for each of the M N K products.

        Bytes: both operands are read and the product is written, once each.
        Source: Golub & Van Loan, Matrix Computations, section 1.1.
        """
        m, n, k = parameters.mnk
        flop = 2 * m * n * k
        moved = (m * k + k * n + m * n) * precision.element_bytes
        return Work(items=flop, unit="FLOP", flop=flop, moved_bytes=moved)

    def twin(self, mode: str, parameters: MatmulParameters) -> MatmulParameters:
        """Each dimension cut to 256."""
        return MatmulParameters(shape="x".join(str(min(size, TWIN)) for size in parameters.mnk))

    def build(self, mode: str, parameters: MatmulParameters, site: Site) -> Job:
        """Operands of normals: zeros would draw less power and run at higher clocks."""
        import torch

        m, n, k = parameters.mnk
        dtype = site.precision.dtype
        data = SeededData(site.seed)
        set_bytes = (m * k + k * n + m * n) * dtype.itemsize
        buffers = min(MOST_BUFFERS, -(-ROTATION_BYTES // set_bytes))
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


class MatmulJob(Job):
    """One multiplication into a buffer that is there; operands rotate."""

    def __init__(self, operands: list[Operands]) -> None:
        """Starts with the first operands."""
        self._operands = itertools.cycle(operands)
        self.facts = {"operand buffers": str(len(operands))}

    def step(self) -> None:
        """Queues one matmul."""
        import torch

        a, b, self._output = next(self._operands)
        torch.matmul(a, b, out=self._output)

    def witness(self) -> float:
        """Mean of the last product."""
        return float(self._output.float().mean())

    def probe(self) -> dict[str, Tensor]:
        """The first product."""
        self.step()
        return {"output": self._output}


WORKLOAD = Gemm()
