"""What a device is asked by a small product of its own."""

from __future__ import annotations

import io
from typing import Any

import msgspec
import pytest
import torch

from bench import quantized_product
from bench.backends import _trial
from bench.backends.cpu import BACKEND, CpuDevice
from bench.measuring import messages
from bench.measuring.launch import Launch
from bench.precision import PRECISIONS, Precision
from bench.records.case import Case
from bench.records.outcome import Skipped, Void
from bench.records.run import Settings
from bench.tests.small_workloads import one_thread
from bench.workloads import gemm

__all__ = ["one_thread"]  # a fixture, used by being here


def test_a_cpu_multiplies_int8_and_does_not_shorten_float32() -> None:
    before = torch.get_float32_matmul_precision()
    cpu = torch.device("cpu")
    assert _trial.refusal(BACKEND, cpu, PRECISIONS["int8"]) is None
    said = _trial.refusal(BACKEND, cpu, PRECISIONS["tf32"])
    assert said == "float32 products keep their whole mantissa here although the switch is on"
    assert torch.get_float32_matmul_precision() == before


def tf32(wide: torch.Tensor) -> torch.Tensor:
    """Its first 10 bits, as float32."""
    return (wide.view(torch.int32) & ~0x1FFF).view(torch.float32)


def as_tf32(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.mm(tf32(a), tf32(b))


def in_pieces(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Two of bfloat16 for each operand, without the product of the low ones."""
    (a1, a2), (b1, b2) = (
        (high, (wide - high).bfloat16().float())
        for wide in (a, b)
        for high in (wide.bfloat16().float(),)
    )
    return torch.mm(a1, b1) + torch.mm(a1, b2) + torch.mm(a2, b1)


@pytest.fixture(params=[as_tf32, in_pieces, lambda a, b: torch.mm(a.half(), b.half()).float()])
def short(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A product that shortens what it multiplies."""
    monkeypatch.setattr(torch.Tensor, "__matmul__", request.param)
    return request.param


@pytest.mark.usefixtures("short")
def test_a_trial_sees_a_short_mantissa(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert _trial.shortens(cpu)
    said = "float32 products are short with the switch off too: their format is not known"
    assert _trial.refusal(BACKEND, cpu, PRECISIONS["tf32"]) == said
    real = _trial.shortens
    monkeypatch.setattr(_trial, "shortens", lambda device: switched_on() and real(device))
    assert _trial.refusal(BACKEND, cpu, PRECISIONS["tf32"]) is None


def switched_on() -> bool:
    return torch.get_float32_matmul_precision() != "highest"


@pytest.mark.parametrize(
    ("name", "times", "said"),
    [
        ("bf16", 60.0, "torch multiplies bfloat16 here by reference code"),
        ("bf16-amp", 8.0, "torch multiplies bfloat16 here by reference code"),
        ("fp16", 9.0, "torch multiplies float16 here by reference code"),
        ("bf16", 7.9, None),
        ("fp32", 60.0, None),
        ("int4-weights", 60.0, None),
    ],
)
def test_a_product_by_reference_code_is_seen_by_its_time(
    name: str, times: float, said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []

    def seconds(operand: torch.Tensor) -> float:
        threads.append(torch.get_num_threads())
        held_up = 50.0 if len(threads) < 5 else 0.0  # the first turns; not all
        return held_up + (1.0 if operand.dtype == torch.float32 else times)

    before = torch.get_num_threads()
    monkeypatch.setattr(_trial, "_core_seconds", seconds)
    found = _trial.by_reference(PRECISIONS[name])
    assert found == (said and f"{said}, many times as slowly as float32")
    assert torch.get_num_threads() == before and set(threads) <= {1}


def test_a_slow_product_is_slow() -> None:
    """By the clock of the core: no time is asserted but that of the one beside the other."""
    small, large = torch.ones(64, 64), torch.ones(512, 512)
    least = [min(_trial._core_seconds(operand) for _ in range(5)) for operand in (small, large)]
    assert least[1] > 8 * least[0]


def test_what_a_device_lacks_or_computes_wrongly_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(error: Exception) -> Any:
        def fail(*_: Any) -> torch.Tensor:
            raise error

        return fail

    cpu, int8 = torch.device("cpu"), PRECISIONS["int8"]
    for error in (NotImplementedError("no _int_mm\nhere"), AttributeError("no _int_mm")):
        monkeypatch.setattr(quantized_product, "multiply", raising(error))
        said = _trial.refusal(BACKEND, cpu, int8)
        assert said == "torch has no such product here (no _int_mm)"
    monkeypatch.setattr(quantized_product, "multiply", lambda *_: torch.full((32, 32), 96.0))
    assert _trial.refusal(BACKEND, cpu, int8) == "a product of 48 comes out as 96"
    monkeypatch.setattr(quantized_product, "multiply", raising(RuntimeError("CUDA out of memory.")))
    with pytest.raises(RuntimeError, match="out of memory"):
        _trial.refusal(BACKEND, cpu, int8)


def launch(precision: Precision) -> Any:
    case = Case(
        workload="gemm",
        version=1,
        mode="matmul",
        precision=precision.name,
        execution="eager",
        parameters=msgspec.to_builtins(gemm.MatmulParameters(shape="32x32x32")),
    )
    request = messages.Request(
        case=case, backend="cpu", index=0, settings=Settings(), samples=10, seed=0
    )
    before = torch.get_float32_matmul_precision()
    try:
        return Launch(request, messages.Channel(io.BytesIO())).run().outcome
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_switch_that_reads_back_as_off_voids(monkeypatch: pytest.MonkeyPatch) -> None:
    tf32 = PRECISIONS["tf32"]
    skipped = launch(tf32)
    assert isinstance(skipped, Skipped) and skipped.reason.startswith("tf32: float32 products keep")
    monkeypatch.setattr(_trial, "shortens", lambda device: switched_on())
    monkeypatch.setattr(CpuDevice, "float32_reduced", lambda self: False)
    void = launch(tf32)
    assert isinstance(void, Void)
    assert void.reason.startswith(
        "products of tf32: asked for a short mantissa, got a full mantissa."
    )
