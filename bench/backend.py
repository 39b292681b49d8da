"""The protocol of a backend: everything in which one accelerator's software differs from another's.

A backend is one file in `bench/backends/` (or a package's entry point in `accelmark.backends`) that
exposes one constant, `BACKEND`. The base classes hold what torch offers alike on every device, so
a new backend overrides only what differs. Nothing here imports torch until a method that needs it
is called: the parent process lists backends without it.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec

from bench.errors import DeviceUnavailable
from bench.precision import PRECISIONS, Precision
from bench.quantized_product import Products
from bench.records.outcome import FailureKind, Memory
from bench.telemetry.source import NotObservable, Source
from bench.workload import Queued, Recorder, Unsupported

if TYPE_CHECKING:
    import torch


NO_MEMORY = re.compile(
    r"can't allocate memory|out of memory|alloc_failed|memory (?:isn't|not) enough"
    r"|(?:alloc|allocate|malloc)(?: device)? memory failed|out_of_(?:device|host)_memory"
    r"|failed to (?:apply for memory|allocate (?:resource\[devicememory\]|memory(?! or )))"
    r"|_success == r internal assert failed at \S*cachingallocator",
    re.IGNORECASE,
)
"""How torch, vendors' plug-ins and other frameworks' libraries (read in them) say so."""


class DeviceInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A device as its backend names it."""

    backend: str
    index: int
    """0-based, as torch counts."""
    name: str
    memory_bytes: int | None
    """None where the device does not say."""
    vendor: str = ""
    """Who made it, where that is not its backend's vendor."""
    precisions: tuple[str, ...] = ()
    """Names of those that it runs, as `bench.running.probe` asked its backend; empty if nobody
    asked."""
    slow: dict[str, str] = {}
    """Those of them that it computes by reference code, by name: what was seen of that."""
    facts: dict[str, str] = {}
    """Driver, compute capability, ...: what distinguishes this device from its like."""
    simulated: bool = False
    """No real device: its figures are never published nor compared."""

    @property
    def address(self) -> str:
        """What `--device` takes: `BACKEND:INDEX`, and plain `cpu`, of which there is one."""
        return self.backend if self.backend == "cpu" else f"{self.backend}:{self.index}"


class Device(ABC):
    """An opened device, as the measuring engine sees it."""

    info: DeviceInfo
    synchronous = False
    """Whether a call returns only when its work is done: then the host clock times every step."""
    queues_on_host = False
    """Whether it queues its work, and the cores of the host do it."""
    needs_warmup_under_load = True
    """Whether clocks and power settle only under load (rule: accelerators do, CPUs do not)."""

    @property
    @abstractmethod
    def torch_device(self) -> torch.device:
        """Where the workload puts its tensors."""

    @property
    def place(self) -> Any:
        """The same as its framework has it, for `Site`."""
        return self.torch_device

    @abstractmethod
    def synchronize(self) -> None:
        """Returns when all work queued on this device is done."""

    @abstractmethod
    def event(self) -> Any:
        """A device event with timing, for `record()`; None on synchronous devices, and on those
        that have none: then blocks are timed, and no step."""

    @abstractmethod
    def elapsed_ns(self, start: Any, end: Any) -> int:
        """Device time between two recorded events, after a synchronization."""

    @abstractmethod
    def release_memory(self) -> None:
        """Hands memory that is cached but free back to the system."""

    @abstractmethod
    def reset_peak_memory(self) -> None:
        """Forgets the peak so far."""

    @abstractmethod
    def memory(self) -> Memory:
        """Peak since the last reset, with its scope. Once a step was recorded, of all that its
        replays keep, though they allocate nothing; or else the scope says that it is not."""

    @property
    def shares_host_memory(self) -> bool:
        """Whether its memory is the host's, and nothing of its own keeps it from taking all of
        that, whereupon the host stands still. (Apple's allocator has a limit, and refuses.)"""
        return False

    def capacity_bytes(self) -> int | None:
        """Memory that a job could have here; None where the device does not say."""
        return self.info.memory_bytes

    def float32_reduced(self) -> bool:
        """Whether float32 matrix products may now run with a shorter mantissa (TF32 and its like).

        A backend with switches or variables of its own asks those too.
        """
        import torch

        return torch.get_float32_matmul_precision() != "highest"

    def float16_sums(self) -> bool:
        """Whether products of float16 may now be summed in float16."""
        return False

    def random_state(self) -> bytes | None:
        """State of the generator that its steps would draw from; None where it does not say."""
        return None

    def recorder(self) -> Recorder | None:
        """What records work and gives its replay; None where the device has no graphs.

        It takes the work, which queues the same kernels on the same memory every time, and what is
        called before each of its runs but the replays. Afterwards the work may or may not have run
        once more. A replay queues the recorded kernels and nothing else. Work that waits for the
        device may raise `Unsupported`, and so may any after a recording that failed.
        """
        return None

    def facts(self) -> dict[str, str]:
        """Switches that were set, clocks, drivers: what the record must say of this device."""
        return {}


