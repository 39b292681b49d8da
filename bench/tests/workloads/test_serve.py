"""The slot engine: its logits, its tokens, its variants, and what its parameters allow."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import torch

from bench.measuring.gates import serving_gate
from bench.measuring.gates.numerics import reference_of, relative_error
from bench.measuring.serving_loop import Loop, prompts
from bench.planning import arrivals
from bench.planning.arrivals import Lengths, closed
from bench.precision import PRECISIONS
from bench.serving_job import Rows
from bench.tests.replay import FakeRecorder
from bench.tests.small_workloads import one_thread, site
from bench.workload import Unsupported
from bench.workloads import serve
from bench.workloads.decoding.slot_caches import ATTENTION
from bench.workloads.decoding.slots import reaches
from bench.workloads.serve import SERVED, WORKLOAD, ServeParameters

__all__ = ["one_thread"]
SMALL = ServeParameters(
    model="tiny-untied-2l",
    slots=3,
    chunk=64,
    input_tokens=252,
    output_tokens=8,
    requests=12,
    concurrency=3,
)


TWO_MATRICES = ("llama-3.1-8b", "llama-3.1-70b", "qwen3-8b")
"""Untied where they are published."""


LATENT = "deepseek-tiny-2l"
"""A model whose cache keeps latents."""


@pytest.fixture(scope="module")
def reference() -> Iterator[Any]:
    """The same model in float64."""
    yield WORKLOAD.build("load", SMALL, reference_of(site()))


def build(model: str = SMALL.model, **changes: Any) -> Any:
    given = msgspec.structs.replace(SMALL, model=model)
    return WORKLOAD.build("load", given, msgspec.structs.replace(site(), **changes))


@pytest.mark.parametrize("model", ["tiny-untied-2l", "qwen3-tiny-untied-2l", "deepseek-tiny"])
def test_fp32_tokens_are_those_of_lone_greedy_generation(model: str) -> None:
    """Token by token, of the library's own `generate`; lengths of every kind, slots shared.

    Of those with experts the whole model, whose tokens go to the best of them.
    """
    job = build(model)
    load = closed(7, Lengths(input_tokens=9, output_tokens=5, sigma=0.8), 3, 2)
    loaded = Loop(job, load, prompts(load, job.vocabulary, 4), 3).run()
    job.empty()
    job._model.config._attn_implementation = "sdpa"
    job._model.generation_config.eos_token_id = None
    for request in loaded.requests:
        text = torch.tensor([request.prompt])
        found = job._model.generate(
            text,
            attention_mask=torch.ones_like(text),
            max_new_tokens=request.new_tokens,
            do_sample=False,
        )
        assert request.answer == found[0, len(request.prompt) :].tolist()
    assert max(len(set(r.answer)) for r in loaded.requests) > 5, "tokens that repeat prove nothing"


@pytest.mark.parametrize("execution", ["eager", "graph"])
def test_logits_are_the_reference_s(reference: Any, execution: str) -> None:
    """In a schedule of chunks, shared forwards and two reaches, replayed too."""
    recorder = FakeRecorder() if execution == "graph" else None
    job = build(execution=execution, recorder=recorder)
    expected = reference.probe()["logits"]
    found = job.probe()["logits"]
    assert relative_error(found.double(), expected) < 1e-5
    if recorder is not None:
        assert recorder.recordings == len(job._engine._variants) and recorder.replays > 5
        before = recorder.recordings
        job.warm()
        assert recorder.recordings == 4 > before, "both widths at both reaches"
        assert relative_error(job.probe()["logits"].double(), expected) < 1e-5


@pytest.mark.parametrize("model", [SMALL.model, LATENT])
def test_logits_are_those_of_the_library_without_a_cache(model: str) -> None:
    """Of a text in slot 1: two chunks, and two tokens after them; its own forward over the whole.

    The gate's reference of logits is this engine too, in float64: what it does wrong there as here
    is seen by this alone, and by the answers' regrets.
    """
    job = build(model)
    text = job._texts[0, :70].tolist()
    found = []
    for rows in (
        Rows(prompt=text[:64], slot=1),
        Rows(prompt=text[64:68], slot=1, start=64),
        *(Rows(decoding=[(1, text[place], place)]) for place in (68, 69)),
    ):
        job.forward(rows)
        found.append(job._engine.logits[-1 if rows.prompt else 1])
    job.empty()
    job._model.config._attn_implementation = "sdpa"
    with torch.inference_mode():
        expected = job._model(torch.tensor([text]), use_cache=False).logits[0, [63, 67, 68, 69]]
    assert relative_error(torch.stack(found), expected) < 1e-5


def test_latents_are_all_that_is_kept_and_are_recorded_over() -> None:
    """As narrow as they are said to be; each variant once."""
    size = SERVED[LATENT]
    recorder = FakeRecorder()
    job = build(LATENT, execution="graph", recorder=recorder)
    expected = build(LATENT).probe()["logits"]
    job.warm()
    assert relative_error(job.probe()["logits"], expected) < 1e-6
    assert recorder.recordings == 4
    for tensor in job._engine.tensors():
        assert tensor.shape == (SMALL.slots + 1, 1, job.length, size.latent + size.rotary)
    assert job.facts["cache"] == "static slots of latents"


def test_the_teacher_reads_latents_and_leaves_the_engine_as_it_was() -> None:
    """Its layers have no cache, and the library's own expansion."""
    job, prompt = build(LATENT), [3, 1, 4, 1, 5]
    answer = greedy(job, prompt, 3)
    assert job.regrets(prompt, answer) == [0.0, 0.0, 0.0]
    worse = job.regrets(prompt, [answer[0], (answer[1] + 1) % job.vocabulary, answer[2]])
    assert worse[0] == 0.0 and worse[1] > 0.1
    assert greedy(job, prompt, 3) == answer
    assert job._model.config._experts_implementation == "grouped_mm"


