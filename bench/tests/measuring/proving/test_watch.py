"""A job under watch: honest ones are proved, and what they are left as; other work is told."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import torch

from bench import catalogue
from bench.judging.comparing.equal_work import judged
from bench.measuring.proving.watch import READ_AFTER, Watch
from bench.measuring.proving.witness import Sample
from bench.measuring.timing.engine import Engine
from bench.precision import PRECISIONS
from bench.records.proof import Proof
from bench.records.run import Settings
from bench.tests.small_workloads import build, one_thread, site
from bench.workload import Job

__all__ = ["one_thread"]

Spoil = Callable[[Any], object]
MOST_BYTES = 10_000
"""Of a launch's proof, as JSON."""


def watched(
    name: str,
    mode: str,
    precision: str = "fp32",
    *,
    seed: int = 1,
    spoil: Spoil = lambda job: None,
    thorough: bool = True,
    memory_format: str = "contiguous",
    late: Spoil = lambda job: None,
) -> Watch:
    """Three steps under watch, one more, and what comes after; late: spoils before that."""
    how = PRECISIONS[precision]
    job = build(name, mode, site(how, seed=seed, memory_format=memory_format))
    spoil(job)
    watch = Watch(job, catalogue.backend("cpu").open(0, how), how, seed, thorough)
    watch.start()
    for step in (1, 2, 3):
        job.step()
        watch.after(step)
    watch.before(1, False)
    job.step()
    late(job)
    watch.finish(step_seconds=1.0)
    job.close()
    return watch


def proof(*arguments: Any, **changes: Any) -> Proof:
    watch = watched(*arguments, **changes)
    assert watch.complaint == ""
    return watch.proof


HONEST = [
    *(("llama", "train", p) for p in ("fp32", "bf16", "bf16-amp")),
    *(("llama", mode, p) for mode in ("prefill", "decode") for p in ("fp32", "bf16", "int8")),
    *(("gemm", "matmul", p) for p in ("bf16", "int8", "fp8")),
    *(("memory", mode, "fp32") for mode in ("copy", "triad")),
    ("attention", "forward-backward", "bf16"),
    ("bert", "infer", "bf16"),
    *((name, "train", "fp32") for name in ("dlrm", "gpt-oss")),
    ("dlrm", "infer", "bf16"),
    ("launch", "queue", "fp32"),
    ("transfer", "to-device", "fp32"),
    ("whisper", "infer", "bf16"),
]


@pytest.mark.parametrize(("name", "mode", "precision"), HONEST)
def test_honest_work_is_proved(name: str, mode: str, precision: str) -> None:
    found = proof(name, mode, precision)
    assert [reading.step for reading in found.readings] == [*READ_AFTER]
    names = set(found.readings[0].quantities)
    trains = mode == "train"
    assert names >= ({"loss", "gradients", "update"} if trains else {"output"})
    assert found.weights is not None
    encoded = msgspec.json.encode(found)
    assert len(encoded) < MOST_BYTES
    assert msgspec.json.decode(encoded, type=Proof) == found
    assert len(found.law) == (2 if trains else 0)
    assert found.kinks is ((name, mode) != ("llama", "train"))
    if not trains and mode != "decode" and name != "launch":
        assert found.recomputed == 0.0  # this device is deterministic
    told = judged([(1, found)], [(1, found)], precision)
    assert told.proved and told.seeds == 1


def test_a_workload_without_outputs_is_not_proved() -> None:
    class Bare(Job):
        def __init__(self) -> None:
            self.facts: dict[str, str] = {}

        def step(self) -> None:
            """Nothing."""

        def witness(self) -> float:
            return 1.0

        def probe(self) -> dict[str, torch.Tensor]:
            return {}

    how = PRECISIONS["fp32"]
    watch = Watch(Bare(), catalogue.backend("cpu").open(0, how), how, 0, thorough=True)
    watch.start()
    for step in (1, 2, 3):
        watch.after(step)
    watch.finish(1.0)
    assert watch.proof == Proof(absent="the workload gives no outputs")
    assert watch.complaint == ""


def test_what_a_device_cannot_do_is_no_fault_of_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise NotImplementedError("no such operator on this device")

    monkeypatch.setattr(Sample, "gather", refuse)
    watch = watched("gemm", "matmul")
    assert watch.proof.absent == (
        "the device could not be read: NotImplementedError: no such operator on this device"
    )


