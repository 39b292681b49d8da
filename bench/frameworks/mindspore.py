"""MindSpore, in an interpreter of its own: eager (PyNative), and the whole step as one graph.

Written for MindSpore 2.10 and seen on its CPU wheel. Its calls are those of
https://www.mindspore.cn/docs/en/master/api_python/mindspore.html.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench.backend import Backend, Device, DeviceInfo
from bench.errors import DeviceUnavailable, NothingInstalled
from bench.framework import Draws, Executing, Framework, Tensors, Unsupported
from bench.frameworks.on_mindspore import devices, jobs, llama, models, profile
from bench.frameworks.on_mindspore.devices import said
from bench.measuring import asked
from bench.precision import Precision
from bench.records.cpu_limits import affinity_cores, usable_cores
from bench.records.environment import cpu_name, python_version
from bench.records.executed import Executed
from bench.records.execution import COMPILE, EAGER
from bench.workload import Job, Look, Mode, Site, Workload

if TYPE_CHECKING:
    from bench.framework import Array

PACKAGES = ("numpy", "msgspec", "psutil")
"""Distributions whose versions its records name, beside its own, which has several names."""
RECORDED = (
    *("mode", "deterministic", "pynative_synchronize", "enable_graph_kernel"),
    *("exec_order", "memory_optimize_level", "inter_op_parallel_num"),
)
"""Settings of MindSpore's context that its records name."""
PYNATIVE = 1
"""What `mindspore.get_context("mode")` says where operators run one by one."""
SILENT = "3"
"""`GLOG_v`: errors only. Its warnings say at each import which chips' libraries are not here."""
REFUSALS = (TypeError, RuntimeError, ValueError)
"""How MindSpore says that it has no kernel for something."""
WAITS = "the host waits for every operator"
ALONE = "the thread that runs Python does what others would for each operator"
BUILDERS = {**jobs.BUILDERS, **models.BUILDERS, **llama.BUILDERS}
"""What there is, by workload and mode."""


class MindSporeTensors(Tensors):
    """`mindspore.Tensor` and `Parameter`."""

    def shape(self, tensor: Any) -> tuple[int, ...]:
        """As it says."""
        return tuple(tensor.shape)

    def itemsize(self, tensor: Any) -> int:
        """Bytes of an element."""
        return int(tensor.itemsize)

    def picked(self, tensors: Sequence[Any], positions: Sequence[Array]) -> Array:
        """Gathered where each lies; all of a small one is copied."""
        import mindspore as ms
        import numpy as np
        from mindspore import ops

        parts = []
        for tensor, wanted in zip(tensors, positions, strict=True):
            flat = tensor.reshape(-1)
            if len(wanted) < flat.shape[0]:
                flat = ops.gather(flat, ms.Tensor(wanted), 0)
            parts.append(_float64(flat))
        return np.concatenate(parts)

    def on_host(self, tensor: Any) -> Array:
        """A whole tensor in float64."""
        return _float64(tensor)

    def is_on(self, tensor: Any, device: Device) -> bool:
        """As it says, without the number: a process has one."""
        place = str(tensor.device).partition(":")[0].lower()
        return bool(tensor.ndim) and place == str(device.place).lower()

    def total(self, tensor: Any) -> Any:
        """Its sum."""
        import mindspore as ms

        return tensor.sum(dtype=ms.float32)

    def words(self, tensor: Any) -> Array:
        """Its bits."""
        import numpy as np

        kinds = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
        held: Array = np.array(tensor.asnumpy())  # on a host that is the tensor's own memory
        return held.view(kinds[held.itemsize])

    def is_floating(self, tensor: Any) -> bool:
        """Whether it holds floating-point numbers."""
        return bool(tensor.is_floating_point())

    def rewrite(self, tensor: Any, words: Array) -> None:
        """Its bits again, by a copy into its memory."""
        import mindspore as ms

        tensor.copy_(ms.Tensor(words.view(tensor.asnumpy().dtype)))

    def rounded(self, values: Array, like: Any) -> Array:
        """By MindSpore."""
        import mindspore as ms

        return _float64(ms.Tensor(values).astype(like.dtype))

    def gradients(self, optimizer: Any, which: Sequence[int]) -> Sequence[Any]:
        """By a sum: `Tensor.copy` waits, and `Tensor.clone` has no kernel on a host."""
        moved = optimizer.moved()
        found = (moved[number].gradient for number in which)
        return [None if gradient is None else gradient + 0 for gradient in found]


