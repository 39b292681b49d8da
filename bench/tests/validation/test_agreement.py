"""The bare loops: one for every model of `quick`, and of the same model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from bench import catalogue
from bench.measuring.gates import numerics
from bench.planning import plan, suite_file
from bench.records.case import Case
from bench.records.outcome import Numerics
from bench.tests.small_workloads import model_of
from bench.tests.validation import agreement, same_operators
from bench.tests.validation.bare import text, vision
from bench.tests.validation.bare.decode import ByHand, Latents
from bench.tests.validation.bare.loop import Loop
from bench.tests.validation.same_operators import Calls
from bench.tests.values import BAD_NUMERICS, NUMERICS, make_case
from bench.workloads import _denoisers, bert, gpt_oss, resnet50, vit_b16
from bench.workloads.jobs.jobs import InferenceJob
from bench.workloads.jobs.seeded import parameter_count
from bench.workloads.language import gpts, latent, llamas, qwens
from bench.workloads.layers.transformers import attention_of, library_class

KERNELS = ("gemm", "memory", "attention", "launch", "transfer")
"""Workloads without a model: what they do is one call of torch."""
QUICK = plan.plan(suite_file.read_suite(suite_file.find_suite(agreement.SUITE)))


def test_every_model_of_quick_has_a_bare_loop_and_so_has_a_family_besides() -> None:
    models = {case.name for case in QUICK if case.workload not in KERNELS}
    besides = {f"{entry['workload']}-{entry['mode']}" for entry in agreement.BESIDES}
    assert set(agreement.BARE) == models | besides and not models & besides
    assert {case.workload for case in QUICK} >= set(KERNELS)
    assert not set(vision.BARE) & set(text.BARE)


def parameters_of(name: str) -> dict[str, Any]:
    return next(dict(case.parameters) for case in QUICK if case.name == name)


MODELS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "resnet50": (vision._resnet50, resnet50._construct),
    "vit-b16": (
        lambda: vision._vit(parameters_of("vit-b16-train")),
        lambda: vit_b16._construct(12, parameters_of("vit-b16-train")["image_size"]),
    ),
    "diffusion": (
        vision._dit,
        lambda: _denoisers.construct(_denoisers.DITS["dit-s-2"]),
    ),
    "bert": (text._bert, lambda: bert._construct(bert.SIZES["base"])),
    "llama": (text._llama, llamas.SIZES["smollm2-135m"].construct),
    "qwen3": (text._qwen3, qwens.SIZES["qwen3-0.6b"].construct),
    "qwen3 of the last token": (
        lambda: text._qwen3(151_669),
        qwens.RERANKERS["qwen3-reranker-0.6b"].construct,
    ),
    "gpt-oss": (text._gpt_oss, gpts.SIZES[gpt_oss.DEFAULT_MODEL].construct),
    "deepseek": (text._deepseek, latent.SIZES["v2-lite-cut"].construct),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_bare_model_is_the_workloads(name: str) -> None:
    """Tensor by tensor, without their values, and of the same configuration."""
    with torch.device("meta"):
        bare, ours = (make() for make in MODELS[name])
    configurations = [
        dict(model.config.items()) if name == "diffusion" else model.config.to_dict()
        for model in (bare, ours)
    ]
    for configuration in configurations:
        configuration.pop("initializer_range", None)
    assert configurations[0] == configurations[1]
    assert parameter_count(bare) == parameter_count(ours)
    shapes = [{key: p.shape for key, p in m.named_parameters()} for m in (bare, ours)]
    assert shapes[0] == shapes[1]


def test_a_bare_loop_of_experts_has_the_harness_experts_at_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An expert that no token goes to costs next to nothing: which those are, weights and tokens
    decide."""
    monkeypatch.setattr(numerics, "gate", lambda *asked: NUMERICS)
    compared = agreement.in_precision(agreement.compared("eager"), "fp32")
    (case,) = (x for x in compared if x.name == "deepseek-train")
    job, _, loop = agreement.sides(case)
    tokens = agreement.trained_on(job)
    assert all(map(torch.equal, loop.tokens, tokens))
    with torch.no_grad():
        ours, bare = (x(tokens[0], use_cache=False).logits for x in (model_of(job), loop.routed))
    assert torch.equal(ours, bare)


