"""Norms in one kernel: torch's own norm to a rounding, by weights that stay the model's."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from bench.precision import PRECISIONS
from bench.tests.small_workloads import build, one_thread, site
from bench.workloads.decoding.generation import chosen
from bench.workloads.layers import norms as norm_layers

__all__ = ["one_thread"]  # a fixture, used by being here

EPSILON = 1e-2


class Norm(torch.nn.Module):
    """As the library's: a weight, and what it adds."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.rand(24).to(dtype))
        self.variance_epsilon = EPSILON


class Kernels(TorchDispatchMode):
    """Names of what computes: neither views, nor places that nothing is written into."""

    NONE = frozenset({"view", "select", "slice", "split", "split_with_sizes", "unsqueeze"})
    NONE |= {"unbind", "t", "detach", "reshape"}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and its compiler takes seconds to import

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().removeprefix("aten::").split(".")[0]
        if name.removeprefix("_unsafe_") not in self.NONE:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def kernels(work: Any) -> list[str]:
    counting: Any = Kernels()
    with torch.no_grad(), counting:
        work()
    found: list[str] = counting.found
    return found


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_mirrored_norm_is_the_norm_of_the_sum_in_one_kernel(precision: str) -> None:
    at = site(PRECISIONS[precision])
    dtype: Any = at.precision.dtype
    norms, norm = norm_layers.norms_of(at), Norm(dtype)
    prepared = norms.prepared(norm)
    # Far from zero in the mean, which layer norm alone would take away; and smaller than epsilon.
    first = (torch.randn(5, 24) + 3).to(dtype)
    for scale in (1.0, 1e-3):
        both = [first * scale, first.flip(1) * scale]
        norms.add(stream := norms.stream(both[0]), both[1])
        summed = both[0] + both[1]
        expected = functional.rms_norm(summed, (24,), norm.weight, EPSILON)
        exact = 2**-8 if precision == "bf16" else 1e-6
        torch.testing.assert_close(prepared(stream), expected, rtol=exact, atol=1e-7)
    assert kernels(lambda: prepared(stream)) == ["native_layer_norm"]


def test_a_weight_that_moves_moves_the_norm() -> None:
    at = site()
    norms, norm = norm_layers.norms_of(at), Norm(torch.float32)
    prepared, stream = norms.prepared(norm), norms.stream(torch.randn(2, 24))
    before = prepared(stream)
    with torch.no_grad():
        norm.weight.mul_(2)
    torch.testing.assert_close(prepared(stream), 2 * before)


def test_torch_norms_what_is_compiled_and_where_it_has_a_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for execution, own in (("eager", False), ("graph", False), ("compile", True)):
        found = norm_layers.norms_of(msgspec.structs.replace(site(), execution=execution))
        assert (type(found) is norm_layers.Norms) == own
    monkeypatch.setattr(norm_layers, "_has_kernel", lambda _: True)
    norms = norm_layers.norms_of(site())
    values, norm = torch.randn(2, 24), Norm(torch.float32)
    norms.add(stream := norms.stream(values.clone()), values)
    assert norms.stream(values) is values, "a row of rows costs a compiled product a copy"
    torch.testing.assert_close(
        norms.prepared(norm)(stream),
        functional.rms_norm(2 * values, (24,), norm.weight, EPSILON),
    )


LAYER = {
    "addcmul_": 3,
    "flip": 1,
    "index_copy_": 1,
    "layer_norm": 2,
    "mm": 7,
    "mul_": 2,
    "scaled_dot_product_attention": 1,
    "silu_": 1,
}
"""18: products, attention, norms, sums, the turn and keeping of heads, SiLU and its product."""
KERNELS = {"llama": LAYER, "qwen3": LAYER | {"layer_norm": 4, "mul": 1, "cat": 1}}
"""Qwen3 norms queries and keys."""


@pytest.mark.parametrize("name", KERNELS)
def test_a_layer_of_decode_has_18_kernels_and_its_heads_norms(name: str) -> None:
    job: Any = build(name, "decode", site(), model="tiny", batch_size=3, prompt_length=9)
    job.step()
    found = kernels(job.step)
    layer = KERNELS[name]
    token = {"embedding": 1, "layer_norm": 1, "max": 1, "mm": 1, "mul": 1}
    counted = {name: 3 * layer.get(name, 0) + token.get(name, 0) for name in {**layer, **token}}
    assert {name: found.count(name) for name in set(found)} == counted


def test_the_largest_is_chosen() -> None:
    logits = torch.randn(3, 1, 50)
    assert torch.equal(chosen(logits), logits.argmax(-1))
