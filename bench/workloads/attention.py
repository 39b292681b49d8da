"""Causal scaled dot-product attention: the ceiling under a transformer's other half.

Modes `prefill` to `latent-decode` are today's kinds over long contexts: `contexts`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

from bench.precision import Precision
from bench.records.execution import EAGER, EXECUTIONS
from bench.records.outcome import Work
from bench.records.proof import GRADIENTS
from bench.workload import BatchSize, Burst, Job, Look, Mode, Parameters, Site, Within, Workload
from bench.workloads.contexts import contexts
from bench.workloads.jobs.executed import executed_function
from bench.workloads.jobs.jobs import BATCHES
from bench.workloads.jobs.modes import at_most
from bench.workloads.jobs.rotation import RotatingJob, Rotation
from bench.workloads.jobs.seeded import SeededData
from bench.workloads.spots import attention_spots
from bench.workloads.spots.attention_spots import places
from bench.workloads.spots.spots import allowed, look

if TYPE_CHECKING:
    from torch import Tensor

    from bench.workloads.spots.attention_spots import Places

    Operands = tuple[Tensor, Tensor, Tensor, Tensor]
    """query, key, value and the gradient of the output, each [B, H, T, D]."""

FORWARD_TENSORS = 4
"""Query, key and value are read, the output is written."""
BACKWARD_TENSORS = 8
"""Those four and the output's gradient are read, three gradients are written."""
TWIN_SEQUENCE, TWIN_HEADS = 128, 2
PRECISIONS = ("bf16", "fp16", "fp32")


class AttentionParameters(Parameters, frozen=True, kw_only=True):
    """Query, key and value [B, H, T, D]; every head has keys of its own."""

    batch_size: BatchSize = 1
    heads: Annotated[int, Within(1, 1024)] = 16
    head_dim: Annotated[int, Within(8, 512)] = 128
    sequence_length: Annotated[int, Within(2, 2**20)] = 512


class Attention(Workload):
    """softmax(Q K^T / sqrt(D), causal) V, by whichever kernel torch chooses."""

    name = "attention"
    version = 1
    modes = MappingProxyType(
        {
            mode: Mode(
                parameters=AttentionParameters,
                precisions=PRECISIONS,
                executions=executions,
                burst=burst,
            )
            for mode, executions, burst in (
                ("forward", EXECUTIONS, None),
                ("forward-backward", (EAGER,), None),
                ("burst", (EAGER,), Burst()),
            )
        }
        | {
            mode: Mode(parameters=kind, precisions=PRECISIONS)
            for mode, kind in contexts.MODES.items()
        }
    )

    def work(self, mode: str, parameters: Any, precision: Precision) -> Work:
        """2 B H T^2 D FLOP forward: two products of 2 T^2 D, of which the mask leaves half.

        Backward is twice that: four such products. (A kernel that saves memory computes the scores
        again: FlashAttention's own benchmark counts that as work too, 2.5 times the forward; here,
        as in an MFU, it is not.) Bytes: each tensor once, [B, H, T, D] elements.
        Over long contexts: `contexts.counted`.
        Source: Dao, FlashAttention-2, arXiv 2307.08691, section 4.1.
        """
        p = parameters
        if mode in contexts.MODES:
            found = contexts.counted(p, precision)
            return Work(
                items=found.flop, unit="FLOP", flop=found.flop, moved_bytes=found.moved_bytes
            )
        elements = p.batch_size * p.heads * p.sequence_length * p.head_dim
        forward = 2 * elements * p.sequence_length
        backward = mode == "forward-backward"
        flop = 3 * forward if backward else forward
        tensors = FORWARD_TENSORS + (BACKWARD_TENSORS if backward else 0)
        moved = tensors * elements * precision.element_bytes
        return Work(items=flop, unit="FLOP", flop=flop, moved_bytes=moved)

    def twin(self, mode: str, parameters: Any) -> Any:
        """Two heads of one sequence of 128 at most; of a long context `contexts.twin`."""
        if mode in contexts.MODES:
            return contexts.twin(parameters)
        return at_most(parameters, batch_size=1, heads=TWIN_HEADS, sequence_length=TWIN_SEQUENCE)

    def build(self, mode: str, parameters: Any, site: Site) -> Job:
        """Normals, as a layer norm leaves them."""
        if mode in contexts.MODES:
            return contexts.build(parameters, site)
        data = SeededData(site.seed)
        p = parameters
        shape = (p.batch_size, p.heads, p.sequence_length, p.head_dim)
        backward = mode == "forward-backward"

        def tensor(needs_gradient: bool) -> Tensor:
            value = data.normal(shape, site.precision.dtype).to(site.device)
            return value.requires_grad_(needs_gradient)

        operands = [
            (tensor(backward), tensor(backward), tensor(backward), tensor(False))
            for _ in range(BATCHES)
        ]
        return AttentionJob(operands, backward, site)


def attended(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """By whichever kernel torch chooses."""
    from torch.nn import functional

    return functional.scaled_dot_product_attention(query, key, value, is_causal=True)


class AttentionJob(RotatingJob):
    """One attention, and its gradients if asked; operands rotate."""

    quantity = "attention"

    def __init__(self, operands: list[Operands], backward: bool, site: Site) -> None:
        """Starts with the first operands."""
        self._attend = executed_function(attended, site)
        self._inputs, self._site = Rotation(operands), site
        self._backward = backward
        self._gradients: tuple[Tensor, ...] = ()
        self.facts = {"operand buffers": str(len(operands))}

    def step(self) -> None:
        """Queues one attention."""
        import torch

        query, key, value, gradient = next(self._inputs)
        if not self._backward:
            with torch.inference_mode():
                self._output = self._attend(query, key, value)
            return
        self._output = self._attend(query, key, value)
        self._gradients = torch.autograd.grad(self._output, (query, key, value), gradient)

    def probe(self) -> dict[str, Tensor]:
        """Output, and the gradients of query, key and value, for the first operands."""
        import torch

        found = super().probe()
        if self._gradients:
            found["gradients"] = torch.stack(self._gradients)
        return found

    def outputs(self) -> Mapping[str, Sequence[Tensor]]:
        """The last output, and the gradients that it has."""
        found = super().outputs()
        return {**found, GRADIENTS: self._gradients} if self._gradients else found

    def weights(self) -> Sequence[Tensor]:
        """All operands."""
        return [operand for operands in self._inputs.items for operand in operands]

    def inputs(self) -> Sequence[Tensor]:
        """The last query."""
        return [self._inputs.last[0]]

    def looks(self) -> Iterator[Look]:
        """At tokens of the last attention that was timed, and at their gradients."""
        operands, where, (found, *gradients) = self._timed()
        tokens = self._output.shape[2]
        most = functools.partial(allowed, self._site.precision, length=tokens)
        twin = min(tokens, TWIN_SEQUENCE)
        heads = [
            attention_spots.head_of(operands, batch, head, where.tokens)
            for batch, head in where.heads
        ]
        seen = attention_spots.spots(found, where, heads)
        yield look("attention", seen, most("attention", twin=twin))
        if gradients:
            seen = attention_spots.gradient_spots(gradients, where, operands)
            yield look("gradients", seen, most("gradients", twin=twin))

    def _keep(self) -> tuple[Operands, Places, list[tuple[Tensor, ...]]]:
        """Operands, which tokens are looked at, and those of output and gradients."""
        where = places(self._output.shape, TWIN_SEQUENCE, self._site.seed)
        found = [where.of(x) for x in (self._output, *self._gradients)]
        return self._inputs.last, where, found


WORKLOAD = Attention()
