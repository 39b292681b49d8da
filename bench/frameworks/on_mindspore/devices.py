"""Devices as MindSpore reaches them: the host; and an accelerator, which nobody has seen yet.

The accelerator's half is written from MindSpore 2.10's own reference, each call cited below by the
name of its page under https://www.mindspore.cn/docs/en/master/api_python/. By which name MindSpore
knows a backend's devices, the backend says (`Backend.targets`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.backend import Backend, Device, DeviceInfo
from bench.backends.cpu import CpuDevice
from bench.errors import DeviceUnavailable, NothingInstalled
from bench.records.cpu_limits import usable_cores
from bench.records.outcome import Memory
from bench.telemetry.source import NotObservable
from bench.workload import Look

if TYPE_CHECKING:
    from bench.precision import Precision

HF32 = ("matmul_allow_hf32", "conv_allow_hf32")
"""Switches by which products of float32 keep 11 bits of their operands. One is on by itself."""
MODE, KEPT = "precision_mode", "must_keep_origin_dtype"
"""What an accelerator's compiler may make of an operator's dtype; and that it leaves it, whatever
`HF32` says."""
NOT_SET = "not set"
HOST = "CPU"
"""MindSpore's name for the host."""
THREADS = "runtime_num_threads"
"""MindSpore's name for how many threads its kernels of the host have."""
BACKOFF = "MS_DISABLE_KERNEL_BACKOFF"
"""At 1 a graph has no operator run on the host in the device's place. Read once in a process."""
SIZE, LONG = 1024, 2.0**18 + 2.0**9 + 1
"""As `bench.backends._trial`: what is a matrix product to libraries, and a number of 18 bits."""


def current(name: str) -> str:
    """A setting of MindSpore's context as it stands; `not observable` where it has none such."""
    import mindspore as ms

    try:
        return str(ms.get_context(name)) or NOT_SET
    except (ValueError, RuntimeError, TypeError):
        return "not observable"


def drained() -> None:
    """Nothing of what failed is left to be told of the next operator.

    Twice, as the first `mindspore.runtime.synchronize` of a host waits for nothing, and may say so.
    """
    for _ in range(2):
        with contextlib.suppress(RuntimeError):
            _synchronize_quietly()


def launch_blocking() -> bool | None:
    """Whether the host waits for each operator, as `mindspore.runtime.launch_blocking` has it do;
    None where it is not told. The context does not say it, and nothing public does."""
    from mindspore import _c_expression

    with contextlib.suppress(AttributeError):
        return bool(_c_expression.RuntimeConf.get_instance().is_launch_blocking())
    return None


def threads_asked() -> int:
    """With how many threads the host is to compute where torch does not say it: OMP_NUM_THREADS, or
    as many as it may use cores."""
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(given) if given.isdigit() and int(given) > 0 else usable_cores()


def compute_with(threads: int) -> None:
    """Before the first operator, after which MindSpore's pool is as it is.

    Of the two calls that set their number, mindspore.set_context(runtime_num_threads=...) can be
    read back, and mindspore.device_context.cpu.op_tuning.threads_num cannot. Neither goes below two
    on two cores, and its queues spin beside them: so where fewer threads than cores are asked for,
    the process is kept on as many cores.
    """
    import mindspore as ms

    if current(THREADS) != str(threads):
        ms.set_context(**{THREADS: threads})
    if not hasattr(os, "sched_getaffinity"):  # macOS has none
        return
    allowed = sorted(os.sched_getaffinity(0), key=_turn)
    if threads < len(allowed):
        for task in Path("/proc/self/task").iterdir():
            with contextlib.suppress(OSError):  # it has just ended
                os.sched_setaffinity(int(task.name), allowed[:threads])


def _turn(core: int) -> tuple[int, int]:
    """One thread of each core comes before the second of any."""
    path = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
    try:
        siblings = [int(x) for x in re.findall(r"\d+", path.read_text(encoding="ascii"))]
    except OSError:
        siblings = [core]
    return (sum(one < core for one in siblings), core)


class Reached(Device):
    """What MindSpore's devices have in common."""

    @property
    def torch_device(self) -> Any:
        """None of torch's."""
        raise TypeError("MindSpore's device is none of torch's")

    def synchronize(self) -> None:
        """Waits for every stream of the device: runtime/mindspore.runtime.synchronize."""
        import mindspore as ms

        ms.runtime.synchronize()

    def random_state(self) -> bytes | None:
        """Of MindSpore's one generator: its seed and its offset."""
        import mindspore as ms

        return bytes(ms.get_rng_state().asnumpy())


