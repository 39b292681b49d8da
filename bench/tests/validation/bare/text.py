"""Bare loops of text and speech: BERT, Llama, DeepSeek, Qwen3, GPT-OSS and Whisper."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bench.precision import PRECISIONS
from bench.tests.validation.bare.decode import ByHand, Latents
from bench.tests.validation.bare.loop import (
    Bare,
    Loop,
    Parameters,
    adamw,
    batches,
    inference,
    rotating,
    training,
)
from bench.workload import Site
from bench.workloads.layers.transformers import attention_of, with_cache

if TYPE_CHECKING:
    from torch import Tensor, dtype

BERT_RATE = 5e-6
LLAMA_RATE = 7e-6
DEEPSEEK_RATE = 8e-6
GPT_OSS_RATE = 5e-6


def _bert() -> Any:
    from transformers.models.bert.configuration_bert import BertConfig
    from transformers.models.bert.modeling_bert import BertForQuestionAnswering

    return BertForQuestionAnswering(
        BertConfig(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    )


def bert_infer(p: Parameters, kind: dtype) -> Loop:
    """Tokens to where an answer starts and ends."""
    import torch

    model = _bert().eval().to(kind)
    shape = (p["batch_size"], p["sequence_length"])
    rotation = rotating(lambda: torch.randint(1, 30522, shape))
    return inference(lambda: model(next(rotation)), model)


def bert_train(p: Parameters, kind: dtype) -> Loop:
    """AdamW; start and end of an answer."""
    import torch

    model = _bert().train()
    batch, length = p["batch_size"], p["sequence_length"]
    rotation = rotating(
        lambda: (torch.randint(1, 30522, (batch, length)), torch.randint(0, length, (2, batch)))
    )
    entropy = torch.nn.functional.cross_entropy

    def loss() -> Any:
        tokens, (starts, ends) = next(rotation)
        answer = model(tokens)
        first, last = answer.start_logits.float(), answer.end_logits.float()
        return (entropy(first, starts) + entropy(last, ends)) / 2

    return training(model, adamw(model, BERT_RATE), loss, kind)


def _llama() -> Any:
    """SmolLM2-135M."""
    from transformers.models.llama.configuration_llama import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaForCausalLM

    shape = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(shape)


def _deepseek() -> Any:
    """DeepSeek-V2-Lite, cut: a quarter of each width, 3 layers."""
    from transformers.models.deepseek_v2.configuration_deepseek_v2 import DeepseekV2Config
    from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2ForCausalLM

    shape = DeepseekV2Config(
        vocab_size=16384,
        hidden_size=512,
        intermediate_size=2736,
        moe_intermediate_size=352,
        num_hidden_layers=3,
        first_k_dense_replace=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        q_lora_rank=None,
        kv_lora_rank=128,
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=128,
        n_routed_experts=64,
        num_experts_per_tok=6,
        n_shared_experts=2,
        topk_method="greedy",
        max_position_embeddings=163840,
        experts_implementation="grouped_mm",
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 40.0,
            "original_max_position_embeddings": 4096,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "mscale": 0.707,
            "mscale_all_dim": 0.707,
        },
    )
    return DeepseekV2ForCausalLM(shape)


def _qwen3(vocabulary: int = 151_936) -> Any:
    """Qwen3-0.6B; its embedding and reranking models know fewer tokens."""
    from transformers.models.qwen3.configuration_qwen3 import Qwen3Config
    from transformers.models.qwen3.modeling_qwen3 import Qwen3ForCausalLM

    shape = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=40960,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        tie_word_embeddings=True,
    )
    return Qwen3ForCausalLM(shape)


def _gpt_oss() -> Any:
    """GPT-OSS-20B, cut: a quarter of each width, 2 layers. With the harness's attention, for the
    library has none but its eager one, which computes every score of a window."""
    from transformers.models.gpt_oss.configuration_gpt_oss import GptOssConfig
    from transformers.models.gpt_oss.modeling_gpt_oss import GptOssForCausalLM

    shape = GptOssConfig(
        vocab_size=16384,
        hidden_size=720,
        intermediate_size=720,
        num_hidden_layers=2,
        num_attention_heads=16,
        num_key_value_heads=2,
        num_local_experts=32,
        attn_implementation=attention_of(_here()),
        experts_implementation="grouped_mm",
    )
    return GptOssForCausalLM(shape)


def _here() -> Site:
    import torch

    return Site(device=torch.device("cpu"), precision=PRECISIONS["bf16"], seed=0)


def _routed(loop: Callable[[Any], Loop], model: Any) -> Loop:
    """The loop of a model whose tokens choose among experts."""
    return loop(model)._replace(routed=model)


def _next_token(model: Any, p: Parameters, rate: float, kind: dtype | None = None) -> Loop:
    import torch

    shape = (p["batch_size"], p["sequence_length"] + 1)

    def batch() -> tuple[Any, Any]:
        text = torch.randint(0, model.config.vocab_size, shape)
        return text[:, :-1].contiguous(), text[:, 1:].flatten()

    made = batches(batch)
    rotation, entropy = itertools.cycle(made), torch.nn.functional.cross_entropy

    def loss() -> Any:
        tokens, following = next(rotation)
        logits = model(input_ids=tokens, use_cache=False).logits
        return entropy(logits.float().flatten(0, 1), following)

    loop = training(model, adamw(model, rate), loss, kind)
    return loop._replace(tokens=tuple(tokens for tokens, _ in made))


def llama_train(p: Parameters, kind: dtype) -> Loop:
    """AdamW."""
    return _next_token(_llama().train(), p, LLAMA_RATE, kind)


def llama_lora(p: Parameters, kind: dtype) -> Loop:
    """Weights of the kind, frozen; float32 adapters on the attention's matrices."""
    from peft import LoraConfig, get_peft_model

    rank = p["lora_rank"]
    matrices = ["q_proj", "k_proj", "v_proj", "o_proj"]
    adapters = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=matrices)
    model: Any = get_peft_model(_llama().to(kind), adapters)
    return _next_token(model.train(), p, LLAMA_RATE)


