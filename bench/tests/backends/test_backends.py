"""Every backend by its contract, CUDA's logic on a fake runtime, what is said of broken ones."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench import catalogue
from bench.backend import Backend, Device, DeviceInfo, is_out_of_memory, supported_precisions
from bench.backends import _trial
from bench.backends.cuda import CudaBackend, CudaDevice
from bench.errors import DeviceUnavailable, UnknownName
from bench.precision import PRECISIONS
from bench.records import environment
from bench.running import probe
from bench.running.probe import Found, choose

BACKENDS = list(catalogue.plug_ins("backends"))


# --- The contract, where there is a device -------------------------------------------------------


@pytest.fixture(
    params=[
        pytest.param(name, marks=() if name == "cpu" else pytest.mark.accelerator)
        for name in BACKENDS
    ]
)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Every backend that has a device here."""
    found = catalogue.backend(request.param)
    try:
        found.devices()
    except DeviceUnavailable as error:
        pytest.skip(str(error))
    return found


@pytest.fixture
def device(backend: Backend) -> Iterator[Device]:
    """Its first device, opened in float32."""
    import torch

    before = torch.get_float32_matmul_precision()
    yield backend.open(0, PRECISIONS["fp32"])
    torch.set_float32_matmul_precision(before)


def test_devices_are_described(backend: Backend) -> None:
    for index, info in enumerate(backend.devices()):
        assert info.backend == backend.name and info.index == index and info.name
        assert info.memory_bytes is None or info.memory_bytes > 2**28
        assert info.address.startswith(backend.name)
        assert all(isinstance(k, str) and isinstance(v, str) for k, v in info.facts.items())


def test_work_on_a_device_is_done_after_a_synchronization(device: Device) -> None:
    import torch

    a = torch.full((64, 64), 2.0, device=device.torch_device)
    product = a @ a
    device.synchronize()
    assert product.device.type == device.torch_device.type
    assert float(product[0, 0]) == 256.0


def test_events_time_work(device: Device) -> None:
    import torch

    if device.synchronous:
        assert device.event() is None
        with pytest.raises(TypeError):
            device.elapsed_ns(None, None)
        return
    start, end = device.event(), device.event()
    a = torch.ones((512, 512), device=device.torch_device)
    start.record()
    a @ a
    end.record()
    device.synchronize()
    assert 0 < device.elapsed_ns(start, end) < 10**10


