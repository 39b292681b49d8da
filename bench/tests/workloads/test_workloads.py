"""The contract of every file in `bench/workloads/`."""

from __future__ import annotations

import ast
import functools
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench import catalogue
from bench.measuring.gates.numerics import relative_error
from bench.precision import PRECISIONS
from bench.tests.small_workloads import (
    CASES,
    FP32,
    MODES,
    MODULES,
    NAMES,
    TRAINING,
    WORKLOADS,
    NoQuestions,
    build,
    model_of,
    one_thread,
    site,
    small,
)
from bench.tests.workloads import context_kinds
from bench.workloads import gpt_oss, whisper
from bench.workloads.jobs import optimizers
from bench.workloads.jobs.gradients import gradient_norm
from bench.workloads.jobs.optimizers import make_optimizer
from bench.workloads.language import gpts, latent, llamas, qwens
from bench.workloads.layers.windows import PADDING

__all__ = ["one_thread"]  # a fixture, used by being here


@pytest.fixture(autouse=True)
def smallest(request: pytest.FixtureRequest) -> None:
    """The contract knows no size; what a step costs is counted of the whole model."""
    if "flop" not in request.node.name:
        request.getfixturevalue("small_vision")


def attention_masked(p: Any) -> int:
    """FLOP of the masked half of the scores and of their product with the values."""
    flop: int = 2 * p.batch_size * p.heads * p.sequence_length**2 * p.head_dim
    return flop


def sinks_and_windows(p: Any) -> int:
    """FLOP of GPT-OSS's attention that are of no token and key that sees it: columns for sinks, a
    first query that nobody asks, and of a window's two blocks all that is masked."""
    size = gpts.SIZES[p.model]
    if isinstance(p, gpt_oss.DecodeParameters):
        slots = (size.window or 0) + p.prompt_length + p.new_tokens + 2 * PADDING
        pairs, width, times = size.layers / 2 * slots, size.head, 1
        seen = size.seen(p.context)
    else:
        training = isinstance(p, gpt_oss.TrainParameters | gpt_oss.LoraParameters)
        tokens, times = (p.sequence_length, 3) if training else (p.prompt_length, 1)
        assert size.window and tokens % size.window == 0
        pairs = size.layers / 2 * (2 * tokens * size.window + (tokens + 1) ** 2)
        seen, width = tokens * size.seen(tokens), size.head + PADDING
    besides = pairs * width - seen * size.head
    return int(times * 4 * p.batch_size * size.heads * besides)


COUNTED_BESIDES: dict[tuple[str, str], Callable[[Any], int]] = {
    # The cache is allocated for the whole window and masked, so the kernel multiplies what no
    # token attends to; the declared FLOP stop at the mean context.
    ("llama", "decode"): lambda p: round(
        p.batch_size
        * 4
        * ((p.new_tokens - 1) / 2)
        * llamas.SIZES[p.model].layers
        * llamas.SIZES[p.model].hidden
    ),
    # As for llama.
    ("qwen3", "decode"): lambda p: round(
        p.batch_size
        * 4
        * ((p.new_tokens - 1) / 2)
        * qwens.SIZES[p.model].layers
        * qwens.SIZES[p.model].heads
        * qwens.SIZES[p.model].head
    ),
    **{("gpt-oss", mode): sinks_and_windows for mode in gpt_oss.WORKLOAD.modes},
    # As for llama; and the latents of the whole window are expanded to keys and values.
    ("deepseek", "decode"): lambda p: round(
        p.batch_size
        * 2
        * ((p.new_tokens - 1) / 2)
        * latent.SIZES[p.model].layers
        * (
            latent.SIZES[p.model].expansion_weights
            + latent.SIZES[p.model].heads * (latent.SIZES[p.model].key + latent.SIZES[p.model].head)
        )
    ),
    # As for llama, of the decoder's own cache.
    ("whisper", "infer"): lambda p: (
        p.batch_size
        * 2
        * (p.new_tokens - 1)
        * p.new_tokens
        * whisper.SIZES[p.model].layers
        * whisper.SIZES[p.model].hidden
    ),
    # The counter takes the mask for work: T^2 scores, of which half are masked away.
    ("attention", "forward"): attention_masked,
    ("attention", "burst"): attention_masked,
    ("attention", "forward-backward"): lambda p: 3 * attention_masked(p),
    **{
        ("attention", mode): functools.partial(context_kinds.beside, mode)
        for mode in ("prefill", "decode", "latent-prefill", "latent-decode")
    },
}
"""FLOP of a step that the counter sees and `work` leaves out, with the reason."""


