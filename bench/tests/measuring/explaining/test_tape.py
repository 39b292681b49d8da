"""A step recorded, undone, and played again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch

from bench.backends.cpu import BACKEND
from bench.measuring.explaining import counts
from bench.measuring.explaining.calls import Ref
from bench.measuring.explaining.in_order import too_little_memory
from bench.measuring.explaining.kinds import kind_of, kind_of_name
from bench.measuring.explaining.profiled import Profiler
from bench.measuring.explaining.replay import Player, operands
from bench.measuring.explaining.rows import Rows
from bench.measuring.explaining.tape import Tape, recorded
from bench.measuring.explaining.undone import aligned, in_place
from bench.tests.measuring.explaining.small_job import CLOCK, FP32, SmallJob

ATEN = torch.ops.aten


@pytest.fixture(scope="module")
def job() -> SmallJob:
    made = SmallJob()
    for _ in range(2):
        made.refill()
        made.step()
    return made


@pytest.fixture(scope="module")
def tape(job: SmallJob) -> Tape:
    job.refill()
    return recorded(job.step, "cpu")


@pytest.fixture(scope="module")
def profiler(job: SmallJob, tape: Tape) -> Profiler:
    """Which has looked at two steps."""
    found = Profiler(job, BACKEND.open(0, FP32))
    for _ in range(2):
        found.look()
    assert not found.absent
    return found


@pytest.fixture(scope="module")
def unrecorded(profiler: Profiler, tape: Tape) -> list[str]:
    """Names of a step's operators, which nobody recorded."""
    return profiler.names(tape)


def names(tape: Tape) -> Counter[str]:
    return Counter(call.name for call in tape.calls if not call.structure)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("mm", "matmul"),
        ("addmm", "matmul"),
        ("linear", "matmul"),
        ("_scaled_mm", "matmul"),
        ("max", "reduction"),
        ("_softmax_backward_data", "reduction"),
        ("max_pool2d_with_indices", "reduction"),
        ("convolution_backward", "convolution"),
        ("native_batch_norm_backward", "normalization"),
        ("_fused_adamw_", "optimizer"),
        ("_foreach_add_", "optimizer"),
        ("_scaled_dot_product_flash_attention_for_cpu_backward", "attention"),
        ("fusion_attention", "attention"),
        ("embedding_dense_backward", "gather and scatter"),
        ("index_add_", "gather and scatter"),
        ("_to_copy", "copy"),
        ("copy_", "copy"),
        ("cat", "copy"),
        ("all_reduce_", "communication"),
        ("sort", "other"),
        ("convert", "other"),
    ],
)
def test_a_kind_is_known_by_the_name_whoevers_it_is(name: str, kind: str) -> None:
    assert kind_of_name(name) == kind


def test_what_torch_calls_pointwise_is_elementwise_and_a_view_is_no_work() -> None:
    assert kind_of(ATEN.silu_backward.default) == "elementwise"
    assert kind_of(ATEN.view.default) == kind_of(ATEN.empty.memory_format) == "other"
    assert kind_of(ATEN.clone.default) == "copy", "pointwise in torch's words, and a copy"


def of(func: object, *args: object) -> tuple[int, int, int]:
    out = func(*args)  # type: ignore[operator]
    moved = counts.least_bytes(func, args, {}, out)
    return (*moved, counts.least_flop(func, args, {}, out))


def test_least_work_is_counted_from_shapes() -> None:
    a, b = torch.ones(8, 16), torch.ones(16, 4)
    assert of(ATEN.mm.default, a, b) == (4 * (128 + 64), 4 * 32, 2 * 8 * 16 * 4)
    assert of(ATEN.mul.Tensor, a, a) == (512, 512, 0), "the same operand is read once"
    assert of(ATEN.add_.Tensor, a, torch.ones(1, 1).expand(8, 16)) == (516, 512, 0)
    assert of(ATEN.copy_.default, a, torch.ones(8, 16)) == (512, 512, 0)
    assert of(ATEN.fill_.Scalar, a, 0.0) == (0, 512, 0)
    rows = torch.tensor([1, 2])
    assert of(ATEN.embedding.default, a, rows) == (2 * 64 + 16, 2 * 64, 0), "two rows of eight"
    assert of(ATEN.index_add_.default, a, 0, rows, torch.ones(2, 16)) == (16 + 256, 128, 0)
    c, d = (torch.ones(shape, dtype=torch.bfloat16) for shape in ((4, 8), (3, 8, 16)))
    ends = torch.tensor([2, 2, 4], dtype=torch.int32)
    grouped = of(ATEN._grouped_mm.default, c, d, ends)
    assert grouped == (2 * (32 + 2 * 128) + 12, 2 * 64, 2 * 4 * 8 * 16), "two matrices of three"