@pytest.mark.parametrize(
    ("workload", "mode", "parameters"),
    [
        ("vit-b16", "infer", {"batch_size": 1, "image_size": 32, "layers": 1}),
        (
            "dlrm",
            "train",
            {
                "batch_size": 16,
                "rows": 50,
                "embedding_dim": 8,
                "lookups": 2,
                "optimizer": "sgd",
            },
        ),
    ],
)
@pytest.mark.parametrize("instead", [None, "fp32"])
def test_the_two_take_turns(
    workload: str, mode: str, parameters: dict[str, Any], instead: str | None
) -> None:
    precision = instead or ("bf16-amp" if mode == "train" else "bf16")
    version = catalogue.workload(workload).version
    case = make_case(
        workload=workload, mode=mode, version=version, precision=precision, parameters=parameters
    )
    assert agreement.take_turns(case, turns=2).ratio > 0


def test_what_is_compared_compiled_is_what_can_be() -> None:
    eager, compiled = (agreement.compared(execution) for execution in ("eager", "compile"))
    assert {case.name for case in eager} == set(agreement.BARE)
    assert {case.name for case in compiled} <= {case.name for case in eager}
    assert len(compiled) > 10
    assert {case.execution for case in compiled} == {"compile"}


def small_vit(**changes: Any) -> Case:
    fields: dict[str, Any] = {
        "workload": "vit-b16",
        "mode": "infer",
        "version": catalogue.workload("vit-b16").version,
        "parameters": {"batch_size": 1, "image_size": 32, "layers": 1},
    }
    return make_case(**{**fields, **changes})


def test_both_sides_are_compiled_and_begin_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bare loop that prepares a pass has just read its weights: so has the harness, then. And
    what the gate leaves behind in the process is the harness's own, as in a launch."""
    done: list[str] = []

    def gate(*asked: object) -> Numerics:
        done.append("gate")
        return NUMERICS

    monkeypatch.setattr(numerics, "gate", gate)
    loop = Loop(
        lambda: done.append("step"), ("module",), steps=2, before_pass=lambda: done.append("before")
    )
    monkeypatch.setattr(Loop, "compile", lambda self: done.append(f"compile {self.modules[0]}"))
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **_: done.append("compile ours"))
    monkeypatch.setattr(InferenceJob, "again", lambda self: done.append("again"))
    monkeypatch.setattr(InferenceJob, "step", lambda self: done.append("our step"))
    monkeypatch.setitem(agreement.BARE, "vit-b16-infer", lambda parameters, kind: loop)
    monkeypatch.setattr(agreement, "WARMUP_TURNS", 0)
    case = small_vit(execution="compile")
    assert agreement.take_turns(case, turns=1).ratio > 0
    assert done[:3] == ["gate", "compile ours", "compile module"]
    assert done[3:] == ["again", "our step", "our step", "before", "step", "step"]


