"""Is decode as fast as its products? `llama` in mode decode against a bare chain of them.

    python -m bench.tests.validation.against_chain [--launches 5] [--only '*bf16*']
        [--execution compile|tuned]

The chain multiplies by the same matrices, each of every layer and the output matrix, and attends
over the same cache with the same mask, on operands that lie there: no norm, no rotation, no write
into the cache, no sum, no choice of a token; always eager, without the engine, and by torch's own
product, without the modules, which take a tenth of a small one. Nothing that decodes
with these products is faster, unless it has other products. A fresh process lets the two take turns
(AB, BA, AB, ...), a window of tokens each. A launch gives the median over its turns of our tokens/s
over the chain's; printed is the geometric mean over launches with its 95 % t interval.

`tuned` is the step with every setting that the tuned track may choose beside its batch: its
matrices in one where they read one input, compiled by a compiler that searches. The chain is the
same.

`bench.tests.validation.against_kernels` takes the same turns with a chain that has those kernels
too.

Beside it stands what bounds a batch: bytes of weights and cache that each step must move, over the
seconds that it took.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bench import catalogue
from bench.measuring import asked
from bench.measuring.execution import Execution
from bench.measuring.timing.engine import Engine
from bench.measuring.timing.usage import process_usage
from bench.planning import plan, tuning
from bench.planning.suite_file import Suite
from bench.precision import PRECISIONS
from bench.records.case import PLAIN, SEARCHED, Case, Choice
from bench.records.run import Settings
from bench.tests.validation.agreement import TURNS, Turns, in_turns, script
from bench.workload import EXECUTIONS, Site
from bench.workloads.decoding.generation import DecodeJob

if TYPE_CHECKING:
    from torch import Tensor

DECODE = {"workload": "llama", "mode": "decode", "precision": ["bf16", "fp32"]}
WORK = (
    {
        **DECODE,
        "batch_size": [1, 8, 32],
        "model": "smollm2-135m",
        "prompt_length": 128,
        "new_tokens": 32,
    },
    # As large as those that are served, of which the other kernels are a small part.
    {
        **DECODE,
        "batch_size": [1, 8],
        "model": "llama-3.2-1b",
        "prompt_length": 128,
        "new_tokens": 4,
    },
)
"""Entries as of a suite."""

CHOICE: Choice = {"memory_format": "packed", "execution": "compile", "compiler": SEARCHED}
"""Of what a tuned case may choose."""
TUNED = {
    "memory_format": ["contiguous", "packed"],
    "execution": ["eager", "compile"],
    "compiler": [PLAIN, SEARCHED],
}
"""As of a suite."""


def chain_of(
    job: DecodeJob, beside: Callable[[Tensor], object] | None = None
) -> Callable[[], None]:
    """The products of one token of a job of ours, on operands of its shapes.

    beside: called once a layer, with its keys and values [2, B, K, L, D].
    """
    import torch
    from torch.nn import functional

    generator = job.generator
    library: Any = generator.model
    config = library.config
    batch, keys = job.prompt.shape[0], config.num_key_value_heads
    weight: Tensor = library.lm_head.weight
    mask = generator.at(0).masks[0]

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape).to(weight.dtype)

    hidden, wide = drawn(batch, config.hidden_size), drawn(batch, config.intermediate_size)
    # Each head of keys a sequence of its own, as the step has them.
    query = drawn(batch * keys, 1, config.num_attention_heads // keys, config.head_dim)
    joined = drawn(batch, config.num_attention_heads * config.head_dim)
    steps: list[tuple[list[tuple[Tensor, Tensor]], Any, Tensor]] = []
    for layer, held in zip(library.model.layers, generator._cache.layers, strict=True):
        attention, mlp = layer.self_attn, layer.mlp
        read = (attention.q_proj, attention.k_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj)
        products = [(hidden, matrix) for matrix in read]
        products += [(joined, attention.o_proj), (wide, mlp.down_proj)]
        kept = [tensor.flatten(0, 1).unsqueeze(1) for tensor in held[:2]]
        operands = [(rows, matrix.weight.detach().t()) for rows, matrix in products]
        steps.append((operands, kept, held.both))
    last = weight.detach().t()

    def chain() -> None:
        with torch.inference_mode():
            for products, (tokens, values), both in steps:
                for rows, matrix in products:
                    torch.mm(rows, matrix)
                functional.scaled_dot_product_attention(query, tokens, values, attn_mask=mask)
                if beside is not None:
                    beside(both)
            torch.mm(hidden, last)

    return chain


def take_turns(
    case: Case,
    turns: int = TURNS,
    chained: Callable[[DecodeJob], Callable[[], None]] = chain_of,
) -> Turns:
    """Of ours and the chain, in this process."""
    choice: Choice = CHOICE if case.space else {}
    fixed, precision = tuning.settled(case, choice), PRECISIONS[case.precision]
    backend, workload = catalogue.backend("cpu"), catalogue.workload(case.workload)
    device = backend.open(0, precision)
    execution = Execution(fixed.execution, backend, device, tuning.searches(choice))
    parameters = plan.parameters_of(fixed, workload)
    site = Site(
        device=device.torch_device,
        precision=precision,
        seed=0,
        execution=fixed.execution,
        compiler=execution.compiler,
        memory_format=tuning.memory_format(choice) or "contiguous",
    )
    job = workload.build(case.mode, parameters, site)
    assert isinstance(job, DecodeJob)
    engine = Engine(job, device, Settings(), usage=process_usage())
    chain = chained(job)

    def by_hand() -> float:
        start = time.perf_counter()
        for _ in range(parameters.new_tokens):
            chain()
        return time.perf_counter() - start

    found = in_turns(lambda: engine.block(parameters.new_tokens).wall_ns / 1e9, by_hand, turns)
    if amiss := asked.complaint((*execution.looks({}), *job.looks())):
        raise SystemExit(f"{case.label}: {amiss}")
    moved = workload.work(case.mode, parameters, precision).moved_bytes or 0
    rate = moved * parameters.new_tokens / found.ours / 1e9
    print(f"{case.label}: {rate:.1f} GB/s of weights and cache")
    return found


def cases(how: str) -> tuple[Case, ...]:
    """What is compared: in an execution, or `tuned`."""
    given = {"tuned": TUNED} if how == "tuned" else {"execution": how}
    return plan.plan(
        Suite(
            name="chain",
            source="bench/tests/validation/against_chain.py",
            description="",
            settings=Settings(),
            entries=tuple({**entry, **given} for entry in WORK),
        )
    )


BY_EXECUTION = {how: cases(how) for how in (*EXECUTIONS, "tuned")}

if __name__ == "__main__":
    script("bench.tests.validation.against_chain", __doc__, BY_EXECUTION, take_turns)
