"""Collectives: what devices do together, proved exact; experts' tokens there and back too."""

from __future__ import annotations

from types import MappingProxyType
from typing import Annotated, Any

from bench import units
from bench.precision import Precision
from bench.records.outcome import Work
from bench.workload import Job, Mode, Parameters, Site, Within, Workload
from bench.workloads.exchange import exchange
from bench.workloads.exchange.layout import Layout, even, paired, routed, uneven

MOST_BYTES = 2**34
MOST_CHAINED = 64
DTYPES = ("fp32", "bf16", "fp16", "fp8", "int8")
"""By precision: what is exchanged has the narrowest format that the precision has."""
REFERENCE_BYTES = 8
"""Of an element of the gate's float64 reference."""
EXPERTS = ("dispatch", "combine")


class Exchanged(Parameters, frozen=True, kw_only=True):
    """How much there is to exchange."""

    size_bytes: Annotated[int, Within(8, MOST_BYTES, 8)] = 2**26
    """Of the largest buffer of a rank, as nccl-tests counts."""


class Chained(Exchanged, frozen=True, kw_only=True):
    """The same, of what can go on with what it gave."""

    chained: Annotated[int, Within(1, MOST_CHAINED)] = 1
    """Operations in a step, each on the result of the one before: none can begin earlier."""


class Paired(Parameters, frozen=True, kw_only=True):
    """Messages between each two devices, pair after pair: a map of their links."""

    message_bytes: Annotated[int, Within(8, MOST_BYTES, 8)] = 2**22
    """Of one message, one way; both ways at once."""


class Routed(Parameters, frozen=True, kw_only=True):
    """Tokens on their way to the experts that a router chose for them."""

    tokens: Annotated[int, Within(1, 2**20)] = 128
    """Of each rank."""
    hidden: Annotated[int, Within(8, 2**16, 8)] = 7168
    """Elements of a token."""
    experts: Annotated[int, Within(2, 2**12)] = 256
    """Of all ranks together, which have as many each."""
    top_k: Annotated[int, Within(1, 64)] = 8
    """Experts of a token: so many copies of it are sent."""
    skew_percent: Annotated[int, Within(0, 400)] = 0
    """Hundredths of the exponent of Zipf's law by which experts are chosen; 0: all alike."""


PARAMETERS: dict[str, type[Parameters]] = {
    "all-reduce": Chained,
    "all-gather": Exchanged,
    "reduce-scatter": Exchanged,
    "all-to-all": Chained,
    "broadcast": Chained,
    "send-receive": Chained,
    "pairs": Paired,
    "dispatch": Routed,
    "combine": Routed,
}
"""Of each mode."""


class Collective(Workload):
    """One operation of all devices together."""

    name = "collective"
    version = 1
    modes = MappingProxyType(
        {
            name: Mode(parameters=kind, precisions=DTYPES, together=True, multiplies=False)
            for name, kind in PARAMETERS.items()
        }
    )

    def work(self, mode: str, parameters: Any, precision: Precision) -> Work:
        """Bytes of the largest buffer: algorithm bandwidth, as nccl-tests defines it. Of routed
        tokens those that a rank sends, of pairs a message. What crosses a link, the job says,
        which knows the ranks.

        Source: nccl-tests, doc/PERFORMANCE.md.
        """
        if mode in EXPERTS:
            tokens = parameters.tokens * parameters.top_k
            return Work(items=tokens * parameters.hidden * precision.matrix_bytes, unit="B")
        if mode == "pairs":
            return Work(items=parameters.message_bytes, unit="B")
        return Work(items=parameters.size_bytes * getattr(parameters, "chained", 1), unit="B")

    def twin(self, mode: str, parameters: Any) -> Any:
        """The same: a library treats each size in its own way, and the reference is a formula."""
        return parameters

    def peak_bytes(self, mode: str, parameters: Any, site: Site) -> int:
        """Buffers of this rank."""
        layout = _layout(mode, parameters, site, site.precision.matrix_bytes)
        return exchange.held_bytes(layout, site, getattr(parameters, "chained", 1))

    def build(self, mode: str, parameters: Any, site: Site) -> Job:
        """The buffers of this rank; in float64, the formula. Raises ValueError without ranks."""
        if site.ranks is None:
            raise ValueError("a collective needs the ranks of its launch")
        sampled = exchange.SAMPLED
        if mode not in EXPERTS:
            pairs = mode == "pairs"
            part = parameters.message_bytes if pairs else parameters.size_bytes // site.ranks.size
            sampled = max(1, min(sampled, part // REFERENCE_BYTES))
        if site.precision.weights == "float64":
            return exchange.Formula(_layout(mode, parameters, site, 1), sampled)
        layout = _layout(mode, parameters, site, site.precision.matrix_bytes)
        size = units.memory(layout.counted * site.precision.matrix_bytes)
        what = f"{mode} of {size} in {site.precision.name}"
        chained = getattr(parameters, "chained", 1)
        return exchange.Exchange(layout, site, what, sampled, chained)


def _layout(mode: str, parameters: Any, site: Site, element_bytes: int) -> Layout:
    """This rank's view."""
    assert site.ranks is not None
    rank, size = site.ranks.rank, site.ranks.size
    if mode == "pairs":
        return paired(parameters.message_bytes, element_bytes, rank, size)
    if mode not in EXPERTS:
        return even(mode, parameters.size_bytes, element_bytes, rank, size)
    p: Routed = parameters
    copies = routed(size, p.tokens, p.experts, p.top_k, p.skew_percent)
    return uneven(mode, copies, p.hidden, rank)


WORKLOAD = Collective()
