"""A backend and a workload that go wrong where they are told to, for tests of the command line.

FAULT=WHAT@WHERE: what is a key of `FAULTS`, where a phase of a worker, `probe` or `telemetry`; of
several ranks WHERE:RANK. The device is the CPU. Until it opens the device a worker imports no
torch, so most faults take no time.
"""

from __future__ import annotations

import ctypes
import fcntl
import math
import os
import resource
import signal
import stat
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from bench.backend import Device, DeviceInfo
from bench.backends.cpu import CpuBackend, CpuDevice
from bench.precision import Precision
from bench.ranks import Ranks
from bench.records.outcome import Work
from bench.telemetry.source import Source
from bench.workload import Job, Mode, Parameters, Site, Workload

if TYPE_CHECKING:
    import torch

NOISE_BYTES = 10 * 2**20


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def segfault() -> None:
    ctypes.string_at(0)


def leave() -> NoReturn:
    os._exit(3)


def fail() -> NoReturn:
    raise RuntimeError("planted")


def hang_in_python() -> None:
    while True:
        time.sleep(600)


def spin() -> NoReturn:
    while True:
        pass


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def want_memory() -> NoReturn:
    raise MemoryError("planted")


def skip() -> None:
    """Nothing goes wrong but that a collective is left out (`ManyJob.step`)."""


def differ() -> None:
    """Nothing goes wrong but that the device is another (`FaultyBackend.open`)."""


def hang_in_c() -> None:
    """Holds the interpreter: no other thread of this process runs."""
    ctypes.PyDLL(None).sleep(600)


def hang_and_ignore() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    hang_in_python()


def wait() -> NoReturn:
    """Until the test has done its part."""
    while not Path("go").exists():
        time.sleep(0.01)
    leave()


def exhaust_memory() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, used + 2**26))
    bytearray(2**30)


def be_killed_for_memory() -> NoReturn:
    """By the kernel: the test has made a group of processes that may have little."""
    (Path(os.environ["MEMORY_GROUP"]) / "cgroup.procs").write_text(str(os.getpid()))
    held = bytearray(2**28)
    raise RuntimeError(f"the kernel gave {len(held)} bytes")


def fill_device() -> None:
    import torch

    device = torch.accelerator.current_accelerator()
    torch.empty(2**30, dtype=torch.uint8, device=device)


def exhaust_descriptors() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
    Path("/proc/self/stat").read_bytes()


def fill_disk() -> NoReturn:
    """All of it; and the next line of the record will be long."""
    with Path("out/filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            os.write(2, b"x" * 4096)
    leave()


def be_noisy() -> None:
    for _ in range(NOISE_BYTES // 2**16):
        os.write(2, b"x" * (2**16 - 1) + b"\n")


def print_garbage() -> None:
    """As Python, as C and as the shell."""
    print('{"line":"report"}')
    ctypes.CDLL(None).puts(b"\xff\x00 garbage")
    os.write(1, b"\xff\xfe{garbage\n")
    os.system("echo garbage")


def garble_report() -> None:
    """Into the pipe that the worker kept for itself."""
    for descriptor in range(3, 64):
        try:
            pipe = stat.S_ISFIFO(os.fstat(descriptor).st_mode)
            writable = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_WRONLY
        except OSError:
            continue
        if pipe and writable:
            os.write(descriptor, b"garbage\n")
            time.sleep(600)


def tell_secret() -> NoReturn:
    os.write(2, f"logged in with {os.environ['PLANTED_TOKEN']}\n".encode())
    raise RuntimeError(f"no access with {os.environ['PLANTED_TOKEN']}")


FAULTS: Mapping[str, Callable[[], None]] = {
    function.__name__: function
    for function in (
        *(kill, segfault, leave, fail, hang_in_python, hang_in_c, hang_and_ignore, wait),
        *(spin, stop, want_memory, skip, differ),
        *(exhaust_memory, be_killed_for_memory, fill_device, exhaust_descriptors, fill_disk),
        *(be_noisy, print_garbage, garble_report, tell_secret),
    )
}


def reach(where: str) -> str:
    """Goes wrong, if it is to be here; a file says that it is about to. Gives what it was."""
    what, _, place = os.environ.get("FAULT", "").partition("@")
    phase, _, rank = place.partition(":")
    if phase == where and what in FAULTS and rank in ("", os.environ.get("RANK")):
        Path("reached").touch()
        FAULTS[what]()
        return what
    return ""


class Size(Parameters, frozen=True, kw_only=True):
    """Only whether it is the small twin of the job."""

    twin: bool = False


class Faulty(Workload):
    """A step of a few additions."""

    name = "faulty"
    version = 1
    modes = MappingProxyType(
        {
            "run": Mode(parameters=Size, precisions=("fp32",)),
            "many": Mode(parameters=Size, precisions=("fp32",), together=True),
        }
    )
    libraries = ("faulty_library",)

    def work(self, mode: str, parameters: Size, precision: Precision) -> Work:
        return Work(items=100, unit="addition")

    def twin(self, mode: str, parameters: Size) -> Size:
        return Size(twin=True)

    def peak_bytes(self, mode: str, parameters: Size, site: Site) -> int:
        """Next to nothing, and without a rehearsal: no fault is to be met before its time."""
        return 1

    def build(self, mode: str, parameters: Size, site: Site) -> Job:
        reach("numerics" if parameters.twin else "build")
        return FaultyJob() if site.ranks is None else ManyJob(site.ranks)


class FaultyJob(Job):
    def __init__(self) -> None:
        self.witnesses = 0

    @property
    def facts(self) -> Mapping[str, str]:  # type: ignore[override]
        reach("report")
        return {}

    def step(self) -> None:
        reach("warm-up")
        sum(range(100))

    def witness(self) -> float:
        """The second look at it is at the end of the measurement."""
        self.witnesses += 1
        if self.witnesses == 2:
            reach("measure")
        return math.nan if os.environ.get("FAULT") == "nan" else 1.0

    def probe(self) -> dict[str, torch.Tensor]:
        import torch

        return {"output": torch.ones(2)}


class ManyJob(FaultyJob):
    """A sum over all ranks, of ones."""

    def __init__(self, ranks: Ranks) -> None:
        import torch

        super().__init__()
        self._ranks = ranks
        self._ones = torch.ones(4)

    def step(self) -> None:
        if reach("warm-up") != "skip":
            self._add()

    def probe(self) -> dict[str, torch.Tensor]:
        self._add()
        return super().probe()

    def _add(self) -> None:
        from torch import distributed

        distributed.all_reduce(self._ones, group=self._ranks.group)
        self._ones.fill_(1.0)


class FaultyBackend(CpuBackend):
    name = "faulty"

    def devices(self) -> list[DeviceInfo]:
        """Without torch: it would take longer than all the rest."""
        reach("probe")
        return [DeviceInfo(backend=self.name, index=0, name="Faulty device", memory_bytes=None)]

    def open(self, index: int, precision: Precision) -> Device:
        info = self.devices()[0]
        if reach("open") == "differ":
            info = msgspec.structs.replace(info, name="Another device")
        return CpuDevice(info)

    def telemetry(self, index: int) -> Source:
        reach("telemetry")
        return super().telemetry(index)

    def unsupported(self, info: DeviceInfo, precision: Precision) -> str | None:
        return None

    def read_back(self, index: int) -> Mapping[str, str]:
        """Nothing: a loop that is watched for its threads would take longer than all the rest."""
        return {}


WORKLOAD: Any = Faulty()
BACKEND: Any = FaultyBackend()
assert sys.platform == "linux"
