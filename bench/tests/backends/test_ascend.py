"""Ascend's backend: failures by their words, switches and variables, what its devices can do."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from bench.backend import DeviceInfo
from bench.backends import ascend
from bench.backends._loaded import missing_library
from bench.backends.ascend import AscendBackend
from bench.judging import chips
from bench.measuring import surroundings
from bench.measuring.launch import ALLOW_SIMULATED, simulated
from bench.precision import PRECISIONS
from bench.records import environment
from bench.records.outcome import Void
from bench.tests.values import make_case, make_measured


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("NPU out of memory. Tried to allocate 2.00 GiB (NPU 0; ...)", "oom"),
        (
            "synchronize: NPU function error: aclrtSync, error code is 507018",
            "device_lost",
        ),
        ("device is lost", "device_lost"),
        ("Failed to synchronize stream, ret: 507018", "device_lost"),
        ("aclrtSynchronizeEvent failed, ret:507015", "device_lost"),
        ("AclrtMemcpy failed, error code: 507899", "device_lost"),
        ("aclrtMemcpy failed, ret:107002", "error"),
        ("Memory isn't enough and alloc failed, kernel name: MatMul", "oom"),
        ("HBM MULTI BIT ECC ERROR.", "device_lost"),
        ("FORCE STOP.", "device_lost"),
        ("HCCS LINK ERROR", "device_lost"),
        ("UB LINK ERROR", "device_lost"),
        ("HCCL OP RETRY FAILED", "device_lost"),
        ("call aclnnAdd failed, error code is 161002", "error"),
        ("error code is 207001", "error"),
    ],
)
def test_failures_are_sorted(message: str, kind: str) -> None:
    assert AscendBackend().failure_kind(RuntimeError(message)) == kind


def test_a_missing_library_is_found_under_what_it_caused() -> None:
    cause = ImportError("libhccl.so: cannot open shared object file: No such file or directory")
    error = RuntimeError("Failed to load the backend extension: torch_npu.")
    error.__cause__ = cause
    assert missing_library(error) == "libhccl.so"
    assert missing_library(RuntimeError("else")) is None
    said = AscendBackend()._broken("torch_npu", RuntimeError("wrong version\nof it"))
    assert said == (
        "ascend: torch_npu is installed but does not load (wrong version). Source CANN's "
        "set_env.sh, or pass --device cpu."
    )


def test_hf32_is_read_from_both_switches(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def device(matmul: Any, conv: Any) -> ascend.AscendDevice:
        module = SimpleNamespace(
            matmul=SimpleNamespace(allow_hf32=matmul), conv=SimpleNamespace(allow_hf32=conv)
        )
        monkeypatch.setattr(torch, "npu", module, raising=False)
        return ascend.AscendDevice.__new__(ascend.AscendDevice)

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        assert not device(False, False).float32_reduced()
        assert device(True, False).float32_reduced() and device(False, True).float32_reduced()
        torch.set_float32_matmul_precision("high")
        assert device(False, False).float32_reduced()
    finally:
        torch.set_float32_matmul_precision(before)


def test_only_contiguous_memory_and_every_variable_is_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HCCL_BUFFSIZE", "200")
    backend = AscendBackend()
    assert backend.memory_format("channels_last") == "contiguous"
    monkeypatch.setenv("TASK_QUEUE_ENABLE", "2")
    monkeypatch.setenv("ASCEND_LAUNCH_BLOCKING", "1")
    assert {"HCCL_BUFFSIZE", "TASK_QUEUE_ENABLE", "ASCEND_LAUNCH_BLOCKING"} <= set(
        environment.variables(backend.recorded_variables())
    )


@pytest.mark.parametrize(("value", "harm"), [("1", True), ("0", False), ("", False), (None, False)])
def test_a_variable_that_makes_the_host_wait_is_harm(
    monkeypatch: pytest.MonkeyPatch, value: str | None, harm: bool
) -> None:
    name = "ASCEND_LAUNCH_BLOCKING"
    monkeypatch.delenv(name, raising=False)
    if value is not None:
        monkeypatch.setenv(name, value)
    said = surroundings.harmful(AscendBackend())
    assert bool(said) is harm
    if harm:
        assert said == (f"{name}=1: the host waits for every operator. Unset it and run again")


def test_torchs_own_compiler_is_tried_where_its_generator_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_NPU_BACKEND", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert AscendBackend().compilers == ("npu",)
    monkeypatch.setenv("TORCHINDUCTOR_NPU_BACKEND", "dvm")
    assert AscendBackend().compilers == ("inductor", "npu")


@pytest.mark.parametrize(("said", "units"), [({"cube_core_num": 20}, 20), ({}, None)])
def test_its_cubes_are_its_units_where_its_plug_in_counts_them(
    monkeypatch: pytest.MonkeyPatch, said: dict[str, int], units: int | None
) -> None:
    monkeypatch.setitem(sys.modules, "torch_npu", SimpleNamespace(__version__="2.13"))
    properties = SimpleNamespace(name="Ascend910_9362", total_memory=2**36, **said)
    module: Any = SimpleNamespace(__name__="torch.npu", get_device_properties=lambda _: properties)
    info = AscendBackend().describe(module, 0)
    assert info.name == "Ascend910_9362" and chips.units_of(info.facts) == units


def test_bfloat16_is_what_its_runtime_says() -> None:
    info = DeviceInfo(
        backend="ascend", index=0, name="Ascend310P3", memory_bytes=1, facts={"bfloat16": "no"}
    )
    backend = AscendBackend()
    assert backend.unsupported(info, PRECISIONS["bf16"]) == (
        "Ascend310P3 has no bfloat16, says its runtime"
    )
    assert backend.unsupported(info, PRECISIONS["fp16"]) is None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Ascend310P3", "Ascend310P3 multiplies float32 as float16, with HF32 off too"),
        ("Ascend910ProB", "Ascend910ProB multiplies float32 as float16, with HF32 off too"),
        ("Ascend910B", "Ascend910B multiplies float32 as float16, with HF32 off too"),
        ("Ascend910B3", None),
        ("Ascend910_9382", None),
        ("Ascend950PR", None),
    ],
)
def test_float32_that_is_multiplied_as_float16_is_none(name: str, said: str | None) -> None:
    """Its gate would make every such case void."""
    info = DeviceInfo(backend="ascend", index=0, name=name, memory_bytes=1)
    assert AscendBackend().unsupported(info, PRECISIONS["fp32"]) == said
    assert AscendBackend().unsupported(info, PRECISIONS["fp16"]) is None


def test_nothing_simulated_is_kept_without_being_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outcome = make_measured()
    monkeypatch.delenv(ALLOW_SIMULATED, raising=False)
    void = simulated(outcome)
    assert isinstance(void, Void) and void.numerics == outcome.numerics
    monkeypatch.setenv(ALLOW_SIMULATED, "1")
    assert simulated(outcome) is outcome
    assert make_case().fingerprint, "a case is a case wherever it runs"