def test_the_memory_peak_grows_with_an_allocation_and_is_reset(device: Device) -> None:
    import torch

    size = 256 * 2**20
    device.release_memory()
    device.reset_peak_memory()
    before = device.memory()
    block = torch.ones(size // 4, dtype=torch.float32, device=device.torch_device)
    device.synchronize()
    full = device.memory()
    assert full.peak_bytes - before.peak_bytes >= 0.9 * size
    del block
    device.release_memory()
    assert device.memory().peak_bytes >= full.peak_bytes * 0.99, "a peak outlives its memory"
    device.reset_peak_memory()
    after = device.memory()
    assert after.peak_bytes <= full.peak_bytes - 0.9 * size
    assert before.scope == full.scope == after.scope and full.scope
    assert full.host_rss_bytes > 0


def test_facts_are_words(device: Device) -> None:
    facts = device.facts()
    assert facts and all(isinstance(k, str) and isinstance(v, str) for k, v in facts.items())


def test_every_precision_has_an_answer(backend: Backend, device: Device) -> None:
    import torch

    answers = supported_precisions(backend, device.info)
    assert set(answers) == set(PRECISIONS)
    assert answers["fp32"] is None, "float32 runs everywhere"
    for name, reason in answers.items():
        if reason is None:
            dtype = PRECISIONS[name].autocast_dtype or PRECISIONS[name].dtype
            a = torch.ones((32, 32), device=device.torch_device, dtype=dtype)
            assert float((a @ a)[0, 0]) == 32.0
        else:
            assert reason.strip() and "\n" not in reason


def test_float32_is_float32(device: Device) -> None:
    """2^12 + 1 needs 13 bits: TF32 (11) and bfloat16 (8) round it, float32 does not."""
    import torch

    assert torch.get_float32_matmul_precision() == "highest"
    a = torch.full((64, 64), 4097.0, device=device.torch_device)
    assert float((a @ torch.eye(64, device=device.torch_device))[0, 0]) == 4097.0


def test_a_device_that_is_not_there_is_refused(backend: Backend) -> None:
    with pytest.raises(DeviceUnavailable) as caught:
        backend.open(99, PRECISIONS["fp32"])
    assert f"{backend.name}:99" in str(caught.value)


def test_its_environment_and_its_memory_formats(backend: Backend) -> None:
    assert all(isinstance(v, str) for v in backend.worker_environment().values())
    assert set(backend.worker_environment()) <= {
        *environment.VARIABLES,
        *backend.recorded_variables(),
    }, "what a backend sets, the record must show"
    for preferred in ("contiguous", "channels_last"):
        assert backend.memory_format(preferred) in ("contiguous", "channels_last")


def test_out_of_memory_is_told_from_other_errors(backend: Backend, device: Device) -> None:
    """By a real one: more than any machine has."""
    import torch

    with pytest.raises((RuntimeError, MemoryError)) as caught:
        torch.empty(2**50, dtype=torch.float32, device=device.torch_device)
    assert backend.failure_kind(caught.value) == "oom"
    assert (
        backend.failure_kind(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) == "error"
    )


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (MemoryError(), True),
        (RuntimeError("CUDA out of memory. Tried to allocate"), True),
        (RuntimeError("NPU out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (type("OutOfMemoryError", (RuntimeError,), {})("x"), True),
        (RuntimeError("shapes cannot be multiplied"), False),
        (ValueError("the word out of memory in another's mouth"), False),
    ],
)
def test_is_out_of_memory(error: BaseException, found: bool) -> None:
    assert is_out_of_memory(error) is found


# --- What a record says of the host --------------------------------------------------------------


def test_the_host_is_described_without_naming_anyone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELMARK_SECRET", "s3cret-value")
    host = environment.host()
    assert host["logical_cores"] >= host["usable_cores"] >= 1
    assert host["memory_bytes"] > 0 and host["cpu"] and host["accelmark"]
    import getpass
    import platform

    text = repr(host)
    names = {"s3cret-value", platform.node(), str(Path.home())}
    if getpass.getuser() != "root":
        names.add(getpass.getuser())
    for name in names - {"", "/"}:
        assert name not in text


def test_the_stack_says_what_changes_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("MY_SWITCH", "on")
    monkeypatch.setenv("OTHER_SECRET", "no")
    monkeypatch.setenv("LD_PRELOAD_", "no")
    stack = environment.stack()
    assert stack["torch"] == torch.__version__
    assert stack["threads"] == torch.get_num_threads()
    assert stack["packages"]["torch"]
    found = environment.variables(["OMP_NUM_THREADS", "MY_SWITCH", "NOT_SET"])
    assert found == {"OMP_NUM_THREADS": "2", "MY_SWITCH": "on"}


def test_preloaded_libraries_are_named_without_their_folders(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LD_PRELOAD", "/somewhere/private/libjemalloc.so.2 libx.so")
    found = environment.variables(["LD_PRELOAD"])
    assert found == {"LD_PRELOAD": "libjemalloc.so.2 libx.so"}


# --- CUDA on a fake runtime ----------------------------------------------------------------------


class FakeCuda:
    """What the backend asks of `torch.cuda`."""

    def __init__(self, capabilities: list[tuple[int, int]]) -> None:
        self.capabilities = capabilities
        self.current: int | None = None

    def is_available(self) -> bool:
        return bool(self.capabilities)

    def device_count(self) -> int:
        return len(self.capabilities)

    def set_device(self, index: int) -> None:
        self.current = index

    def get_device_properties(self, index: int) -> Any:
        major, minor = self.capabilities[index]
        return SimpleNamespace(
            name=f"Fake GPU {index}",
            major=major,
            minor=minor,
            multi_processor_count=80,
            total_memory=16 * 2**30,
            uuid=f"0000-{index}",
        )


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    """A CUDA build of torch that sees a Turing and an Ampere GPU, without NVML."""
    import pynvml
    import torch

    fake = FakeCuda([(7, 5), (8, 0)])
    monkeypatch.setattr(torch, "cuda", fake)
    monkeypatch.setattr(torch.version, "cuda", "12.8")

    def broken() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", broken)
    for module, name in (
        (torch.backends.cudnn, "allow_tf32"),
        (torch.backends.cudnn, "benchmark"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))
    torch.get_device_module.cache_clear()
    yield fake
    torch.get_device_module.cache_clear()


@pytest.mark.usefixtures("fake_cuda")
def test_cuda_devices_are_listed() -> None:
    turing, ampere = CudaBackend().devices()
    assert (turing.address, turing.name) == ("cuda:0", "Fake GPU 0")
    assert (ampere.address, ampere.index) == ("cuda:1", 1)
    assert turing.facts["compute_capability"] == "7.5"
    assert ampere.facts["cuda"] == "12.8" and ampere.memory_bytes == 16 * 2**30
    assert "driver" not in ampere.facts, "NVML says nothing: nothing is made up"


def test_cuda_opens_the_device_with_tf32_off_but_for_tf32(fake_cuda: FakeCuda) -> None:
    import torch

    before = torch.get_float32_matmul_precision()
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("high")
    try:
        device = CudaBackend().open(1, PRECISIONS["fp32"])
        assert fake_cuda.current == 1
        assert torch.get_float32_matmul_precision() == "highest"
        assert torch.backends.cudnn.allow_tf32 is False
        CudaBackend().open(1, PRECISIONS["tf32"])
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.cudnn.allow_tf32 is True
        assert isinstance(device, CudaDevice) and device.info.index == 1
        assert not device.synchronous and device.needs_warmup_under_load
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.usefixtures("fake_cuda")
def test_cuda_refuses_a_device_that_is_not_there() -> None:
    with pytest.raises(
        DeviceUnavailable, match="cuda:2: there are 2 CUDA devices, cuda:0 to cuda:1"
    ):
        CudaBackend().open(2, PRECISIONS["fp32"])


def test_cuda_reads_tf32_back_from_the_librarys_own_variable_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    device = CudaDevice.__new__(CudaDevice)
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    assert device.float32_reduced()
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert not device.float32_reduced(), "off, whatever torch's switches say"


@pytest.mark.parametrize(
    ("capability", "lacking"),
    [
        ("7.0", {"bf16", "bf16-amp", "tf32", "fp8"}),
        ("7.5", {"bf16", "bf16-amp", "tf32", "fp8"}),
        ("8.0", {"fp8"}),
        ("8.9", set()),
        ("9.0", set()),
    ],
)
def test_cuda_has_bfloat16_and_tf32_from_ampere_on_and_fp8_from_ada_on(
    monkeypatch: pytest.MonkeyPatch, capability: str, lacking: set[str]
) -> None:
    monkeypatch.setattr(_trial, "refusal", lambda *_: None)
    info = DeviceInfo(
        backend="cuda",
        index=0,
        name="x",
        memory_bytes=1,
        facts={"compute_capability": capability},
    )
    answers = supported_precisions(CudaBackend(), info)
    assert {name for name, reason in answers.items() if reason} == lacking
    said = {"bf16": "bfloat16 (8.0", "bf16-amp": "bfloat16 (8.0", "tf32": "TF32 (8.0"}
    for name in lacking:
        what = said.get(name, "fp8 (8.9")
        assert answers[name] == f"compute capability {capability} has no {what} and above have)"


def test_cuda_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, fake_cuda: FakeCuda) -> None:
    import torch

    fake_cuda.capabilities = []
    with pytest.raises(DeviceUnavailable, match=r"cuda: .* sees no CUDA device\. Check nvidia-smi"):
        CudaBackend().devices()
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(DeviceUnavailable, match=r"cuda: this torch .* is built without CUDA\. Ins"):
        CudaBackend().devices()
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(DeviceUnavailable, match="cuda: torch does not load"):
        CudaBackend().devices()


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB", "oom"),
        ("CUDA error: an illegal memory access was encountered", "device_lost"),
        ("CUDA error: unspecified launch failure", "device_lost"),
        ("CUDA error: device-side assert triggered", "device_lost"),
        ("CUDA error: an illegal instruction was encountered", "device_lost"),
        ("CUDA error: uncorrectable ECC error encountered", "device_lost"),
        ("GPU has fallen off the bus", "device_lost"),
        ("mat1 and mat2 shapes cannot be multiplied", "error"),
        ("CUDA error: invalid argument", "error"),
    ],
)
def test_cuda_failures_are_sorted(message: str, kind: str) -> None:
    assert CudaBackend().failure_kind(RuntimeError(message)) == kind