@pytest.mark.parametrize("scaled", [False, True])
def test_a_fused_optimizer_only_reads_gradients_that_it_does_not_scale(scaled: bool) -> None:
    """torch declares them written, in either case."""
    weights, gradients, means, squares = ([torch.ones(16)] for _ in range(4))
    given = {"grad_scale": torch.ones(1) if scaled else None, "found_inf": None}
    args: tuple[list[torch.Tensor], ...] = (weights, gradients, means, squares, [], [torch.ones(1)])
    moved = counts.least_bytes(ATEN._fused_adamw_.default, args, given, ())
    assert moved == (4 * 64 + 4 + 4 * scaled, 3 * 64 + 64 * scaled)


@pytest.mark.parametrize(
    ("causal", "flop"), [(False, 4 * 2 * 8 * 8 * 4), (True, 2 * 2 * 8 * 8 * 4)]
)
def test_half_of_causal_attention_is_masked(causal: bool, flop: int) -> None:
    q = torch.ones(1, 2, 8, 4)
    flash = ATEN._scaled_dot_product_flash_attention_for_cpu.default
    assert counts.least_flop(flash, (q, q, q, 0.0, causal), {}, None) == flop


def test_the_tape_is_the_step_that_nobody_recorded(
    tape: Tape, unrecorded: list[str], profiler: Profiler
) -> None:
    """Below a mode autograd adds gradients up out of place, and that is undone."""
    copied = Tape()
    copied.calls, copied.born, copied.leaves = [*tape.calls], {*tape.born}, tape.leaves
    assert in_place(copied, unrecorded) == 3, "of three uses of the weight, and a gather"
    profile, rows = profiler.seen(copied)
    assert profile is not None
    assert {n: float(c) for n, c in names(copied).items()} == profile.calls
    assert names(tape)["aten::add"] == 2 and "aten::add" not in profile.calls
    assert set(profile.kinds) >= {"matmul", "elementwise", "optimizer", "gather and scatter"}
    assert {row.name: row.operands for row in rows}["aten::relu"] == "fp32[8,32]"
    assert sum(row.ns or 0.0 for row in rows) == pytest.approx(sum(profile.kinds.values()))
    (added,) = [call for call in copied.calls if call.name == "aten::index_add_"]
    assert added.moved == (4 * 8 * 32 * 2 + 8 * 32, 4 * 8 * 32), "the table is not read whole"


def test_what_is_undone_may_be_written_again() -> None:
    """As in the backward of a binary cross-entropy; and only what nobody needs afterwards."""
    a, b = torch.rand(4), torch.rand(4)
    steps = recorded(lambda: ((a.sigmoid() - b) * b).add_(a.sigmoid()).relu(), "cpu")
    seen = [f"aten::{n}" for n in ("sigmoid", "sub_", "mul_", "sigmoid", "add_", "relu_")]
    assert in_place(steps, seen) == 3
    assert [call.name for call in steps.calls] == seen
    assert len({call.outs[0] for call in steps.calls}) == 2, "the two sigmoids"
    leaf = recorded(lambda: a - b, "cpu")
    assert in_place(leaf, ["aten::sub_"]) == 0, "there before the step"
    at, rows = torch.tensor([0, 1, 0]), torch.ones(3, 4)
    added = recorded(lambda: torch.zeros(2, 4).index_add(0, at, rows), "cpu")
    assert in_place(added, ["aten::zeros", "aten::index_add_"]) == 1
    assert added.calls[-1].moved == (24 + 48 + 32, 32), "no more than all of the table"


def test_two_steps_are_aligned_where_they_are_alike() -> None:
    assert list(aligned("abcdefg", "abcdefg")) == [(k, k) for k in range(7)]
    assert list(aligned("abcdefg", "abxxdefg")) == [(0, 0), (1, 1), (3, 4), (4, 5), (5, 6), (6, 7)]
    assert list(aligned("abc", "xyz")) == []


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_composites_are_taken_apart_as_in_a_step(mode: Callable[[], Any]) -> None:
    """Python's own decompositions clone where dropout does nothing, and a view of a weight that
    required nothing made a `bmm` of a product, 18 times as slow."""
    weight, x = torch.nn.Parameter(torch.randn(32, 16)), torch.randn(1, 8, 16)

    def step() -> None:
        with mode():
            last = torch.nn.functional.dropout(x, 0.1, training=False)[:, -1:, :]
            torch.nn.functional.linear(last, weight)

    assert names(recorded(step, "cpu")) == {"aten::mm": 1}


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_a_view_of_a_weight_that_python_asks_for_is_recorded(mode: Callable[[], Any]) -> None:
    """As the experts of a mixture are transposed."""
    weight, x = torch.nn.Parameter(torch.randn(32, 16)), torch.randn(8, 16)

    def step() -> None:
        with mode():
            x @ weight.transpose(0, 1)

    assert [call.name for call in recorded(step, "cpu").calls] == ["aten::transpose", "aten::mm"]


