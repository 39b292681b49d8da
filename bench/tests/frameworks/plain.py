"""A third framework, as its own package would bring it: a few functions of numpy's, on the host."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bench.plugins.framework import (
    Backend,
    CpuDevice,
    Device,
    DeviceInfo,
    Draws,
    Executed,
    Executing,
    Framework,
    Job,
    Look,
    Mode,
    Precision,
    Site,
    Tensors,
    Unsupported,
    Workload,
)

Array = Any

PLANTED: set[str] = set()
"""Faults of its jobs, for as long as one is planted."""


@contextlib.contextmanager
def planted(fault: str) -> Iterator[None]:
    """Has jobs do other work than they say."""
    PLANTED.add(fault)
    try:
        yield
    finally:
        PLANTED.discard(fault)


RESTED: set[str] = set()
"""Holds something after a synchronization, until the next step."""


class Arrays(Tensors):
    """numpy's own."""

    def shape(self, tensor: Any) -> tuple[int, ...]:
        return tuple(tensor.shape)

    def itemsize(self, tensor: Any) -> int:
        return int(tensor.itemsize)

    def picked(self, tensors: Sequence[Any], positions: Sequence[Array]) -> Array:
        pairs = zip(tensors, positions, strict=True)
        return np.concatenate([x.ravel()[at].astype(np.float64) for x, at in pairs])

    def on_host(self, tensor: Any) -> Array:
        return np.array(tensor, np.float64)

    def is_on(self, tensor: Any, device: Device) -> bool:
        return bool(tensor.ndim)

    def total(self, tensor: Any) -> Any:
        return tensor.sum(dtype=np.float32)

    def words(self, tensor: Any) -> Array:
        words: Array = tensor.copy().view(f"u{tensor.itemsize}")
        return words

    def is_floating(self, tensor: Any) -> bool:
        return bool(np.issubdtype(tensor.dtype, np.floating))

    def rewrite(self, tensor: Any, words: Array) -> None:
        tensor[...] = words.view(tensor.dtype)

    def rounded(self, values: Array, like: Any) -> Array:
        rounded: Array = values.astype(like.dtype).astype(np.float64)
        return rounded


class Place(CpuDevice):
    """The host, which may have done a call when it returns or may not, as it says."""

    synchronous = False
    queues_on_host = True

    def synchronize(self) -> None:
        RESTED.add("rested")

    @property
    def torch_device(self) -> Any:
        raise TypeError("none of torch's")

    @property
    def place(self) -> Any:
        return "here"

    def float32_reduced(self) -> bool:
        return False

    def random_state(self) -> bytes | None:
        return None


class Products(Job):
    """One product after the other."""

    def __init__(self, pairs: list[tuple[Array, Array]]) -> None:
        self.pairs = pairs
        self.turn = 0
        self.facts: Mapping[str, str] = {}

    def step(self) -> None:
        a, b = self.pairs[self.turn % len(self.pairs)]
        self.turn += 1
        if "only rested steps" in PLANTED and not RESTED and hasattr(self, "product"):
            return
        RESTED.clear()
        if "fp16 for fp32" in PLANTED:
            a, b = a.astype(np.float16), b.astype(np.float16)
        self.product = (a @ b).astype(np.float32)

    def witness(self) -> float:
        return float(self.product.mean())

    def probe(self) -> dict[str, Any]:
        self.step()
        return {"output": self.product}

    def outputs(self) -> Mapping[str, Sequence[Any]]:
        return {"output": [self.product]}

    def weights(self) -> Sequence[Any]:
        return [operand for pair in self.pairs for operand in pair]

    def inputs(self) -> Sequence[Any]:
        return [self.pairs[(self.turn - 1) % len(self.pairs)][0]]

    def again(self) -> bool:
        self.turn -= 1
        self.step()
        return True


class Plain(Framework):
    """Multiplies in float32."""

    name = "plain"
    tensors = Arrays()
    compiler_folders = ("PLAIN_FOLDER",)

    def recorded_variables(self) -> tuple[str, ...]:
        return ("PLAIN_*",)

    def devices(self, backend: Backend) -> list[DeviceInfo]:
        return [DeviceInfo(backend=backend.name, index=0, name="a host", memory_bytes=2**34)]

    def unsupported(self, backend: Backend, info: DeviceInfo, precision: Precision) -> str | None:
        return None if precision.name == "fp32" else "float32 alone"

    def open(self, backend: Backend, index: int, precision: Precision) -> Device:
        return Place(self.devices(backend)[0])

    def imported(self, workload: Workload, mode: Mode) -> str:
        return ""

    def stack(self) -> dict[str, Any]:
        return {"framework": self.name, "plain": np.__version__, "threads": 1, "affinity": 1}

    def switches(self, device: Device, precision: Precision) -> list[Look]:
        return []

    def execution(
        self, name: str, backend: Backend, device: Device, searches: bool = False
    ) -> Executing:
        return Executing()

    def build(
        self, workload: Workload, mode: str, parameters: Any, site: Site, draws: Draws | None
    ) -> Job:
        if (workload.name, mode) != ("gemm", "matmul") or draws is None:
            raise Unsupported("plain: gemm-matmul alone")
        m, n, k = parameters.mnk
        sets = 16 - ("one set less" in PLANTED)
        std = 2.0 if "another deviation" in PLANTED else 1.0
        pairs = [(draws.normal((m, k), std), draws.normal((k, n))) for _ in range(sets)]
        if "wrong weights" in PLANTED:
            pairs = [(a[::-1].copy(), b) for a, b in pairs]
        return Products(pairs)

    def executed(self, step: Callable[[], object], device: Device, execution: str) -> Executed:
        step()
        return Executed(absent="not observable: functions of numpy's")


FRAMEWORK = Plain()