def deepseek_train(p: Parameters, kind: dtype) -> Loop:
    """AdamW; weights and optimizer of the kind."""
    return _routed(lambda model: _next_token(model, p, DEEPSEEK_RATE), _deepseek().train().to(kind))


def _prefill(model: Any, p: Parameters, kind: dtype) -> Loop:
    import torch
    from transformers.cache_utils import StaticCache

    model = model.eval().to(kind)
    shape = (p["batch_size"], p["prompt_length"])
    prompts = rotating(lambda: torch.randint(0, model.config.vocab_size, shape))
    cache: Any = StaticCache(config=model.config, max_cache_len=p["prompt_length"])
    keywords: dict[str, Any] = with_cache(model, cache)

    def forward() -> None:
        cache.reset()
        model(next(prompts), **keywords, logits_to_keep=1).logits.argmax(-1)

    return inference(forward, model)


def _of_last_token(answer: Callable[[Any, Tensor], Tensor], p: Parameters, kind: dtype) -> Loop:
    """Texts to what is made of the last token's state; answer: from the model and that state."""
    import torch

    model = _qwen3(151_669).eval().to(kind)
    shape = (p["batch_size"], p["sequence_length"])
    texts = rotating(lambda: torch.randint(0, model.config.vocab_size, shape))

    def forward() -> None:
        states = model.model(next(texts), use_cache=False).last_hidden_state
        answer(model, states[:, -1])

    return inference(forward, model.model)


def qwen3_embed(p: Parameters, kind: dtype) -> Loop:
    """The last state, of length 1."""
    from torch.nn.functional import normalize

    return _of_last_token(lambda model, state: normalize(state, dim=-1), p, kind)


def qwen3_rerank(p: Parameters, kind: dtype) -> Loop:
    """Logits of "no" and "yes"."""
    import torch

    rows = torch.tensor([2152, 9693])
    return _of_last_token(lambda model, state: state @ model.lm_head.weight[rows].t(), p, kind)


def gpt_oss_train(p: Parameters, kind: dtype) -> Loop:
    """AdamW; weights and optimizer of the kind."""
    return _routed(lambda model: _next_token(model, p, GPT_OSS_RATE), _gpt_oss().train().to(kind))


def gpt_oss_prefill(p: Parameters, kind: dtype) -> Loop:
    """A cache that grows: the library's static one goes the long way about a window."""
    import torch

    model = _gpt_oss().eval().to(kind)
    shape = (p["batch_size"], p["prompt_length"])
    prompts = rotating(lambda: torch.randint(0, model.config.vocab_size, shape))
    loop = inference(
        lambda: model(next(prompts), use_cache=True, logits_to_keep=1).logits.argmax(-1), model
    )
    return loop._replace(routed=model)


