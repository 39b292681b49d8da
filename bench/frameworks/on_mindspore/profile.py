"""Which kernels a step ran, and where, as MindSpore's own profiler tells it.

`mindspore.profiler.profile` writes a line for each kernel that the host computed, by itself; what
ran on an accelerator it has the vendor's tools put into a table (kernel_details.csv, described at
https://www.mindspore.cn/tutorials/en/master/debug/profiler.html). It swallows its own failures, so
a file that is not there proves nothing: beside the step runs a kernel that no job has, and where
that one is not seen, nothing was seen.
"""

from __future__ import annotations

import contextlib
import csv
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.backend import Device
from bench.frameworks.on_mindspore.devices import HOST as TARGET
from bench.records.executed import CONVERSIONS, HOST, Executed

HOST_FILES = "*/FRAMEWORK/cpu_op_execute_timestamp_*.txt"
"""A line is `NAME;HostCpuOps;START,DURATION,THREAD ...`."""
DEVICE_FILES = "*/*_PROFILER_OUTPUT/kernel_details.csv"
TYPE, CORE = "Type", "Accelerator Core"
"""Columns of that."""
CONTROL = "Atanh"
"""The kernel beside the step."""
NOT_SEEN = "not observable: MindSpore's profiler does not show what runs beside the step"
CONVERSION = re.compile(r"(Tensor|Tuple|List|Scalar)To(Tensor|Tuple|List|Scalar)")
"""Kernels that compute nothing, and that a host has in MindSpore whatever the device."""
KINDS = {"attention": r"Attention", "convolution": r"^Conv\d"}
"""Parts of the names of kernels that have several implementations."""
GRADIENT = r"Grad|Backprop"
"""Of those that tell no implementation."""
SOFTMAX = r"^Softmax(V\d)?$|^Fused_(\w*_)?(Softmax|Exp)_"
"""What is seen of attention that has no kernel of its own; a fused one is named by its parts."""


def executed(step: Callable[[], object], device: Device) -> Executed:
    """What a step runs, and where; takes it."""
    with tempfile.TemporaryDirectory() as folder:
        profiler = _profiler(folder, on_host=device.place == TARGET)
        if profiler is None:
            step()
            return Executed(absent=NOT_SEEN)
        profiler.start()
        try:
            _control()
            step()
            device.synchronize()
        finally:
            profiler.stop()
        ran = Counter([*_on_host(Path(folder)), *_on_device(Path(folder))])
    for place, name in ran:
        if name == CONTROL:
            ran[place, name] -= 1
            return told([*+ran])
    return Executed(absent=NOT_SEEN)


def told(ran: list[tuple[str, str]]) -> Executed:
    """What the record says of kernels, each with its place."""
    names = {name for _, name in ran}
    kinds = {
        kind: tuple(sorted(n for n in names if re.search(part, n) and not re.search(GRADIENT, n)))
        for kind, part in KINDS.items()
    }
    if softmax := sorted(name for name in names if re.search(SOFTMAX, name)):
        kinds["attention"] = kinds["attention"] or (
            f"no operator of its own ({', '.join(softmax)})",
        )
    kernels: dict[str, tuple[str, ...]] = {}
    for place, name in sorted(ran):
        where = CONVERSIONS if place == HOST and CONVERSION.fullmatch(name) else place
        kernels[where] = (*kernels.get(where, ()), name)
    return Executed(operators={k: found for k, found in kinds.items() if found}, kernels=kernels)


def _profiler(folder: str, *, on_host: bool) -> Any:
    """One that writes there and nowhere else; None where it cannot be had."""
    with contextlib.suppress(ImportError, AttributeError, TypeError, ValueError, RuntimeError):
        from mindspore.profiler import ProfilerActivity, profile, tensorboard_trace_handler

        # Before the profiler is made: it is the handler that says where it writes.
        ready = tensorboard_trace_handler(folder, analyse_flag=not on_host)
        if ready is not None:
            # By default it looks at the accelerator too.
            kinds = {"activities": [ProfilerActivity.CPU]} if on_host else {}
            return profile(start_profile=False, on_trace_ready=ready, **kinds)
    return None


def _control() -> None:
    import mindspore as ms
    from mindspore import ops

    ops.atanh(ms.Tensor([0.5], ms.float32))


def _on_host(folder: Path) -> Iterator[tuple[str, str]]:
    """Each kernel that ran there: an operator's name, of a graph without its place in it."""
    for path in folder.glob(HOST_FILES):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            whole, _, times = line.partition(";")
            name = re.sub(r"-op\w+$", "", whole.rpartition("/")[2])
            yield from [(HOST, name)] * max(1, len(times.rpartition(";")[2].split()))


def _on_device(folder: Path) -> Iterator[tuple[str, str]]:
    for path in folder.glob(DEVICE_FILES):
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            for row in csv.DictReader(file):
                yield row.get(CORE) or "device", row.get(TYPE) or "a kernel without a name"