def test_cuda_events_are_milliseconds() -> None:
    device = CudaDevice(DeviceInfo(backend="cuda", index=0, name="x", memory_bytes=1))
    start = SimpleNamespace(elapsed_time=lambda end: 1.5)
    assert device.elapsed_ns(start, None) == 1_500_000


def test_cpu_refuses_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.backends import cpu

    device = cpu.CpuDevice(DeviceInfo(backend="cpu", index=0, name="x", memory_bytes=1))
    monkeypatch.setattr(cpu, "cpu_flags", lambda: {"avx2"})
    answers = supported_precisions(cpu.BACKEND, device.info)
    assert {name for name, reason in answers.items() if reason} == {"fp16", "tf32", "fp8"}
    assert "no fp16 arithmetic" in str(answers["fp16"])
    assert "no fp8 arithmetic" in str(answers["fp8"])
    assert device.facts() == {"instructions": "avx2"}
    monkeypatch.setattr(cpu, "cpu_flags", lambda: {"amx_fp16", "amx_fp8"})
    answers = supported_precisions(cpu.BACKEND, device.info)
    assert {name for name, reason in answers.items() if reason} == {"tf32"}


def test_cpu_keeps_big_blocks_in_the_heap() -> None:
    """Or page faults cost ResNet-50 half its speed; the torch plug-ins of vendors stay away."""
    found = catalogue.backend("cpu").worker_environment()
    assert int(found["MALLOC_MMAP_THRESHOLD_"]) >= 2**30
    assert int(found["MALLOC_TRIM_THRESHOLD_"]) > int(found["MALLOC_MMAP_THRESHOLD_"])
    assert found["TORCH_DEVICE_BACKEND_AUTOLOAD"] == "0"