def grouped_product(a: list[int], b: list[int], *_: Any, **__: Any) -> int:
    """FLOP of [S, K] by [E, K, N] with a group of rows for each expert; of [K, S] by [S, N] too."""
    return 2 * a[0] * a[1] * b[-1]


NOT_IN_THE_COUNTER = {torch.ops.aten._grouped_mm: grouped_product}
"""What torch's own registry of FLOP lacks."""


def test_importing_a_workload_does_not_import_torch() -> None:
    names = ", ".join(MODULES.values())
    code = f"import sys, {names}; print(sorted({{'torch', 'transformers'}} & set(sys.modules)))"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("name", NAMES)
def test_a_file_holds_one_workload_of_its_name_with_a_summary(name: str) -> None:
    workload = WORKLOADS[name]
    assert workload.name == name == catalogue.workload(name).name
    assert workload.version >= 1
    source = Path(str(sys.modules[MODULES[name]].__file__)).read_text("utf-8")
    summary = (ast.get_docstring(ast.parse(source)) or "").splitlines()[0]
    assert 20 < len(summary) < 100


@pytest.mark.parametrize(("name", "mode"), MODES)
def test_modes_have_defaults_that_survive_json(name: str, mode: str) -> None:
    declared = WORKLOADS[name].modes[mode]
    assert set(declared.precisions) <= set(PRECISIONS)
    parameters = declared.parameters()
    assert msgspec.json.decode(msgspec.json.encode(parameters), type=type(parameters)) == parameters
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.convert({"no_such_parameter": 1}, declared.parameters)


@pytest.mark.parametrize(("name", "mode"), MODES)
def test_a_twin_is_no_larger_and_its_own_twin(name: str, mode: str) -> None:
    workload = WORKLOADS[name]
    parameters = workload.modes[mode].parameters()
    twin = workload.twin(mode, parameters)
    assert type(twin) is type(parameters)
    assert workload.twin(mode, twin) == twin
    assert workload.work(mode, twin, FP32).items <= workload.work(mode, parameters, FP32).items


@pytest.mark.parametrize(("name", "mode", "precision"), CASES)
def test_steps_run_and_leave_a_finite_witness(name: str, mode: str, precision: str) -> None:
    job = build(name, mode, site(PRECISIONS[precision]))
    for _ in range(2):
        job.step()
    assert math.isfinite(job.witness())
    assert all(isinstance(value, str) and value for value in job.facts.values())


FORMATS = [(name, mode) for name, mode in MODES if len(WORKLOADS[name].memory_formats) > 1]


@pytest.mark.parametrize(("name", "mode"), FORMATS)
def test_a_memory_format_is_taken_and_changes_no_result(name: str, mode: str) -> None:
    """Each is the same work: the gate's quantities agree, and the weights lie as was asked."""
    found = {}
    for memory_format in WORKLOADS[name].memory_formats:
        job = build(name, mode, site(memory_format=memory_format))
        assert job.facts["memory_format"] == memory_format
        wide = [p for p in model_of(job).parameters() if p.dim() == 4 and min(p.shape[1:3]) > 1]
        last = all(p.is_contiguous(memory_format=torch.channels_last) for p in wide)
        assert last == (memory_format == "channels_last")
        found[memory_format] = job.probe()
        job.close()
    reference, *others = found.values()
    for quantities in others:
        for quantity, value in quantities.items():
            assert relative_error(value, reference[quantity]) < 1e-4, quantity


def test_the_first_memory_format_is_what_every_device_has() -> None:
    assert FORMATS, "nothing to try"
    for workload in WORKLOADS.values():
        first, *others = workload.memory_formats
        assert first == "contiguous"
        assert others in ([], ["channels_last"])


@pytest.mark.parametrize(("name", "mode"), MODES)
def test_a_step_never_asks_the_device(name: str, mode: str) -> None:
    job = build(name, mode, site())
    job.step()
    no_questions: Any = NoQuestions
    with no_questions():
        for _ in range(6):  # past the end of a decode window
            job.step()