def test_a_replay_does_what_the_step_does_and_moves_no_position(unrecorded: list[str]) -> None:
    """From the same weights: played twice, as two steps; the position is where it was each time."""
    played, stepped = SmallJob(), SmallJob()
    mine = recorded(played.step, "cpu")
    assert in_place(mine, unrecorded) == 3
    player = Player(mine, CLOCK)
    for _ in range(2):
        player.play()
    for _ in range(3):
        stepped.refill()
        stepped.step()
    assert torch.allclose(played.weight, stepped.weight)
    assert int(played.position) == 40, "of the recorded step itself"
    assert not mine.asks and not mine.random


def test_a_replay_holds_no_more_than_it_says(tape: Tape) -> None:
    assert 4 * 8 * 32 < tape.replay_bytes() < 64 << 10
    assert sum(map(len, tape.dying().values())) == len(tape.born)


def test_fresh_operands_are_laid_out_alike(tape: Tape) -> None:
    call = next(call for call in tape.calls if call.name == "aten::index_copy_")
    (cache, _, index, source), _ = operands(tape, call, torch.device("cpu"))
    assert cache.shape == (64, 32) and source.shape == (1, 32) and int(index) == 0
    transposed = Ref(0, 0, (4, 8), (1, 4), torch.float32)
    assert transposed.word == "fp32[4,8/1,4]" and transposed.end_bytes == 128


def test_integers_that_a_step_made_are_what_they_were() -> None:
    """The ends of the groups of a product, say: were they 0, it would have no rows to multiply."""
    sizes, rows, columns = torch.tensor([2, 3, 1]), torch.rand(8, 4), torch.rand(8, 4)

    def step() -> None:
        ends = sizes.cumsum(0)
        rows.index_select(0, ends)
        ends.sub_(1)
        columns.t().index_select(1, ends)
        columns.t().index_select(1, ends)

    made = recorded(step, "cpu")
    first, second, third = (c for c in made.calls if c.name == "aten::index_select")
    given = [operands(made, call, torch.device("cpu"))[0][2].tolist() for call in (first, second)]
    assert given == [[2, 5, 6], [1, 4, 5]]
    assert third.variant == second.variant != first.variant and not third.known, "kept once"
    kept = made.replay_bytes()
    made.calls = [call._replace(known={}) for call in made.calls]
    assert kept - made.replay_bytes() == 2 * 3 * 8


def test_integers_that_are_written_in_place_after_all_are_still_known() -> None:
    sizes, rows = torch.tensor([2, 3, 1]), torch.rand(8, 4)
    made = recorded(lambda: rows.index_select(0, sizes.cumsum(0) + 1), "cpu")
    assert in_place(made, [f"aten::{name}" for name in ("cumsum", "add_", "index_select")]) == 1
    assert operands(made, made.calls[-1], torch.device("cpu"))[0][2].tolist() == [3, 6, 7]


def test_calls_of_a_row_may_do_other_work() -> None:
    x, y = torch.rand(8, 8), torch.rand(8, 8)
    works: list[Callable[[], Any]] = [
        lambda: x.sum(0),
        lambda: x.sum(1),
        lambda: x.sum(0, keepdim=True),
        lambda: x.sum(0, dtype=torch.float64),
    ]
    calls = [call for work in works for call in recorded(work, "cpu").calls]
    assert len({call.row for call in calls}) == 1 and len({call.variant for call in calls}) == 4
    one, other, same = (recorded(lambda a=a: x.mul(a), "cpu").calls[0] for a in (y, x, y))  # type: ignore[misc]
    assert one.row == other.row and one.variant == same.variant != other.variant


def test_an_optimizers_calls_are_in_no_row_of_backwards() -> None:
    """Gradients of a weight that is used thrice add up in place, and its momentum does so too."""
    weight = torch.nn.Parameter(torch.rand(8, 8))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9, foreach=False)

    def step() -> None:
        optimizer.zero_grad(set_to_none=False)
        (torch.rand(4, 8) @ weight @ weight @ weight).sum().backward()
        optimizer.step()

    for _ in range(2):
        step()
    made = recorded(step, "cpu")
    found, order = Rows(made, [1.0] * len(made.calls)).operators({})
    calls, ns = Counter[str](), Counter[str]()
    for row in found:
        calls[row.kind] += row.calls
        ns[row.kind] += round(row.ns or 0)
    assert calls["optimizer"] == ns["optimizer"] == 3, found
    assert [found[place].kind for place in order] == [call.kind for call in made.calls]
    assert "aten::add_" in {row.name for row in found if row.kind == "elementwise"}


def test_too_little_memory_names_a_batch_that_fits() -> None:
    assert too_little_memory(100, None, 8) == too_little_memory(100, 200, 8) == ""
    said = too_little_memory(8 << 30, 3 << 30, 64)
    assert said == (
        "tape and replay need 8.0 GiB beside the job, 3.0 GiB are there: explain it at "
        "batch_size = 16"
    )
    assert too_little_memory(100, 10, 1).endswith("where there is more memory")
