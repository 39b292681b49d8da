"""Devices that torch names: what torch offers alike on all of them, as the base of their backends.

A call is looked for in torch's module for the device first (`torch.get_device_module`), which is
the vendor's own word, and then in `torch.accelerator`, which has grown from torch 2.6 on. What
neither has is not available, and is said to be so; nothing is made up in its place.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import re
import runpy
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import psutil

from bench.backend import Backend, Device, DeviceInfo, Queued, Recorder, is_out_of_memory
from bench.backends import _caches, _links, _trial
from bench.backends._graphs import recorder
from bench.backends._host_fallback import host_fallbacks
from bench.backends._loaded import missing_library
from bench.errors import DeviceUnavailable, NothingInstalled
from bench.precision import Precision
from bench.records.execution import NOT_ITS_POOL, RESERVED
from bench.records.outcome import FailureKind, Memory
from bench.records.reason import first_line

if TYPE_CHECKING:
    import torch

AUTOLOAD = "TORCH_DEVICE_BACKEND_AUTOLOAD"
"""At 0, `import torch` loads no plug-in by itself: a broken one then spoils no other backend."""
SHARED_NAMES = {"mem_get_info": "get_memory_info"}
"""What `torch.accelerator` calls otherwise."""
UNANSWERED = "doesn't support querying"
"""In errors of drivers that lack a question, as client GPUs' of their free memory."""
INTEGRATED = ("is_integrated", "is_integrated_gpu")
"""In torch's properties of a device, of its types each its own."""
APART = 1.02
"""Times the host's memory: one with more has had its own set apart from that at boot."""
LOST = re.compile(r"device[ _](?:is |was )?lost|device hung", re.IGNORECASE)
"""Level Zero, Vulkan and others; vendors have their own besides."""


class NotAvailable(Exception):
    """Neither torch's module for this device nor `torch.accelerator` has the call."""


class TorchDevice(Device):
    """One device that torch names, current in this process."""

    switches: Mapping[str, str] = MappingProxyType({})
    """By which float32 is shortened here, besides torch's own: of each fact its place in torch."""
    _recorded = False
    """Whether something was recorded here."""
    _events_tell: bool | None = None
    """None until one is asked for."""

    def __init__(self, info: DeviceInfo, device_type: str, graph_type: str = "") -> None:
        """device_type: torch's name for its kind; graph_type: as `TorchBackend.graph_type`."""
        import torch

        self._graph_type = graph_type
        self.info = info
        self._type = device_type
        self._module = torch.get_device_module(device_type)
        self._scope = "device allocator since its start"

    @property
    def torch_device(self) -> torch.device:
        """`TYPE:INDEX`."""
        import torch

        return torch.device(self._type, self.info.index)

    def synchronize(self) -> None:
        """Waits for every stream of the device."""
        self.ask("synchronize", self.info.index)

    def event(self) -> Any:
        """Of the current stream: the vendor's own where it has one; None where none says a time."""
        import torch

        own = getattr(self._module, "Event", None) or functools.partial(torch.Event, self._type)
        if self._events_tell is None:
            self._events_tell = _trial.events_tell(self, own)
        return own(enable_timing=True) if self._events_tell else None

    def elapsed_ns(self, start: Any, end: Any) -> int:
        """Events count milliseconds, as floating-point numbers."""
        return round(float(start.elapsed_time(end)) * 1e6)

    def release_memory(self) -> None:
        """Empties the caching allocator, where there is one."""
        with suppress(NotAvailable):
            self.ask("empty_cache")

    def reset_peak_memory(self) -> None:
        """Restarts the allocator's peak counters, where it has them.

        After a recording its cache is emptied before: what is reserved later was needed.
        """
        if self._recorded:
            self.release_memory()
        held = self._peak("memory_allocated")
        with suppress(NotAvailable):
            self.ask("reset_peak_memory_stats", self.info.index)
            self._scope = "device allocator"
        if self._peak("memory_allocated") < held:  # a reset frees nothing: it cleared the count
            self._scope = "device allocator, without what was there before"

    def memory(self) -> Memory:
        """Peak of the allocator and what the driver says is in use; else of the host, so named.

        Of what tensors had; after a recording of what was reserved, as its replays allocate
        nothing, and what they use has been freed, but for them.
        """
        process = int(psutil.Process().memory_info().rss)
        used = None
        with suppress(NotAvailable):
            free, total = self.free_and_total()
            used = total - free
            if used < self._peak("memory_reserved"):  # it cannot be: some drivers never count
                used = None
        peak, scope = self._peak("max_memory_allocated"), self._scope
        if self._recorded:
            reserved = 0 if self._own_pools_hidden() else self._peak("max_memory_reserved")
            peak, scope = reserved or peak, f"{scope}, {RESERVED if reserved else NOT_ITS_POOL}"
        return Memory(
            peak_bytes=peak or process,
            scope=scope if peak else "process RSS (peak device memory: not available)",
            host_rss_bytes=process,
            device_used_bytes=used,
        )

    @property
    def shares_host_memory(self) -> bool:
        """As torch's properties say."""
        with suppress(NotAvailable):
            found = self.ask("get_device_properties", self.info.index)
            own = (self.info.memory_bytes or 0) / APART
            return self._integrated(found) and own <= int(psutil.virtual_memory().total)
        return False

    def _integrated(self, found: Any) -> bool:
        """Whether these properties of torch's are of a GPU within the host's chip."""
        return any(getattr(found, name, False) for name in INTEGRATED)

    def capacity_bytes(self) -> int | None:
        """Of the host's memory, where it shares that, no more than what is available now."""
        if not self.shares_host_memory:
            return super().capacity_bytes()
        left = int(psutil.virtual_memory().available)
        return min(left, self.info.memory_bytes or left)

    def free_and_total(self) -> tuple[int, int]:
        """In bytes, as its driver says; `NotAvailable` if it does not or fails (pytorch 126015)."""
        try:
            free, total = self.ask("mem_get_info", self.info.index)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            self.synchronize()  # raises what a lost device has died of
            raise NotAvailable(first_line(error)) from error
        return free, total

    def _peak(self, name: str) -> int:
        """What a counter says, in bytes; 0 where there is none."""
        with suppress(NotAvailable):
            return int(self.ask(name, self.info.index))
        return 0

    def _own_pools_hidden(self) -> bool:
        """Whether a graph's own pool may be in no count: in this allocator's before torch 2.14."""
        with suppress(NotAvailable):
            return str(self.ask("get_allocator_backend")) == "cudaMallocAsync"
        return False

    def random_state(self) -> bytes | None:
        """Of its own generator, seed and offset, where torch's module for it tells."""
        with suppress(NotAvailable, RuntimeError):
            return bytes(self.ask("get_rng_state").tolist())
        return None

    def recorder(self) -> Recorder | None:
        """The vendor's own graphs, or torch's."""
        found = recorder(self._module, self._graph_type, self.torch_device)
        return None if found is None else functools.partial(self._record, found)

    def _record(self, record: Recorder, work: Queued, prepare: Queued) -> Queued:
        self._recorded = True
        return record(work, prepare)

    def facts(self) -> dict[str, str]:
        """The precision switch that all devices share, and its own."""
        import torch

        own = _trial.switches(self.switches)
        return {"float32_matmul_precision": torch.get_float32_matmul_precision(), **own}

    def float32_reduced(self) -> bool:
        """By a switch of its own too."""
        return "True" in _trial.switches(self.switches).values() or super().float32_reduced()

    def ask(self, name: str, *arguments: Any) -> Any:
        """What torch says of this device under that name; `NotAvailable` if it cannot."""
        return ask(self._module, name, *arguments)


