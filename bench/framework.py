"""The protocol of a framework: what computes a step, on whichever chip, and is called by measuring.

A framework is software, as a compiler is: recorded, shown, and no part of a case. It is one file
in `bench/frameworks/` (or a package's entry point in `accelmark.frameworks`) that exposes one
constant, `FRAMEWORK`. What torch does is told by `bench/frameworks/torch.py`; another runs in an
interpreter that may have no torch, and is handed what torch alone can give: its seeded numbers
(`Draws`) and the gate's reference. Nothing here imports a framework.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.precision import Precision
from bench.records.executed import Executed
from bench.workload import Job, Look, Mode, Recorder, Site, Unsupported, Workload

if TYPE_CHECKING:
    import numpy as np

    from bench.backend import Backend, Device, DeviceInfo

    Array = np.ndarray[Any, np.dtype[Any]]

AUTOCAST_BIT, SHORT_BIT = 16, 13
"""Of a float32 weight, the last bit of bfloat16, and of a mantissa of 10 bits."""
FULL_BIT = 6
"""Of a float32 weight otherwise: 64 units in the last place. Sums of thousands of products in
another order err by some units, and where a maximum is taken (ReLU, pooling) one that falls to the
other side counts for a thousand: at one unit none does in most launches, at 64 some do in each."""


def rounding_bit(precision: Precision, itemsize: int) -> int | None:
    """The last bit that a precision's products see of a weight of so many bytes; None of 8 bits,
    which stay as they are."""
    wide = SHORT_BIT if precision.shortened else AUTOCAST_BIT if precision.autocast else FULL_BIT
    return {2: 0, 4: wide}.get(itemsize)


class Moved(NamedTuple):
    """A weight that an optimizer moves, as it stands after a step, and what the step moved it by.

    The state has torch's names: `exp_avg`, `exp_avg_sq` (Adam), `momentum_buffer`.
    """

    weight: Any
    gradient: Any
    """Of the last step; None where it gave none."""
    kept: Mapping[str, Any]
    """What the optimizer keeps of it, of its shape."""
    steps: float
    """That it has had."""


class Tensors(ABC):
    """What measuring does to a job's tensors, whosever they are. All of it outside the clock."""

    @abstractmethod
    def shape(self, tensor: Any) -> tuple[int, ...]:
        """Of what lies here of it."""

    @abstractmethod
    def itemsize(self, tensor: Any) -> int:
        """Bytes of an element."""

    @abstractmethod
    def picked(self, tensors: Sequence[Any], positions: Sequence[Array]) -> Array:
        """The values [n] of each tensor at its positions (row by row, whatever its layout in
        memory), one tensor after the other, in float64 on the host."""

    @abstractmethod
    def on_host(self, tensor: Any) -> Array:
        """A whole tensor in float64."""

    @abstractmethod
    def is_on(self, tensor: Any, device: Device) -> bool:
        """Whether it has a dimension at least and lies on that device."""

    @abstractmethod
    def total(self, tensor: Any) -> Any:
        """Its sum in float32, which `float` reads. Queued: waits for nothing."""

    @abstractmethod
    def words(self, tensor: Any) -> Array:
        """Its bits as unsigned integers of its element's size, copied to the host."""

    @abstractmethod
    def is_floating(self, tensor: Any) -> bool:
        """Whether its elements are floating-point numbers."""

    @abstractmethod
    def rewrite(self, tensor: Any, words: Array) -> None:
        """Puts such bits in their place again, in the memory that it has."""

    @abstractmethod
    def rounded(self, values: Array, like: Any) -> Array:
        """Values in float64 as a tensor's elements can hold them."""

    def moved(self, optimizer: Any) -> Sequence[Moved]:
        """Of the optimizer of a `bench.workload.Training`, always in the same order.

        Of one that is an object of the framework's own, which has `moved` itself.
        """
        found: Sequence[Moved] = optimizer.moved()
        return found

    def gradients(self, optimizer: Any, which: Sequence[int]) -> Sequence[Any] | None:
        """Copies of the last step's gradients, by their place in `moved`, each None where there is
        none. Queued: waits for nothing. None where that cannot be done."""
        return None

    def nudged(
        self, weights: Sequence[Any], precision: Precision, rows: int
    ) -> contextlib.AbstractContextManager[None]:
        """Moves each weight of the even rows (0) or the odd ones (1) by one rounding, there and
        exactly back, in place.

        The last bit that the precision's products see is turned over: up or down as the bit was, so
        at random.
        """

        def turn() -> None:
            for weight in weights:
                bit = rounding_bit(precision, self.itemsize(weight))
                if bit is not None and self.is_floating(weight):
                    self.flip(weight, rows, bit)

        return _there_and_back(turn)

    def flip(self, tensor: Any, rows: int, bit: int) -> None:
        """Turns a bit over of each number of the even rows (0) or the odd ones (1)."""
        words = self.words(tensor)
        part = words[rows::2] if words.ndim else words
        part ^= part.dtype.type(1 << bit)
        self.rewrite(tensor, words)

    def altered(self, tensor: Any) -> contextlib.AbstractContextManager[bool]:
        """Another input in the same place, and exactly back: see `turn`.

        Gives whether there is a difference.
        """
        if not self.shape(tensor):
            return contextlib.nullcontext(enter_result=False)
        before = self.words(tensor[:1])
        return _there_and_back(
            lambda: self.turn(tensor), lambda: bool((before != self.words(tensor[:1])).any())
        )

    def turn(self, tensor: Any) -> None:
        """Negates it, or puts integers in reverse order; done twice, it is what it was."""
        words = self.words(tensor)
        if self.is_floating(tensor):
            words ^= words.dtype.type(1 << (8 * words.itemsize - 1))
        else:
            words = words[..., ::-1].copy()
        self.rewrite(tensor, words)


