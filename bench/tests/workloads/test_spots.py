"""Values of the timed output are held to float64: what is wrong at the timed size alone is void."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from bench import catalogue
from bench.measuring.asked import complaint
from bench.measuring.gates.numerics import gate
from bench.measuring.proving.watch import Watch
from bench.precision import PRECISIONS
from bench.tests.small_workloads import WORKLOADS, one_thread, site
from bench.tests.stand_in_products import stand_in
from bench.tests.workloads.context_kinds import KINDS, parameters
from bench.workloads import gemm, memory
from bench.workloads.attention import AttentionParameters
from bench.workloads.contexts import contexts
from bench.workloads.jobs import products
from bench.workloads.spots import attention_spots
from bench.workloads.spots import spots as few_values
from bench.workloads.transfer import TransferJob, TransferParameters

__all__ = ["one_thread", "stand_in"]  # fixtures, used by being here

ATTENTION, GEMM = WORKLOADS["attention"], WORKLOADS["gemm"]
Attend = Callable[..., Tensor]


@pytest.fixture(autouse=True)
def few_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What rotates changes no result, and takes time."""
    monkeypatch.setattr(products, "MOST_BUFFERS", 2)


def timed(workload: Any, mode: str, given: Any, precision: str, seed: int = 5) -> Any:
    """A job with some steps behind it, as a launch leaves it: proved, after its last witness."""
    asked = PRECISIONS[precision]
    job = workload.build(mode, given, site(asked, seed=seed))
    watch = Watch(job, catalogue.backend("cpu").open(0, asked), asked, seed, thorough=True)
    watch.start()
    for step in (1, 2, 3):
        job.step()
        watch.after(step)
    watch.before(1, False)
    job.step()
    job.witness()
    watch.finish(step_seconds=1.0)
    assert watch.complaint == ""
    return job


def told(*case: Any) -> str:
    return complaint(timed(*case).looks())


class Widest(TorchDispatchMode):
    """Notes the largest float32 tensor that is made."""

    elements = 0

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = call(*args, **(kwargs or {}))
        if isinstance(found, Tensor) and found.dtype == torch.float32:
            self.elements = max(self.elements, found.numel())
        return found


def test_the_witness_of_a_product_makes_no_wider_copy_of_it() -> None:
    """On a device that would be more memory than all that the step has."""
    job = GEMM.build("matmul", gemm.MatmulParameters(shape="512x512x64"), site(PRECISIONS["bf16"]))
    job.step()
    with Widest() as seen:  # type: ignore[no-untyped-call]
        job.witness()
    assert seen.elements == 1


# What is right


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("precision", gemm.PRECISIONS_OF_PRODUCTS)
@pytest.mark.parametrize("m", [1, 33, 300])
def test_a_right_product_is_never_void(precision: str, m: int) -> None:
    n, k = (384, 640) if PRECISIONS[precision].quantized else (301, 1003)
    m = 48 if precision == "int8" and m == 1 else m  # torch has none of so few rows
    for seed in (1, 2):
        given = gemm.MatmulParameters(shape=f"{m}x{n}x{k}")
        assert told(GEMM, "matmul", given, precision, seed) == ""


@pytest.mark.parametrize("shape", ["1x1x1", "1x1x3", "2x1x4096", "1x5x17000"])
@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_nor_one_of_few_values_that_may_cancel(precision: str, shape: str) -> None:
    for seed in range(8):
        given = gemm.MatmulParameters(shape=shape)
        assert told(GEMM, "matmul", given, precision, seed) == ""


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("precision", gemm.GROUPED_PRECISIONS)
@pytest.mark.parametrize("given", [{"experts": 4, "skew": 1.5}, {"experts": 8, "skew": 8.0}])
def test_each_of_a_grouped_product_meets_its_own_matrix(precision: str, given: Any) -> None:
    asked = gemm.GroupedParameters(shape="333x96x320", **given)
    assert told(GEMM, "grouped", asked, precision) == ""


