"""Embedding and reranking: what of the last token is the answer, and that the gate hears of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

from bench.measuring.gates import numerics
from bench.precision import PRECISIONS
from bench.tests.small_workloads import FP32, WORKLOADS, build, model_of, one_thread, site, small
from bench.workloads import qwen3
from bench.workloads.language import pooled as pooling
from bench.workloads.language import qwens

__all__ = ["one_thread"]  # a fixture, used by being here

QWEN3 = WORKLOADS["qwen3"]


def test_an_embedding_is_the_last_tokens_state_of_length_1() -> None:
    job: Any = build("qwen3", "embed", site(), sequence_length=9)
    pooled: Any = model_of(job)
    library = pooled.model
    for _ in range(2):
        job.step()
        (found,), (texts,) = job.outputs()["output"], job.inputs()
        with torch.inference_mode():
            states = torch.cat([library.model(input_ids=one[None])[0] for one in texts])
        expected = functional.normalize(states[:, -1], dim=-1)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert found.shape == (16, 64) and job.facts["pooling"] == "last token: state, of length 1"


def test_a_reranking_is_the_last_positions_logits_of_no_and_yes() -> None:
    job: Any = build("qwen3", "rerank", site(), sequence_length=9)
    job.step()
    (found,), (texts,) = job.outputs()["output"], job.inputs()
    pooled: Any = model_of(job)
    with torch.inference_mode():
        logits = pooled.model(input_ids=texts, use_cache=False).logits[:, -1]
    answers = [token % 512 for token in qwen3.RerankParameters.answers]
    torch.testing.assert_close(found, logits[:, answers], rtol=1e-4, atol=1e-5)
    assert job.facts["pooling"] == "last token: 2 rows of the output matrix"
    assert max(qwen3.RerankParameters.answers) < qwens.RERANKERS["qwen3-reranker-0.6b"].vocabulary


def test_of_the_output_matrix_only_the_answers_rows_are_counted() -> None:
    """2 FLOP a weight and token, and attention in full, of 28 layers."""
    given: dict[str, Any] = {"batch_size": 3, "sequence_length": 100}
    embed = QWEN3.work("embed", qwen3.EmbedParameters(**given), FP32)
    norms = 28 * (2 * 1024 + 2 * 128) + 1024
    weights = 595_776_512 - norms - 151_669 * 1024
    attention = 28 * 4 * 100 * 100 * 16 * 128
    assert (embed.items, embed.unit) == (3, "sequence")
    assert embed.flop == 3 * (2 * 100 * weights + attention)
    rerank = QWEN3.work("rerank", qwen3.RerankParameters(**given), FP32)
    assert rerank.flop == embed.flop + 3 * 2 * 2 * 1024


def of_the_first_token(module: Any, tokens: torch.Tensor) -> Any:
    states = module.model.model(input_ids=tokens, use_cache=False).last_hidden_state
    return functional.normalize(states[:, 0], dim=-1)


def of_any_length(module: Any, tokens: torch.Tensor) -> Any:
    return module.model.model(input_ids=tokens, use_cache=False).last_hidden_state[:, -1]


def turned(module: Any, tokens: torch.Tensor) -> Any:
    states = module.model.model(input_ids=tokens, use_cache=False).last_hidden_state
    answers = module.model.lm_head.weight.index_select(0, module._answers.flip(0))
    return functional.linear(states[:, -1], answers)


def of_the_token_before(module: Any, tokens: torch.Tensor) -> Any:
    states = module.model.model(input_ids=tokens, use_cache=False).last_hidden_state
    answers = module.model.lm_head.weight.index_select(0, module._answers)
    return functional.linear(states[:, -2], answers)


@pytest.mark.parametrize(
    ("mode", "wrong"),
    [
        *(("embed", of_the_first_token), ("embed", of_any_length)),
        *(("rerank", turned), ("rerank", of_the_token_before)),
    ],
)
def test_another_pooling_is_void(
    mode: str, wrong: Callable[[Any, torch.Tensor], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    at = site(PRECISIONS["bf16"])
    monkeypatch.setattr(pooling._pooled(), "forward", wrong)
    assert numerics.gate(QWEN3, mode, small("qwen3", mode), at).complaint.startswith("logits off")


def test_a_few_texts_are_told_by_as_many_numbers_as_many() -> None:
    twin: Any = QWEN3.twin("rerank", qwen3.RerankParameters(batch_size=1))
    assert (twin.batch_size, twin.sequence_length) == (16, 32)
    assert twin.model == "qwen3-reranker-0.6b-2l"
