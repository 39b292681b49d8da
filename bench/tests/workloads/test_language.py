"""What BERT, Llama, DeepSeek and Whisper promise beyond the contract."""

from __future__ import annotations

import functools
import io
import itertools
import sys
from typing import Any

import msgspec
import pytest
import torch
from transformers import cache_utils

from bench.measuring import messages, operators
from bench.measuring.launch import Launch
from bench.precision import PRECISIONS, REFERENCE
from bench.records.case import Case
from bench.records.outcome import Skipped
from bench.records.run import Settings
from bench.tests.small_workloads import FP32, WORKLOADS, build, model_of, one_thread, site, small
from bench.workloads import bert, deepseek, llama, qwen3, whisper
from bench.workloads.jobs.jobs import TrainingJob
from bench.workloads.jobs.seeded import SeededData, build_model
from bench.workloads.language import latent, qwens
from bench.workloads.language.family import experts_touched

__all__ = ["one_thread"]  # a fixture, used by being here


@pytest.mark.parametrize("module", [bert, llama])
def test_a_cut_model_differs_in_depth_and_vocabulary_only(module: Any) -> None:
    for name, size in module.SIZES.items():
        if not name.endswith("-2l"):
            cut = module.SIZES[name + "-2l"]
            assert (cut.layers, cut.published_parameters) == (2, None)
            assert cut.vocabulary <= 4096
            same = {"layers": 2, "vocabulary": cut.vocabulary, "published_parameters": None}
            assert msgspec.structs.replace(size, **same) == cut


def test_bert_does_not_drop_out() -> None:
    job: Any = build("bert", "train", site())
    batch = next(job._batches)
    assert torch.equal(job._evaluate(batch)[0], job._evaluate(batch)[0])


LAYERED = [("llama", "train"), ("llama", "lora"), ("deepseek", "train"), ("bert", "train")]


@pytest.mark.parametrize(("name", "mode"), LAYERED)
def test_checkpointing_computes_each_layer_twice_and_changes_no_number(
    name: str, mode: str
) -> None:
    plain = build(name, mode, site())
    job = build(name, mode, site(), gradient_checkpointing=True)
    layers = next(m for m in model_of(job).modules() if isinstance(m, torch.nn.ModuleList))
    calls: list[int] = []
    for index, layer in enumerate(layers):
        inner = next(m for m in layer.modules() if isinstance(m, torch.nn.Linear))
        inner.register_forward_hook(lambda *_, index=index: calls.append(index))
    job.step()
    assert sorted(calls) == sorted(2 * list(range(len(layers))))
    plain.step()
    found, expected = job.probe(), plain.probe()
    for quantity, value in expected.items():
        torch.testing.assert_close(found[quantity], value, rtol=1e-4, atol=1e-6, msg=quantity)


def test_checkpointing_halves_the_memory_of_long_batches() -> None:
    given: dict[str, Any] = {"model": "tiny", "batch_size": 16, "sequence_length": 512}
    plain, kept = (
        WORKLOADS["llama"].peak_bytes(
            "train", llama.TrainParameters(**given, gradient_checkpointing=on), site()
        )
        for on in (False, True)
    )
    assert kept < 0.7 * plain


@pytest.mark.parametrize(("name", "mode"), LAYERED)
def test_micro_batches_add_up_to_one_batch(name: str, mode: str) -> None:
    whole: Any = build(name, mode, site(), batch_size=4)
    parts: Any = build(name, mode, site(), batch_size=2, accumulation_steps=2)
    batches = [next(whole._batches) for _ in range(3)]
    whole._batches = iter(batches)
    parts._batches = iter([half for pair in batches for half in halves(pair)])
    for _ in range(3):
        whole.step()
        parts.step()
        assert parts.witness() == pytest.approx(whole.witness(), rel=1e-4)
    assert next(parts._batches, None) is None
    jobs = map(model_of, (parts, whole))
    value, expected = (torch.cat([p.flatten() for p in m.parameters()]) for m in jobs)
    # AdamW makes a whole step of a gradient that is all rounding, as a bias or two may have.
    assert torch.isclose(value, expected, rtol=1e-3, atol=1e-4).float().mean() > 0.9999


def halves(batch: tuple[torch.Tensor, torch.Tensor]) -> list[tuple[torch.Tensor, ...]]:
    return list(zip(*(part.split(2) for part in batch), strict=True))


