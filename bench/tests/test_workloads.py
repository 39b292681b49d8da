"""The contract of every file in `bench/workloads/`, and what each of ours promises beyond it."""

from __future__ import annotations

import ast
import copy
import functools
import importlib
import io
import itertools
import math
import pkgutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import cache_utils

import bench.workloads
from bench import catalogue, worker
from bench.case import Case
from bench.models import (
    SeededData,
    TrainingJob,
    build_model,
    gradient_norm,
    make_optimizer,
    parameter_count,
)
from bench.precision import PRECISIONS, REFERENCE, Precision
from bench.record import Settings, Skipped
from bench.workload import Job, Parameters, Site, Unsupported, Workload
from bench.workloads import bert, deepseek, diffusion, dlrm, llama, resnet50, vit_b16, whisper

FP32 = PRECISIONS["fp32"]
MODULES = {
    module.name.replace("_", "-"): f"bench.workloads.{module.name}"
    for module in pkgutil.iter_modules(bench.workloads.__path__)
}
NAMES = list(MODULES)
WORKLOADS: dict[str, Workload] = {
    name: importlib.import_module(module).WORKLOAD for name, module in MODULES.items()
}
MODES = [(name, mode) for name, workload in WORKLOADS.items() for mode in workload.modes]
CASES = [
    (name, mode, precision)
    for name, mode in MODES
    for precision in WORKLOADS[name].modes[mode].precisions
]
TRAINING = [(name, mode) for name, mode in MODES if mode in ("train", "lora")]


def attention_masked(p: Any) -> int:
    """FLOP of the masked half of the scores and of their product with the values."""
    flop: int = 2 * p.batch_size * p.heads * p.sequence_length**2 * p.head_dim
    return flop