@contextlib.contextmanager
def _there_and_back(turn: Callable[[], None], seen: Callable[[], Any] = bool) -> Iterator[Any]:
    turn()
    try:
        yield seen()
    finally:
        turn()


class Draws(ABC):
    """Seeded numbers, the same as torch's twin of a job draws, in the same order."""

    @abstractmethod
    def normal(self, shape: tuple[int, ...], std: float = 1.0) -> Array:
        """Normals in float32. Rounded once to a narrower dtype they are what torch has."""

    @abstractmethod
    def integers(self, low: int, high: int, shape: tuple[int, ...]) -> Array:
        """Uniform int64 from `low` to `high` - 1."""

    @abstractmethod
    def finish(self) -> None:
        """Raises `Wrong` where torch's twin draws more."""


class Executing:
    """How a launch executes its case, as far as nothing compiles and nothing is recorded."""

    compiler = ""
    """By which name the framework knows what compiles."""
    recorder: Recorder | None = None
    """What records a step, for `Site`."""

    def gated(self) -> None:
        """From here on it is the timed job that compiles and records."""

    def looks(self, record: dict[str, Any]) -> list[Look]:
        """Whether the execution is the case's, as far as it has come; what is worth keeping goes
        into the record's environment."""
        return []

    def lacking(self) -> str:
        """After a launch failed: why this execution does not work here at all; else empty."""
        return ""


class Framework(ABC):
    """One framework. Stateless but for what it has loaded."""

    name: str
    tensors: Tensors
    executed_late = False
    """Whether `executed` is asked after the timing alone: what it switches on might stay on."""
    compiler_folders: tuple[str, ...] = ()
    """Variables that say where its compiler writes: see `Backend.compiler_folders`."""
    hands_over = True
    """Whether what its launches draw, and their reference, comes from torch in another process."""

    def recorded_variables(self) -> tuple[str, ...]:
        """Of the environment, besides a backend's: see `Backend.recorded_variables`."""
        return ()

    def harmful_variables(self) -> Mapping[str, str]:
        """Likewise: see `Backend.harmful_variables`."""
        return {}

    @abstractmethod
    def devices(self, backend: Backend) -> list[DeviceInfo]:
        """That backend's devices, as this framework reaches them.

        Raises `DeviceUnavailable` with the cause and the next thing to do if there are none.
        """

    def reaches(self, backend: Backend) -> bool:
        """Whether it knows such devices at all; asked where it is not installed, too."""
        return True

    @abstractmethod
    def unsupported(self, backend: Backend, info: DeviceInfo, precision: Precision) -> str | None:
        """Why that device cannot run `precision` here; None if it can."""

    def slow(self, backend: Backend, info: DeviceInfo, precision: Precision) -> str | None:
        """What shows that it runs `precision` there by reference code; see `Backend.slow`."""
        return None

    def compute_with(self, threads: int) -> None:  # noqa: B027 - torch has its own number
        """That many threads of the host, as torch has there; before `open`."""

    @abstractmethod
    def open(self, backend: Backend, index: int, precision: Precision) -> Device:
        """Makes device `index` current and sets the precision switches for `precision`."""

    @abstractmethod
    def imported(self, workload: Workload, mode: Mode) -> str:
        """Imports what the work needs; why it cannot be done where an extra is not installed."""

    @abstractmethod
    def stack(self) -> dict[str, Any]:
        """The software as this process has it: `threads`, `affinity`, `packages` and its version,
        by its name, at least."""

    @abstractmethod
    def switches(self, device: Device, precision: Precision) -> list[Look]:
        """The switches of this process that change what a step does, or how."""

    @abstractmethod
    def execution(
        self, name: str, backend: Backend, device: Device, searches: bool = False
    ) -> Executing:
        """searches: whether the compiler tries several kernels for each operator, where it can.

        Raises `Unsupported` where nothing compiles, or records, that must.
        """

    @abstractmethod
    def build(
        self, workload: Workload, mode: str, parameters: Any, site: Site, draws: Draws | None
    ) -> Job:
        """A job; draws: what it is filled with, of a framework that is handed its numbers.

        Raises `Unsupported` for work that it has not.
        """

    @abstractmethod
    def executed(self, step: Callable[[], object], device: Device, execution: str) -> Executed:
        """What a step runs through, as the framework names it; takes the step.

        execution: a case's, as it is executed.
        """


__all__ = [
    "Draws",
    "Executing",
    "Framework",
    "Moved",
    "Tensors",
    "Unsupported",
    "rounding_bit",
]