@pytest.mark.parametrize(("name", "mode"), LAYERED)
def test_a_step_counts_all_micro_batches_and_nothing_twice(name: str, mode: str) -> None:
    workload, once = WORKLOADS[name], small(name, mode)
    thrice: Any = msgspec.structs.replace(once, accumulation_steps=3, gradient_checkpointing=True)
    one, three = (workload.work(mode, p, FP32) for p in (once, thrice))
    assert one.flop is not None
    assert (three.items, three.flop) == (3 * one.items, 3 * one.flop)
    twin: Any = workload.twin(mode, thrice)
    assert (twin.accumulation_steps, twin.gradient_checkpointing) == (2, True)


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
    request = messages.Request(
        case=case, backend="cpu", index=0, settings=Settings(), samples=10, seed=0
    )
    report = Launch(request, messages.Channel(io.BytesIO())).run()
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
    size = latent.SIZES[name]
    met = size.layers_weights(size.active) + size.layers * size.expansion_weights
    # The papers round, and count the output matrix but not the embedding.
    assert met + size.hidden * size.vocabulary == pytest.approx(active, rel=0.03)


def test_deepseek_decode_reads_each_expert_that_the_batch_goes_to_once() -> None:
    size = latent.SIZES["v2-lite"]
    assert experts_touched(64, 6, 1) == pytest.approx(6)
    assert experts_touched(64, 6, 2) == pytest.approx(12 - 36 / 64)
    assert 63 < experts_touched(64, 6, 64) < 64
    parameters = deepseek.DecodeParameters(model="v2-lite", prompt_length=100, new_tokens=1)
    work = WORKLOADS["deepseek"].work("decode", parameters, PRECISIONS["bf16"])
    # All parameters but the experts that are not met and the embedding's other rows; and the
    # cache: 100 tokens and the new one read, the new one written.
    idle = 26 * 58 * size.expert_weights + (size.vocabulary - 1) * size.hidden
    cache = 27 * (512 + 64) * (101 + 1)
    assert work.moved_bytes == 2 * (15_706_484_224 - idle + cache)


def test_a_qwen3_token_meets_the_published_active_parameters() -> None:
    size = qwens.SIZES["qwen3-30b-a3b"]
    met = size.layers * size.layer_weights(size.active) + size.head_weights
    assert met == pytest.approx(3.3e9 - size.head_weights, rel=0.03)  # its card: 3.3B activated


def test_qwen3_decode_moves_its_weights_once_and_the_cache_of_its_window() -> None:
    workload, bf16 = WORKLOADS["qwen3"], PRECISIONS["bf16"]
    one = qwen3.DecodeParameters(model="qwen3-8b", prompt_length=100, new_tokens=1)
    cache = 36 * 2 * 8 * 128 * (101 + 1)
    idle = (151_936 - 1) * 4096  # of the embedding, which is not the output matrix
    assert workload.work("decode", one, bf16).moved_bytes == 2 * (8_190_735_360 - idle + cache)
    sparse = msgspec.structs.replace(one, model="qwen3-30b-a3b")
    idle = (151_936 - 1) * 2048 + 48 * 120 * 3 * 2048 * 768  # and experts that no token goes to
    cache = 48 * 2 * 4 * 128 * (101 + 1)
    assert workload.work("decode", sparse, bf16).moved_bytes == 2 * (30_532_122_624 - idle + cache)
    within = msgspec.structs.replace(one, model="tiny-window")
    beyond = msgspec.structs.replace(within, prompt_length=1000)
    assert workload.work("decode", within, bf16) == workload.work("decode", beyond, bf16)


@pytest.mark.parametrize("model", ["tiny", "tiny-moe", "tiny-window"])
def test_qwen3_decodes_what_the_full_forward_gives(model: str) -> None:
    given: dict[str, Any] = {"model": model, "batch_size": 2, "prompt_length": 9, "new_tokens": 6}
    job: Any = build("qwen3", "decode", site(), **given)
    text = torch.cat((job.prompt, job.first_token), dim=1)
    for _ in range(6):
        job.step()
        expected = full_forward(model_of(job), text)[:, -1:]
        torch.testing.assert_close(job._output, expected, rtol=1e-4, atol=1e-5)
        text = torch.cat((text, job.token), dim=1)


