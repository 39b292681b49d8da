"""The work in MindSpore: each step is one plain function of tensors, run as it is or as a graph.

What its parser cannot take (lambdas, conditional expressions, imports) is not in
`steps.py`. Numbers come in torch's order (`bench.framework.Draws`), and operands rotate as
torch's do.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from bench.framework import Draws
from bench.frameworks.on_mindspore.devices import HOST
from bench.records.execution import COMPILE, EAGER
from bench.records.proof import OUTPUT
from bench.workload import Job, Look, Site, Unsupported
from bench.workloads.jobs.jobs import BATCHES
from bench.workloads.jobs.products import buffers_of
from bench.workloads.jobs.rotation import RotatingJob, Rotation
from bench.workloads.memory import ARRAYS_MOVED, WIDEST_BYTES
from bench.workloads.transfer import BUFFERS, ELEMENT_BYTES

if TYPE_CHECKING:
    from bench.framework import Array

OWN_OUTPUT = "a new tensor each step"
OWN_ATTENTION = "products and softmax of its own"
FUSED_ATTENTION = "flash_attention_score"
"""MindSpore's own, on accelerators: by its reference (mindspore.ops.flash_attention_score, 2.10) of
16-bit numbers, and of heads whose width is a multiple of 16 up to `WIDEST_HEAD`."""
WIDEST_HEAD = 512
CORNER = 2048
"""Rows and columns of the mask that it takes for texts of any length (`sparse_mode` 2)."""
LEVEL = "O1"
"""What the compiler may do: with it operators are fused where the device's kernels can be, as
torch's compiler does. A host runs the same kernels by it as by the other (`O0`)."""


def placed(values: Array, site: Site) -> Any:
    """Float32 values as a tensor of the site's weights, rounded once."""
    import mindspore as ms

    return ms.Tensor(values).astype(getattr(ms, site.precision.weights))