@pytest.mark.parametrize("mode", ["forward", "forward-backward"])
@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize(
    ("batch", "heads", "tokens", "width"),
    [(2, 3, 300, 40), (1, 1, 2, 8), (1, 2, 129, 64), (1, 2, 777, 72)],
)
def test_right_attention_is_never_void(
    mode: str, precision: str, batch: int, heads: int, tokens: int, width: int
) -> None:
    given = AttentionParameters(
        batch_size=batch, heads=heads, sequence_length=tokens, head_dim=width
    )
    assert told(ATTENTION, mode, given, precision) == ""


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize(("mode", "given"), KINDS, ids=str)
def test_nor_any_over_long_contexts(
    monkeypatch: pytest.MonkeyPatch, mode: str, given: Any, precision: str
) -> None:
    monkeypatch.setattr(attention_spots, "PIECE", 50)  # several
    for length in (41, 203):
        asked = parameters(mode, **{**given, "context_length": length})
        assert told(ATTENTION, mode, asked, precision) == ""


def lost(length: int, narrow: Callable[[Tensor], Tensor]) -> float:
    """The error of products whose operands become narrow."""
    draw, count = torch.Generator().manual_seed(5), 256
    a, b = (torch.randn((count, length), generator=draw) for _ in "ab")
    found = (narrow(a).double() * narrow(b).double()).sum(1)
    return few_values.Elements((0,) * count, (0,) * count).spot(found, a.double(), b.double()).error


@pytest.mark.parametrize("length", [64, 4096, 32768])
def test_a_bound_lies_between_a_precision_and_the_next(length: int) -> None:
    def most(precision: str) -> float:
        return few_values.allowed(PRECISIONS[precision], "output", length, min(length, 256))

    def cut(x: Tensor, half: int = 0) -> Tensor:
        return ((x.view(torch.int32) + half) & ~0x1FFF).view(torch.float32)

    assert 2 * lost(length, cut) < most("tf32") < lost(length, Tensor.bfloat16)
    assert most("fp32") < lost(length, lambda x: cut(x, half=0x1000))
    one_by_one = np.add.accumulate(np.full(length, 1 / 3, np.float32))[-1]
    assert 2 * abs(one_by_one / (length * float(np.float32(1 / 3))) - 1) < most("fp32")


# What is wrong at the timed size alone