class Backend(ABC):
    """One way to reach devices. Stateless: `open` gives the object with state."""

    name: str
    vendor: str
    """Who makes its devices."""
    plug_ins: tuple[str, ...] = ()
    """Modules that register its devices with torch. Where torch loads no plug-in by itself
    (`TORCH_DEVICE_BACKEND_AUTOLOAD=0`), those of other vendors are hidden from this process."""
    targets: Mapping[str, str] = MappingProxyType({})
    """By which name another framework knows its devices, by that framework's name."""

    is_host = False
    """Whether its device is the host itself: there is one, and ranks share its cores."""
    forks = False
    """Whether a launch may be forked from a process that has imported torch and opened no device.
    Runtimes that start while they are imported do not survive that."""
    library_switches: tuple[str, ...] = ()
    """Names of functions by which libraries ask whether its software is installed, and then call
    that whatever device their tensors are on. While the numerics gate's reference runs, on the CPU,
    each answers no."""

    compilers: tuple[str, ...] = ("inductor",)
    """torch.compile's names for what compiles for its devices, the preferred first. Where there are
    several, a launch gets the first that a trial finds to work (`bench.measuring.compilers`)."""
    compiler_searches: Mapping[str, Mapping[str, Any]] = MappingProxyType(
        {"inductor": {"config_patches": {"max_autotune": True, "coordinate_descent_tuning": True}}}
    )
    """Of those that can search for the fastest of several kernels, what they are given so that they
    do, beside the graph and its inputs. Of torch's own: its mode `max-autotune`, without the
    recording that belongs to it, which is another execution."""
    compiler_folders: tuple[str, ...] = ()
    """Variables that say where those keep what they make, besides torch's own: launches of one run
    are given a folder of the run's, which no other run sees."""
    products: Products = Products()
    """What multiplies narrow operands: torch's own operators, in the order that they want here. A
    backend whose vendor has another operator for some of them gives a subclass."""

    def worker_environment(self) -> Mapping[str, str]:
        """Environment variables that a worker on this backend starts with. Recorded.

        A variable that the user has set already is kept, and recorded as it is.
        """
        return {}

    def recorded_variables(self) -> tuple[str, ...]:
        """Environment variables that may change this backend's speed or numbers.

        Names, and families of names with a * at their end (`VENDOR_*`), which are better: nobody
        knows every name. Those of `bench.records.environment.VARIABLES` are recorded anyway.
        """
        return ()

    def read_back(self, index: int) -> Mapping[str, str]:
        """What the libraries chose here, as they say themselves: facts of device `index`.

        Asked once before a run, in a child process with a worker's environment and nothing to
        time. What is assumed from the machine instead is wrong as soon as a variable forbids it.
        """
        return {}

    def heeded(self, given: Mapping[str, str]) -> Mapping[str, str]:
        """The environment of a worker, and what its libraries read besides from files of their own,
        as lines NAME=VALUE."""
        return given

    def harmful_variables(self) -> Mapping[str, str]:
        """Environment variables that void a measurement when they are switched on, and why.

        On: set, and to something else than nothing, 0, false, none or off.
        """
        return {}

    def silencing_variables(self) -> tuple[str, ...]:
        """Environment variables of which no worker is given a user's: they would hide what must be
        seen."""
        return ()

    def fallbacks(self, lines: Iterable[str]) -> tuple[str, ...]:
        """Operators that ran on the host instead, as the runtime says in these lines.

        lines: of a worker's stderr, C libraries included, or of an exception's message.
        """
        return ()

    def telemetry(self, index: int) -> Source:
        """Where the power, clocks, heat and other users of device `index` can be read.

        Called in a side process, in the environment of a worker, without torch. Raises
        `NotObservable` with the reason where there is nothing.
        """
        raise NotObservable(f"no source of telemetry is known for {self.name} devices")

    @abstractmethod
    def devices(self) -> list[DeviceInfo]:
        """The devices that are here. Imports the runtime; run it in a child process.

        Raises `DeviceUnavailable` with the cause and the next thing to do if there are none.
        """

    def told(self, found: Sequence[DeviceInfo]) -> list[DeviceInfo]:
        """Devices that another framework than torch has found, with what the vendor's own files and
        tools tell of each: versions, its card, its memory. Without torch."""
        return list(found)

    def state(self, info: DeviceInfo) -> Mapping[str, str]:
        """How such a device stands now, by the same tools: facts for `Device.facts`."""
        return {}

    @abstractmethod
    def open(self, index: int, precision: Precision) -> Device:
        """Makes device `index` current and sets its precision switches for `precision`."""

    def pick(self, index: int, devices: Iterable[DeviceInfo]) -> DeviceInfo:
        """The device of that index; `DeviceUnavailable` with those that there are."""
        here = list(devices)
        for info in here:
            if info.index == index:
                return info
        raise DeviceUnavailable(
            f"{self.name}:{index}: there is no such device. "
            f"Here: {', '.join(info.address for info in here)}."
        )

    def shorten_float32(self, shortened: bool) -> None:
        """Sets every switch by which float32 products get a short mantissa (TF32 and its like).

        A backend with switches of its own sets those too.
        """
        import torch

        torch.set_float32_matmul_precision("high" if shortened else "highest")

    def collective_library(self, device_type: str) -> str:
        """What carries collectives between devices, by torch.distributed's name: the
        vendor's library, or `gloo`.

        device_type: torch's name for the kind of device; a vendor's plug-in registers its library
        for it. Raises ValueError where there is none.
        """
        from torch import distributed

        return str(distributed.get_default_backend_for_device(device_type))

    def fabric(self, device_type: str, devices: int) -> Mapping[str, str]:
        """Facts of what joins devices 0 to `devices` - 1 of this host: the library's version
        (`library_version`), and the links between them (`topology`).

        device_type: torch's name for the kind of device.
        """
        return {}

    def unsupported(self, info: DeviceInfo, precision: Precision) -> str | None:
        """Why that device cannot run `precision`; None if it can."""
        return None

    def slow(self, info: DeviceInfo, precision: Precision) -> str | None:
        """What shows that the device runs `precision` by reference code, many times more slowly
        than float32; None where it has arithmetic for it, or where that is not known.

        It is measured where it is asked for. A suite that names another precision for such a
        device (`instead`) gets that one.
        """
        return None

    def memory_format(self, preferred: str) -> str:
        """The memory format that work gets which asks for `preferred`: that, or `contiguous`."""
        return preferred

    def failure_kind(self, error: BaseException) -> FailureKind:
        """Sorts an exception raised by the device: out of memory, device lost, or an error."""
        return "oom" if is_out_of_memory(error) else "error"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, on the host or on the device."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and NO_MEMORY.search(str(error)) is not None


def supported_precisions(
    backend: Backend,
    info: DeviceInfo,
    ask: Callable[[DeviceInfo, Precision], str | None] | None = None,
) -> dict[str, str | None]:
    """For each precision: None if the device runs it, else why not; ask: by default its backend."""
    ask = ask or backend.unsupported
    return {name: _answer(ask, info, p) for name, p in PRECISIONS.items()}


def _answer(
    ask: Callable[[DeviceInfo, Precision], str | None], info: DeviceInfo, precision: Precision
) -> str | None:
    try:
        return ask(info, precision)
    except Exception as error:  # noqa: BLE001 - a trial on a device that is full, or lost
        return f"not known: {error}".splitlines()[0]


__all__ = [
    "Backend",
    "Device",
    "DeviceInfo",
    "DeviceUnavailable",
    "Queued",
    "Recorder",
    "Unsupported",
    "is_out_of_memory",
    "supported_precisions",
]