def test_experts_are_served_in_what_has_a_kernel_for_them() -> None:
    with pytest.raises(Unsupported, match="in bf16 and fp32, not in fp16"):
        build("deepseek-tiny-2l", precision=PRECISIONS["fp16"])
    assert not SERVED["qwen3-tiny-untied-2l"].experts
    assert build("qwen3-tiny-untied-2l", precision=PRECISIONS["fp16"]).slots == SMALL.slots


def test_the_teacher_knows_what_is_worse(reference: Any) -> None:
    """0 of each greedy token, and the distance in standard deviations of any other."""
    job, prompt = build(), [3, 1, 4, 1, 5]
    answer = [int(torch.tensor(x)) for x in greedy(job, prompt, 3)]
    assert job.regrets(prompt, answer) == [0.0, 0.0, 0.0]
    assert reference.regrets(prompt, answer) == pytest.approx([0.0] * 3, abs=1e-6)
    other = [answer[0], (answer[1] + 1) % job.vocabulary, answer[2]]
    first, second, _ = reference.regrets(prompt, other)
    assert first == 0.0 and second > 0.1
    assert job._model.config._attn_implementation == ATTENTION, "the engine goes on afterwards"
    assert greedy(job, prompt, 3) == answer


def greedy(job: Any, prompt: list[int], count: int) -> list[int]:
    load = arrivals.offline(1, Lengths(input_tokens=len(prompt), output_tokens=count), 0)
    return Loop(job, load, [prompt], 1).run().requests[0].answer


def test_reaches_are_powers_of_two_up_to_the_length() -> None:
    """Few variants, all of which can be warmed."""
    assert reaches(100) == (100,)
    assert reaches(256) == (256,)
    assert reaches(2048) == (256, 512, 1024, 2048)
    assert reaches(2500) == (256, 512, 1024, 2048, 2500)


def test_models_are_untied_and_counted() -> None:
    """By construction on no memory; `build` refuses any other count."""
    for name, size in SERVED.items():
        assert getattr(size, "window", None) is None, "a slot knows no window"
        assert not getattr(size, "third_generation", False), "the gate knows no right one"
        with torch.device("meta"):
            if size.hidden <= 576:
                assert getattr(size, "tied", False) is False
                model: Any = size.construct()
                assert model.lm_head.weight is not model.model.embed_tokens.weight
                if size.published_parameters is not None:
                    assert sum(p.numel() for p in model.parameters()) == size.published_parameters
        whole = name.partition("-2l")[0]
        assert whole.endswith("-untied") or whole in TWO_MATRICES or "deepseek-" in name