class Host(Reached, CpuDevice):
    """The host, as MindSpore computes on it: its operators are queued, and it has no events."""

    synchronous = False
    queues_on_host = True

    @property
    def place(self) -> Any:
        """MindSpore's name for it."""
        return HOST

    def float32_reduced(self) -> bool:
        """Its products of float32 have a full mantissa: it has no other on a host."""
        return False


class Accelerator(Reached):
    """A device with streams, events and an allocator of its own."""

    def __init__(self, info: DeviceInfo, target: str, backend: Backend) -> None:
        """target: MindSpore's name for its kind."""
        self.info, self._target, self._backend = info, target, backend

    @property
    def place(self) -> Any:
        """MindSpore's name for its kind: a process has one."""
        return self._target

    def event(self) -> Any:
        """On the current stream: runtime/mindspore.runtime.Event, with `enable_timing`."""
        import mindspore as ms

        return ms.runtime.Event(enable_timing=True)

    def elapsed_ns(self, start: Any, end: Any) -> int:
        """`elapsed_time` of the same, which is in milliseconds."""
        nanoseconds: int = round(start.elapsed_time(end) * 1e6)
        return nanoseconds

    def release_memory(self) -> None:
        """runtime/mindspore.runtime.empty_cache."""
        import mindspore as ms

        ms.runtime.empty_cache()

    def reset_peak_memory(self) -> None:
        """runtime/mindspore.runtime.reset_peak_memory_stats."""
        import mindspore as ms

        ms.runtime.reset_peak_memory_stats()

    def memory(self) -> Memory:
        """`max_allocated_memory` of runtime/mindspore.runtime.memory_stats, in bytes: what tensors
        had of the pool. What other processes have, it does not say."""
        import mindspore as ms
        import psutil

        process = int(psutil.Process().memory_info().rss)
        peak = int(ms.runtime.memory_stats().get("max_allocated_memory", 0))
        return Memory(
            peak_bytes=peak or process,
            scope="device allocator" if peak else "process RSS (peak device memory: not available)",
            host_rss_bytes=process,
        )

    def float32_reduced(self) -> bool:
        """Whether either switch is on."""
        return "1" in standing(self._target, *HF32).values()

    def facts(self) -> dict[str, str]:
        """The switches as they stand, and what the vendor's tools say."""
        return {**standing(self._target, *HF32, MODE), **self._backend.state(self.info)}


def standing(target: str, *names: str) -> Mapping[str, str]:
    """Each switch as it stands: `1` or `0`, a mode, or `NOT_SET`. MindSpore's own setters compare
    with what this object says, and nothing public does."""
    from mindspore import _c_expression

    held = getattr(_c_expression, f"{target}OpPrecisionConf").get_instance()
    return {name: str(getattr(held, name)()) or NOT_SET for name in names}


def accelerators(backend: Backend, target: str, facts: Mapping[str, str]) -> list[DeviceInfo]:
    """All that MindSpore sees of a kind, which it knows as `target`; facts: of each of them.

    device_context/mindspore.device_context.*: `is_available`, `device_count`; and
    hal/mindspore.hal.get_device_name. Raises `DeviceUnavailable` where it sees none.
    """
    import mindspore as ms

    kind = getattr(ms.device_context, target.lower())
    if not kind.is_available():
        cause = f"this MindSpore sees no {target}{_why_unloaded()}"
        raise _absent(backend, cause, NothingInstalled if _is_bare(backend) else DeviceUnavailable)
    try:
        count = int(kind.device_count())
        names = [str(ms.hal.get_device_name(index, target)) for index in range(count)]
    except (RuntimeError, ValueError) as error:
        raise _absent(backend, f"MindSpore cannot count its {target}s ({said(error)})") from error
    if not names:
        raise _absent(backend, f"MindSpore has loaded what it needs for {target}, and sees none")
    return backend.told(
        [
            DeviceInfo(
                backend=backend.name, index=index, name=name, memory_bytes=None, facts=dict(facts)
            )
            for index, name in enumerate(names)
        ]
    )


def _why_unloaded() -> str:
    """What kept MindSpore from loading its part for an accelerator, which every wheel has: its own
    `is_available` asks this object, and nothing public does."""
    try:
        from mindspore import _c_expression

        cause = str(_c_expression.MSContext.get_instance().load_plugin_error()).split()
    except (ImportError, AttributeError, RuntimeError):
        return ""
    return f" ({' '.join(cause)[:300]})" if cause else ""