def test_a_peak_that_cannot_be_reset_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container without /proc/self/clear_refs, or another system."""
    from bench.backends import cpu

    device = cpu.CpuDevice(DeviceInfo(backend="cpu", index=0, name="x", memory_bytes=1))

    def refused(*_: Any) -> int:
        raise PermissionError("clear_refs")

    monkeypatch.setattr(Path, "write_text", refused)
    device.reset_peak_memory()
    assert device.memory().scope == "process RSS since its start"


# --- Probing, with runtimes that break in every way ----------------------------------------------


def broken_child(code: str) -> Found:
    """What is found of a backend whose runtime is this code."""
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    return probe._finish("fake", child)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (
            "raise ImportError('libhccl.so: cannot open shared object file')",
            "fake: its runtime fails (exit 1: ImportError: libhccl.so: cannot open shared object "
            "file)",
        ),
        ("import os; os._exit(3)", "fake: its runtime fails (exit 3)"),
        ("import os; os.kill(os.getpid(), 11)", "fake: its runtime fails (exit -11)"),
        ("print('hello')", "fake: its runtime fails (exit 0)"),
        ("import sys; sys.stdout.buffer.write(b'\"\\xff\"')", "fake: its runtime fails (exit 0)"),
    ],
    ids=["import error", "exit", "signal", "chatter", "not UTF-8"],
)
def test_a_broken_runtime_is_one_line_with_its_cause(code: str, reason: str) -> None:
    assert broken_child(code) == Found(backend="fake", reason=f"{reason}. {probe.REPAIR}")


def test_a_runtime_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "LIMIT_SECONDS", 1.0)
    found = broken_child("import time; time.sleep(600)")
    assert found == Found(
        backend="fake", reason=f"fake: its runtime did not load in 1 s. {probe.REPAIR}"
    )


def test_a_runtime_that_prints_is_understood_all_the_same() -> None:
    line = '{"backend": "fake", "reason": "fake: none here"}'
    found = broken_child(f"print('Vendor runtime 1.2'); print({line!r})")
    assert found == Found(backend="fake", reason="fake: none here")


def test_the_probe_finds_the_cpu_and_says_what_is_missing() -> None:
    """Two real children, at once."""
    found = {one.backend: one for one in probe.probe(["cpu", "cuda"])}
    (cpu,) = found["cpu"].devices
    assert cpu.address == "cpu" and cpu.facts["torch"]
    assert found["cuda"].devices or found["cuda"].reason.startswith("cuda: ")


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> dict[str, Found]:
    """What each backend finds, by script; nothing is installed for the others."""
    found = {
        "cpu": Found(backend="cpu", devices=(info("cpu", 0),)),
        "cuda": Found(backend="cuda", devices=(info("cuda", 0), info("cuda", 1))),
    }
    nothing = "nothing is installed for it"
    monkeypatch.setattr(
        probe,
        "probe",
        lambda names, *_: [
            found.get(name, Found(backend=name, reason=nothing, installed=False)) for name in names
        ],
    )
    return found


def info(backend: str, index: int) -> DeviceInfo:
    return DeviceInfo(backend=backend, index=index, name="x", memory_bytes=1)


def test_the_default_is_an_accelerator_and_else_the_cpu(scripted: dict[str, Found]) -> None:
    device, remarks = choose(None)
    assert (device.address, remarks) == ("cuda:0", [])
    scripted["cuda"] = Found(backend="cuda", reason="cuda: no driver")
    device, remarks = choose(None)
    assert (device.address, remarks) == ("cpu", ["cuda: no driver"])
    scripted["cpu"] = Found(backend="cpu", reason="cpu: torch does not load")
    with pytest.raises(DeviceUnavailable, match=r"no device: .*cuda: no driver .*cpu: torch does"):
        choose(None)


def test_a_backend_made_for_a_device_goes_before_the_generic_one_and_the_host_comes_last() -> None:
    order = probe.in_order(["cpu", "cuda", "generic", "xpu", "a-packages-own"])
    assert order == ["cuda", "xpu", "a-packages-own", "generic", "cpu"]


def test_what_is_installed_and_broken_is_said_and_what_is_not_installed_is_not(
    scripted: dict[str, Found],
) -> None:
    scripted["cuda"] = Found(backend="cuda", reason="cuda: nothing", installed=False)
    scripted["ascend"] = Found(backend="ascend", reason="ascend: CANN is missing")
    device, remarks = choose(None)
    assert (device.address, remarks) == ("cpu", ["ascend: CANN is missing"])


@pytest.mark.parametrize(
    ("address", "chosen"),
    [("cpu", "cpu"), ("cpu:0", "cpu"), ("cuda", "cuda:0"), ("cuda:1", "cuda:1")],
)
@pytest.mark.usefixtures("scripted")
def test_a_device_by_its_address(address: str, chosen: str) -> None:
    assert choose(address)[0].address == chosen


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        ("cud", UnknownName, "--device cud: unknown backend `cud`. Did you mean `cuda`? Allowed: "),
        ("", UnknownName, "--device : unknown backend ``."),
        ("cuda:x", DeviceUnavailable, "--device cuda:x: `x` is not a device index. Write cuda:0."),
        ("cuda:-1", DeviceUnavailable, "--device cuda:-1: `-1` is not a device index."),
        (
            "cuda:2",
            DeviceUnavailable,
            "--device cuda:2: there is no such device. Here: cuda:0, cuda:1.",
        ),
        ("cpu:1", DeviceUnavailable, "--device cpu:1: there is no such device. Here: cpu."),
    ],
)
@pytest.mark.usefixtures("scripted")
def test_a_device_that_is_not_there(address: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        choose(address)
    assert str(caught.value).startswith(message)


def test_a_backend_without_a_device_says_why(scripted: dict[str, Found]) -> None:
    scripted["cuda"] = Found(backend="cuda", reason="cuda: no driver. Install it.")
    with pytest.raises(DeviceUnavailable) as caught:
        choose("cuda:0")
    assert str(caught.value) == "--device cuda:0: cuda: no driver. Install it."


def test_a_third_partys_backend_that_does_not_load_spoils_no_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`accelmark devices` names it and goes on."""
    (tmp_path / "broken_backend.py").write_text("raise RuntimeError('old version')")
    monkeypatch.syspath_prepend(str(tmp_path))
    real = catalogue.plug_ins
    extra = catalogue.PlugIn(
        name="broken", module="broken_backend", attribute="BACKEND", summary="from the package x"
    )
    monkeypatch.setattr(
        catalogue,
        "plug_ins",
        lambda kind: {**real(kind), **({"broken": extra} if kind == "backends" else {})},
    )
    (found,) = probe.probe(["broken"])
    assert not found.devices
    assert found.reason.startswith("backend `broken` (from the package x) does not load: ")
    assert "old version" in found.reason


def test_a_third_partys_backend_that_fails_when_asked_spoils_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def raising(name: str) -> Backend:
        raise TypeError("no licence file")

    monkeypatch.setattr(catalogue, "backend", raising)
    (found,) = probe.probe(["theirs"])
    assert found.reason == f"theirs: its backend fails (no licence file). {probe.REPAIR}"


def test_the_environment_of_a_probe_is_the_backends() -> None:
    """So that no vendor's plug-in is loaded where another's device is looked for."""
    child = probe._start("cpu", sys.executable, {}, contextlib.ExitStack())
    assert isinstance(child, subprocess.Popen)
    try:
        environ = Path(f"/proc/{child.pid}/environ")
        if not environ.exists():
            pytest.skip("no /proc")
        while not (text := environ.read_bytes()) and child.poll() is None:
            pass  # it has not become the new program yet
        if "TORCH_DEVICE_BACKEND_AUTOLOAD" not in os.environ:
            assert b"TORCH_DEVICE_BACKEND_AUTOLOAD=0" in text
    finally:
        child.kill()
        child.communicate()