@pytest.mark.parametrize(
    ("name", "mode", "precision"),
    [
        ("llama", "train", "bf16-amp"),
        ("llama", "decode", "bf16"),
        ("bert", "infer", "fp32"),
        ("gemm", "matmul", "fp8"),
    ],
)
def test_the_job_is_left_as_it_was(name: str, mode: str, precision: str) -> None:
    """Weights and inputs to the bit, noise taken and inputs altered; nothing is held on."""
    how = PRECISIONS[precision]
    job = build(name, mode, site(how, seed=1))
    watch = Watch(job, catalogue.backend("cpu").open(0, how), how, 1, thorough=True)
    watch.start()
    for step in (1, 2):
        job.step()
        watch.after(step)
    job.step()
    before = [t.clone() for t in (*job.weights(), *job.inputs())]
    watch.after(3)
    after = [*job.weights(), *job.inputs()]
    assert all(torch.equal(bits(a), bits(b)) for a, b in zip(before, after, strict=True))
    if job.training() is None:
        watch.finish(1.0)
        assert all(torch.equal(bits(a), bits(b)) for a, b in zip(before, after, strict=True))
    held = [x for x in vars(watch).values() if isinstance(x, torch.Tensor)]
    assert sum(x.numel() for x in held) <= 65_536


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().view(torch.uint8)