def test_the_gate_s_twin_is_small_and_goes_over_a_reach() -> None:
    """Whatever the case: two layers, prompts of several chunks."""
    for given in (SMALL, ServeParameters(), ServeParameters(slots=64, requests=512)):
        twin: Any = WORKLOAD.twin("load", given)
        assert twin.model.endswith("-2l") and twin.slots == 3 and twin.length == 260
        assert twin.chunk <= 64 < max(serving_gate.TWIN_PROMPTS)
    assert serve.LONGEST == arrivals.LONGEST


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"model": "llama-3.2-1b"}, "llama-3.2-1b-untied"),
        ({"concurrency": 0}, "concurrency is of a closed loop"),
        ({"arrival": "offline"}, "concurrency is of a closed loop"),
        ({"rate": 2.0}, "rate is of Poisson"),
        ({"arrival": "poisson", "concurrency": 0}, "rate is of Poisson"),
        ({"requests": 10}, "requests must be 12 or more"),
        ({"input_tokens": 1000, "length_sigma": 0.5}, "slots' length must be"),
        ({"length_sigma": -1.0}, "length_sigma must be"),
    ],
)
def test_what_no_load_can_be_is_refused(wrong: dict[str, Any], words: str) -> None:
    """With what is allowed."""
    with pytest.raises(ValueError, match=words):
        msgspec.structs.replace(SMALL, **wrong)


def test_flop_are_those_of_prompts_and_answers() -> None:
    """Of a load of fixed lengths; of one that is drawn nobody counts them."""
    work = WORKLOAD.work("load", SMALL, PRECISIONS["fp32"])
    size = SERVED[SMALL.model]
    matrices = 2 * size.layers * size.layer_weights(0) * (252 + 7) + 2 * 8 * size.hidden * 512
    attention = 4 * size.layers * size.hidden * (252 * 252 + 7 * 256)
    assert work.items == 12 * 8 and work.flop == 12 * (matrices + attention)
    drawn = msgspec.structs.replace(SMALL, length_sigma=0.5)
    assert WORKLOAD.work("load", drawn, PRECISIONS["fp32"]).flop is None


def test_flop_of_latents_are_those_of_what_is_done() -> None:
    """A prompt's latents are expanded, once; those under an answer are attended to as they lie."""
    given = msgspec.structs.replace(SMALL, model="deepseek-tiny-2l")
    work = WORKLOAD.work("load", given, PRECISIONS["fp32"])
    size = SERVED[given.model]
    token = size.layers_weights(4) + 2 * 32 * 4 * 2 * 16  # the expansion, or its two halves
    matrices = 2 * (token * (252 + 7) + 8 * 64 * 512)
    prompt = 252 * 252 * 2 * 4 * (24 + 16)
    answer = 7 * 256 * 2 * 4 * (32 + 8 + 32)
    assert work.flop == 12 * (matrices + 2 * (prompt + answer))


def test_memory_is_rehearsed_without_values() -> None:
    """Weights and cache at the least, and not twice as much."""
    given = msgspec.structs.replace(SMALL, slots=40, requests=200)
    size = SERVED[SMALL.model]
    weights = 4 * (2 * size.layer_weights(0) + 2 * 512 * 64)
    cache = 260 * 2 * 2 * 41 * size.key_value_heads * size.head * 4
    assert weights + cache < WORKLOAD.peak_bytes("load", given, site()) < 2 * (weights + cache)


def test_what_is_closed_is_let_go_at_once() -> None:
    """The gate's twin, before the timed job is built: no collection comes in between."""
    job = build()
    job.step()
    seen = weakref.ref(job._model)
    gc.collect()
    gc.disable()
    try:
        job.close()
        del job
        assert seen() is None
    finally:
        gc.enable()
