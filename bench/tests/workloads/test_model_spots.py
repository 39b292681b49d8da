"""A few values of what a model's step computes are held to float64, at the size that is timed."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from bench.measuring.asked import complaint
from bench.measuring.gates.numerics import gate
from bench.precision import PRECISIONS
from bench.quantized_product import multiply
from bench.tests.replay import FakeRecorder
from bench.tests.small_workloads import (
    CASES,
    FP32,
    KERNELS,
    WORKLOADS,
    build,
    one_thread,
    site,
    small,
)
from bench.workloads.decoding import generation
from bench.workloads.layers import quantized
from bench.workloads.spots import model_spots
from bench.workloads.spots.model_spots import ABSENT

__all__ = ["one_thread"]  # a fixture, used by being here

pytestmark = pytest.mark.usefixtures("small_vision")


@contextmanager
def kernel(operator: str, found: Callable[..., Any]) -> Iterator[None]:
    """torch's operator on a CPU, for a while."""
    library = torch.library.Library("aten", "IMPL")
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            library.impl(operator, found, "CPU", allow_override=True)
        yield
    finally:
        library._destroy()


def seen(job: Any) -> dict[str, str]:
    """What is told of the values that were looked at, by the kind of call; empty if all is well."""
    assert ABSENT not in job.facts
    found: dict[str, str] = {}
    for look in job.looks():
        if look.what.endswith("at the timed size"):
            kind = look.what.partition(" ")[0]
            found[kind] = found.get(kind) or complaint([look])
        else:
            assert complaint([look]) == ""
    assert ABSENT not in job.facts
    return found


def void(name: str, mode: str, given: Any, at: Any) -> dict[str, str]:
    """What is told of a job whose twin passes the gate; only of what is wrong."""
    assert gate(WORKLOADS[name], mode, given, at).passed
    job = WORKLOADS[name].build(mode, given, at)
    job.step()
    return {kind: words for kind, words in seen(job).items() if words}


# What is right


@pytest.mark.parametrize(
    ("name", "mode", "precision"), [case for case in CASES if case[0] not in KERNELS]
)
def test_a_right_model_is_never_void(name: str, mode: str, precision: str) -> None:
    job: Any = build(name, mode, site(PRECISIONS[precision]))
    job.step()
    found = seen(job)
    job.close()
    assert not any(found.values())
    assert "product" in found
    assert ("attention" in found) == (name not in ("dlrm", "resnet50"))
    assert ("convolution" in found) == (name in ("diffusion", "resnet50", "vit-b16", "whisper"))
    assert ("batch" in found) == (name == "resnet50")
    assert ("gradient" in found) == (mode in ("lora", "train", "train-pipeline"))


@pytest.mark.parametrize(
    ("name", "mode", "precision"),
    [
        *(("llama", "train", "bf16"), ("llama", "decode", "bf16"), ("bert", "infer", "bf16")),
        *(("llama", "train", "fp32"), ("llama", "decode", "fp32"), ("bert", "infer", "fp32")),
        ("bert", "infer", "int8"),
    ],
)
def test_nor_one_that_is_compiled(name: str, mode: str, precision: str) -> None:
    """Its step is taken as it is written, and no graph is made of that."""
    at = msgspec.structs.replace(
        site(PRECISIONS[precision]), execution="compile", compiler="aot_eager"
    )
    job: Any = build(name, mode, at)
    job.step()
    torch._dynamo.utils.counters.clear()
    found = seen(job)
    assert {"product", "gather", "attention", "norm"} <= {*found}
    assert not any(found.values())
    assert not torch._dynamo.utils.counters["stats"]


MASKS: dict[str, Any] = {
    "none": {},
    "causal": {"is_causal": True},
    "truths": {"attn_mask": torch.rand(7, 300) < 0.7},
    "added": {"attn_mask": torch.randn(1, 4, 7, 300)},
    "of a sequence": {"attn_mask": (torch.rand(3, 1, 1, 300) < 0.5)},
    "scale": {"scale": 0.3},
}