def test_the_weights_next_to_a_watch_are_those_without() -> None:
    """Five steps of training: the same weights to the bit, watched with noise or not."""
    found = []
    for noise in (None, True):
        how = PRECISIONS["fp32"]
        job = build("llama", "train", site(how, seed=2))
        watch = Watch(job, catalogue.backend("cpu").open(0, how), how, 2, thorough=True)
        for step in range(1, 6):
            job.step()
            if noise:
                watch.after(step)
        found.append([w.detach().clone() for w in job.weights()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_readings_lie_outside_blocks_and_before_the_peak_is_reset() -> None:
    """In an engine: after the first three steps, and none later."""
    order: list[str] = []
    how = PRECISIONS["fp32"]
    job = build("gemm", "matmul", site(how))
    device: Any = catalogue.backend("cpu").open(0, how)
    device.reset_peak_memory = lambda: order.append("reset")
    real = job.step

    def step() -> None:
        order.append("step")
        real()

    job.step = step  # type: ignore[method-assign]
    settings = Settings(block_seconds=0.0001)
    engine = Engine(job, device, settings, watch=lambda step: order.append(f"watch {step}"))
    engine.measure(samples=10)
    begun = ["step", "watch 1", "step", "watch 2", "step", "watch 3", "reset"]
    assert order[: len(begun)] == begun
    assert set(order[len(begun) :]) == {"step"}


def cached(job: Any) -> None:
    """Steps do nothing any more: the output of the last one stays."""
    job.step = lambda: None


def kept_by_place(job: Any) -> None:
    """A step gives what was computed for the same place in memory before."""
    model, known = job._model, {}
    real = model.forward

    def forward(*arguments: Any, **named: Any) -> Any:
        values = [*arguments, *named.values()]
        key = tuple(x.data_ptr() for x in values if isinstance(x, torch.Tensor))
        if key not in known:
            known[key] = real(*arguments, **named)
        return known[key]

    model.forward = forward


def stale(job: Any) -> None:
    """The last output is that of the step before."""
    before = job._output.clone()
    job.step()
    job._output = before


@pytest.mark.parametrize(
    ("name", "mode", "planted", "reason"),
    [
        ("bert", "infer", {"late": cached}, "not computed, but kept"),
        ("whisper", "infer", {"late": cached}, "not computed, but kept"),
        ("bert", "infer", {"spoil": kept_by_place}, "not computed, but kept"),
        ("llama", "decode", {"late": cached}, "all gave the same output"),
        ("llama", "train", {"late": cached}, "its weights went astray by 1 of"),
        ("gemm", "matmul", {"late": stale}, "differs by 1.3 from the same computed another time"),
    ],
)
def test_steps_left_out(name: str, mode: str, planted: dict[str, Spoil], reason: str) -> None:
    assert reason in watched(name, mode, **planted).complaint  # type: ignore[arg-type]


def test_steps_of_a_block_that_were_left_out() -> None:
    """By the scripted clock a step takes 12 ms alone, 16 take as long, and to wait for nothing
    takes 2. Of a host it is not asked: a step alone may wait for a core."""
    how = PRECISIONS["fp32"]
    for seconds, queues, told in ((0.001, True, True), (0.004, True, False), (0.001, False, False)):
        now = itertools.accumulate(itertools.cycle((0, 12_000_000, 0, 2_000_000)))
        job = build("gemm", "matmul", site(how))
        device: Any = catalogue.backend("cpu").open(0, how)
        device.synchronous = not queues
        watch = Watch(job, device, how, 0, clock=lambda now=now: next(now))  # type: ignore[misc]
        job.step()
        watch.after(1)
        watch.finish(seconds)
        assert ("a step takes 0.01 s alone and 0.001 s in a block" in watch.complaint) is told


def test_gradients_that_are_not_finite_are_told() -> None:
    def spoil(job: Any) -> None:
        real = job.outputs
        job.outputs = lambda: {**real(), "gradients": [torch.tensor([math.inf, 1.0])]}

    said = watched("llama", "train", spoil=spoil, thorough=False).complaint
    assert said == "gradients after step 1: not all values are finite; " + (
        "gradients after step 3: not all values are finite"
    )


def other_weights(job: Any) -> None:
    with torch.no_grad():
        for weight in job.weights():
            weight.add_(0.1 * weight.std())


def next_input(job: Any) -> None:
    next(job._inputs if hasattr(job, "_inputs") else job._batches)


def half_a_batch(job: Any) -> None:
    real = job._forward
    job._forward = lambda model, x: real(model, x[: len(x) // 2])


def dropped(job: Any) -> None:
    del job._model.model.layers[-1]


PLANTED: dict[str, tuple[str, str, Spoil]] = {
    "other weights": ("bert", "infer", other_weights),
    "another input": ("bert", "infer", next_input),
    "another batch": ("llama", "train", next_input),
    "half a batch": ("bert", "infer", half_a_batch),
    "a layer less": ("llama", "train", dropped),
}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("fault", PLANTED)
def test_other_work_is_refused(fault: str, precision: str) -> None:
    """Against the honest one, by the tolerances of the case's own noise."""
    name, mode, spoil = PLANTED[fault]
    base = [(1, proof(name, mode, precision))]
    other = [(1, watched(name, mode, precision, spoil=spoil).proof)]
    told = judged(base, other, precision)
    assert not told.proved and told.words.startswith("not the same work: the ")
    assert judged(base, base, precision).proved


def test_a_memory_format_is_the_same_work(small_vision: None) -> None:
    """Other kernels, and batch norms in which rounding alone turns the gradients: by length."""
    base = watched("resnet50", "train", "bf16-amp").proof
    other = watched("resnet50", "train", "bf16-amp", memory_format="channels_last").proof
    told = judged([(1, base)], [(1, other)], "bf16-amp")
    assert told.proved and told.words.startswith("same work: lengths of the gradients agree ")


@pytest.mark.parametrize("error", [RuntimeError("no such operator"), MemoryError()])
def test_a_device_that_refuses_the_noise_says_so(error: Exception) -> None:
    """The readings stand."""

    def refuse(job: Any) -> None:
        def again() -> bool:
            raise error

        job.again = again

    watch = watched("launch", "queue", spoil=refuse)
    assert watch.proof.readings and not watch.proof.noise
    assert f"the device refused it: {type(error).__name__}" in watch.proof.no_noise
    unable = watched("launch", "queue", spoil=lambda job: setattr(job, "again", lambda: False))
    assert unable.proof.no_noise == "the job cannot repeat a step"
    assert watched("launch", "queue", thorough=False).proof.no_noise == ""


def test_wide_weights_are_kept_beside_narrow_ones() -> None:
    found, plain = proof("llama", "prefill", "int8"), proof("llama", "prefill", "bf16")
    assert found.wide_weights is not None and found.weights is not None
    assert found.wide_weights.size < found.weights.size and plain.wide_weights is None


def drops(job: Any) -> None:
    """A tenth of what leaves the first layer, of a model in training."""
    layer = job._model.model.layers[0]
    layer.register_forward_hook(lambda m, given, result: torch.dropout(result, 0.1, True))


@pytest.mark.parametrize("thorough", [True, False])
def test_a_step_that_draws_random_numbers_is_told_by_its_own_launch(thorough: bool) -> None:
    """Whatever the noise: there it is as large as what dropout does."""
    said = watched("llama", "train", "bf16", spoil=drops, thorough=thorough).complaint
    assert said.startswith("a step drew random numbers") and "dropout" in said
    late = watched("llama", "prefill", "bf16", late=drops_later).complaint
    assert "a step drew random numbers" in late


def drops_later(job: Any) -> None:
    """After the timing, in inference."""
    real = job.again

    def again() -> bool:
        torch.rand(1)
        done: bool = real()
        return done

    job.again = again


def test_a_short_block_that_is_held_up_once_acquits_nobody() -> None:
    """Alone 10 ms; the first 16 together take 110 ms, the others 10; to wait for nothing takes
    1 ms, and once 50."""
    how = PRECISIONS["fp32"]
    took = {1: 11_000_000, 16: 11_000_000, 0: 1_000_000}
    held_up, now, steps, reads = {16: 100_000_000, 0: 49_000_000}, [0], [0], itertools.count()

    def clock() -> int:
        count, steps[0] = steps[0], 0
        if next(reads) % 2:  # the end of what is timed
            now[0] += took[count] + held_up.pop(count, 0)
        return now[0]

    job: Any = build("gemm", "matmul", site(how))
    device: Any = catalogue.backend("cpu").open(0, how)
    device.synchronous = False
    watch = Watch(job, device, how, 0, clock=clock)
    job.step()
    watch.after(1)

    def step() -> None:
        steps[0] += 1
        real()

    real, job.step = job.step, step
    watch.finish(0.001)
    assert "not every step of a block was done" in watch.complaint and not held_up
