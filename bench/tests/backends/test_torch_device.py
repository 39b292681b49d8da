"""What torch offers for a device and what it does not, the vendor's own word first."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from bench.backend import DeviceInfo
from bench.backends import _torch_device, cuda, generic, mps, rocm, xpu
from bench.backends._torch_device import NotAvailable, TorchBackend, TorchDevice, ask
from bench.judging.comparing.compare import compare
from bench.precision import PRECISIONS
from bench.records.execution import RESERVED
from bench.tests.judging.comparing.test_configured import ran

INFO = DeviceInfo(backend="some", index=1, name="Some", memory_bytes=1)


def module(**functions: Any) -> ModuleType:
    """What a vendor gives torch as its device's module."""
    made = ModuleType("torch.some")
    made.__dict__.update(functions)
    return made


def device(made: ModuleType) -> TorchDevice:
    opened = TorchDevice.__new__(TorchDevice)
    opened.info, opened._type, opened._module = INFO, "some", made
    opened._scope, opened._graph_type = "device allocator since its start", ""
    return opened


def test_the_vendors_own_word_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch, "accelerator", SimpleNamespace(empty_cache=lambda: "torch's"))
    assert ask(module(empty_cache=lambda: "own"), "empty_cache") == "own"
    assert ask(module(), "empty_cache") == "torch's"