def test_a_product_that_is_wrong_behind_its_twins_rows_is_void(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = gemm.multiplied

    def spoiled(a: Tensor, b: Tensor, output: Tensor | None = None) -> Tensor:
        found = right(a, b, output)
        found[256:] += found[256:].roll(1, 1)
        return found

    monkeypatch.setattr(gemm, "multiplied", spoiled)
    given = gemm.MatmulParameters(shape="512x512x64")
    assert gate(GEMM, "matmul", given, site(PRECISIONS["bf16"])).passed
    found = told(GEMM, "matmul", given, "bf16")
    assert found.startswith("product at the timed size: asked for what float64 makes of its ")
    assert ", got an error of 0.6" in found and "at row " in found


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("precision", ["fp8", "int8", "fp8-row", "mxfp8", "nvfp4", "int4-weights"])
def test_of_narrow_products_too(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    right: Any = {}
    for module, name in (
        (torch, "_scaled_mm"),
        (torch, "_int_mm"),
        (functional, "scaled_mm"),
        (torch.ops.aten, "_weight_int4pack_mm_for_cpu"),
    ):
        right[name] = getattr(module, name)

        def spoiled(*given: Any, name: str = name, **how: Any) -> Tensor:
            found: Tensor = right[name](*given, **how)
            found[256:] = 0
            return found

        # An operator has overloads, which torch looks for when it first sees one called.
        vars(spoiled).update(default=getattr(right[name], "default", None))
        monkeypatch.setattr(module, name, spoiled)
    given = gemm.MatmulParameters(shape="512x256x256")
    assert gate(GEMM, "matmul", given, site(PRECISIONS[precision])).passed
    assert "product at the timed size" in told(GEMM, "matmul", given, precision)


LONG = 2**21
"""Bytes of an array that is longer than its twin's."""


def first_part(kernel: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Of what is longer than its twin's array the first 2^17 elements alone."""

    def part(target: Tensor, *sources: Tensor) -> Tensor:
        if len(sources[0]) <= 2**18:
            return kernel(target, *sources)
        kernel(target[: len(target) // 4], *(source[: len(source) // 4] for source in sources))
        return target

    return part


ARRAYS = [(mode, how) for mode in memory.ARRAYS_MOVED for how in memory.PRECISIONS]


@pytest.mark.parametrize(("mode", "precision"), ARRAYS)
def test_arrays_that_are_written_in_part_are_void(
    mode: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    workload = WORKLOADS["memory"]
    given = msgspec.structs.replace(workload.modes[mode].parameters(), size_bytes=LONG)
    assert told(workload, mode, given, precision) == ""
    monkeypatch.setitem(memory.KERNELS, mode, first_part(memory.KERNELS[mode]))
    assert gate(workload, mode, given, site(PRECISIONS[precision])).passed
    found = told(workload, mode, given, precision)
    assert f"{mode} at the timed size: asked for what float64 makes of its operands" in found
    assert " at element " in found


@pytest.mark.parametrize(("mode", "precision"), ARRAYS)
@pytest.mark.parametrize("elements", [1, 2500])
def test_right_arrays_are_never_void(mode: str, precision: str, elements: int) -> None:
    workload = WORKLOADS["memory"]
    size = elements * (memory.ROW if mode == "read" else 1) * memory.WIDEST_BYTES
    given = msgspec.structs.replace(workload.modes[mode].parameters(), size_bytes=size)
    assert told(workload, mode, given, precision) == ""


@pytest.mark.parametrize("mode", ["to-device", "to-host"])
def test_a_transfer_of_a_part_is_void(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last element alone is behind what is copied."""
    workload = WORKLOADS["transfer"]
    given = TransferParameters(size_bytes=LONG)
    assert told(workload, mode, given, "fp32") == ""

    def step(job: Any) -> None:
        job._output, job._source = next(job._inputs)
        job._output[:-1].copy_(job._source[:-1])

    monkeypatch.setattr(TransferJob, "step", step)
    found = told(workload, mode, given, "fp32")
    assert found.startswith("copy at the timed size") and f" at element {LONG // 4 - 1:,}" in found


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_the_place_that_is_furthest_off_is_told(value: float) -> None:
    where = few_values.places(2**40, seed=1)
    assert where[0] == 0 and where[-1] == 2**40 - 1 and len(where) > 4000
    right = torch.zeros(len(where), dtype=torch.float64)
    found = right.clone()
    assert few_values.worst(where, found, right, right).error == 0.0
    found[77] = value
    spot = few_values.worst(where, found, right, right)
    assert spot.place == f"element {int(where[77]):,}" and spot.error == torch.inf


def one_key_too_few(behind: int) -> tuple[Attend, Attend]:
    """torch's attention, but that tokens behind so many do not see the first key."""
    right = functional.scaled_dot_product_attention

    def attend(query: Tensor, key: Tensor, value: Tensor, **how: Any) -> Tensor:
        tokens = key.shape[2]
        if tokens <= behind:
            return right(query, key, value, **how)
        if not how.get("is_causal"):
            return right(query, key[:, :, 1:], value[:, :, 1:], **how)
        mask = torch.ones(query.shape[2], tokens, dtype=torch.bool).tril()
        mask[behind:, 0] = False
        return right(query, key, value, **{**how, "is_causal": False, "attn_mask": mask})

    return attend, right


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("mode", ["forward", "forward-backward"])
def test_attention_that_loses_a_key_behind_its_twins_tokens_is_void(
    monkeypatch: pytest.MonkeyPatch, mode: str, precision: str
) -> None:
    attend, _ = one_key_too_few(behind=128)
    monkeypatch.setattr(functional, "scaled_dot_product_attention", attend)
    given = AttentionParameters(heads=2, head_dim=64, sequence_length=512)
    assert gate(ATTENTION, mode, given, site(PRECISIONS[precision])).passed
    found = told(ATTENTION, mode, given, precision)
    assert found.startswith("attention at the timed size: asked for what float64 makes of its ")
    assert " of head " in found and "A kernel is wrong at this size" in found


def test_gradients_too_small_for_a_format_are_as_right_as_it_can_say() -> None:
    """The last token of a long sequence has a weight below what float16 holds in full."""
    tokens, how = 16384, PRECISIONS["fp16"]
    draw = torch.Generator().manual_seed(5)
    operands = [torch.randn((1, 1, tokens, 64), generator=draw).half() for _ in range(4)]
    operands[1][..., -1, :] = -operands[0][..., -1, :]
    where = _spots_of(operands[0])
    none = [[torch.zeros(len(where.tokens), 64, dtype=torch.float64)]] * 3
    exact = attention_spots.gradient_spots(none, where, operands)
    stored = [spot._replace(found=spot.expected.half().double()) for spot in exact]
    most = few_values.allowed(how, "gradients", tokens, 128)
    assert complaint([few_values.look("gradients", stored, most)]) == ""
    lost = [spot._replace(found=spot.expected * (spot.place[4] != "v")) for spot in exact]
    assert "at the value of token" in complaint([few_values.look("gradients", lost, most)])


def _spots_of(query: Tensor) -> attention_spots.Places:
    return attention_spots.places(query.shape, 128, 5)


@pytest.mark.parametrize(("which", "what"), [(0, "query"), (1, "key"), (2, "value")])
@pytest.mark.parametrize("tokens", [512, 1024])
def test_gradients_that_are_wrong_behind_them_are_void(
    monkeypatch: pytest.MonkeyPatch, which: int, what: str, tokens: int
) -> None:
    """Of long sequences the last tokens alone; see `WHOLE_HEAD`."""
    right = torch.autograd.grad

    def spoiled(*given: Any) -> Any:
        found = [*right(*given)]
        found[which] = found[which].clone()
        found[which][:, :, 128:] *= 1.1
        return found

    monkeypatch.setattr(torch.autograd, "grad", spoiled)
    given = AttentionParameters(heads=1, head_dim=64, sequence_length=tokens)
    assert gate(ATTENTION, "forward-backward", given, site(PRECISIONS["bf16"])).passed
    found = told(ATTENTION, "forward-backward", given, "bf16")
    assert found.startswith("gradients at the timed size") and f"at the {what} of token" in found


def test_every_token_of_a_small_head_may_be_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient of the first key comes of all queries."""
    given = AttentionParameters(heads=1, head_dim=32, sequence_length=300)
    job = timed(ATTENTION, "forward-backward", given, "fp32")
    for most, seen in ((attention_spots.WHOLE_HEAD, 16), (0, attention_spots.LAST)):
        monkeypatch.setattr(attention_spots, "WHOLE_HEAD", most)
        operands, where, (_, *gradients) = job._kept
        spots = attention_spots.gradient_spots(gradients, where, operands)
        keys = [spot for spot in spots if spot.place.startswith("the key")]
        assert len(keys) == seen * len(where.heads)
        assert max(spot.error for spot in spots) < 1e-5


@pytest.mark.parametrize(
    ("mode", "given"),
    [
        ("prefill", {}),
        ("prefill", {"sinks": True, "cache": "fp8"}),
        ("decode", {}),
        ("decode", {"sinks": True}),
        ("latent-prefill", {}),
        ("latent-decode", {"cache": "fp8"}),
    ],
    ids=str,
)
def test_of_long_contexts_too(monkeypatch: pytest.MonkeyPatch, mode: str, given: Any) -> None:
    attend, _ = one_key_too_few(behind=contexts.TWIN_CONTEXT + 1)
    monkeypatch.setattr(functional, "scaled_dot_product_attention", attend)
    asked = parameters(mode, **{**given, "context_length": 130})
    assert gate(ATTENTION, mode, asked, site(PRECISIONS["fp32"], seed=5)).passed
    assert "ttention at the timed size" in told(ATTENTION, mode, asked, "fp32")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_void(value: float) -> None:
    one = torch.ones(3, dtype=torch.float64)
    spot = few_values.Spot("here", one * value, one, one)
    assert few_values.look("it", [spot], 0.1).seen == "an error of inf at here"


def test_the_ends_and_the_token_behind_the_twin_are_among_those_looked_at() -> None:
    where = attention_spots.places((3, 5, 4096, 64), 128, seed=1)
    assert where.heads == ((0, 0), (2, 4))
    assert {0, 128, *range(4088, 4096)} <= {*where.tokens} and len(where.tokens) == 16
    found = few_values.elements(4096, 512, seed=1)
    each = {*zip(*found, strict=True)}
    assert {(0, 0), (0, 511), (4095, 0), (4095, 511)} <= each
    assert found.rows.count(4095) > 10 and found.columns.count(511) > 10 and len(each) > 60
    assert found == few_values.elements(4096, 512, seed=1) != few_values.elements(4096, 512, seed=2)
