"""What gemm, memory, attention, launch and transfer each promise beyond the contract."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench.precision import PRECISIONS
from bench.tests.small_workloads import FP32, WORKLOADS, build, one_thread, site, small
from bench.workload import Unsupported

__all__ = ["one_thread"]  # a fixture, used by being here


def test_gemm_multiplies_and_rotates_through_more_than_a_cache() -> None:
    job: Any = build("gemm", "matmul", site(), shape="5x7x3")
    assert job.facts["operand buffers"] == "16"
    outputs = set()
    for _ in range(16):
        job.step()
        outputs.add(job._output.data_ptr())
    assert len(outputs) == 16
    a, b, c = next(job._inputs)
    assert torch.equal(c, a @ b)
    assert (a.shape, b.shape) == ((5, 3), (3, 7))


def test_gemm_counts_two_flop_a_product() -> None:
    gemm = WORKLOADS["gemm"]
    work = gemm.work("matmul", gemm.modes["matmul"].parameters(), FP32)
    assert work.items == work.flop == 2 * 2048**3
    assert work.moved_bytes == 3 * 2048**2 * 4


@pytest.mark.parametrize(("mode", "arrays"), [("copy", 2), ("scale", 2), ("triad", 3)])
def test_memory_does_what_stream_does(mode: str, arrays: int) -> None:
    job: Any = build("memory", mode, site(), size_bytes=64)
    b, *c = job._sources
    expected = {"copy": b, "scale": 3.0 * b, "triad": b + 3.0 * c[0] if c else None}[mode]
    job.step()
    assert torch.allclose(job._output, expected)
    work = WORKLOADS["memory"].work(mode, small("memory", mode, size_bytes=64), FP32)
    assert (work.items, work.moved_bytes, work.flop) == (arrays * 64, arrays * 64, None)
    assert job._output.numel() * 4 == 64


def test_attention_is_what_torch_defines_and_so_are_its_gradients() -> None:
    job: Any = build("attention", "forward-backward", site())
    query, key, value, gradient = (t.detach() for t in next(job._inputs))
    again = iter(
        [
            tuple(
                t.clone().requires_grad_(k < 3) for k, t in enumerate((query, key, value, gradient))
            )
        ]
    )
    job._inputs = again
    job.step()
    query, key, value = (t.clone().requires_grad_() for t in (query, key, value))
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    output = scores.masked_fill(~mask, -torch.inf).softmax(-1) @ value
    expected = torch.autograd.grad(output, (query, key, value), gradient)
    torch.testing.assert_close(job._output, output, rtol=1e-4, atol=1e-5)
    for found, right in zip(job._gradients, expected, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-5)


def test_attention_counts_the_half_that_the_mask_leaves() -> None:
    workload = WORKLOADS["attention"]
    parameters = workload.modes["forward"].parameters()
    forward = workload.work("forward", parameters, PRECISIONS["bf16"])
    # FlashAttention's benchmark: 4 T^2 D heads batch, halved for the mask.
    assert forward.flop == 4 * 512**2 * 128 * 16 / 2
    assert forward.moved_bytes == 4 * 512 * 128 * 16 * 2
    both = workload.work("forward-backward", parameters, PRECISIONS["bf16"])
    assert both.flop == 3 * forward.flop
    assert both.moved_bytes == 3 * forward.moved_bytes


def test_launch_queues_as_many_kernels_as_it_counts() -> None:
    class Counter(TorchDispatchMode):
        calls = 0

        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            self.calls += 1
            return func(*args, **(kwargs or {}))

    for mode, kernels in (("queue", 100), ("single", 1)):
        job = build("launch", mode, site())
        counter: Any = Counter()
        with counter:
            job.step()
        workload = WORKLOADS["launch"]
        assert counter.calls == kernels == workload.work(mode, small("launch", mode), FP32).items


def test_a_transfer_arrives_and_overwrites_what_was_there() -> None:
    for mode in ("to-device", "to-host"):
        job: Any = build("transfer", mode, site(), size_bytes=64)
        pairs = [next(job._inputs) for _ in range(4)]
        assert len({target.data_ptr() for target, _ in pairs}) == 4
        for target, source in pairs:
            assert target.data_ptr() != source.data_ptr()
            assert not target.any() and source.any()
            job.step()
            assert torch.equal(target, source)
            assert target.numel() * target.element_size() == 64


def test_pinned_memory_needs_a_device_and_is_skipped_without() -> None:
    with pytest.raises(Unsupported, match="a device other than the host"):
        build("transfer", "to-host", site(), memory="pinned")
