"""What a backend is made of: one constant `BACKEND`, an entry point of `accelmark.backends`.

For a vendor whose plug-in makes torch know a device type, a subclass of `TorchBackend` that
overrides what differs; for anything else a `Backend` and a `Device`. Importing this loads no torch.
"""

from bench.backend import Backend, Device, DeviceInfo, is_out_of_memory
from bench.backends._host_fallback import host_fallbacks
from bench.backends._torch_device import NotAvailable, TorchBackend, TorchDevice
from bench.errors import DeviceUnavailable, NothingInstalled
from bench.formats import Operand
from bench.precision import PRECISIONS, Precision
from bench.quantized_product import Products, Ready
from bench.records.observed import Reading, Reason, Scope
from bench.records.outcome import FailureKind, Memory
from bench.telemetry.source import NotObservable, Process, Source, said
from bench.workload import Queued, Recorder

__all__ = [
    "PRECISIONS",
    "Backend",
    "Device",
    "DeviceInfo",
    "DeviceUnavailable",
    "FailureKind",
    "Memory",
    "NotAvailable",
    "NotObservable",
    "NothingInstalled",
    "Operand",
    "Precision",
    "Process",
    "Products",
    "Queued",
    "Reading",
    "Ready",
    "Reason",
    "Recorder",
    "Scope",
    "Source",
    "TorchBackend",
    "TorchDevice",
    "host_fallbacks",
    "is_out_of_memory",
    "said",
]
