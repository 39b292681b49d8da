"""What a framework is made of: one constant `FRAMEWORK`, an entry point of `accelmark.frameworks`.

A `Framework` computes the jobs of workloads that are there already. `CpuDevice` is the host, for a
framework that runs on it. Importing this loads no torch.
"""

from bench.backend import Backend, Device, DeviceInfo
from bench.backends.cpu import CpuDevice
from bench.errors import DeviceUnavailable, NothingInstalled
from bench.framework import Draws, Executing, Framework, Moved, Tensors
from bench.precision import Precision
from bench.records.executed import Executed
from bench.records.outcome import Memory
from bench.telemetry.source import NotObservable
from bench.workload import Job, Look, Mode, Recorder, Site, Training, Unsupported, Workload

__all__ = [
    "Backend",
    "CpuDevice",
    "Device",
    "DeviceInfo",
    "DeviceUnavailable",
    "Draws",
    "Executed",
    "Executing",
    "Framework",
    "Job",
    "Look",
    "Memory",
    "Mode",
    "Moved",
    "NotObservable",
    "NothingInstalled",
    "Precision",
    "Recorder",
    "Site",
    "Tensors",
    "Training",
    "Unsupported",
    "Workload",
]