def _decode(
    model: Any, p: Parameters, kind: dtype, writer: type[ByHand | Latents] = ByHand
) -> Loop:
    """Written for speed; greedy."""
    import torch
    from torch import nn

    model = model.eval().to(kind)
    by_hand = writer(model, p["batch_size"], p["prompt_length"], p["new_tokens"])
    prompt = torch.randint(0, model.config.vocab_size, (p["batch_size"], p["prompt_length"]))
    token, index = prompt[:, :1], 0

    class Token(nn.Module):
        def forward(self, token: Tensor, at: tuple[Any, ...]) -> Tensor:
            return by_hand.logits(token, at)

    taken = Token()

    def before_pass() -> None:
        nonlocal token, index
        token, index = by_hand.read(prompt), 0

    @torch.inference_mode()
    def step() -> None:
        nonlocal token, index
        token = taken(token, by_hand.at(index)).max(-1).indices
        index += 1

    return Loop(step, (taken,), p["new_tokens"], before_pass)


def deepseek_decode(p: Parameters, kind: dtype) -> Loop:
    """By the library's forward, as the harness: it has no step of its own for latents."""
    model = _deepseek()
    model.set_attn_implementation(attention_of(_here()))  # others ask a cache for a mask
    return _routed(lambda model: _decode(model, p, kind, Latents), model)


def whisper_infer(p: Parameters, kind: dtype) -> Loop:
    """Whisper tiny: static caches, greedy; positions and masks are rows of tables."""
    import torch
    from transformers.cache_utils import EncoderDecoderCache, StaticCache
    from transformers.models.whisper.configuration_whisper import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperForConditionalGeneration

    shape = WhisperConfig(
        vocab_size=51865,
        d_model=384,
        encoder_layers=4,
        decoder_layers=4,
        encoder_attention_heads=6,
        decoder_attention_heads=6,
        encoder_ffn_dim=1536,
        decoder_ffn_dim=1536,
    )
    model: Any = WhisperForConditionalGeneration(shape).eval().to(kind)
    sounds = rotating(lambda: torch.randn(p["batch_size"], 80, 3000).to(kind))
    start = torch.randint(0, 51865, (p["batch_size"], 1))
    cache: Any = EncoderDecoderCache(
        StaticCache(config=shape, max_cache_len=p["new_tokens"]),
        StaticCache(config=shape, max_cache_len=1500),
    )
    keywords: dict[str, Any] = with_cache(model.model.decoder, cache)
    tokens = torch.arange(p["new_tokens"])
    unseen = tokens[None] > tokens[:, None]
    masks = torch.zeros(unseen.shape, dtype=kind).masked_fill(unseen, float("-inf"))

    def forward() -> None:
        cache.reset()
        heard = model.model.encoder(next(sounds)).last_hidden_state
        token = start
        for index in range(p["new_tokens"]):
            decoded = model.model.decoder(
                token,
                position_ids=tokens[None, index : index + 1],
                attention_mask=masks[index, None, None, None],
                encoder_hidden_states=heard,
                **keywords,
            )
            token = model.proj_out(decoded.last_hidden_state).argmax(-1)

    return inference(forward, model.model.encoder, model.model.decoder, model.proj_out)


BARE: dict[str, Bare] = {
    "bert-infer": bert_infer,
    "bert-train": bert_train,
    "llama-train": llama_train,
    "llama-lora": llama_lora,
    "llama-prefill": lambda p, kind: _prefill(_llama(), p, kind),
    "llama-decode": lambda p, kind: _decode(_llama(), p, kind),
    "deepseek-train": deepseek_train,
    "deepseek-prefill": lambda p, kind: _routed(lambda m: _prefill(m, p, kind), _deepseek()),
    "deepseek-decode": deepseek_decode,
    "qwen3-prefill": lambda p, kind: _prefill(_qwen3(), p, kind),
    "qwen3-decode": lambda p, kind: _decode(_qwen3(), p, kind),
    "qwen3-embed": qwen3_embed,
    "qwen3-rerank": qwen3_rerank,
    "gpt-oss-train": gpt_oss_train,
    "gpt-oss-prefill": gpt_oss_prefill,
    "gpt-oss-decode": lambda p, kind: _routed(lambda m: _decode(m, p, kind), _gpt_oss()),
    "whisper-infer": whisper_infer,
}