def _is_bare(backend: Backend) -> bool:
    """Whether the vendor's own tool shows no device either."""
    try:
        backend.telemetry(0)
    except NotObservable:
        return True
    return False


def _absent(
    backend: Backend, cause: str, kind: type[DeviceUnavailable] = DeviceUnavailable
) -> DeviceUnavailable:
    return kind(
        f"{backend.name}: {cause}. Install and set up {backend.vendor}'s driver and libraries, of "
        "the versions that this MindSpore names (mindspore.cn/install), or pass --device cpu."
    )


def said(error: BaseException) -> str:
    """An error in one line: of MindSpore's, which are framed, the first that is a sentence."""
    lines = [line.strip() for line in str(error).splitlines()]
    found = [line for line in lines if line[:1].isalpha()]
    return found[0] if found else type(error).__name__


def _synchronize_quietly() -> None:
    """The first synchronization of a host waits for nothing, and logs that there is no such device;
    later ones wait."""
    import mindspore as ms

    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        ms.runtime.synchronize()
    finally:
        logging.disable(before)


def chosen(target: str, index: int) -> None:
    """Has the process compute there, for good: device_manager/mindspore.set_device. Before the
    first operator, which else goes where MindSpore likes.

    Raises `DeviceUnavailable` where it has computed elsewhere.
    """
    import mindspore as ms

    try:
        if target == HOST:
            ms.set_device(target)
        else:
            ms.set_device(target, index)
    except RuntimeError as error:
        raise DeviceUnavailable(
            f"{target} {index}: MindSpore keeps to one device in a process ({said(error)}). "
            "Open each in a process of its own."
        ) from error


def opened(backend: Backend, info: DeviceInfo, target: str, precision: Precision) -> Device:
    """Makes the device current, in PyNative mode, with float32 as float32 but for `tf32`.

    device_context/mindspore.device_context.*.op_precision: `matmul_allow_hf32` and
    `conv_allow_hf32` (of which the compiler has the second on by itself) and `precision_mode`, see
    `mode_of`. Each takes one value in a process: raises `DeviceUnavailable` where it has another.
    """
    import mindspore as ms

    chosen(target, info.index)
    ms.set_context(mode=ms.PYNATIVE_MODE)
    if target == HOST:
        _synchronize_quietly()
        return Host(info)
    switches = getattr(ms.device_context, target.lower()).op_precision
    try:
        if (mode := mode_of(precision)) != NOT_SET:
            switches.precision_mode(mode)
        for name in HF32:
            getattr(switches, name)(precision.shortened)
    except RuntimeError as error:
        raise DeviceUnavailable(
            f"{info.address}: MindSpore's precision switches take one value in a process "
            f"({said(error)}), and here they have that of another precision than "
            f"{precision.name}. Open each in a process of its own."
        ) from error
    return Accelerator(info, target, backend)


def mode_of(precision: Precision) -> str:
    """What `MODE` is to be. Products look at `HF32` only where it is not set (MindSpore's
    `OpApiUtil::GetCubeMathType`), so of a short float32 it is left alone: before a 910B they are of
    float16 then, which `shortened` tells."""
    return NOT_SET if precision.shortened else KEPT


def keeps_to_the_device() -> Look:
    """Whether a graph fails where an operator has no kernel on the device."""
    then = f"Set it to 1, or leave it to accelmark: else the host computes what {BACKOFF} allows"
    return Look(what=BACKOFF, asked="1", seen=os.environ.get(BACKOFF, NOT_SET), then=then)


def shortened() -> str:
    """Why a product of float32 is none of a short float32, which loses the last of `LONG`'s bits
    and nothing else: float16 has no number so large."""
    import mindspore as ms
    import numpy as np
    from mindspore import ops

    long = ms.Tensor(np.full((SIZE, SIZE), LONG, np.float32))
    found = float(ops.matmul(long, ms.Tensor(np.eye(SIZE, dtype=np.float32))).asnumpy()[0, 0])
    if not abs(found - LONG) < LONG / 2**7:
        return f"of the switch this device makes another arithmetic: {LONG:g} by 1 gives {found:g}"
    if found == LONG:
        return "float32 products keep their whole mantissa here although the switch is on"
    return ""