def test_where_qwen3_sends_its_tokens_is_seen() -> None:
    job = build("qwen3", "decode", site(), model="tiny-moe", batch_size=2)
    seen = operators.executed(job.step, "cpu")
    assert len(seen.expert_tokens) == 16
    assert sum(seen.expert_tokens) == 3 * 2 * 4  # layers, tokens, experts of each
    assert {"attention", "experts"} == set(seen.operators)


@pytest.mark.parametrize("name", ["tiny", "tiny-v3"])
def test_grouped_experts_are_those_of_the_loop(name: str) -> None:
    """With unequal groups and idle experts, which the twin has not."""
    tokens = torch.randint(0, 512, (2, 9))
    grouped, loop = (
        full_forward(
            build_model(
                functools.partial(latent.SIZES[name].construct, experts=experts),
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
    layer = job.generator._cache.layers[0]
    assert (layer.keys.shape, layer.values.shape) == ((2, 1, 14, 32), (2, 1, 14, 8))
    prompt = torch.randint(0, 512, (2, 9))
    job = type(job)(job.generator, prompt, job._forced)
    for _ in range(2):
        text = torch.cat((prompt, job.first_token), dim=1)
        for _ in range(5):
            job.step()
            expected = full_forward(model_of(job), text)[:, -1:]
            torch.testing.assert_close(job._output, expected, rtol=1e-4, atol=1e-5)
            text = torch.cat((text, job.token), dim=1)


def test_deepseek_twins_leave_no_choice_among_experts() -> None:
    for name, size in latent.SIZES.items():
        if name.endswith("-2l"):
            assert (size.layers, size.dense_layers) == (2, 1)
            assert size.experts == size.active == 4


def full_forward(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=tokens, use_cache=False).logits
    return logits


def test_prefill_is_the_full_forward_every_time() -> None:
    job: Any = build("llama", "prefill", site(), batch_size=2, prompt_length=9)
    prompts = [next(job._inputs) for _ in range(4)]
    for prompt in prompts * 2:
        job.step()
        expected = full_forward(model_of(job), prompt)[:, -1:]
        torch.testing.assert_close(job._output, expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(job.token, expected.argmax(-1))


def test_decode_is_greedy_and_agrees_with_the_full_forward() -> None:
    prompt = torch.randint(0, 512, (2, 9))
    parameters = small("llama", "decode", batch_size=2, prompt_length=9, new_tokens=5)
    workload = WORKLOADS["llama"]
    job: Any = workload.build("decode", parameters, site())
    job = type(job)(job.generator, prompt, job._forced)
    for _ in range(2):  # the second time from the end of the prompt again
        text = torch.cat((prompt, job.first_token), dim=1)
        for _ in range(5):
            job.step()
            expected = full_forward(model_of(job), text)[:, -1:]
            torch.testing.assert_close(job._output, expected, rtol=1e-4, atol=1e-5)
            text = torch.cat((text, expected.argmax(-1)), dim=1)


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


def test_whisper_is_greedy_agrees_with_the_full_forward_and_starts_over_each_step() -> None:
    job: Any = build("whisper", "infer", site(), batch_size=2, new_tokens=5)
    model: Any = model_of(job)
    windows = [next(job._inputs) for _ in range(4)]
    for window in windows * 2:
        job.step()
        text = job._forced[:, :1]
        for _ in range(5):
            with torch.inference_mode():
                logits = model(
                    input_features=window, decoder_input_ids=text, use_cache=False
                ).logits[:, -1:]
            text = torch.cat((text, logits.argmax(-1)), dim=1)
        torch.testing.assert_close(job._output, logits, rtol=1e-4, atol=1e-5)


def test_the_whisper_probe_feeds_fixed_tokens_and_hears_the_whole_window() -> None:
    jobs: list[Any] = [build("whisper", "infer", site()) for _ in range(3)]
    jobs[1]._forced = (jobs[1]._forced + torch.tensor([0, 1, 0, 0])) % 4096
    late = next(jobs[2]._inputs).clone()
    late[..., -2:] = 0.0
    jobs[2]._inputs = itertools.repeat(late)
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
    with pytest.raises(RuntimeError, match=r"Install transformers>=5\.15"):
        build("whisper", "infer", site())
