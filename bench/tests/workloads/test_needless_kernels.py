"""What a timed step need not call: slow ways round a fused kernel, and constants made anew."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import torch
from torch.nn import functional

from bench.precision import PRECISIONS
from bench.tests.small_workloads import WORKLOADS, build, one_thread, site
from bench.tests.validation.bare import kernels as bare
from bench.tests.validation.bare import text
from bench.tests.workloads.context_kinds import parameters
from bench.workloads.contexts import context_steps
from bench.workloads.decoding import decoder
from bench.workloads.decoding.slot_caches import Shared
from bench.workloads.jobs import products
from bench.workloads.serve import WORKLOAD as SERVE
from bench.workloads.serve import ServeParameters

__all__ = ["one_thread"]  # a fixture, used by being here

BF16 = PRECISIONS["bf16"]
ATTENTION = WORKLOADS["attention"]
SERVED = ServeParameters(
    model="tiny-untied-2l",
    slots=3,
    chunk=20,
    input_tokens=252,
    output_tokens=8,
    requests=12,
    concurrency=3,
)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any]]:
    """Operands and options of each call of torch's attention."""
    found: list[tuple[Any, Any]] = []
    right = functional.scaled_dot_product_attention

    def attend(*operands: Any, **options: Any) -> Any:
        found.append((operands, options))
        return right(*operands, **options)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", attend)
    monkeypatch.setattr(products, "MOST_BUFFERS", 2)
    monkeypatch.setattr(bare, "AT_ONCE", 1)
    return found


def called(step: Callable[[], Any]) -> Counter[str]:
    """Operators of a step after the first, within others too."""
    step()
    with torch.profiler.profile(acc_events=True) as profile:
        step()
    return Counter(event.name for event in profile.events())