@pytest.mark.parametrize(("name", "mode"), MODES)
def test_the_seed_decides_everything(name: str, mode: str) -> None:
    first, again, other = (build(name, mode, site(seed=seed)).probe() for seed in (1, 1, 2))
    for quantity, value in first.items():
        assert torch.equal(value, again[quantity]), quantity
        assert not torch.equal(value, other[quantity]), quantity


@pytest.mark.parametrize(("mode", "given"), context_kinds.KINDS, ids=str)
def test_declared_flop_of_each_kind_of_attention(mode: str, given: Any) -> None:
    p = context_kinds.parameters(mode, **given)
    job = WORKLOADS["attention"].build(mode, p, site())
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        job.step()
    work = WORKLOADS["attention"].work(mode, p, FP32)
    beside = context_kinds.beside(mode, p)
    assert work.items == work.flop == counter.get_total_flops() - beside > 0


@pytest.mark.parametrize(("name", "mode"), MODES)
def test_declared_flop_are_those_of_the_counter(name: str, mode: str) -> None:
    workload, parameters = WORKLOADS[name], small(name, mode)
    declared = workload.work(mode, parameters, FP32).flop
    if declared is None:
        pytest.skip("not arithmetic")
    job = workload.build(mode, parameters, site())
    counter = FlopCounterMode(display=False, custom_mapping=NOT_IN_THE_COUNTER)
    # MATH: attention as matmuls; the CPU's fused kernel is not in the counter's registry.
    with sdpa_kernel(SDPBackend.MATH), counter:
        job.step()
    besides = COUNTED_BESIDES.get((name, mode), lambda _: 0)(parameters)
    assert counter.get_total_flops() - besides == pytest.approx(declared, rel=0.01)


@pytest.mark.parametrize(("name", "mode"), MODES)
def test_work_does_not_depend_on_how_it_is_computed_but_in_bytes(name: str, mode: str) -> None:
    workload, parameters = WORKLOADS[name], small(name, mode)
    single = workload.work(mode, parameters, FP32)
    half = workload.work(mode, parameters, PRECISIONS["bf16"])
    assert (single.items, single.flop, single.unit) == (half.items, half.flop, half.unit)


ROTATING = [pair for pair in TRAINING if pair != ("resnet50", "train-pipeline")]
"""Those that see a batch again: no batch of a pipeline comes twice."""


@pytest.mark.parametrize(("name", "mode"), ROTATING)
def test_training_changes_the_weights_and_lowers_the_loss(name: str, mode: str) -> None:
    job = build(name, mode, site())
    before = {key: value.clone() for key, value in model_of(job).state_dict().items()}
    losses = []
    for _ in range(8):  # twice through the batches
        job.step()
        losses.append(job.witness())
    assert sum(losses[4:]) < sum(losses[:4])
    unchanged = [
        key
        for key, value in model_of(job).state_dict().items()
        if value.is_floating_point() and torch.equal(value, before[key])
    ]
    frozen = [
        key
        for key, value in model_of(job).state_dict(keep_vars=True).items()
        if isinstance(value, torch.nn.Parameter) and not value.requires_grad
    ]
    assert unchanged == frozen
    assert bool(frozen) == (mode == "lora")


@pytest.mark.parametrize(("name", "mode"), TRAINING)
def test_gradients_do_not_add_up_over_steps(name: str, mode: str) -> None:
    job: Any = build(name, mode, site())
    batch = next(job._batches)
    norms = []
    for _ in range(2):
        job._update([batch])
        norms.append(float(gradient_norm(model_of(job))))
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)


@pytest.mark.parametrize(("name", "mode"), TRAINING)
def test_training_says_which_optimizer_kernel_it_got(
    name: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = build(name, mode, site())
    assert job.facts["optimizer"] in ("AdamW(fused=True)", "SGD(fused=True)")

    absent = RuntimeError("`fused=True` requires all the params to be on ...")

    def without_fused(name: str, how: str, *_: Any) -> optimizers.Trial:
        return optimizers.Trial(0.0, 1.0, absent if how == "fused" else None)

    monkeypatch.setattr(optimizers, "trial", without_fused)
    _, description = make_optimizer(small(name, mode).optimizer, 1e-4, model_of(job))  # type: ignore[attr-defined]
    assert description in ("AdamW(foreach=True)", "SGD(foreach=True)")
