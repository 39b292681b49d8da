"""A job under watch whose steps end when the device is waited for, and not before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from bench import catalogue
from bench.measuring.proving import early, left_out
from bench.measuring.proving.watch import READ_AFTER, Watch
from bench.precision import PRECISIONS
from bench.tests.measuring.proving.watching import opened
from bench.tests.small_workloads import build, one_thread, site
from bench.workloads.transfer import TransferJob

__all__ = ["one_thread"]

COUNT = 4096
FP32 = PRECISIONS["fp32"]


class Late:
    """A device that does what is queued when somebody waits for it."""

    synchronous = queues_on_host = False
    torch_device = torch.device("cpu")

    def __init__(self) -> None:
        self.queued: list[Callable[[], object]] = []

    def synchronize(self) -> None:
        queued, self.queued = self.queued, []
        for work in queued:
            work()

    def random_state(self) -> None:
        """It does not say."""


class LateTransfer(TransferJob):
    """Copies into pinned memory of the host, as `cudaMemcpyAsync` has them."""

    def __init__(self, device: Late) -> None:
        draw = torch.Generator().manual_seed(1)
        sources = [torch.randn(COUNT, generator=draw) for _ in range(4)]
        super().__init__([(torch.zeros(COUNT), source) for source in sources], True, "pinned")
        self._device = device

    def step(self) -> None:
        self._output, self._source = next(self._inputs)
        target, source = self._output, self._source.clone()  # as it is when its turn comes
        self._device.queued.append(lambda: target.copy_(source))


@pytest.mark.parametrize("steps", range(4, 8))
@pytest.mark.parametrize("thorough", [True, False])
def test_a_copy_that_ends_later_is_proved(
    steps: int, thorough: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After so many steps more, so that the last one is of each pair."""
    for looks in (early, left_out):
        monkeypatch.setattr(looks, "complaints", lambda *_: [])
    device: Any = Late()
    job = LateTransfer(device)
    watch = Watch(job, device, FP32, 0, thorough=thorough)
    watch.start()
    for step in range(1, READ_AFTER[-1] + 1):
        job.step()
        device.synchronize()  # a block's end
        watch.after(step)
    watch.before(steps, True)
    for _ in range(steps):
        job.step()
    device.synchronize()
    watch.finish(1e-3)
    assert (watch.complaint, watch.proof.absent, watch.proof.recomputed) == ("", "", 0.0)
    assert not thorough or watch.proof.noise["output"].error > 0


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_one_row_of_many_that_is_anothers_is_told(precision: str) -> None:
    """Of 256, as of an image in a batch: an error of 0.09 over all."""
    watch, job = opened("gemm", "matmul", precision=precision)
    for number in range(1, READ_AFTER[-1] + 1):
        job.step()
        watch.after(number)
    watch.before(1, True)
    job.step()
    output = job.outputs()["output"][0]
    output[: max(1, len(output) // 256)] = output[-1]
    watch.finish(1.0)
    assert "from the same computed another time" in watch.complaint


@pytest.mark.parametrize("fault", ["", "update", "hook"])
def test_tables_in_bf16_that_are_not_updated_are_told(fault: str) -> None:
    """The gate sees it in fp32 alone, and a step's own gradients move nothing in bf16."""
    watch, job = opened("dlrm", "train", precision="bf16")
    if fault == "update":
        job._lookup.update = lambda: None
    elif fault == "hook":
        job._optimizer._optimizer_step_post_hooks.clear()
    for number in range(1, READ_AFTER[-1] + 1):
        job.step()
        watch.after(number)
    watch.finish(1.0)
    wrong = "its looked-up rows, by larger gradients, went astray by" in watch.complaint
    assert wrong if fault else watch.complaint == ""


@pytest.mark.parametrize(
    ("name", "mode"),
    [("llama", "train"), ("llama", "decode"), ("bert", "infer"), ("transfer", "to-host")],
)
def test_no_output_is_read_of_a_step_that_nobody_waited_for(name: str, mode: str) -> None:
    """On which side it lies, a watch does not know."""
    device: Any = catalogue.backend("cpu").open(0, FP32)
    job: Any = build(name, mode, site(FP32, seed=1))
    pending: list[object] = []
    read: list[bool] = []

    def noting(call: Callable[[], Any], note: Callable[[], None]) -> Callable[[], Any]:
        def noted() -> Any:
            note()
            return call()

        return noted

    job.step = noting(job.step, lambda: pending.append("step"))
    job.again = noting(job.again, lambda: pending.append("again"))
    job.outputs = noting(job.outputs, lambda: read.append(not pending))
    device.synchronize = pending.clear
    watch = Watch(job, device, FP32, 1, thorough=True)
    watch.start()
    for number in range(1, READ_AFTER[-1] + 1):
        job.step()
        device.synchronize()
        watch.after(number)
    watch.before(1, True)
    job.step()
    device.synchronize()
    watch.finish(1.0)
    assert watch.complaint == "" and len(read) > 3 and all(read)
