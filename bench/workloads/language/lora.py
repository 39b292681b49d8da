"""Adapters of low rank on the attention's matrices: the mode `lora` of a family."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.quantized_product import name_of
from bench.records.outcome import Work
from bench.workload import ALL_EXECUTIONS, Mode, Site, require_within
from bench.workloads.jobs.modes import SHARDED
from bench.workloads.jobs.seeded import SeededData, initial_std
from bench.workloads.language import language

if TYPE_CHECKING:
    from torch import nn

ADAPTED = ("q_proj", "k_proj", "v_proj", "o_proj")
"""Matrices that get an adapter: those of the attention."""
ALPHA = 2
"""What an adapter gives is multiplied by this, its alpha over its rank."""


class LoraParameters(language.TrainParameters, frozen=True, kw_only=True):
    """As training, but of adapters of this rank alone; their alpha is twice the rank."""

    lora_rank: int = 16

    def __post_init__(self) -> None:
        """Raises ValueError for what cannot be."""
        super().__post_init__()
        require_within("lora_rank", self.lora_rank, 1, self.sizes[self.model].hidden)


def mode(parameters: type[LoraParameters]) -> Mode:
    """How a family's adapters are trained. No bf16-amp: what it keeps in float32 are the weights
    that train, and these are here."""
    return Mode(
        parameters=parameters,
        precisions=("bf16", "fp32", "tf32"),
        executions=ALL_EXECUTIONS,
        libraries=("peft",),
        schemes=SHARDED,
        extra="lora",
        optional=("peft",),
    )


def lora_work(size: Any, parameters: LoraParameters) -> Work:
    """Of one step with all its micro-batches; size: a `GroupedQuery`."""
    tokens = parameters.sequence_length
    batch = parameters.batch_size * parameters.accumulation_steps
    flop = batch * lora_flop(size, tokens, parameters.lora_rank)
    least = flop - 3 * batch * size.masked(tokens)
    items, again = batch * tokens, None
    if parameters.gradient_checkpointing:
        adapters = parameters.lora_rank * sum(_adapted(size))
        again = batch * (size.again(tokens) + 2 * tokens * size.layers * adapters)
    return Work(items=items, unit="token", flop=flop, least_flop=least, again_flop=again)


def _adapted(size: Any) -> tuple[int, int]:
    """Columns of a layer's matrices that have an adapter, all together, and rows."""
    queries = size.heads * size.head
    keys_values = 2 * size.key_value_heads * size.head
    return 3 * size.hidden + queries, queries + keys_values + size.hidden


def lora_flop(size: Any, tokens: int, rank: int) -> int:
    """FLOP of one sequence's forward and backward where only the adapters train.

    A frozen matrix costs 2 FLOP a weight and token forward and 2 for the gradient of its input, but
    none for its own: 2/3 of training. Of experts a token meets its active ones and the router. The
    first layer's query, key and value matrices have no gradient at all, for nothing below them
    trains. Attention has no weights, so it costs its full three times. An adapter of rank r on an
    m x n matrix has r (m + n) weights, which cost 6, except that the first layer's have no gradient
    of their input either.
    Source: LoRA, arXiv 2106.09685, section 4.1, for the adapters; PaLM as above for the rest.
    """
    queries = size.heads * size.head
    keys_values = 2 * size.key_value_heads * size.head
    frozen = size.layers * size.layer_weights(size.active) + size.head_weights
    without_gradient = size.hidden * (queries + keys_values)
    down, up = (rank * width for width in _adapted(size))
    matrices = 2 * tokens * (2 * frozen - without_gradient)
    adapters = 2 * tokens * (3 * size.layers * (down + up) - 3 * rank * size.hidden)
    attention = 3 * 4 * tokens * size.seen(tokens) * queries
    return int(matrices + adapters + attention)


def add_adapters(model: nn.Module, rank: int, data: SeededData, site: Site) -> dict[str, str]:
    """Freezes a model and gives the matrices of its attention adapters, in float32 or wider.

    Their second matrix would start at zero, so that a new adapter changes nothing; then the
    numerics gate would see neither half of a wrong one, in the logits or in the gradients of the
    first. Here both matrices keep the size of their input, and an adapter adds as much as what it
    adapts gives; the work is the same. The library's own adapters, which would be drawn on the
    device, have no values: they are replaced.
    """
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=rank, lora_alpha=ALPHA * rank, lora_dropout=0.0, target_modules=list(ADAPTED)
    )
    with torch.device("meta"):
        inject_adapter_in_model(config, model)
    dtype = torch.promote_types(site.precision.dtype, torch.float32)
    adapters = 0
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                std = initial_std(parameter.shape[1]) / (ALPHA if ".lora_B." in path else 1)
                value = data.normal(tuple(parameter.shape), dtype, std).to(site.device)
                setattr(module, name, torch.nn.Parameter(value))
                adapters += value.numel()
    named = name_of(dtype)
    return {
        "trained": f"{adapters} parameters of adapters, {named}",
        "products of adapters": f"in {named}, to which their inputs are widened",
    }
