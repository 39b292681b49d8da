"""What an operator is given that is called by itself: numbers as a step's, where they are
multiplied."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_flatten

from bench.measuring.explaining import replay
from bench.measuring.explaining.calls import Call, Ref
from bench.measuring.explaining.replay import operands
from bench.measuring.explaining.tape import Tape, recorded

CPU = torch.device("cpu")
SIZE = 64
FORMATS = [name for name in ("float8_e4m3fn", "float8_e5m2") if hasattr(torch, name)]


def given(step: Callable[[], object]) -> list[torch.Tensor]:
    """Operands of the one call of a step that does work."""
    tape = recorded(step, "cpu")
    (call,) = (call for call in tape.calls if not call.structure)
    return [one for one in operands(tape, call, CPU)[0] if isinstance(one, torch.Tensor)]


def scaled(precision: str, *dtypes: torch.dtype) -> list[torch.Tensor]:
    """Operands of a product of that precision, with scales of other dtypes behind the first two."""
    tape = recorded(lambda: torch.mm(*torch.zeros(2, SIZE, SIZE)), "cpu")
    (call,) = (call for call in tape.calls if call.flop)
    refs = tuple(Ref(k, 0, (SIZE, SIZE), (SIZE, 1), dtype) for k, dtype in enumerate(dtypes))
    spec = tree_flatten((refs, {}), is_leaf=lambda v: isinstance(v, Ref))[1]
    made: Call = call._replace(flat=refs, spec=spec, precision=precision)
    found: Any = operands(Tape(), made, CPU)
    return list(found[0])


def numbers_as_a_step_s(tensor: torch.Tensor) -> bool:
    values = tensor.float().flatten()
    negative = float((values < 0).float().mean())
    return 0.4 < negative < 0.6 and len(torch.frexp(values).exponent.unique()) > 5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_what_is_multiplied_has_both_signs_and_many_exponents(dtype: torch.dtype) -> None:
    """Of one sign and exponent fewer bits change, and a chip at its power limit runs faster."""
    x, y = torch.ones(2, SIZE, SIZE, dtype=dtype)
    a, b = given(lambda: torch.mm(x, y))
    assert a.dtype == dtype and numbers_as_a_step_s(a) and numbers_as_a_step_s(b)
    assert not torch.equal(a, b)


def test_what_is_not_multiplied_neither_overflows_nor_becomes_denormal() -> None:
    """By an operator that changes its operand each time, say."""
    x, y = torch.ones(2, SIZE, SIZE)
    for one in given(lambda: x.mul_(y)):
        assert 0.5 <= float(one.min()) <= float(one.max()) <= 1


@pytest.mark.parametrize("name", FORMATS)
def test_floats_of_eight_bits_are_numbers_and_their_scales_are_positive(name: str) -> None:
    element = getattr(torch, name)
    a, b, *scales = scaled("fp8", element, element, torch.float32, torch.float32)
    assert a.dtype == element and numbers_as_a_step_s(a) and numbers_as_a_step_s(b)
    assert all(0.5 <= float(one.min()) <= float(one.max()) <= 1 for one in scales)


@pytest.mark.skipif(not hasattr(torch, "float8_e8m0fnu"), reason="torch >= 2.7")
def test_scales_that_have_no_sign_are_numbers_too() -> None:
    element = torch.float8_e4m3fn
    a, _, scale, _ = scaled("fp8", element, element, *[torch.float8_e8m0fnu] * 2)
    assert numbers_as_a_step_s(a)
    assert set(scale.float().unique().tolist()) <= {0.5, 1.0}


@pytest.mark.skipif(not hasattr(torch, "float4_e2m1fn_x2"), reason="torch >= 2.8")
def test_codes_of_four_bits_are_all_there() -> None:
    """Their scales are floats of eight bits, and positive."""
    element = torch.float4_e2m1fn_x2
    name = str(element).removeprefix("torch.")
    a, _, scale, _ = scaled(name, element, element, *[torch.float8_e4m3fn] * 2)
    codes = a.view(torch.uint8)
    assert set((codes % 16).unique().tolist()) == set((codes // 16).unique().tolist())
    assert len((codes % 16).unique()) == 16
    assert 0.5 <= float(scale.float().min()) <= float(scale.float().max()) <= 1


def test_integers_too_large_to_be_kept_are_multiplied_and_index_nothing() -> None:
    a, b = scaled("int8", torch.int8, torch.int8)
    assert numbers_as_a_step_s(a) and numbers_as_a_step_s(b)
    (index,) = scaled("int8", torch.int32)
    assert not index.any()


def test_numbers_repeat_but_not_from_row_to_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a tensor of gigabytes as many again are not drawn."""
    monkeypatch.setattr(replay, "MOST_DRAWN", SIZE * 4 + 1)
    x, y = torch.ones(2, SIZE, SIZE)
    a, _ = given(lambda: torch.mm(x, y))
    assert numbers_as_a_step_s(a) and len(a.unique()) <= SIZE * 4 + 1
    assert len({tuple(row.tolist()) for row in a}) == SIZE
    assert replay.MOST_DRAWN % 2


def test_a_product_that_adds_to_itself_does_not_overflow() -> None:
    """Though it is called hundreds of times, in fp16."""
    total = torch.zeros(SIZE, SIZE, dtype=torch.float16)
    a, b = torch.ones(2, SIZE, SIZE, dtype=torch.float16)
    tape = recorded(lambda: torch.addmm(total, a, b, out=total), "cpu")
    (call,) = (call for call in tape.calls if call.flop)
    args, kwargs = operands(tape, call, CPU)
    for _ in range(1000):
        call.func(*args, **kwargs)
    assert kwargs["out"].data_ptr() == args[0].data_ptr() and kwargs["out"].isfinite().all()