def _float64(tensor: Any) -> Array:
    """A copy on the host. bfloat16 goes by float32, as numpy has none."""
    import mindspore as ms
    import numpy as np

    narrow = tensor.dtype == ms.bfloat16
    found: Array = np.array((tensor.astype(ms.float32) if narrow else tensor).asnumpy(), np.float64)
    return found


class Pynative(Executing):
    """One of MindSpore's two executions. What ran, the job says (`MindSporeJob.looks`)."""

    def __init__(self, name: str) -> None:
        """name: of a case."""
        if name not in (EAGER, COMPILE):
            raise Unsupported(f"MindSpore: no {name} execution, so far; eager and compile")
        self.compiler = "mindspore.jit" if name == COMPILE else ""

    def looks(self, record: dict[str, Any]) -> list[Look]:
        """Notes what compiles."""
        if self.compiler:
            record["compiler"] = {"name": self.compiler}
        return []


class MindSpore(Framework):
    """Reaches the host, and what a backend says that MindSpore has a name for."""

    name = "mindspore"
    tensors = MindSporeTensors()
    executed_late = True
    compiler_folders = ("MS_OM_PATH",)
    """Where it writes what it could not compile; else into the folder that a user is in."""
    _threads: int | None = None

    def compute_with(self, threads: int) -> None:
        """In `open`."""
        self._threads = threads

    def recorded_variables(self) -> tuple[str, ...]:
        """Its own families, and that of the logger in it."""
        return ("MS_*", "MINDSPORE_*", "GLOG_*")

    def harmful_variables(self) -> Mapping[str, str]:
        """What makes the host wait, and what lets Python run parts of a graph."""
        return {
            "MS_DEV_LAUNCH_BLOCKING": WAITS,
            "MS_DEV_HOST_BLOCKING_RUN": ALONE,
            "MS_DEV_JIT_SYNTAX_LEVEL": "Python may run parts of what is compiled",
        }

    def devices(self, backend: Backend) -> list[DeviceInfo]:
        """The host; or the accelerators that MindSpore sees."""
        target = backend.targets.get(self.name)
        if target is None:
            raise NothingInstalled(f"mindspore on {backend.name}: MindSpore has no such devices.")
        ms = loaded()
        facts = {"mindspore": str(ms.__version__), "python": python_version()}
        if not backend.is_host:
            return devices.accelerators(backend, target, facts)
        import psutil

        facts |= {"usable_cores": str(usable_cores())}
        return [
            DeviceInfo(
                backend=backend.name,
                index=0,
                name=cpu_name(),
                memory_bytes=int(psutil.virtual_memory().total),
                facts=facts,
            )
        ]

    def reaches(self, backend: Backend) -> bool:
        """What the backend says that it has a name for."""
        return self.name in backend.targets

    def unsupported(self, backend: Backend, info: DeviceInfo, precision: Precision) -> str | None:
        """By a product: what has no kernel says so, and what computes wrongly is none."""
        shortened = precision.shortened and backend.is_host
        if precision.quantized or shortened or precision.autocast:
            return "accelmark has no MindSpore job for it"
        target = backend.targets[self.name]
        devices.chosen(target, info.index)
        import mindspore as ms
        import numpy as np
        from mindspore import ops

        def product() -> float:
            twos = ms.Tensor(np.full((16, 16), 2.0, np.float32))
            twos = twos.astype(getattr(ms, precision.weights))
            return float(ops.matmul(twos, twos).astype(ms.float32).asnumpy()[3, 5])

        try:
            found = product()
        except REFUSALS:
            devices.drained()  # it may be the failure of what was tried before
            try:
                found = product()
            except REFUSALS as error:
                devices.drained()
                return f"MindSpore has no such product here ({said(error)})"
        if found != 64.0:
            return f"MindSpore's product gives {found:g} for 64"
        short = (
            precision.shortened
            and devices.standing(target, devices.HF32[0])[devices.HF32[0]] == "1"
        )
        return (devices.shortened() if short else "") or None

    def open(self, backend: Backend, index: int, precision: Precision) -> Device:
        """The device, in PyNative mode."""
        here = {info.index: info for info in self.devices(backend)}
        if index not in here:
            addresses = ", ".join(info.address for info in here.values())
            raise DeviceUnavailable(f"{backend.name}:{index}: there is no such. Here: {addresses}.")
        if backend.is_host:
            self._threads = self._threads or devices.threads_asked()
            devices.compute_with(self._threads)
        return devices.opened(backend, here[index], backend.targets[self.name], precision)

    def imported(self, workload: Workload, mode: Mode) -> str:
        """MindSpore itself."""
        loaded()
        return ""

    def stack(self) -> dict[str, Any]:
        """MindSpore as this worker has it."""
        import mindspore as ms

        packages = {name: importlib.metadata.version(name) for name in PACKAGES}
        return {
            "framework": self.name,
            "mindspore": str(ms.__version__),
            "python": python_version(),
            "packages": {**packages, "mindspore": str(ms.__version__)},
            "threads": int(ms.get_context(devices.THREADS)),
            "affinity": affinity_cores(),
            "context": {name: devices.current(name) for name in RECORDED},
        }

    def switches(self, device: Device, precision: Precision) -> list[Look]:
        """Those of its context, and Python's own."""
        import mindspore as ms

        def look(what: str, asked: str, seen: str) -> Look:
            then = "Find what sets it in this process (sitecustomize, a variable) and remove it"
            return Look(what=what, asked=asked, seen=seen, then=then)

        wanted = {
            "mode": str(PYNATIVE),
            "device_target": str(device.place),
            "pynative_synchronize": "False",
            "deterministic": "OFF",
        }
        looks = [
            look(f"MindSpore's {name}", value, str(ms.get_context(name)))
            for name, value in wanted.items()
        ]
        if (waits := devices.launch_blocking()) is not None:
            looks.append(look("MindSpore's launch_blocking", "False", str(waits)))
        looks.append(look("Python tracing", "off", "on" if asked.traced() else "off"))
        if device.queues_on_host:
            threads = devices.current(devices.THREADS)
            looks.append(look("threads", str(self._threads), threads))
        else:
            mode = devices.standing(str(device.place), devices.MODE)[devices.MODE]
            looks.append(look(f"MindSpore's {devices.MODE}", devices.mode_of(precision), mode))
            looks.append(devices.keeps_to_the_device())
        return [*looks, *asked.float32(precision, device.float32_reduced())]

    def execution(
        self, name: str, backend: Backend, device: Device, searches: bool = False
    ) -> Executing:
        """Operator by operator, or the step as one graph."""
        if searches:
            raise Unsupported("MindSpore: its compiler is not made to search for kernels here")
        return Pynative(name)

    def build(
        self, workload: Workload, mode: str, parameters: Any, site: Site, draws: Draws | None
    ) -> Job:
        """A job of `BUILDERS`, filled with what was handed over."""
        build = BUILDERS.get((workload.name, mode))
        if build is None or draws is None:
            there = ", ".join(f"{name}-{mode}" for name, mode in BUILDERS)
            raise Unsupported(f"MindSpore: no {workload.name}-{mode}, so far. There are: {there}")
        job = build(mode, parameters, site, draws)
        if site.execution == COMPILE:
            job.facts = {**job.facts, "jit_level": jobs.LEVEL}
        return job

    def executed(self, step: Callable[[], object], device: Device, execution: str) -> Executed:
        """As MindSpore's profiler sees it, whichever execution."""
        return profile.executed(step, device)


def loaded() -> Any:
    """MindSpore. Raises `NothingInstalled` or `DeviceUnavailable` where it cannot be had."""
    if importlib.util.find_spec("mindspore") is None:
        raise NothingInstalled(
            "mindspore: it is not installed in this Python. Name one that has it (with numpy, "
            "msgspec and psutil): --framework mindspore --python PATH."
        )
    os.environ.setdefault("GLOG_v", SILENT)
    try:
        import mindspore
    except Exception as error:  # a runtime fails as it likes
        raise DeviceUnavailable(
            f"mindspore: it is installed but does not load ({said(error)}). Repair or reinstall it."
        ) from error
    return mindspore


FRAMEWORK = MindSpore()