def ask(module: Any, name: str, *arguments: Any) -> Any:
    """Calls `name` of a device's module, else of `torch.accelerator`; else `NotAvailable`."""
    import torch

    own = getattr(module, name, None)
    if own is not None:
        try:
            return own(*arguments)
        except NotImplementedError as error:
            raise NotAvailable(name) from error
        except RuntimeError as error:
            if UNANSWERED not in str(error):
                raise
            raise NotAvailable(name) from error
    shared = getattr(torch.accelerator, SHARED_NAMES.get(name, name), None)
    if shared is None:
        raise NotAvailable(name)
    try:
        return shared(*arguments)
    except RuntimeError as error:  # there, but this device's allocator has no such hook
        raise NotAvailable(name) from error


class TorchBackend(Backend):
    """Devices of one type of torch's. A plug-in's part needs the attributes below and no more."""

    opened: type[TorchDevice] = TorchDevice
    """What a device of its is, current in a process."""
    device_type: str
    """Torch's name for it: `TYPE` in `torch.device("TYPE:0")`."""
    plug_ins: tuple[str, ...] = ()
    """The module whose import makes torch know that type; none where torch itself does."""
    built_for: str | None = None
    """The name in `torch.version` that such a build of torch has set; None where any build does."""
    install = "Install the vendor's plug-in for torch"
    """The next act where its software is not here."""
    repair = "Repair or reinstall it"
    """The next act where its software is here and does not load."""
    runtime = "what it needs"
    """What the plug-in needs beside itself, by name."""
    lost = LOST
    """Messages after which the process cannot use the device any more."""
    formats: tuple[str, ...] = ("contiguous",)
    """Memory formats that its convolutions take."""
    graph_type = ""
    """What torch's module for the type calls its graphs (`CUDAGraph`, of torch.cuda), beside which
    it has `graph`, `Stream`, `stream` and `current_stream`; where it names none, torch's own
    `torch.accelerator.Graph` is used, where there is that."""

    def worker_environment(self) -> Mapping[str, str]:
        """No plug-in but its own, which it imports itself."""
        return {AUTOLOAD: "0"}

    def silencing_variables(self) -> tuple[str, ...]:
        """Fallback to the host is mostly announced as a Python warning."""
        return ("PYTHONWARNINGS",)

    def fallbacks(self, lines: Iterable[str]) -> tuple[str, ...]:
        """As torch and the plug-ins known here announce them."""
        return host_fallbacks(lines)

    def devices(self) -> list[DeviceInfo]:
        """Every device of the type."""
        module = self.load()
        if not module.is_available() or module.device_count() < 1:
            raise DeviceUnavailable(
                f"{self.name}: torch sees no device of type {self.device_type}. Check the driver "
                "and which devices this process may see, or pass --device cpu."
            )
        return [self.describe(module, index) for index in range(module.device_count())]

    def load(self) -> Any:
        """Torch's module for the device type, after what makes torch know it was imported.

        Raises `NothingInstalled` before anything heavy is imported, or `DeviceUnavailable`.
        """
        for name in self.plug_ins:
            if importlib.util.find_spec(name.partition(".")[0]) is None:
                raise NothingInstalled(
                    f"{self.name}: {name} is not installed. {self.install}, or pass --device cpu."
                )
        if self.built_for is not None and not torch_build().get(self.built_for):
            raise NothingInstalled(
                f"{self.name}: this torch is not built for it. {self.install}, "
                "or pass --device cpu."
            )
        for name in ("torch", *self.plug_ins):
            try:
                importlib.import_module(name)
            except Exception as error:  # a vendor's runtime fails as it likes
                raise DeviceUnavailable(self._broken(name, error)) from error
        import torch

        return torch.get_device_module(self.device_type)

    def _broken(self, name: str, error: BaseException) -> str:
        cause = f"does not load ({first_line(error)})"
        if library := missing_library(error):
            cause = f"{self.runtime} is not ({library} missing)"
        return (
            f"{self.name}: {', '.join(self.plug_ins) or name} is installed but {cause}. "
            f"{self.repair}, or pass --device cpu."
        )

    def describe(self, module: Any, index: int) -> DeviceInfo:
        """One device, by what its module says."""
        import torch

        name, size, properties = f"{module.__name__.rpartition('.')[2]} device", None, None
        with suppress(NotAvailable, AttributeError):
            properties = ask(module, "get_device_properties", index)
            name, size = properties.name, int(properties.total_memory)
        with suppress(NotAvailable):
            name = ask(module, "get_device_name", index)
        if size is None:
            with suppress(NotAvailable, RuntimeError):
                size = int(ask(module, "mem_get_info", index)[1])
        facts = {"torch": str(torch.__version__), **_caches.said(properties)}
        # Without emulation, if it takes the word. Of who borrows `cuda` torch knows no emulation.
        for how in ((),) if module.__name__ == "torch.cuda" else ((), (False,)):
            with suppress(NotAvailable, TypeError):
                facts["bfloat16"] = "yes" if ask(module, "is_bf16_supported", *how) else "no"
        return DeviceInfo(backend=self.name, index=index, name=name, memory_bytes=size, facts=facts)

    def open(self, index: int, precision: Precision) -> Device:
        """Makes the device current, with float32 as float32, but for `tf32`."""
        import torch

        info = self.pick(index, self.devices())
        torch.get_device_module(self.device_type).set_device(index)
        self.shorten_float32(precision.shortened)
        return self.opened(info, self.device_type, self.graph_type)

    def shorten_float32(self, shortened: bool) -> None:
        """By every switch of `opened` too."""
        super().shorten_float32(shortened)
        _trial.switches(self.opened.switches, shortened)

    def fabric(self, device_type: str, devices: int) -> Mapping[str, str]:
        """Peer access, and the library's version, where torch has them."""
        import torch

        module = torch.get_device_module(device_type)
        found = {"topology": _links.peers(module, devices)}
        number = _links.version(module)
        return {**found, "library_version": number} if number else found

    def unsupported(self, info: DeviceInfo, precision: Precision) -> str | None:
        """What the runtime says of bfloat16; `tf32`, `fp8` and `int8` by a product on the device.

        The other precisions are tried by the case itself.
        """
        import torch

        has = info.facts.get("bfloat16") != "no"
        if not has and "bfloat16" in (precision.weights, precision.autocast):
            return f"{info.name} has no bfloat16, says its runtime"
        if not precision.tried:
            return None
        return _trial.refusal(self, torch.device(self.type_of(info), info.index), precision)

    def type_of(self, info: DeviceInfo) -> str:
        """Torch's name for the kind of that device."""
        return self.device_type

    def memory_format(self, preferred: str) -> str:
        """`preferred` if it is one of `formats`."""
        return preferred if preferred in self.formats else "contiguous"

    def failure_kind(self, error: BaseException) -> FailureKind:
        """Out of memory, a lost device by `lost`, or an error."""
        if is_out_of_memory(error):
            return "oom"
        return "device_lost" if self.lost.search(str(error)) else "error"


def torch_build() -> Mapping[str, Any]:
    """What `torch.version` says, read without importing torch; empty if torch is not here."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return {}
    file = Path(spec.origin).with_name("version.py")
    return runpy.run_path(str(file)) if file.exists() else {}
