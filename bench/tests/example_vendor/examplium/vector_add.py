"""The sum of two vectors: a workload that another package brings."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from bench.precision import Precision
from bench.records.outcome import Work
from bench.workload import Job, Mode, Parameters, Site, Workload, require_within
from bench.workloads._seeded import SeededData

if TYPE_CHECKING:
    from torch import Tensor


class AddParameters(Parameters, frozen=True, kw_only=True):
    """c = a + b."""

    length: int = 1 << 20
    """Elements of each vector."""

    def __post_init__(self) -> None:
        """Raises ValueError for vectors that cannot be."""
        require_within("length", self.length, 1, 1 << 30)


class VectorAdd(Workload):
    """c = a + b."""

    name = "vector-add"
    version = 1
    modes = MappingProxyType({"run": Mode(parameters=AddParameters, precisions=("bf16", "fp32"))})

    def work(self, mode: str, parameters: AddParameters, precision: Precision) -> Work:
        """One addition an element; two vectors are read and one is written."""
        moved = 3 * parameters.length * precision.element_bytes
        return Work(items=moved, unit="B", flop=parameters.length, moved_bytes=moved)

    def twin(self, mode: str, parameters: AddParameters) -> AddParameters:
        """A thousand elements at most."""
        return AddParameters(length=min(parameters.length, 1024))

    def build(self, mode: str, parameters: AddParameters, site: Site) -> Job:
        """Vectors of normals."""
        data = SeededData(site.seed)
        shape = (parameters.length,)
        a, b = (data.normal(shape, site.precision.dtype).to(site.device) for _ in range(2))
        return AddJob(a, b)


class AddJob(Job):
    """One addition."""

    def __init__(self, a: Tensor, b: Tensor) -> None:
        """a, b: of one length."""
        self._operands = a, b
        self.facts: dict[str, str] = {}

    def step(self) -> None:
        """Queues one addition."""
        a, b = self._operands
        self._sum = a + b

    def witness(self) -> float:
        """Mean of the sum."""
        return float(self._sum.float().mean())

    def probe(self) -> dict[str, Tensor]:
        """The sum."""
        self.step()
        return {"output": self._sum}


WORKLOAD = VectorAdd()
