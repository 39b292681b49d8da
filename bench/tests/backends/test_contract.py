"""Every backend by its contract, where there is a device."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench import catalogue
from bench.backend import Backend, Device, DeviceUnavailable, is_out_of_memory, supported_precisions
from bench.precision import PRECISIONS
from bench.records import environment

BACKENDS = list(catalogue.plug_ins("backends"))


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
    words = environment.looked_for(backend.recorded_variables())
    shown = {*backend.worker_environment(), *backend.harmful_variables()}
    assert set(environment.variables(words, dict.fromkeys(shown, "1"))) == shown, (
        "what a backend sets, and what voids a figure on it, the record must show"
    )
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


NO_QUEUE_PAIR = """EI0007: Failed to allocate resource[qp] with info [send_cq_depth:32768].
Reason: Memory resources are exhausted.
Possible Cause: Failed to allocate memory or the Notify register due to resource insufficiency."""
"""Of HCCL's network card, not of a device's memory."""


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (MemoryError(), True),
        (RuntimeError("CUDA out of memory. Tried to allocate"), True),
        (RuntimeError("NPU out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("Memory isn't enough and alloc failed, kernel name: MatMul"), True),
        (RuntimeError("Framework Error Message:Memory not enough: Device(id:0)"), True),
        (RuntimeError("Allocate memory failed, alloc size 64"), True),
        (
            RuntimeError("level_zero failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)"),
            True,
        ),
        (
            RuntimeError("level_zero failed with error: 40 (UR_RESULT_ERROR_OUT_OF_RESOURCES)"),
            False,
        ),
        (RuntimeError("error code is 207001\n[Error]: Failed to apply for memory."), True),
        (RuntimeError("EL0004: [PID: 1] 2025-09-28 Failed to allocate memory."), True),
        (
            RuntimeError("Failed to allocate resource[DeviceMemory] with info [size:2147483648]."),
            True,
        ),
        (RuntimeError(NO_QUEUE_PAIR), False),
        (type("OutOfMemoryError", (RuntimeError,), {})("x"), True),
        (RuntimeError("shapes cannot be multiplied"), False),
        (ValueError("the word out of memory in another's mouth"), False),
    ],
)
def test_is_out_of_memory(error: BaseException, found: bool) -> None:
    assert is_out_of_memory(error) is found
