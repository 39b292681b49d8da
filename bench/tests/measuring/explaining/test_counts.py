"""FLOP of products that torch counts none of, and bytes of what is read of an operand only."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.measuring.explaining import counts
from bench.measuring.explaining.kinds import kind_of_name

ATEN = torch.ops.aten
BF16, FP8 = torch.bfloat16, torch.float8_e4m3fn


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def flop(func: Any, args: tuple[Any, ...], out: Any) -> int:
    return counts.least_flop(func, args, {}, out)


def moved(func: Any, *args: Any, out: Any = ()) -> tuple[int, int]:
    return tuple(counts.least_bytes(func, args, {}, out))  # type: ignore[return-value]


ROWS, GIVES = empty(8, 64, dtype=BF16), empty(8, 32, dtype=BF16)
NARROW, SCALE = empty(8, 64, dtype=FP8), empty(8, 1)
ENDS = torch.tensor([3, 8], dtype=torch.int32)
FP4 = empty(8, 32, dtype=torch.float4_e2m1fn_x2)
V2 = ([SCALE], [1], [0], [SCALE], [1], [0])


@pytest.mark.parametrize(
    ("func", "args", "out"),
    [
        (ATEN.linear.default, (ROWS, empty(32, 64, dtype=BF16)), GIVES),
        (ATEN.linear.default, (empty(2, 4, 64), empty(32, 64)), empty(2, 4, 32)),
        (ATEN._weight_int4pack_mm.default, (ROWS, empty(4, 4, 32, 4, dtype=torch.int32)), GIVES),
        (ATEN._weight_int4pack_mm_for_cpu.default, (ROWS, empty(32, 32, dtype=torch.uint8)), GIVES),
        (ATEN._weight_int8pack_mm.default, (ROWS, empty(32, 64, dtype=torch.int8)), GIVES),
        (ATEN._scaled_mm.default, (NARROW, empty(64, 32, dtype=FP8), SCALE, SCALE), GIVES),
        (ATEN._scaled_mm_v2.default, (NARROW, empty(64, 32, dtype=FP8), *V2), GIVES),
        (ATEN._scaled_mm_v2.default, (FP4, empty(32, 32, dtype=FP4.dtype), *V2), GIVES),
        (
            ATEN._scaled_grouped_mm.default,
            (NARROW, empty(2, 64, 32, dtype=FP8), SCALE, SCALE, ENDS),
            GIVES,
        ),
        (
            ATEN._scaled_grouped_mm_v2.default,
            (NARROW, empty(2, 64, 32, dtype=FP8), *V2, ENDS),
            GIVES,
        ),
        (ATEN._grouped_mm.default, (empty(2, 4, 64), empty(2, 64, 32)), empty(2, 4, 32)),
    ],
)
def test_products_are_counted_that_torch_does_not_know(
    func: Any, args: tuple[Any, ...], out: Any
) -> None:
    assert flop(func, args, out) == 2 * 8 * 64 * 32


def test_products_with_a_vector_are_as_much_as_their_matrix_has_elements() -> None:
    matrix, vector, out = empty(32, 64), empty(64), empty(32)
    assert flop(ATEN.mv.default, (matrix, vector), out) == 2 * 32 * 64
    assert flop(ATEN.addmv.default, (out, matrix, vector), out) == 2 * 32 * 64
    assert flop(ATEN.dot.default, (vector, vector), empty()) == 2 * 64


@pytest.mark.parametrize("mask", [(True, True, False), (True, False, False), (False, False, True)])
def test_a_linear_backward_is_as_much_for_each_gradient(mask: tuple[bool, ...]) -> None:
    x, gradient, weight = empty(8, 64), empty(8, 32), empty(32, 64)
    args = (x, gradient, weight, mask)
    assert flop(ATEN.linear_backward.default, args, None) == 2 * 8 * 64 * 32 * sum(mask[:2])


@pytest.mark.parametrize("mask", [(True, True, True), (True, False, True), (False, True, False)])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("groups", [1, 4, 32])
def test_each_gradient_of_a_convolution_is_as_much_as_the_convolution(
    groups: int, transposed: bool, mask: tuple[bool, ...]
) -> None:
    """A group's outputs are made of its own channels, and its weights' gradients too."""
    x, weight = empty(2, 32, 8, 8), empty(32, 32 // groups, 3, 3)
    how = ([2, 2], [1, 1], [1, 1], transposed, [0, 0], groups)
    y = ATEN.convolution(x, weight, None, *how)
    once = 2 * 2 * (64 if transposed else 16) * 32 * (32 // groups) * 9
    assert flop(ATEN.convolution.default, (x, weight, None, *how), y) == once
    args = (y.clone(), x, weight, [32], *how, mask)
    found = flop(ATEN.convolution_backward.default, args, ATEN.convolution_backward(*args))
    assert found == once * sum(mask[:2])


@pytest.mark.parametrize("mask", [(1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1)])
@pytest.mark.parametrize("kind", ["linear", "convolution", "layer norm"])
def test_gradients_that_are_not_asked_for_move_nothing(kind: str, mask: tuple[int, ...]) -> None:
    """Though they are given, and so are the operands of which they would be made."""
    asked = [bool(one) for one in mask]
    args: tuple[Any, ...]
    if kind == "linear":
        x, gradient, weight = empty(8, 64), empty(8, 32), empty(32, 64)
        func, args = ATEN.linear_backward.default, (x, gradient, weight, asked)
    elif kind == "convolution":
        x, gradient, weight = empty(2, 4, 8, 8), empty(2, 32, 8, 8), empty(32, 4, 3, 3)
        how = ([32], [1, 1], [1, 1], [1, 1], False, [0, 0], 1)
        func, args = ATEN.convolution_backward.default, (gradient, x, weight, *how, asked)
    else:
        x, gradient, weight = empty(8, 32), empty(8, 32), empty(32)
        rows = empty(8, 1)
        func = ATEN.native_layer_norm_backward.default
        args = (gradient, x, [32], rows, rows[:], weight, None, asked)
    size = [counts.touched(one) for one in (x, weight, empty(32))]
    read, written = counts.least_bytes(func, args, {}, (x.clone(), weight.clone(), empty(32)))
    assert written == sum(one for one, there in zip(size, mask, strict=True) if there)
    operands = size[0] * mask[1] + size[1] * mask[0]
    if kind == "layer norm":
        operands = size[0] + size[1] + counts.touched(rows)
    assert read == counts.touched(gradient) + operands


def test_a_vendors_product_is_counted_by_its_operands_whatever_its_namespace() -> None:
    library = torch.library.Library("another", "DEF")
    library.define(
        "grouped_matmul(Tensor[] x, Tensor[] weight, *, Tensor? group_list=None) -> Tensor[]"
    )
    library.define("quant_matmul(Tensor x1, Tensor x2, Tensor scale) -> Tensor")
    library.define("matmul_sum(Tensor x1, Tensor x2) -> Tensor")
    made: Any = torch.ops.another
    one, each = [empty(2, 64, 32)], made.grouped_matmul.default
    assert flop(each, ([ROWS], one), [GIVES]) == 2 * 8 * 64 * 32
    assert flop(each, ([ROWS, ROWS], one), [GIVES, GIVES]) == 2 * 2 * 8 * 64 * 32
    assert flop(each, ([ROWS, ROWS], one), [GIVES]) == 0, "nobody knows how it is laid out"
    some = {"group_list": torch.tensor([0, 8])}
    read, _ = counts.least_bytes(each, ([ROWS], one), some, [GIVES])
    assert read == 2 * 8 * 64 + 4 * 64 * 32 + 16, "one matrix of two"
    integers = (empty(8, 64, dtype=torch.int8), empty(64, 32, dtype=torch.int8), empty(1))
    assert flop(made.quant_matmul.default, integers, empty(8, 32)) == 2 * 8 * 64 * 32
    assert flop(made.matmul_sum.default, integers[:2], empty()) == 0


def test_weights_in_integers_are_multiplied_in_what_their_rows_are() -> None:
    assert counts.arithmetic((ROWS, empty(32, 32, dtype=torch.uint8))) == "bf16"
    assert counts.arithmetic((empty(8, 8, dtype=torch.int8), empty(8, 8))) == "int8"
    assert counts.arithmetic((NARROW, empty(8, 8, dtype=BF16))) == "fp8"
    assert counts.arithmetic((empty(8), 1.0)) == ""


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_counted_by_its_keys_and_its_values(causal: bool) -> None:
    """Those of a compressed cache are narrower than its keys."""
    q, k, v = empty(1, 2, 8, 24), empty(1, 2, 8, 24), empty(1, 2, 8, 16)
    once = 2 * 2 * 8 * 8 // (2 if causal else 1)
    forward = ATEN._scaled_dot_product_efficient_attention.default
    assert flop(forward, (q, k, v, None, True, 0.0, causal), None) == once * (24 + 16)
    backward = ATEN._scaled_dot_product_efficient_attention_backward.default
    more = (v, empty(1, 2, 8), empty(), empty(), 0.0, [True] * 4, causal)
    assert flop(backward, (v, q, k, v, None, *more), None) == once * (3 * 24 + 2 * 16)


X, TARGET, ONE = torch.ones(16, 32), torch.arange(16), torch.ones(())
IMAGES, POOLED = torch.ones(2, 3, 8, 8), torch.ones(2, 3, 4, 4)
PLACES = POOLED.long()


@pytest.mark.parametrize(
    ("name", "args", "read", "written"),
    [
        ("nll_loss_forward", (X, TARGET, None, 1, -100), 16 * 8 + 16 * 4, 8),
        ("nll_loss_backward", (ONE, X, TARGET, None, 1, -100, ONE * 16), 16 * 8 + 8, 2048),
        ("zeros_like", (X,), 0, 2048),
        ("full_like", (X, 1.0), 0, 2048),
        ("new_zeros", (X, [4]), 0, 16),
        (
            "max_pool2d_with_indices_backward",
            (POOLED, IMAGES, [2, 2], [2, 2], [0, 0], [1, 1], False, PLACES),
            96 * 4 + 96 * 8,
            384 * 4,
        ),
        (
            "avg_pool2d_backward",
            (POOLED, IMAGES, [2, 2], [2, 2], [0, 0], False, True, None),
            96 * 4,
            384 * 4,
        ),
        ("_adaptive_avg_pool2d_backward", (POOLED, IMAGES), 96 * 4, 384 * 4),
        ("masked_select", (X, X > 2), 512, 0),
        ("bernoulli_", (torch.ones(16), 0.5), 0, 64),
    ],
)
def test_what_tells_a_shape_only_is_not_read(
    name: str, args: tuple[Any, ...], read: int, written: int
) -> None:
    packet = getattr(ATEN, name)
    func = packet.float if name == "bernoulli_" else packet.default
    assert moved(func, *args, out=func(*args)) == (read, written)


@pytest.mark.parametrize("name", ["_embedding_bag", "_embedding_bag_forward_only"])
def test_of_a_table_whose_rows_are_summed_those_that_are_looked_up_are_read(name: str) -> None:
    """Five of 64, in two bags."""
    table, at, begins = torch.ones(64, 16), torch.tensor([3, 1, 3, 5, 9]), torch.tensor([0, 2])
    func = getattr(ATEN, name).default
    out = func(table, at, begins)
    read, written = moved(func, table, at, begins, out=out)
    assert read == 5 * 16 * 4 + 5 * 8 + 2 * 8
    assert written == sum(one.nbytes for one in out)


def test_of_gradients_of_bags_a_dense_table_is_written_and_none_is_read() -> None:
    table, at, bag = empty(64, 16), empty(5, dtype=torch.int64), empty(2, dtype=torch.int64)
    bags, of = empty(2, 16), at.clone()
    func = ATEN._embedding_bag_dense_backward.default
    found = moved(func, bags, at, of, bag, bag, 64, False, 0, None, out=table)
    assert found == (2 * 16 * 4 + 2 * 5 * 8 + 2 * 8, 64 * 16 * 4)
    func, weights = ATEN._embedding_bag_per_sample_weights_backward.default, empty(5)
    found = moved(func, bags, table, at, bag, of, 0, out=weights)
    assert found == (2 * 16 * 4 + 5 * 16 * 4 + 2 * 5 * 8 + 2 * 8, 5 * 4)


def test_lists_of_tensors_are_overwritten_without_being_read() -> None:
    a, b = [torch.ones(16), torch.ones(4)], [torch.ones(16), torch.ones(4)]
    assert moved(ATEN._foreach_zero_.default, a) == (0, 80)
    assert moved(ATEN._foreach_copy_.default, a, b) == (80, 80)
    assert kind_of_name("_foreach_copy_") == "copy", "caches are restored by it too"


def test_what_is_put_into_a_table_is_added_only_where_that_is_asked_for() -> None:
    table, at, rows = torch.ones(8, 16), [torch.tensor([1, 2])], torch.ones(2, 16)
    assert moved(ATEN.index_put_.default, table, at, rows) == (16 + 128, 128)
    assert moved(ATEN.index_put_.default, table, at, rows, True) == (16 + 256, 128)
    filled = moved(ATEN.index_fill_.int_Scalar, table, 0, at[0], 0.0)
    assert filled == (16, 0), "its rows are not counted, the table is not either"


SMALL, OFTEN, BROUGHT = torch.ones(2, 16), torch.tensor([0, 1] * 8), torch.ones(16, 16)
ALL_OF_IT, INDEX, EACH = SMALL.nbytes, OFTEN.nbytes, BROUGHT.nbytes


@pytest.mark.parametrize(
    ("func", "args", "read", "written"),
    [
        (ATEN.embedding.default, (SMALL, OFTEN), ALL_OF_IT + INDEX, EACH),
        (ATEN.index_select.default, (SMALL, 0, OFTEN), ALL_OF_IT + INDEX, EACH),
        (
            ATEN.index_add_.default,
            (SMALL.clone(), 0, OFTEN, BROUGHT),
            ALL_OF_IT + INDEX + EACH,
            ALL_OF_IT,
        ),
        (
            ATEN.index_copy_.default,
            (SMALL.clone(), 0, OFTEN, BROUGHT),
            INDEX + EACH,
            ALL_OF_IT,
        ),
    ],
)
def test_a_row_that_is_looked_up_often_moves_once(
    func: Any, args: tuple[Any, ...], read: int, written: int
) -> None:
    """A cache may hold it: of a small table it does."""
    assert moved(func, *args, out=func(*args)) == (read, written)


def test_of_a_small_table_whose_rows_are_summed_no_more_is_read_than_it_has() -> None:
    begins = torch.tensor([0, 2])
    func = ATEN._embedding_bag_forward_only.default
    read, _ = moved(func, SMALL, OFTEN, begins, out=func(SMALL, OFTEN, begins))
    assert read == ALL_OF_IT + INDEX + begins.nbytes


def test_what_is_given_to_be_written_is_not_read() -> None:
    best, where = torch.ones(16), torch.arange(16)
    given = {"max": best, "max_values": where}
    found = counts.least_bytes(ATEN.max.dim_max, (X, 1), given, (best, where))
    assert found == (2048, 64 + 128)
