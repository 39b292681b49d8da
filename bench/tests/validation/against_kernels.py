"""What bounds an eager step of decode? `llama` against its products and all of its other kernels.

    python -m bench.tests.validation.against_kernels [--launches 5] [--only '*bf16*']
        [--execution compile]

As `bench.tests.validation.against_chain`; but the chain has, once a layer, also the fewest kernels
that the rest of a layer is on a CPU: two norms, two sums, three for the heads' turn, one that keeps
keys and values, SiLU and its product. On operands that lie there, of which none waits for another,
and with no view to be made: no eager step of these kernels is faster. The choice of a token
and its embedding are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bench.tests.validation.against_chain import BY_EXECUTION, chain_of, take_turns
from bench.tests.validation.agreement import TURNS, Turns, script
from bench.workloads.decoding.generation import DecodeJob

if TYPE_CHECKING:
    from torch import Tensor

    from bench.records.case import Case


def kernels_of(job: DecodeJob) -> Callable[[Tensor], None]:
    """Those of one layer besides products and attention, from its keys and values
    [2, B, K, L, D]; their values stay what they are, step after step."""
    import torch
    from torch.nn import functional

    library: Any = job.generator.model
    config = library.config
    batch, width = job.prompt.shape[0], config.head_dim
    dtype = library.lm_head.weight.dtype
    heads, kept = config.num_attention_heads, config.num_key_value_heads

    def ones(*shape: int) -> Tensor:
        return torch.ones(shape, dtype=dtype)

    pair, weight, joined = (ones(*x, config.hidden_size) for x in ((batch, 2), (2,), (batch, 1)))
    turned = ones(batch * (heads + kept), 2, width // 2)
    cosines, none = ones(2, width // 2), ones(2, 1) - 1
    new = ones(2, batch, kept, 1, width)
    last = torch.tensor([job.generator._cache.layers[0].keys.shape[2] - 1])
    gate, up = ones(batch, config.intermediate_size), ones(batch, config.intermediate_size)

    def beside(both: Tensor) -> None:
        for _ in range(2):
            torch.layer_norm(pair, weight.shape, weight, None, 1e-5)
            pair.addcmul_(joined, none)
        turned.flip(1)
        turned.mul_(cosines).addcmul_(turned, none[0])
        both.index_copy_(3, last, new)
        functional.silu(gate)
        gate.mul_(up)

    return beside


def bound_of(job: DecodeJob) -> Callable[[], None]:
    """Products, attention and the other kernels of one token."""
    return chain_of(job, kernels_of(job))


def take_bounded_turns(case: Case, turns: int = TURNS) -> Turns:
    """Of ours and the bound, in this process."""
    return take_turns(case, turns, bound_of)


if __name__ == "__main__":
    script("bench.tests.validation.against_kernels", __doc__, BY_EXECUTION, take_bounded_turns)