@pytest.mark.parametrize("groups", [4, 2, 1])
@pytest.mark.parametrize("how", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_attention_is_held_to_its_call(how: Any, groups: int, dtype: torch.dtype) -> None:
    precision = PRECISIONS["fp32" if dtype == torch.float32 else "bf16"]
    query, key, value = (
        torch.randn((3, heads, length, 16), dtype=dtype)
        for heads, length in ((4, 7), (groups, 300), (groups, 300))
    )
    given: dict[str, Any] = {"query": query, "key": key, "value": value, **how}
    given["enable_gqa"] = groups < 4
    mask = given.get("attn_mask")
    if mask is not None and mask.is_floating_point():
        given["attn_mask"] = mask.to(dtype)
    found = functional.scaled_dot_product_attention(**given)
    for output, right in ((found, True), (found * 1.1, False)):
        call = model_spots._call("scaled_dot_product_attention", given, output)
        assert call is not None
        assert (complaint(call.looks("attention", site(precision))) == "") is right


# What is wrong at the timed size alone


def masked(query: Tensor, key: Tensor, value: Tensor, mask: Any, *how: Any, **more: Any) -> Tensor:
    """Attention that forgets its mask where there are more than 64 keys."""
    mask = mask if key.shape[2] <= 64 else None
    more = {name: more[name] for name in ("scale", "enable_gqa") if name in more}
    found = torch.ops.aten._scaled_dot_product_attention_math(query, key, value, mask, *how, **more)
    output: Tensor = found[0]
    return output


@pytest.mark.parametrize("execution", ["eager", "compile"])
def test_attention_that_forgets_its_mask_behind_the_twins_keys_is_void(execution: str) -> None:
    given = small("llama", "decode", prompt_length=96, new_tokens=9)
    at = msgspec.structs.replace(site(), execution=execution, compiler="eager")
    with kernel("scaled_dot_product_attention", masked):
        found = void("llama", "decode", given, at)
    assert found.keys() == {"attention"}
    assert "1 heads, 2 queries, 105 keys) at the timed size: asked for what" in found["attention"]
    assert "A kernel is wrong at this size" in found["attention"]


def product(a: Tensor, b: Tensor) -> Tensor:
    """A product whose last columns are not written behind 2,048 rows."""
    found = torch.addmm(a.new_zeros(b.shape[1]), a, b)
    found[2048:, -8:] = 0
    return found


@pytest.mark.parametrize("precision", ["fp32", "bf16-amp"])
def test_a_product_without_its_last_columns_behind_the_twins_rows_is_void(precision: str) -> None:
    given = small("llama", "train", batch_size=16, sequence_length=256)
    with kernel("mm", product):
        found = void("llama", "train", given, site(PRECISIONS[precision]))
    assert found.keys() == {"product", "gradient"}
    assert "got an error of" in found["product"] and "at row " in found["product"]


def eighth(x: Tensor) -> Tensor:
    """As e4m3 has it, scaled by rows."""
    scale = x.abs().amax(-1, keepdim=True).float().clamp(min=1e-30) / 448
    return ((x / scale).to(torch.float8_e4m3fn).float() * scale).to(x.dtype)


def quick_product(a: Tensor, b: Tensor) -> Tensor:
    if len(a) >= 512:
        a, b = eighth(a), eighth(b.t()).t()
    return torch.addmm(a.new_zeros(b.shape[1]), a, b)


def quick_attention(query: Tensor, key: Tensor, value: Tensor, *how: Any, **more: Any) -> Tensor:
    if key.shape[2] > 64:
        key, value = eighth(key), eighth(value)
    output: Tensor = torch.ops.aten._scaled_dot_product_attention_math(
        query, key, value, *how, **more
    )[0]
    return output


@pytest.mark.parametrize(
    ("operator", "found", "kind"),
    [
        ("mm", quick_product, "product"),
        ("scaled_dot_product_attention", quick_attention, "attention"),
    ],
)
def test_8_bits_in_place_of_16_are_void(operator: str, found: Any, kind: str) -> None:
    given = small("llama", "prefill", batch_size=4, prompt_length=256)
    with kernel(operator, found):
        assert void("llama", "prefill", given, site(PRECISIONS["bf16"])).keys() == {kind}


@pytest.mark.parametrize(
    ("name", "kind"), [("linear", "product"), ("scaled_dot_product_attention", "attention")]
)
def test_what_a_plug_in_has_in_place_of_a_function_is_looked_at(
    name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = getattr(functional, name)

    def plain(*given: Any, **more: Any) -> Tensor:
        output: Tensor = right(*given, **more)
        return output * (1.1 if output.shape[-2] > 64 else 1)

    monkeypatch.setattr(functional, name, plain)
    given = small("llama", "prefill", prompt_length=96)
    assert void("llama", "prefill", given, site()).keys() == {kind}
    assert getattr(functional, name) is plain


def zeroed(found: Tensor) -> Tensor:
    found[2048:] = 0
    return found


@pytest.mark.parametrize(
    ("precision", "wrong", "how"),
    [
        ("fp8", "multiply", zeroed),
        ("int8", "multiply", zeroed),
        ("int8", "quantize", lambda found: (found[0], zeroed(found[1]))),
    ],
)
def test_so_is_one_of_8_bits(
    monkeypatch: pytest.MonkeyPatch, precision: str, wrong: str, how: Any
) -> None:
    right, asked = getattr(quantized, wrong), PRECISIONS[precision]
    monkeypatch.setattr(quantized, wrong, lambda *given: how(right(*given)))
    given = small("llama", "prefill", batch_size=16, prompt_length=256)
    found = void("llama", "prefill", given, site(asked))
    assert found.keys() == {"product"}
    assert found["product"].startswith(f"product of {asked.quantized} 1 of 21 (4096 x 64 x 64) at ")


@pytest.mark.parametrize("precision", ["fp8", "int8"])
def test_one_row_of_8_bits_is_held_too_and_padding_where_a_device_wants_it(
    monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """The gate's own products have as many rows as padding makes."""
    right, rows = multiply, quantized.PADDED_ROWS
    given = small("qwen3", "decode", batch_size=1)

    def demanding(operand: Tensor, *others: Any) -> Tensor:
        if len(operand) < rows:
            raise RuntimeError("self.size(0) needs to be greater than 16")
        return right(operand, *others)

    def spoiled(operand: Tensor, scale: Tensor, *others: Any) -> Tensor:
        return demanding(operand, scale * (2 if operand[-1].eq(0).all() else 1), *others)

    monkeypatch.setattr(quantized, "_needs_padding", quantized._needs_padding.__wrapped__)
    for by, wrong in ((demanding, set()), (spoiled, {"product"})):
        monkeypatch.setattr(quantized, "multiply", by)
        job: Any = WORKLOADS["qwen3"].build("decode", given, site(PRECISIONS[precision]))
        job.step()
        found = seen(job)
        assert {kind for kind, words in found.items() if words} == wrong


def gathered(table: Tensor, indices: Tensor, *_: Any) -> Tensor:
    """Rows of which none is written behind so many elements."""
    found = table.index_select(0, indices.flatten())
    found[2048:] = 0
    return found.view(*indices.shape, -1)


def test_a_gather_without_its_last_rows_is_void() -> None:
    given = small("llama", "prefill", batch_size=16, prompt_length=256)
    with kernel("embedding", gathered):
        found = void("llama", "prefill", given, site(PRECISIONS["bf16"]))
    assert found.keys() == {"gather"}
    assert "rows of its table, as they are, got another than row " in found["gather"]


# What it must not do


@pytest.mark.parametrize("execution", ["eager", "graph"])
@pytest.mark.parametrize("name", ["llama", "gpt-oss", "deepseek"])
def test_decode_goes_on_afterwards_as_before(name: str, execution: str) -> None:
    at = msgspec.structs.replace(site(), execution=execution, recorder=FakeRecorder())
    jobs: list[Any] = [build(name, "decode", at, prompt_length=12, new_tokens=6) for _ in range(2)]
    for job in jobs:
        for _ in range(4):
            job.step()
    assert not any(seen(jobs[0]).values())
    jobs[1]._rewind()
    for _ in range(8):
        for job in jobs:
            job.step()
        assert torch.equal(jobs[0]._output, jobs[1]._output)


@pytest.mark.parametrize(
    ("name", "mode"), [("llama", "train"), ("vit-b16", "infer"), ("llama", "prefill")]
)
def test_nor_is_one_that_is_recorded_void(name: str, mode: str) -> None:
    recorder = FakeRecorder()
    job: Any = build(
        name, mode, msgspec.structs.replace(site(), execution="graph", recorder=recorder)
    )
    job.step()
    replays = recorder.replays
    found = seen(job)
    assert {"product", "attention"} <= found.keys() and not any(found.values())
    assert recorder.replays == replays


@pytest.mark.parametrize("execution", ["eager", "graph"])
def test_training_goes_on_with_the_gradients_of_the_step_that_was_looked_at(
    execution: str,
) -> None:
    at = msgspec.structs.replace(site(), execution=execution, recorder=FakeRecorder())
    job: Any = build("llama", "train", at)
    job.step()
    before = [p.grad for p in job._model.parameters()]
    assert "gradient" in seen(job)
    after = [p.grad for p in job._model.parameters()]
    if execution == "graph":  # where a recording writes them
        assert all(one is other for one, other in zip(before, after, strict=True))
    job._update(job._taken)
    assert all(map(torch.equal, after, (p.grad for p in job._model.parameters())))


@pytest.mark.parametrize("fails", ["_evaluate", "_update"])
def test_a_look_that_fails_costs_no_word_of_the_optimizer(
    fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        job._optimizer.zero_grad(set_to_none=True)
        raise torch.OutOfMemoryError("no room")

    job: Any = build("llama", "train", site())
    job.step()
    asked = job.facts["optimizer"]
    monkeypatch.setattr(job, fails, fail)
    assert complaint(job.looks()) == ""
    assert job.facts["optimizer"] == asked
    assert job.facts[ABSENT] == "not observable: OutOfMemoryError: no room"


def test_looks_keep_nothing() -> None:
    def count() -> int:
        gc.collect()
        return sum(isinstance(one, torch.Tensor) for one in gc.get_objects())

    job: Any = build("llama", "train", site())
    job.step()
    assert "gradient" in seen(job)
    before = count()
    assert "gradient" in seen(job)
    assert count() == before


@pytest.mark.parametrize("kind", ["train", "infer"])
def test_one_launch_of_a_case_looks(kind: str) -> None:
    job: Any = build("bert", kind, site())
    job.step()
    job.thorough = False
    assert seen(job) == {}


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no room"), MemoryError(), ValueError()])
def test_what_fails_costs_no_figure(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise error

    job: Any = build("llama", "decode", site(FP32))
    job.step()
    monkeypatch.setattr(generation.Generator, "late", fail)
    assert complaint(job.looks()) == ""
    assert job.facts[ABSENT].startswith("not observable: ")