@pytest.mark.parametrize(("number", "order"), [(0, ["gate", "bare"]), (1, ["bare", "gate"])])
def test_the_bare_loop_is_made_first_in_every_other_launch(
    number: int, order: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose memory lies better depends on it."""
    done: list[str] = []

    def gate(*asked: object) -> Numerics:
        done.append("gate")
        return NUMERICS

    def bare(parameters: Any, kind: Any) -> Loop:
        done.append("bare")
        return Loop(lambda: None, ())

    monkeypatch.setattr(numerics, "gate", gate)
    monkeypatch.setitem(agreement.BARE, "vit-b16-infer", bare)
    assert agreement.take_turns(small_vit(), 1, number).ratio > 0
    assert done == order


def test_what_computes_wrongly_takes_no_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numerics, "gate", lambda *asked: BAD_NUMERICS)
    with pytest.raises(SystemExit, match=r"vit-b16-infer.*: the numerics gate says "):
        agreement.take_turns(small_vit(), turns=1)


def test_operators_that_the_sides_call_otherwise_are_told_if_they_take_time() -> None:
    ours = {"mm": Calls(3, 0.5), "bmm": Calls(2, 0.2), "add": Calls(1, 0.001)}
    theirs = {"mm": Calls(3, 0.4), "bmm": Calls(3, 0.25), "gather": Calls(1, 0.3)}
    assert [one.words for one in same_operators.unlike(ours, theirs)] == [
        "gather: ours 0 (0.0%), the bare loop 1 (30.0%)",
        "bmm: ours 2 (20.0%), the bare loop 3 (25.0%)",
    ]


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_small_vit_calls_the_same_operators_as_its_bare_loop(precision: str) -> None:
    (case,) = agreement.in_precision([small_vit()], precision)
    assert same_operators.beside(case) == []


def test_every_case_can_be_compared_in_float32_instead() -> None:
    eager = agreement.compared("eager")
    assert {case.precision for case in eager} == {"bf16", "bf16-amp"}
    for case in agreement.in_precision(eager, *agreement.INSTEAD):
        assert case.precision in catalogue.workload(case.workload).modes[case.mode].precisions


@pytest.mark.parametrize(("precision", "kind"), agreement.KINDS.items())
def test_the_bare_loop_calculates_in_the_precision_of_the_case(precision: str, kind: str) -> None:
    mode = "train" if precision.endswith("-amp") else "infer"
    parameters = {**small_vit().parameters, **({"optimizer": "adamw"} if mode == "train" else {})}
    case = small_vit(mode=mode, precision=precision, parameters=parameters)
    _, _, loop = agreement.sides(case)
    (model,) = loop.modules
    found: list[torch.dtype] = []
    model.classifier.register_forward_hook(lambda _, __, output: found.append(output.dtype))
    loop.step()
    assert found == [getattr(torch, kind)]


SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 64}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}


def small_model(name: str) -> Any:
    if name == "deepseek":
        sizes = {"num_attention_heads": 2, "num_key_value_heads": 2, "kv_lora_rank": 8}
        sizes |= {"qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8}
        sizes |= {"first_k_dense_replace": 2, "n_routed_experts": 2, "num_experts_per_tok": 1}
        return library("deepseek_v2", "DeepseekV2", q_lora_rank=None, **SMALL, **sizes)
    if name == "gpt-oss":
        attention = attention_of(text._here())
        sizes = {"num_local_experts": 2, "num_experts_per_tok": 2, "sliding_window": 4}
        model = library(
            "gpt_oss", "GptOss", attn_implementation=attention, **SMALL, **HEADS, **sizes
        )
        gpts.draw(model, 0.2)
        return model
    return library(name, name.capitalize(), **SMALL, **HEADS)


def library(module: str, name: str, **sizes: Any) -> Any:
    place = f"transformers.models.{module}."
    config = library_class(f"{place}configuration_{module}", f"{name}Config")(**sizes)
    return library_class(f"{place}modeling_{module}", f"{name}ForCausalLM")(config).eval()


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt-oss", "deepseek"])
def test_a_token_by_hand_is_what_the_library_makes_of_it(name: str) -> None:
    """Token by token behind a prompt, against one forward over all of them, without a cache; and
    as a compiler is given it, which is the same arithmetic, written otherwise."""
    torch.manual_seed(0)
    model = small_model(name)
    tokens = torch.randint(0, 64, (3, 9))
    kind: Any = Latents if name == "deepseek" else ByHand
    with torch.inference_mode():
        whole = model(tokens, use_cache=False).logits
    if kind is Latents:
        model.set_attn_implementation(attention_of(text._here()))
    by_hand = kind(model, batch=3, prompt=5, new_tokens=4)
    ways = [by_hand.logits] if kind is Latents else [by_hand.logits, by_hand._compiled]
    for way in ways:
        with torch.inference_mode():
            assert torch.equal(by_hand.read(tokens[:, :5]), whole[:, 4:5].argmax(-1))
            found = [way(tokens[:, 5 + k : 6 + k], by_hand.at(k)) for k in range(4)]
        torch.testing.assert_close(torch.cat(found, 1), whole[:, 5:], rtol=1e-4, atol=1e-5)