COUNTED_BESIDES: dict[tuple[str, str], Callable[[Any], int]] = {
    # The cache is allocated for the whole window and masked, so the kernel multiplies what no
    # token attends to; the declared FLOP stop at the mean context.
    ("llama", "decode"): lambda p: round(
        p.batch_size
        * 4
        * ((p.new_tokens - 1) / 2)
        * llama.SIZES[p.model].layers
        * llama.SIZES[p.model].hidden
    ),
    # As for llama; and the latents of the whole window are expanded to keys and values.
    ("deepseek", "decode"): lambda p: round(
        p.batch_size
        * 2
        * ((p.new_tokens - 1) / 2)
        * deepseek.SIZES[p.model].layers
        * (
            deepseek.SIZES[p.model].expansion_weights
            + deepseek.SIZES[p.model].heads
            * (deepseek.SIZES[p.model].key + deepseek.SIZES[p.model].head)
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
    ("attention", "forward-backward"): lambda p: 3 * attention_masked(p),
}
"""FLOP of a step that the counter sees and `work` leaves out, with the reason."""


def grouped_product(a: list[int], b: list[int], *_: Any, **__: Any) -> int:
    """FLOP of [S, K] by [E, K, N] with a group of rows for each expert; of [K, S] by [S, N] too."""
    return 2 * a[0] * a[1] * b[-1]


NOT_IN_THE_COUNTER = {torch.ops.aten._grouped_mm: grouped_product}
"""What torch's own registry of FLOP lacks."""


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Threads gain nothing at these sizes, and on a busy machine they wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def site(precision: Precision = FP32, seed: int = 0, memory_format: str = "contiguous") -> Site:
    return Site(
        device=torch.device("cpu"), precision=precision, seed=seed, memory_format=memory_format
    )


SMALLEST = {"whisper": "tiny-2l"}
"""The model that tests use, if it is not `tiny`: Whisper's own has that name, and takes seconds."""


def small(name: str, mode: str, **given: Any) -> Parameters:
    """The twin of the smallest model: what any workload offers that is quick on a CPU."""
    workload = WORKLOADS[name]
    kind = workload.modes[mode].parameters
    if "model" in kind.__struct_fields__:
        given.setdefault("model", SMALLEST.get(name, "tiny"))
    return msgspec.structs.replace(workload.twin(mode, kind()), **given)


def build(name: str, mode: str, at: Site, **given: Any) -> Job:
    return WORKLOADS[name].build(mode, small(name, mode, **given), at)


def model_of(job: Any) -> torch.nn.Module:
    holder = job._generator if hasattr(job, "_generator") else job
    model: torch.nn.Module = holder._model
    return model


class NoQuestions(TorchDispatchMode):
    """Refuses what makes the host wait for a value: `.item()`, `if tensor`, `tensor.tolist()`."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (
            torch.ops.aten._local_scalar_dense.default,
            torch.ops.aten.equal.default,
            torch.ops.aten.nonzero.default,
        ):
            raise AssertionError(f"the step asks the device: {func}")
        return func(*args, **(kwargs or {}))


# Every workload


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


@pytest.mark.parametrize(("name", "mode"), TRAINING)
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
        job._update(batch)
        norms.append(float(gradient_norm(model_of(job))))
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)


@pytest.mark.parametrize(("name", "mode"), TRAINING)
def test_training_says_which_optimizer_kernel_it_got(
    name: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = build(name, mode, site())
    assert job.facts["optimizer"] in ("AdamW(fused=True)", "SGD(fused=True)")

    def refuse(real: type) -> Any:
        def make(*args: Any, fused: bool, **kwargs: Any) -> Any:
            if fused:
                raise RuntimeError("`fused=True` requires all the params to be on ...")
            return real(*args, fused=fused, **kwargs)

        return make

    monkeypatch.setattr(torch.optim, "AdamW", refuse(torch.optim.AdamW))
    monkeypatch.setattr(torch.optim, "SGD", refuse(torch.optim.SGD))
    _, description = make_optimizer(small(name, mode).optimizer, 1e-4, model_of(job))  # type: ignore[attr-defined]
    assert description in ("AdamW(fused=False)", "SGD(fused=False)")


BAD: list[tuple[str, str, dict[str, Any], str]] = [
    ("attention", "forward", {"batch_size": 0}, "from 1"),
    ("attention", "forward-backward", {"sequence_length": 1}, "from 2"),
    ("attention", "forward", {"head_dim": 7}, "from 8"),
    ("launch", "queue", {"kernels": 0}, "from 1"),
    ("transfer", "to-host", {"size_bytes": 6}, "multiple of 4"),
    ("transfer", "to-device", {"memory": "pined"}, "Did you mean `pinned`"),
    ("gemm", "matmul", {"shape": "2048"}, "MxNxK"),
    ("gemm", "matmul", {"shape": "0x1x1"}, "1 to 262144"),
    ("gemm", "matmul", {"shape": "262145x1x1"}, "1 to 262144"),
    ("gemm", "matmul", {"shape": "8x8x8x8"}, "MxNxK"),
    ("memory", "copy", {"size_bytes": 0}, "from 8"),
    ("memory", "triad", {"size_bytes": 12}, "multiple of 8"),
    ("resnet50", "infer", {"batch_size": 0}, "from 1"),
    ("resnet50", "train", {"batch_size": 1}, "from 2"),
    ("resnet50", "train", {"image_size": 16}, "from 32"),
    ("resnet50", "train", {"optimizer": "adamw"}, "Allowed: sgd"),
    ("bert", "infer", {"model": "huge"}, "Allowed: base, "),
    ("bert", "infer", {"model": "lage"}, "Did you mean `large`"),
    ("bert", "infer", {"sequence_length": 513}, "to 512"),
    ("bert", "train", {"optimizer": "sgd"}, "Allowed: adamw"),
    ("deepseek", "train", {"model": "v2_lite"}, "Did you mean `v2-lite`"),
    ("deepseek", "prefill", {"batch_size": 0}, "from 1"),
    ("deepseek", "prefill", {"prompt_length": 163_841}, "to 163840"),
    ("deepseek", "decode", {"prompt_length": 163_840}, "to 163840"),
    ("llama", "train", {"model": "llama-3.2-1B"}, "Did you mean `llama-3.2-1b`"),
    ("llama", "train", {"optimizer": "lion"}, "Allowed: adamw"),
    ("llama", "lora", {"lora_rank": 0}, "from 1 to 576"),
    ("llama", "lora", {"model": "tiny", "lora_rank": 65}, "to 64"),
    ("llama", "lora", {"sequence_length": 8193}, "to 8192"),
    ("llama", "prefill", {"prompt_length": 0}, "from 1"),
    ("llama", "decode", {"prompt_length": 8192}, "to 8192"),
    ("llama", "decode", {"batch_size": -1}, "from 1"),
    ("whisper", "infer", {"model": "large"}, "Did you mean `large-v3`"),
    ("whisper", "infer", {"batch_size": 0}, "from 1"),
    ("whisper", "infer", {"new_tokens": 449}, "to 448"),
    ("diffusion", "infer", {"model": "dit-xl"}, "Did you mean `dit-xl-2`"),
    ("diffusion", "infer", {"batch_size": 0}, "from 1"),
    ("diffusion", "train", {"model": "sdxl-unet"}, "Allowed: dit-s-2, "),
    ("diffusion", "train", {"optimizer": "sgd"}, "Allowed: adamw"),
    ("vit-b16", "infer", {"image_size": 225}, "multiple of 16, not 225"),
    ("vit-b16", "infer", {"image_size": 0}, "from 16"),
    ("vit-b16", "infer", {"layers": 13}, "to 12"),
    ("vit-b16", "train", {"optimizer": "sgd"}, "Allowed: adamw"),
    ("dlrm", "infer", {"rows": 1}, "from 2"),
    ("dlrm", "infer", {"embedding_dim": 0}, "from 4"),
    ("dlrm", "infer", {"lookups": 0}, "from 1"),
    ("dlrm", "train", {"optimizer": "adagrad"}, "Allowed: sgd"),
]


@pytest.mark.parametrize(("name", "mode", "given", "message"), BAD)
def test_values_that_cannot_be_say_what_can(
    name: str, mode: str, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        WORKLOADS[name].modes[mode].parameters(**given)


def test_every_workload_refuses_something() -> None:
    assert {name for name, *_ in BAD} >= set(NAMES)


# Seeded construction

MODELS: dict[str, Callable[[], torch.nn.Module]] = {
    "resnet50": resnet50._construct,
    "bert": functools.partial(bert._construct, bert.SIZES["tiny"]),
    "llama": functools.partial(llama._construct, llama.SIZES["tiny"]),
    "deepseek": functools.partial(deepseek._construct, deepseek.SIZES["tiny"]),
    "deepseek v3": functools.partial(deepseek._construct, deepseek.SIZES["tiny-v3"]),
    "vit-b16": functools.partial(vit_b16._construct, 1, 48),
    "dit": functools.partial(diffusion._construct, diffusion.DITS["tiny"]),
    "unet": functools.partial(diffusion._construct, diffusion.UNETS["tiny-unet-2l"]),
}


@pytest.mark.parametrize("name", MODELS)
def test_seeded_weights_are_distributed_as_the_library_would_draw_them(name: str) -> None:
    ours = build_model(MODELS[name], None, SeededData(0), site())
    library = MODELS[name]()
    theirs = dict(library.named_parameters())
    buffers = dict(library.named_buffers())
    for path, parameter in ours.named_parameters():
        expected = theirs[path].detach()
        drawn = expected.std() > 1e-6
        if drawn and expected.numel() >= 1000:
            assert parameter.std().item() == pytest.approx(expected.std().item(), rel=0.15), path
            assert abs(parameter.mean().item()) < 5 * expected.std().item() / 1000**0.5, path
        elif not drawn:
            assert torch.equal(parameter, expected), path
    for path, buffer in ours.named_buffers():
        assert torch.equal(buffer, buffers[path]), path


@pytest.mark.parametrize("name", MODELS)
def test_precisions_hold_the_same_weights_rounded(name: str) -> None:
    single, half, double = (
        dict(build_model(MODELS[name], None, SeededData(7), site(p)).named_parameters())
        for p in (FP32, PRECISIONS["bf16"], REFERENCE)
    )
    for path, parameter in single.items():
        assert torch.equal(half[path], parameter.to(torch.bfloat16)), path
        assert torch.equal(double[path], parameter.double()), path


def test_no_two_rows_of_a_large_weight_are_equal() -> None:
    weight = SeededData(0).normal((3000, 768), torch.float32)
    assert len({tuple(row) for row in weight[:, :4].tolist()}) == len(weight)


def test_tied_weights_stay_tied() -> None:
    model: Any = build_model(MODELS["llama"], None, SeededData(0), site(PRECISIONS["bf16"]))
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_rotary_frequencies_keep_float32_and_batch_statistics_follow_the_weights() -> None:
    llama_model: Any = build_model(MODELS["llama"], None, SeededData(0), site(PRECISIONS["bf16"]))
    assert llama_model.model.rotary_emb.inv_freq.dtype == torch.float32
    buffers = dict(
        build_model(
            MODELS["resnet50"], None, SeededData(0), site(PRECISIONS["bf16"])
        ).named_buffers()
    )
    assert {value.dtype for key, value in buffers.items() if "running" in key} == {torch.bfloat16}
    assert {value.dtype for key, value in buffers.items() if "tracked" in key} == {torch.int64}


def test_an_initialiser_that_is_not_understood_is_not_guessed() -> None:
    def construct() -> torch.nn.Module:
        layer = torch.nn.Linear(4, 4)
        torch.nn.init.orthogonal_(layer.weight)
        return layer

    with pytest.raises(NotImplementedError, match="goes on with"):
        build_model(construct, None, SeededData(0), site())


@pytest.mark.parametrize("bound", [0.5, 2.0, 100.0])
def test_a_truncated_normal_is_drawn_as_a_normal_of_its_deviation(bound: float) -> None:
    def construct() -> torch.nn.Module:
        layer = torch.nn.Linear(300, 300)
        torch.nn.init.trunc_normal_(layer.weight, std=0.02, a=-0.02 * bound, b=0.02 * bound)
        return layer

    library: Any = construct()
    assert library.weight.abs().max() <= 0.02 * bound  # torch is as it was, before and after
    ours: Any = build_model(construct, None, SeededData(0), site())
    assert ours.weight.std().item() == pytest.approx(library.weight.std().item(), rel=0.02)
    again: Any = construct()
    assert again.weight.abs().max() <= 0.02 * bound


def test_a_truncated_normal_that_is_not_centred_is_not_guessed() -> None:
    def construct() -> torch.nn.Module:
        layer = torch.nn.Linear(4, 4)
        torch.nn.init.trunc_normal_(layer.weight, a=0.0)
        return layer

    with pytest.raises(NotImplementedError, match=r"around 0.0 from 0.0 to 2.0"):
        build_model(construct, None, SeededData(0), site())


def test_a_model_that_is_not_the_published_one_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"20 parameters, but the published model has 21"):
        build_model(lambda: torch.nn.Linear(4, 4), 21, SeededData(0), site())


PUBLISHED = [
    (module, name, size.published_parameters)
    for module in (bert, llama, deepseek, whisper)
    for name, size in module.SIZES.items()
    if size.published_parameters
]


@pytest.mark.parametrize(("module", "name", "published"), PUBLISHED)
def test_models_have_their_published_parameters(module: Any, name: str, published: int) -> None:
    with torch.device("meta"):
        model = module._construct(module.SIZES[name])
    assert parameter_count(model) == published


def test_resnet50_has_its_published_parameters() -> None:
    job = build("resnet50", "infer", site())
    assert job.facts["parameters"] == "25557032"


@pytest.mark.parametrize("module", [bert, llama])
def test_a_cut_model_differs_in_depth_and_vocabulary_only(module: Any) -> None:
    for name, size in module.SIZES.items():
        if not name.endswith("-2l"):
            cut = module.SIZES[name + "-2l"]
            assert (cut.layers, cut.published_parameters) == (2, None)
            assert cut.vocabulary <= 4096
            same = {"layers": 2, "vocabulary": cut.vocabulary, "published_parameters": None}
            assert msgspec.structs.replace(size, **same) == cut


# Each workload


def test_gemm_multiplies_and_rotates_through_more_than_a_cache() -> None:
    job: Any = build("gemm", "matmul", site(), shape="5x7x3")
    assert job.facts["operand buffers"] == "16"
    outputs = set()
    for _ in range(16):
        job.step()
        outputs.add(job._output.data_ptr())
    assert len(outputs) == 16
    a, b, c = next(job._operands)
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
    assert torch.allclose(job._target, expected)
    work = WORKLOADS["memory"].work(mode, small("memory", mode, size_bytes=64), FP32)
    assert (work.items, work.moved_bytes, work.flop) == (arrays * 64, arrays * 64, None)
    assert job._target.numel() * 4 == 64


def test_attention_is_what_torch_defines_and_so_are_its_gradients() -> None:
    job: Any = build("attention", "forward-backward", site())
    query, key, value, gradient = (t.detach() for t in next(job._operands))
    again = iter(
        [
            tuple(
                t.clone().requires_grad_(k < 3) for k, t in enumerate((query, key, value, gradient))
            )
        ]
    )
    job._operands = again
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
        pairs = [next(job._pairs) for _ in range(4)]
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


def test_resnet50_costs_what_it_is_known_to_cost() -> None:
    workload = WORKLOADS["resnet50"]
    infer = workload.work("infer", resnet50.InferParameters(batch_size=1), FP32)
    assert infer.flop == pytest.approx(8.18e9, rel=1e-3)
    train = workload.work("train", resnet50.TrainParameters(batch_size=2), FP32)
    assert train.flop is not None
    assert train.flop / 2 == pytest.approx(3 * 8.18e9, rel=1.1e-2)


def test_resnet50_honours_channels_last() -> None:
    job: Any = build("resnet50", "infer", site(memory_format="channels_last"))
    assert job.facts["memory_format"] == "channels_last"
    filters = [p for p in model_of(job).parameters() if p.dim() == 4]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in filters)
    assert next(job._inputs).is_contiguous(memory_format=torch.channels_last)
    job, other = (
        build("resnet50", "infer", site(memory_format=layout))
        for layout in ("channels_last", "contiguous")
    )
    assert torch.allclose(job.probe()["logits"], other.probe()["logits"], rtol=1e-3, atol=1e-4)


def test_bert_does_not_drop_out() -> None:
    job: Any = build("bert", "train", site())
    batch = next(job._batches)
    assert torch.equal(job._evaluate(batch)[0], job._evaluate(batch)[0])


def test_llama_135m_decodes_within_the_bytes_of_its_weights_and_cache() -> None:
    workload = WORKLOADS["llama"]
    work = workload.work("decode", llama.DecodeParameters(), PRECISIONS["bf16"])
    weights = 2 * (134_515_008 + 576)
    cache = 2 * 30 * 3 * 64 * 2 * (128 + 33 / 2 + 1)  # read, and the new token written
    assert work.moved_bytes == weights + cache


def test_training_flop_follow_the_palm_formula() -> None:
    workload = WORKLOADS["llama"]
    work = workload.work("train", llama.TrainParameters(), FP32)
    # 6 N + 12 L H Q T a token; N leaves out the norms, and the embedding is the output matrix.
    weights = 134_515_008 - 576 * (2 * 30 + 1)
    assert work.flop == work.items * (6 * weights + 12 * 30 * 576 * 256)


def test_lora_trains_float32_adapters_on_frozen_weights_of_the_named_precision() -> None:
    job: Any = build("llama", "lora", site(PRECISIONS["bf16"]), lora_rank=8)
    trained = {path for path, p in model_of(job).named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 4 * 3  # two matrices for each of four in each of three layers
    for path, parameter in model_of(job).named_parameters():
        assert ("lora_" in path) == parameter.requires_grad
        assert parameter.dtype == (torch.float32 if path in trained else torch.bfloat16)
        assert parameter.count_nonzero() > 0.9 * parameter.numel()
    job.step()
    assert sum(len(group["params"]) for group in job._optimizer.param_groups) == len(trained)
    assert len(job._optimizer.state) == len(trained)
    assert job.facts["trained"].endswith("parameters of adapters, float32")


def test_a_mode_whose_package_is_absent_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)  # as if it were not installed
    case = Case(
        workload="llama",
        version=llama.WORKLOAD.version,
        mode="lora",
        precision="fp32",
        execution="eager",
        parameters=msgspec.to_builtins(small("llama", "lora")),
    )
    request = worker.Request(
        case=case, backend="cpu", index=0, settings=Settings(), samples=10, seed=0
    )
    report = worker.Launch(request, worker._Channel(io.BytesIO())).run()
    assert report.outcome == Skipped(reason="peft is not installed: pip install 'accelmark[lora]'")


def test_lora_costs_two_thirds_of_training_and_its_adapters() -> None:
    workload = WORKLOADS["llama"]
    given = {"model": "llama-3.1-8b", "batch_size": 1, "sequence_length": 512}
    lora = workload.work("lora", llama.LoraParameters(**given), FP32).flop  # type: ignore[arg-type]
    train = workload.work("train", llama.TrainParameters(**given), FP32).flop  # type: ignore[arg-type]
    assert lora is not None and train is not None
    assert lora / train == pytest.approx(2 / 3, rel=0.02)


@pytest.mark.parametrize(("name", "active"), [("v2-lite", 2.4e9), ("v3", 37e9)])
def test_a_deepseek_token_meets_the_published_active_parameters(name: str, active: float) -> None:
    size = deepseek.SIZES[name]
    met = size.layers_weights(size.active) + size.layers * size.expansion_weights
    # The papers round, and count the output matrix but not the embedding.
    assert met + size.hidden * size.vocabulary == pytest.approx(active, rel=0.03)


def test_deepseek_decode_reads_each_expert_that_the_batch_goes_to_once() -> None:
    size = deepseek.SIZES["v2-lite"]
    assert deepseek._experts_touched(size, 1) == pytest.approx(6)
    assert deepseek._experts_touched(size, 2) == pytest.approx(12 - 36 / 64)
    assert 63 < deepseek._experts_touched(size, 64) < 64
    parameters = deepseek.DecodeParameters(model="v2-lite", prompt_length=100, new_tokens=1)
    work = WORKLOADS["deepseek"].work("decode", parameters, PRECISIONS["bf16"])
    # All parameters but the experts that are not met and the embedding's other rows; and the
    # cache: 100 tokens and the new one read, the new one written.
    idle = 26 * 58 * size.expert_weights + (size.vocabulary - 1) * size.hidden
    cache = 27 * (512 + 64) * (101 + 1)
    assert work.moved_bytes == 2 * (15_706_484_224 - idle + cache)


@pytest.mark.parametrize("name", ["tiny", "tiny-v3"])
def test_grouped_experts_are_those_of_the_loop(name: str) -> None:
    """With unequal groups and idle experts, which the twin has not."""
    tokens = torch.randint(0, 512, (2, 9))
    grouped, loop = (
        full_forward(
            build_model(
                functools.partial(deepseek._construct, deepseek.SIZES[name], experts),
                None,
                SeededData(0),
                site(),
            ),
            tokens,
        )
        for experts in ("grouped_mm", "eager")
    )
    torch.testing.assert_close(grouped, loop, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["tiny", "tiny-v3"])
def test_deepseek_decodes_from_latents_what_the_full_forward_gives(name: str) -> None:
    job: Any = build(
        "deepseek", "decode", site(), model=name, batch_size=2, prompt_length=9, new_tokens=5
    )
    layer = job._generator._cache.layers[0]
    assert (layer.keys.shape, layer.values.shape) == ((2, 1, 14, 32), (2, 1, 14, 8))
    prompt = torch.randint(0, 512, (2, 9))
    job = type(job)(job._generator, prompt, job._forced)
    for _ in range(2):
        text = torch.cat((prompt, job._first_token), dim=1)
        for _ in range(5):
            job.step()
            expected = full_forward(model_of(job), text)[:, -1:]
            torch.testing.assert_close(job._logits, expected, rtol=1e-4, atol=1e-5)
            text = torch.cat((text, job._token), dim=1)


def test_deepseek_twins_leave_no_choice_among_experts() -> None:
    for name, size in deepseek.SIZES.items():
        if name.endswith("-2l"):
            assert (size.layers, size.dense_layers) == (2, 1)
            assert size.experts == size.active == 4


def full_forward(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=tokens, use_cache=False).logits
    return logits


def test_prefill_is_the_full_forward_every_time() -> None:
    job: Any = build("llama", "prefill", site(), batch_size=2, prompt_length=9)
    prompts = [next(job._prompts) for _ in range(4)]
    for prompt in prompts * 2:
        job.step()
        expected = full_forward(model_of(job), prompt)[:, -1:]
        torch.testing.assert_close(job._logits, expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(job._token, expected.argmax(-1))


def test_decode_is_greedy_and_agrees_with_the_full_forward() -> None:
    prompt = torch.randint(0, 512, (2, 9))
    parameters = small("llama", "decode", batch_size=2, prompt_length=9, new_tokens=5)
    workload = WORKLOADS["llama"]
    job: Any = workload.build("decode", parameters, site())
    job = type(job)(job._generator, prompt, job._forced)
    for _ in range(2):  # the second time from the end of the prompt again
        text = torch.cat((prompt, job._first_token), dim=1)
        for _ in range(5):
            job.step()
            expected = full_forward(model_of(job), text)[:, -1:]
            torch.testing.assert_close(job._logits, expected, rtol=1e-4, atol=1e-5)
            text = torch.cat((text, expected.argmax(-1)), dim=1)


def test_a_static_cache_of_another_make_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(cache_utils.StaticCache):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            for layer in self.layers:
                layer.lazy_initialization = lambda keys, values: None
                del layer.cumulative_length

    monkeypatch.setattr(cache_utils, "StaticCache", Other)
    with pytest.raises(RuntimeError, match=r"Install transformers>=5\.6"):
        build("llama", "prefill", site())


def test_the_decode_probe_feeds_fixed_tokens() -> None:
    parameters = small("llama", "decode", batch_size=2, prompt_length=9, new_tokens=5)
    job: Any = WORKLOADS["llama"].build("decode", parameters, site())
    again: Any = WORKLOADS["llama"].build("decode", parameters, site())
    again._forced = (again._forced + 1) % 512
    logits, others = job.probe()["logits"], again.probe()["logits"]
    assert logits.shape == (2, 6, 512)
    assert torch.equal(logits[:, 0], others[:, 0])
    assert not torch.equal(logits[:, 1], others[:, 1])


def test_attention_is_causal() -> None:
    job: Any = build("llama", "train", site())
    tokens, _ = next(job._batches)
    changed = tokens.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 512
    before, after = (full_forward(model_of(job), t) for t in (tokens, changed))
    assert torch.equal(before[:, :-1], after[:, :-1])
    assert not torch.equal(before[:, -1], after[:, -1])


def test_loss_is_computed_in_float32_at_least() -> None:
    for precision, dtype in (("bf16", torch.float32), ("bf16-amp", torch.float32)):
        job: Any = build("llama", "train", site(PRECISIONS[precision]))
        assert isinstance(job, TrainingJob)
        assert job.probe()["loss"].dtype == dtype
    assert build("llama", "train", site(REFERENCE)).probe()["loss"].dtype == torch.float64


def test_vit_b16_has_its_published_parameters_and_cost() -> None:
    with torch.device("meta"):
        model = vit_b16._construct(12, 224)
    assert parameter_count(model) == vit_b16._parameters(vit_b16.InferParameters()) == 86_567_656
    workload = WORKLOADS["vit-b16"]
    infer = workload.work("infer", vit_b16.InferParameters(batch_size=3), FP32)
    assert infer.flop == pytest.approx(3 * 2 * 17.56e9, rel=1e-3)


def test_a_cut_vit_lacks_layers_and_positions_only() -> None:
    cut = vit_b16.InferParameters(layers=2, image_size=48)
    with torch.device("meta"):
        model = vit_b16._construct(2, 48)
    assert parameter_count(model) == vit_b16._parameters(cut)
    whole = {path: p.shape for path, p in vit_b16._construct(2, 224).named_parameters()}
    differ = {path for path, p in model.named_parameters() if p.shape != whole[path]}
    assert differ == {"vit.embeddings.position_embeddings"}


def test_vit_b16_does_not_drop_out_and_sees_every_patch() -> None:
    job: Any = build("vit-b16", "train", site())
    images, targets = next(job._batches)
    logits = job._evaluate((images, targets))[0]
    assert torch.equal(logits, job._evaluate((images, targets))[0])
    for row in range(0, 48, 16):
        for column in range(0, 48, 16):
            changed = images.clone()
            changed[0, :, row, column] += 1.0
            others = job._evaluate((changed, targets))[0]
            assert not torch.equal(others[0], logits[0])
            assert torch.allclose(others[1], logits[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lookups", [1, 3])
def test_a_dlrm_step_is_one_of_torchs_embedding_bags_with_sparse_gradients(lookups: int) -> None:
    job: Any = build("dlrm", "train", site(REFERENCE), batch_size=64, rows=16, lookups=lookups)
    parts: Any = model_of(job)
    before = parts["tables"].weight.detach().clone()
    bag = functools.partial(torch.nn.EmbeddingBag.from_pretrained, mode="sum", sparse=True)
    bags = [bag(table, freeze=False) for table in before.clone().split(16)]
    bottom, top = (copy.deepcopy(parts[part]) for part in ("bottom", "top"))
    weights = [w for module in (*bags, bottom, top) for w in module.parameters()]
    optimizer = torch.optim.SGD(weights, lr=dlrm.LEARNING_RATE)
    for _ in range(3):
        (dense, indices), clicks = next(job._batches)
        job._batches = itertools.chain([((dense, indices), clicks)], job._batches)
        job.step()
        optimizer.zero_grad()
        first = bottom(dense)
        vectors = [first, *(table(indices[:, t] - 16 * t) for t, table in enumerate(bags))]
        products = [(vectors[i] * vectors[j]).sum(-1) for i in range(27) for j in range(i)]
        chance = top(torch.cat((first, torch.stack(products, 1)), 1)).squeeze(1).sigmoid()
        loss = -torch.where(clicks == 1, chance, 1 - chance).log().mean()
        loss.backward()
        optimizer.step()
        assert job.witness() == pytest.approx(float(loss.detach()))
    expected = torch.cat([bag.weight for bag in bags])
    torch.testing.assert_close(parts["tables"].weight, expected)
    assert not torch.allclose(before, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(dict(parts["top"].named_parameters()), dict(top.named_parameters()))


def test_dlrm_keeps_what_it_does_not_look_up_and_looks_up_every_table() -> None:
    job: Any = build("dlrm", "train", site(), batch_size=4, rows=100)
    (_, indices), _ = next(job._batches)
    job._batches = itertools.repeat(next(job._batches))
    (_, indices), _ = next(job._batches)
    assert indices.shape == (4, 26, 1)
    assert torch.equal(indices // 100, torch.arange(26)[:, None].expand(4, 26, 1))
    tables: Any = model_of(job)
    weight = tables["tables"].weight
    before = weight.detach().clone()
    job.step()
    changed = (weight != before).any(1).nonzero().flatten()
    assert set(changed.tolist()) == set(indices.flatten().tolist())
    assert weight.grad is None


def test_dlrm_counts_flop_and_bytes_as_its_docstring_says() -> None:
    workload = WORKLOADS["dlrm"]
    sizes: dict[str, Any] = {"batch_size": 2, "rows": 10**8, "embedding_dim": 8}
    bottom = 13 * 512 + 512 * 256 + 256 * 8
    mlps = bottom + (8 + 351) * 1024 + 1024 * 1024 + 1024 * 512 + 512 * 256 + 256
    flop = 2 * (mlps + 27 * 27 * 8)
    biases = 512 + 256 + 8 + 1024 + 1024 + 512 + 256 + 1
    inputs = 2 * (13 * 2 + 26 * 8)
    rows = 2 * 26 * 8  # of so many, no two are the same
    infer = workload.work("infer", dlrm.InferParameters(**sizes), PRECISIONS["bf16"])
    assert infer.flop == 2 * flop
    assert infer.moved_bytes == 2 * (mlps + biases + rows) + inputs
    train = workload.work("train", dlrm.TrainParameters(**sizes), PRECISIONS["bf16"])
    assert train.flop == 2 * (3 * flop - 2 * 13 * 512)
    assert train.moved_bytes == 4 * (mlps + biases + rows) + inputs
    few = workload.work("infer", dlrm.InferParameters(batch_size=10**6, rows=2), FP32)
    assert few.moved_bytes is not None
    assert few.moved_bytes == pytest.approx(10**6 * (13 * 4 + 26 * 8), rel=0.05)


def test_whisper_is_greedy_agrees_with_the_full_forward_and_starts_over_each_step() -> None:
    job: Any = build("whisper", "infer", site(), batch_size=2, new_tokens=5)
    model: Any = model_of(job)
    windows = [next(job._windows) for _ in range(4)]
    for window in windows * 2:
        job.step()
        text = job._forced[:, :1]
        for _ in range(5):
            with torch.inference_mode():
                logits = model(
                    input_features=window, decoder_input_ids=text, use_cache=False
                ).logits[:, -1:]
            text = torch.cat((text, logits.argmax(-1)), dim=1)
        torch.testing.assert_close(job._logits, logits, rtol=1e-4, atol=1e-5)


def test_the_whisper_probe_feeds_fixed_tokens_and_hears_the_whole_window() -> None:
    jobs: list[Any] = [build("whisper", "infer", site()) for _ in range(3)]
    jobs[1]._forced = (jobs[1]._forced + torch.tensor([0, 1, 0, 0])) % 4096
    late = next(jobs[2]._windows).clone()
    late[..., -2:] = 0.0
    jobs[2]._windows = itertools.repeat(late)
    logits, others, deaf = (job.probe()["logits"] for job in jobs)
    assert logits.shape == (1, 4, 4096)
    assert torch.equal(logits[:, 0], others[:, 0])
    assert not torch.equal(logits[:, 1], others[:, 1])
    assert not torch.equal(logits[:, 0], deaf[:, 0])


@pytest.mark.parametrize("name", ["tiny", "large-v3"])
def test_whisper_costs_what_its_matrices_do(name: str) -> None:
    size = whisper.SIZES[name]
    with torch.device("meta"):
        model = whisper._construct(size)
    multiply_adds = 0
    for path, p in model.named_parameters():
        if p.dim() < 2 or "embed_positions" in path:
            continue
        often = "encoder." in path or "encoder_attn.k" in path or "encoder_attn.v" in path
        multiply_adds += p.numel() * (3000 if "conv1" in path else 1500 if often else 1)
    multiply_adds += 2 * size.hidden * size.layers * (1500**2 + 1500 + 1)
    work = WORKLOADS["whisper"].work(
        "infer", whisper.InferParameters(model=name, batch_size=3, new_tokens=1), FP32
    )
    assert (work.items, work.unit, work.flop) == (90, "audio second", 3 * 2 * multiply_adds)


def test_a_whisper_cache_of_another_make_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(cache_utils.StaticCache):  # type: ignore[misc]
        def early_initialization(self, *args: Any, **kwargs: Any) -> None:
            for layer in self.layers:
                del layer.cumulative_length

    monkeypatch.setattr(cache_utils, "StaticCache", Other)
    with pytest.raises(RuntimeError, match=r"Install transformers>=5\.6"):
        build("whisper", "infer", site())


@pytest.mark.parametrize("name", ["dit-s-2", "dit-xl-2", "sdxl-unet", "tiny-unet"])
def test_diffusion_models_have_their_published_parameters_and_declared_cost(name: str) -> None:
    unet = diffusion.UNETS.get(name)
    size = unet or diffusion.DITS[name]
    counter = FlopCounterMode(display=False)
    latents = (1, 4, size.latents, size.latents)
    with torch.device("meta"), torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model = diffusion._construct(size)
        step = torch.zeros(1, dtype=torch.long)
        inputs = (torch.empty(latents), step)
        if unet is None:
            with counter:
                diffusion._denoise_labelled(model, (*inputs, step))
        else:
            added = torch.empty(1, 77, unet.text), torch.empty(1, unet.pooled), step.expand(1, 6)
            with counter:
                diffusion._denoise_described(model, (*inputs, *added))
    assert size.published_parameters in (None, parameter_count(model))
    workload = WORKLOADS["diffusion"]
    work = workload.work("infer", diffusion.InferParameters(model=name, batch_size=2), FP32)
    assert (work.items, work.unit) == (2, "image-step")
    assert work.flop == 2 * counter.get_total_flops()


def test_dit_costs_what_its_paper_says() -> None:
    workload = WORKLOADS["diffusion"]
    for name, giga in (("dit-s-2", 6.06), ("dit-xl-2", 118.64)):
        work = workload.work("infer", diffusion.InferParameters(model=name, batch_size=1), FP32)
        assert work.flop == pytest.approx(2e9 * giga, rel=0.005)


def test_dit_learns_the_noise_that_was_added_and_drops_no_label() -> None:
    job: Any = build("diffusion", "train", site(), batch_size=2)
    (latents, timesteps, classes), noise = batch = next(job._batches)
    assert latents.shape == noise.shape == (2, 4, 16, 16)
    assert timesteps.shape == classes.shape == (2,)
    kept = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)[timesteps]
    rest = latents - (1 - kept).sqrt().view(-1, 1, 1, 1) * noise
    torch.testing.assert_close(
        rest.std((1, 2, 3)).double(), kept.sqrt(), rtol=0.1, atol=0.0, check_dtype=False
    )
    prediction, loss = job._evaluate(batch)
    assert prediction.shape == noise.shape
    assert loss.item() == pytest.approx((prediction - noise).square().mean().item())
    assert torch.equal(prediction, job._evaluate(batch)[0])
    others = job._evaluate(((latents, timesteps, (classes + 1) % 1000), noise))[0]
    assert not torch.equal(prediction, others)


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_a_unet_denoises_by_what_it_is_told(precision: str) -> None:
    job: Any = build("diffusion", "infer", site(PRECISIONS[precision]), model="tiny-unet-2l")
    no_questions: Any = NoQuestions
    with no_questions():
        job.step()
    inputs = next(job._inputs)
    job._inputs = itertools.repeat(inputs)
    before = job.probe()["logits"]
    assert before.shape == (2, 4, 16, 16)
    for index in range(len(inputs)):
        changed = list(inputs)
        changed[index] = changed[index] + 1
        job._inputs = itertools.repeat(tuple(changed))
        assert not torch.equal(job.probe()["logits"], before), index