def test_what_neither_has_is_not_available(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch 2.6 to 2.8, whose `torch.accelerator` has no word of memory."""
    import torch

    def without_hook(*_: Any) -> None:
        raise RuntimeError("Allocator for some is not a DeviceAllocator.")

    def unimplemented(*_: Any) -> None:
        raise NotImplementedError

    def broken(*_: Any) -> None:
        raise RuntimeError("device lost")

    monkeypatch.setattr(torch, "accelerator", SimpleNamespace(get_memory_info=without_hook))
    for made in (module(), module(mem_get_info=unimplemented)):
        with pytest.raises(NotAvailable):
            ask(made, "mem_get_info", 0)
    with pytest.raises(NotAvailable):
        ask(module(), "max_memory_allocated", 0)
    with pytest.raises(RuntimeError, match="device lost"):
        ask(module(mem_get_info=broken), "mem_get_info", 0)

    def unanswered(index: int) -> None:
        raise RuntimeError("The device (x) doesn't support querying the available free memory.")

    with pytest.raises(NotAvailable):
        ask(module(mem_get_info=unanswered), "mem_get_info", 0)


def test_memory_is_the_devices_or_says_that_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch, "accelerator", SimpleNamespace())
    whole = device(
        module(
            mem_get_info=lambda i: (3, 10),
            max_memory_allocated=lambda i: 5,
            reset_peak_memory_stats=lambda i: None,
        )
    )
    before = whole.memory()
    assert (before.peak_bytes, before.device_used_bytes) == (5, 7)
    assert before.scope == "device allocator since its start"
    whole.reset_peak_memory()
    assert whole.memory().scope == "device allocator"
    mute = device(module())
    mute.reset_peak_memory()
    mute.release_memory()
    said = mute.memory()
    assert said.scope == "process RSS (peak device memory: not available)"
    assert said.peak_bytes == said.host_rss_bytes and said.device_used_bytes is None
    zero = device(module(max_memory_allocated=lambda i: 0)).memory()
    assert zero.scope.startswith("process RSS"), "a counter that does not count"


def test_a_reset_that_forgets_what_is_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Public: a plug-in's cleared the count of live bytes, and weights were in no peak."""
    import torch

    monkeypatch.setattr(torch, "accelerator", SimpleNamespace())
    live = [30]
    opened = device(
        module(
            memory_allocated=lambda i: live[0],
            max_memory_allocated=lambda i: live[0] + 5,
            reset_peak_memory_stats=lambda i: live.__setitem__(0, 0),
        )
    )
    opened.reset_peak_memory()
    found = opened.memory()
    assert (found.peak_bytes, found.scope) == (5, "device allocator, without what was there before")


@pytest.mark.parametrize(("reserved", "used"), [(7, 7), (8, None)])
def test_a_driver_that_counts_less_than_the_allocator_holds_says_nothing(
    reserved: int, used: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Public: Intel's did not count what was allocated."""
    import torch

    monkeypatch.setattr(torch, "accelerator", SimpleNamespace())
    counts = module(mem_get_info=lambda i: (3, 10), memory_reserved=lambda i: reserved)
    assert device(counts).memory().device_used_bytes == used


def test_a_driver_whose_count_fails_spoils_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    """hipMemGetInfo, of some drivers (pytorch 126015): once `failed` after all was measured."""
    import torch

    monkeypatch.setattr(torch, "accelerator", SimpleNamespace())

    def raises(text: str) -> Any:
        def fail(index: int) -> None:
            raise RuntimeError(text)

        return fail

    broken = raises("HIP error: invalid argument")
    sound = module(mem_get_info=broken, max_memory_allocated=lambda i: 5, synchronize=lambda i: 0)
    found = device(sound).memory()
    assert (found.peak_bytes, found.device_used_bytes) == (5, None)
    assert TorchBackend.describe(rocm.BACKEND, sound, 0).memory_bytes is None
    lost = "HIP error: an illegal memory access was encountered"
    with pytest.raises(RuntimeError, match="illegal memory access"):
        device(module(mem_get_info=broken, synchronize=raises(lost))).memory()
    full = module(mem_get_info=raises("HIP error: out of memory"), synchronize=lambda i: 0)
    with pytest.raises(RuntimeError, match="out of memory"):
        device(full).memory()


@pytest.mark.parametrize(
    ("counters", "peak", "scope"),
    [
        (
            {"max_memory_allocated": 5, "max_memory_reserved": 9},
            9,
            "device allocator, reserved: a graph keeps its pool",
        ),
        ({"max_memory_allocated": 5}, 5, "device allocator, without what a graph keeps"),
        (
            {"max_memory_allocated": 5, "max_memory_reserved": 0},
            5,
            "device allocator, without what a graph keeps",
        ),
        ({"max_memory_reserved": 9}, 9, "device allocator, reserved: a graph keeps its pool"),
        ({}, None, "process RSS (peak device memory: not available)"),
        (  # whose graphs have a pool that it does not count
            {"max_memory_allocated": 5, "max_memory_reserved": 9, "cudaMallocAsync": 1},
            5,
            "device allocator, without what a graph keeps",
        ),
    ],
)
def test_after_a_recording_memory_is_what_stays_reserved(
    counters: dict[str, int], peak: int | None, scope: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a replay allocates nothing; and the cache is emptied before the peak is reset."""
    import torch

    monkeypatch.setattr(torch, "accelerator", SimpleNamespace())
    monkeypatch.setattr(_torch_device, "recorder", lambda *_: lambda work, prepare: work)
    called: list[str] = []
    said: dict[str, Any] = {name: lambda i, n=n: n for name, n in counters.items()}
    said["get_allocator_backend"] = lambda: "".join({"cudaMallocAsync"} & {*counters}) or "native"
    said["reset_peak_memory_stats"] = lambda i: called.append("reset")
    said["empty_cache"] = lambda: called.append("empty")
    opened = device(module(**said))
    opened._type = "meta"  # torch knows no `some`
    record = opened.recorder()
    assert record is not None
    opened.reset_peak_memory()
    assert called == ["reset"] and RESERVED not in opened.memory().scope
    assert record(called.clear, called.clear) is not None
    opened.reset_peak_memory()
    found = opened.memory()
    assert called == ["reset", "empty", "reset"]
    assert (found.peak_bytes, found.scope) == (peak or found.host_rss_bytes, scope)


def test_events_are_the_vendors_own_or_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def event(kind: str, *, enable_timing: bool) -> SimpleNamespace:
        return SimpleNamespace(
            made=(kind, enable_timing), record=lambda: None, elapsed_time=lambda end: 0.25
        )

    def waited(index: int) -> None: ...

    own = device(module(Event=functools.partial(event, "own"), synchronize=waited))
    assert own.event().made == ("own", True)
    monkeypatch.setattr(torch, "Event", event)
    assert device(module(synchronize=waited)).event().made == ("some", True)
    assert own.elapsed_ns(own.event(), None) == 250_000


@pytest.mark.parametrize("raised", [RuntimeError, NotImplementedError])
def test_events_that_order_work_and_say_no_time_are_none(raised: type[Exception]) -> None:
    """Then blocks are timed: torch.rbln's raise when they are asked."""

    def mute(end: object) -> float:
        raise raised("event timing is not supported")

    def unrecorded() -> None:
        raise raised("backend doesn't support events")

    for record in (lambda: None, unrecorded):
        made = SimpleNamespace(record=record, elapsed_time=mute)
        opened = device(module(Event=lambda made=made, **_: made, synchronize=lambda index: None))
        assert opened.event() is None and opened.event() is None


def test_synchronize_names_the_device() -> None:
    waited: list[int] = []
    device(module(synchronize=waited.append)).synchronize()
    assert waited == [1]


def test_a_device_is_described_by_what_its_module_says() -> None:
    class SomeBackend(TorchBackend):
        name = "some"

    backend = SomeBackend()
    full = module(
        get_device_properties=lambda i: SimpleNamespace(name="Chip", total_memory=64),
        is_bf16_supported=lambda: False,
    )
    info = backend.describe(full, 2)
    assert (info.name, info.memory_bytes, info.index) == ("Chip", 64, 2)
    assert info.facts["bfloat16"] == "no"
    assert backend.unsupported(info, PRECISIONS["bf16"]) == "Chip has no bfloat16, says its runtime"
    bare = backend.describe(module(), 0)
    assert bare.name == "some device" and "bfloat16" not in bare.facts
    assert backend.unsupported(bare, PRECISIONS["bf16"]) is None


@pytest.mark.parametrize("backend", [xpu.XpuBackend(), generic.GenericBackend()])
def test_emulated_bfloat16_is_none(backend: TorchBackend) -> None:
    """torch.xpu and torch.musa say yes to everything, unless they are asked without emulation."""

    def supported(including_emulation: bool = True) -> bool:
        return including_emulation

    emulating = module(is_bf16_supported=supported)
    info = backend.describe(emulating, 0)
    assert info.facts["bfloat16"] == "no"
    assert backend.unsupported(info, PRECISIONS["bf16"])
    native = module(is_bf16_supported=lambda including_emulation=True: True)
    for made in (native, module(is_bf16_supported=lambda: True)):
        assert backend.describe(made, 0).facts["bfloat16"] == "yes"
    assert "bfloat16" not in backend.describe(module(), 0).facts
    # torch.cuda's, which others borrow, takes every lower capability than NVIDIA's 8.0 for emulated
    emulating.__name__ = "torch.cuda"
    assert backend.describe(emulating, 0).facts["bfloat16"] == "yes"


def test_torchs_build_is_read_without_torch() -> None:
    import torch

    code = "import sys; from bench.backends._torch_device import torch_build; b = torch_build(); "
    code += "assert 'torch' not in sys.modules; print(b['__version__'], b.get('hip'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == f"{torch.__version__} {torch.version.hip}\n", done.stderr


def test_random_numbers_state_is_the_devices_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """And unknown where it does not say, or cannot."""
    import torch

    def broken() -> None:
        raise RuntimeError("no generator")

    monkeypatch.setattr(torch, "accelerator", SimpleNamespace())
    state = torch.tensor([1, 2], dtype=torch.uint8)
    assert device(module(get_rng_state=lambda: state)).random_state() == b"\1\2"
    assert device(module()).random_state() is None
    assert device(module(get_rng_state=broken)).random_state() is None


@pytest.fixture
def one_dnn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """What oneDNN's switch was set to, in a torch that has it."""
    import torch

    set_to: list[bool] = []
    switch = property(lambda _: bool(set_to and set_to[-1]), lambda _, to: set_to.append(to))
    monkeypatch.setattr(type(torch.backends.mkldnn), "allow_tf32", switch)
    before = torch.get_float32_matmul_precision()
    yield set_to
    torch.set_float32_matmul_precision(before)


def test_intels_kernels_read_onednns_switch(one_dnn: list[bool]) -> None:
    backend = xpu.XpuBackend()
    opened = xpu.XpuDevice(INFO, "xpu")
    for shortened in (True, False):
        backend.shorten_float32(shortened)
        assert one_dnn[-1] is shortened and opened.float32_reduced() is shortened
        assert opened.facts()["tf32_onednn"] == str(shortened)
    one_dnn.append(True)
    assert opened.float32_reduced(), "whoever else has set it"


def test_amds_convolutions_have_a_switch_and_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    opened = rocm.RocmDevice(INFO, "cuda")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    assert not opened.float32_reduced()
    assert opened.facts()["miopen_search"] == "torch's default"
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    assert opened.float32_reduced()
    assert opened.facts()["miopen_search"] == "exhaustive"


@pytest.mark.parametrize("kind", ["cuda", "rocm"])
def test_switches_for_sums_in_float16_are_recorded(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(cuda, "_nvml_facts", lambda info: {})
    opened = (cuda.CudaDevice if kind == "cuda" else rocm.RocmDevice)(INFO, "cuda")
    older = {"allow_tf32": False, "allow_bf16_reduced_precision_reduction": True}
    for sums, parts in ((True, False), (False, True)):
        now = {"allow_fp16_accumulation": sums, "allow_fp16_reduced_precision_reduction": parts}
        monkeypatch.setattr(torch.backends.cuda, "matmul", SimpleNamespace(**older, **now))
        facts = opened.facts()
        assert facts["fp16_accumulation"] == str(sums) and opened.float16_sums() is sums
        assert facts["fp16_reduced_precision_reduction"] == str(parts)
    monkeypatch.setattr(torch.backends.cuda, "matmul", SimpleNamespace(**older))
    assert "fp16_accumulation" not in opened.facts() and not opened.float16_sums()


def test_metals_events_are_not_relied_on() -> None:
    assert mps.MpsDevice(INFO, "mps").event() is None  # type: ignore[func-returns-value]


def test_what_miopen_was_tuned_to_is_a_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays in a file when the variable that tuned it is gone (MIOpen 3477)."""
    monkeypatch.setenv("MIOPEN_USER_DB_PATH", str(tmp_path / "none"))
    opened = rocm.RocmDevice(INFO, "cuda")
    assert opened.facts()["miopen_user_db_mode"] == "not tuned"
    monkeypatch.setenv("MIOPEN_USER_DB_PATH", str(tmp_path))
    (tmp_path / "gfx942.HIP.ufdb.txt").write_text("a cache")
    assert opened.facts()["miopen_user_db_mode"] == "not tuned"
    (tmp_path / "3.5.0").mkdir()
    (tmp_path / "3.5.0/gfx942.udb.txt").write_text("one=1\ntwo=2\n")
    first = opened.facts()["miopen_user_db_mode"]
    (tmp_path / "3.5.0/gfx942.udb.txt").write_text("two=2\none=1\n")
    assert opened.facts()["miopen_user_db_mode"] == first and first.startswith("tuned, 2 lines")
    (tmp_path / "3.5.0/gfx942.udb.txt").write_text("two=2\none=3\n")
    other = opened.facts()["miopen_user_db_mode"]
    plain, tuned = (ran(device_state={"miopen_user_db_mode": x}) for x in ("not tuned", other))
    assert other != first and len(compare(plain, tuned).configured.settings) == 1