def run_as(execution: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A step as it is executed: as it is written, or as one graph, which raises for what cannot be
    in it and leaves no part to Python."""
    if execution != COMPILE:
        return function
    import mindspore as ms

    found: Callable[..., Any] = ms.jit(function, jit_level=LEVEL, fullgraph=True)
    return found


class MindSporeJob(RotatingJob):
    """One function of tensors, whose arguments rotate; the last output to look at."""

    def __init__(
        self, function: Callable[..., Any], arguments: list[tuple[Any, ...]], site: Site
    ) -> None:
        """function: the step, of one set of arguments."""
        self._function, self._execution = function, site.execution
        self._run = run_as(site.execution, function)
        self._inputs = Rotation(arguments)
        self._weights: Sequence[Any] = [one for operands in arguments for one in operands]
        self.facts: Mapping[str, str] = {
            "operand buffers": str(len(arguments)),
            "output": OWN_OUTPUT,
        }

    def step(self) -> None:
        """Queues one step."""
        self._output = self._run(*next(self._inputs))

    def witness(self) -> float:
        """Mean of the last output."""
        import mindspore as ms

        return float(self._output.mean(dtype=ms.float32))

    def weights(self) -> Sequence[Any]:
        """All operands; or what a job says."""
        return self._weights

    def inputs(self) -> Sequence[Any]:
        """The first operand of the last step."""
        return [self._inputs.last[0]]

    def looks(self) -> Iterator[Look]:
        """Whether Python runs the step's code, or a graph that was made of it."""
        yield execution_look(self._function, self.step, self._execution)


def execution_look(function: Callable[..., Any], step: Callable[[], None], asked: str) -> Look:
    """Whether a step has Python run its function, or a graph that was made of it."""
    ran = EAGER if calls_of(function, step) else COMPILE
    then = "Unset what switches MindSpore's compiler on or off (MS_JIT), and run again"
    return Look(what="execution", asked=asked, seen=ran, then=then)


def calls_of(function: Callable[..., Any], step: Callable[[], None]) -> int:
    """How often a step has Python run a function."""
    calls = 0

    def note(frame: Any, event: str, _: Any) -> None:
        nonlocal calls
        calls += event == "call" and frame.f_code is function.__code__

    sys.setprofile(note)
    try:
        step()
    finally:
        sys.setprofile(None)
    return calls


def gemm(mode: str, parameters: Any, site: Site, draws: Draws) -> Job:
    """As `bench.workloads.gemm`, whose product goes into memory that is there."""
    from bench.frameworks.on_mindspore import steps

    m, n, k = parameters.mnk
    sets = buffers_of((m * k + k * n + m * n) * site.precision.element_bytes)
    operands = [
        (placed(draws.normal((m, k)), site), placed(draws.normal((k, n)), site))
        for _ in range(sets)
    ]
    return MindSporeJob(steps.product, operands, site)


class AttentionJob(MindSporeJob):
    """Products and a softmax, as MindSpore has no attention of its own on a host; or its own."""

    quantity = "attention"

    def __init__(self, operands: list[tuple[Any, ...]], mask: Any, site: Site, fused: bool):
        """operands: query, key, value and the gradient, which torch draws too; mask: what is added
        to the scores, or for the fused one what it leaves out."""
        from bench.frameworks.on_mindspore import steps

        step = steps.fused if fused else steps.attended
        super().__init__(step, [(*each[:3], mask) for each in operands], site)
        self._weights = [one for each in operands for one in each]
        self.facts = {**self.facts, "attention": FUSED_ATTENTION if fused else OWN_ATTENTION}


def attention(mode: str, parameters: Any, site: Site, draws: Draws) -> Job:
    """As `bench.workloads.attention`, forward."""
    import numpy as np

    p = parameters
    shape = (p.batch_size, p.heads, p.sequence_length, p.head_dim)
    operands = [tuple(placed(draws.normal(shape), site) for _ in range(4)) for _ in range(BATCHES)]
    if fuses(site, p.head_dim):
        return AttentionJob(operands, left_out(), site, fused=True)
    least = np.finfo(np.float16 if site.precision.element_bytes == 2 else np.float32).min
    square = (p.sequence_length, p.sequence_length)
    mask = placed(np.triu(np.full(square, least, np.float32), 1), site)
    return AttentionJob(operands, mask, site, fused=False)


def fuses(site: Site, width: int) -> bool:
    """Whether MindSpore has an attention of its own there for heads so wide; see above."""
    narrow = site.precision.element_bytes == 2 and width % 16 == 0 and width <= WIDEST_HEAD
    return narrow and str(site.device) != HOST


def left_out() -> Any:
    """1 for what a token may not see, which are those behind it."""
    import mindspore as ms
    import numpy as np

    return ms.Tensor(np.triu(np.ones((CORNER, CORNER), np.uint8), 1))


KERNELS = {"copy": "copied", "scale": "scaled", "triad": "added", "read": "largest"}
"""The step of each mode."""


class MemoryJob(MindSporeJob):
    """One pass over the arrays."""

    def __init__(self, mode: str, target: Any, sources: tuple[Any, ...], site: Site):
        """target: what is written, of a copy."""
        from bench.frameworks.on_mindspore import steps

        into = (target,) if mode == "copy" else ()
        super().__init__(getattr(steps, KERNELS[mode]), [(*into, *sources)], site)
        self._weights = sources
        self.facts = {} if into else {"output": OWN_OUTPUT}

    def probe(self) -> dict[str, Any]:
        """As of torch's: as many elements as float64 would have."""
        self.step()
        size_bytes = math.prod(self._output.shape) * self._output.itemsize
        return {OUTPUT: self._output[: size_bytes // WIDEST_BYTES]}

    def inputs(self) -> Sequence[Any]:
        """The arrays that are read, which are its weights too."""
        return self._weights


def memory(mode: str, parameters: Any, site: Site, draws: Draws) -> Job:
    """As `bench.workloads.memory`; but for copies a step makes what it writes."""
    count = parameters.size_bytes // site.precision.element_bytes
    arrays = 1 if mode == "read" else ARRAYS_MOVED[mode]
    target, *sources = [placed(draws.normal((count,)), site) for _ in range(arrays)]
    return MemoryJob(mode, target, tuple(sources) or (target,), site)


class TransferJob(MindSporeJob):
    """A copy into memory that is there: of a host both sides are its own, as of torch's."""

    def __init__(self, pairs: list[tuple[Any, Any]], site: Site):
        """pairs: target and source."""
        from bench.frameworks.on_mindspore import steps

        super().__init__(steps.copied, pairs, site)
        self._weights = [source for _, source in pairs]
        self.facts = {"host memory": "pageable"}

    def inputs(self) -> Sequence[Any]:
        """What was copied."""
        return [self._inputs.last[1]]


def transfer(mode: str, parameters: Any, site: Site, draws: Draws) -> Job:
    """As `bench.workloads.transfer` on a host. Raises `Unsupported` where memory is to be pinned,
    and on other devices."""
    from mindspore import ops

    if str(site.device) != HOST:
        raise Unsupported(f"MindSpore: no copies between the host and {site.device}, so far")
    if parameters.memory == "pinned":
        raise Unsupported("pinned memory is for a device other than the host")
    count = parameters.size_bytes // ELEMENT_BYTES
    sources = [placed(draws.normal((count,)), site) for _ in range(BUFFERS)]
    return TransferJob([(ops.zeros_like(source), source) for source in sources], site)


class LaunchJob(MindSporeJob):
    """Additions in place, one after the other."""

    def __init__(self, total: Any, addend: Any, kernels: int, site: Site):
        """total grows by addend, kernels times a step."""
        from bench.frameworks.on_mindspore import steps

        super().__init__(steps.grown, [(total, addend, kernels)], site)
        self._weights = [addend]
        self.facts = {"kernel": "in-place addition of one element"}

    def inputs(self) -> Sequence[Any]:
        """None: its steps build on one another."""
        return ()

    def again(self) -> bool:
        """No step can be done again."""
        return False


def launch(mode: str, parameters: Any, site: Site, draws: Draws) -> Job:
    """As `bench.workloads.launch`. A parameter, as `Tensor.add_` of a host leaves it as it was."""
    import mindspore as ms

    total, addend = (placed(draws.normal((1,)), site) for _ in range(2))
    return LaunchJob(ms.Parameter(total), addend, getattr(parameters, "kernels", 1), site)


Builder = Callable[[str, Any, Site, Draws], Job]
BUILDERS: Mapping[tuple[str, str], Builder] = MappingProxyType(
    {("gemm", "matmul"): gemm, ("attention", "forward"): attention}
    | {("memory", mode): memory for mode in KERNELS}
    | {("transfer", mode): transfer for mode in ("to-device", "to-host")}
    | {("launch", mode): launch for mode in ("queue", "single")}
)
"""What there is, by workload and mode."""