@pytest.mark.parametrize("given", [{}, {"sinks": True}, {"window": 8, "cache": "fp8"}], ids=str)
def test_one_query_a_head_asks_as_rows_of_the_heads_that_share_a_key(
    calls: list[tuple[Any, Any]], given: Any
) -> None:
    """With `enable_gqa` a CPU repeats all keys and values, and takes no fused kernel."""
    p = parameters("decode", **given)
    ATTENTION.build("decode", p, site(BF16)).step()
    (((query, key, _), options),) = calls
    assert "enable_gqa" not in options
    assert query.shape == (1, p.kv_heads, p.heads // p.kv_heads, key.shape[3])


def test_so_it_does_in_the_bare_loop(calls: list[tuple[Any, Any]]) -> None:
    p = parameters("decode")
    given = {"batch_size": 1, "heads": 4, "kv_heads": 2, "head_dim": 16, "context_length": 41}
    bare.attention(given, 1).step()
    (((query, *_), options),) = calls
    assert not options.get("enable_gqa")
    assert query.shape == (1, p.kv_heads, p.heads // p.kv_heads, p.head_dim)


@pytest.mark.parametrize("given", [{}, {"sinks": True}, {"cache": "fp8"}], ids=str)
def test_a_windows_mask_is_made_for_the_scores_beforehand_and_once(
    calls: list[tuple[Any, Any]], given: Any
) -> None:
    """Of truth values torch makes what it adds to them anew in every step."""
    job = ATTENTION.build("prefill", parameters("prefill", window=8, **given), site(BF16))
    assert called(job.step)["aten::where"] == 0
    job.step()
    masks = [options["attn_mask"] for _, options in calls]
    assert {mask.dtype for mask in masks} == {torch.bfloat16}
    assert len({mask.data_ptr() for mask in masks}) == 1, "of all sets of operands"


def test_slots_of_latents_take_a_fused_kernel() -> None:
    """A CPU has none for values that are narrower than their keys."""
    job: Any = SERVE.build(
        "load", msgspec.structs.replace(SERVED, model="deepseek-tiny-2l"), site()
    )
    found = called(lambda: job._engine.run(SERVED.slots, 256))
    assert found["aten::scaled_dot_product_attention"] == 2, "layers"
    assert found["aten::_scaled_dot_product_attention_math"] == 0


@pytest.mark.parametrize("loop", [False, True], ids=["ours", "bare"])
def test_whispers_masks_are_made_for_the_scores_beforehand(loop: bool) -> None:
    """Of truth values torch makes what it adds to them anew, in every layer of every token."""
    if loop:
        step = text.whisper_infer({"batch_size": 1, "new_tokens": 2}, torch.float32).step
    else:
        step = build("whisper", "infer", site()).step
    assert called(step)["aten::where"] == 0


@pytest.mark.parametrize("model", ["tiny-untied-2l", "deepseek-tiny-2l"])
def test_masks_of_a_served_forward_are_made_for_the_scores_once(
    calls: list[tuple[Any, Any]], model: str
) -> None:
    """Not in every layer."""
    job: Any = SERVE.build("load", msgspec.structs.replace(SERVED, model=model), site(BF16))
    found = called(job.step)
    if model == SERVED.model:  # else the softmax of the chunk's attention, which is none fused
        assert found["aten::where"] == 0
    masks = [options["attn_mask"] for _, options in calls]
    assert {mask.dtype for mask in masks} == {torch.bfloat16}
    assert len(masks) == 8, "of slots and chunk, in two layers, twice"


def test_a_device_from_outside_of_torch_gets_truth_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some have a fused kernel for those alone; but a sink is a score."""
    monkeypatch.setattr(torch._C, "_get_privateuse1_backend_name", lambda: "cpu")
    shared = Shared(2, 4, torch.device("cpu"), torch.bfloat16)
    shared.compute(6, 16, 1, 16, 1)
    plain, sinks = (decoder.masks([None], 2, 3, site(BF16), behind)[0] for behind in (0, 8))
    assert {x.dtype for x in (plain, shared.decode_mask, shared.chunk_mask)} == {torch.bool}
    assert sinks.dtype == torch.bfloat16


def decoded() -> list[torch.Tensor]:
    """Masks of a token, its place on the host and on the device."""
    job: Any = build("llama", "decode", site(BF16), prompt_length=10, new_tokens=3)
    found: list[Any] = []
    job.generator.step = lambda _, at: found.append(at)
    job.generator.decode(job.token, 1)
    job.generator.decode_at(job.token, torch.ones(1, dtype=torch.long))
    (plain,), (picked,) = (at.masks for at in found)
    assert torch.equal(plain, picked) and plain.tolist() == [[[[0.0] * 12 + [-torch.inf]]]]
    return [plain, picked]


def transcribed() -> list[torch.Tensor]:
    job: Any = build("whisper", "infer", site(BF16), new_tokens=3)
    return [job._masks[1]]


def served() -> list[torch.Tensor]:
    shared = Shared(3, 4, torch.device("cpu"), torch.bfloat16)
    shared.compute(7, 21, 1, 21, 2)
    return [shared.decode_mask, shared.chunk_mask]


def windowed() -> list[torch.Tensor]:
    p = parameters("prefill", window=5, sinks=True)
    return [context_steps.block_mask(p, torch.bfloat16, torch.device("cpu"))]


@pytest.mark.parametrize("masks", [decoded, transcribed, served, windowed])
def test_rows_of_masks_lie_multiples_of_eight_apart(
    masks: Callable[[], list[torch.Tensor]],
) -> None:
    """Whatever their length; else CUDA's kernels have torch copy them in each call."""
    for mask in masks():
        assert mask.shape[-1] % 8 and mask.stride(-1) == 1
        assert [stride % 8 for stride in mask.stride()[:-1]] == [0, 0, 0]


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # the compiler's own
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile wants a C++ compiler")
def test_a_compiled_product_is_one_kernel_and_not_copied() -> None:
    """Into memory that was there the compiler copies it."""
    from torch._inductor import config
    from torch._inductor.utils import run_and_get_code

    at = msgspec.structs.replace(site(), execution="compile", compiler="inductor")
    job: Any = build("gemm", "matmul", at, shape="8x16x32")
    torch._dynamo.reset()
    patched: Any = config.patch(compile_threads=1)
    with patched:
        _, (code,) = run_and_get_code(job.step)
    torch._dynamo.reset()
    a, b, *_ = job._inputs.last
    torch.testing.assert_close(job._output, a @ b)
    assert code.count("extern_kernels.mm(") == 1
    assert "cpp_fused" not in code
