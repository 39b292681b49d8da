"""Jobs of products: operands that rotate, a product each step, and the last product to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench.formats import Operand, encode
from bench.precision import Precision, Scales
from bench.quantized_product import Ready
from bench.records.proof import OUTPUT
from bench.workload import Job, Site, Unsupported
from bench.workloads._jobs import Rotation
from bench.workloads._seeded import SeededData

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from bench.quantized_product import Queued

ROTATION_BYTES = 256 * 2**20
"""Operands rotate through this much memory, more than most last-level caches hold: a server's with
more, or another chip's of as much, may keep a part."""
MOST_BUFFERS = 16
ALIGNMENT = 16
"""N and K are multiples of this in 8 bits and less: others have kernels on some devices only."""
RESULTS = 2
"""Products that are there at once where a step makes its own: the last one and the next."""


class ProductJob(Job):
    """What the products of all widths share: operands that rotate, and the last product."""

    _operands: Rotation[Any]
    _output: Tensor

    def witness(self) -> float:
        """Mean of the last product."""
        return float(self._output.float().mean())

    def probe(self) -> dict[str, Tensor]:
        """The first product."""
        self.step()
        return {"output": self._output}

    def outputs(self) -> Mapping[str, Sequence[Tensor]]:
        """The last product."""
        return {OUTPUT: [self._output]}

    def weights(self) -> Sequence[Tensor]:
        """All operands."""
        return [operand for a, b, *_ in self._operands.items for operand in (a, b)]

    def inputs(self) -> Sequence[Tensor]:
        """The first operand of the last product."""
        return [self._operands.last[0]]

    def again(self) -> bool:
        """The last product once more."""
        self._operands.back()
        self.step()
        return True


class ReadyJob(ProductJob):
    """Products whose operands wait on the device, in the order that its operator wants."""

    def __init__(self, products: list[Ready], scales: Scales | None) -> None:
        """Starts with the first product."""
        self._operands = Rotation(products)
        self.facts = {"operand buffers": str(len(products)), "operator": products[0].operator}
        if scales is not None:
            self.facts |= {"scales": described(scales)}

    def step(self) -> None:
        """Queues one product."""
        self._output = next(self._operands).queue()

    def weights(self) -> Sequence[Tensor]:
        """All operands, but for what lies in an order of the device's own."""
        return [tensor for product in self._operands.items for tensor in product.seen]

    def inputs(self) -> Sequence[Tensor]:
        """The first operand of the last product."""
        return [self._operands.last.seen[0]]


def buffers_of(set_bytes: int) -> int:
    """How many sets of operands it takes that none is in a cache when its turn comes.

    set_bytes: of one. Sets of less than ROTATION_BYTES / MOST_BUFFERS are no more than that many,
    and may be in one.
    """
    return min(MOST_BUFFERS, -(-ROTATION_BYTES // set_bytes))


def described(scales: Scales) -> str:
    """What the record says of how operands share scales."""
    blocks = (scales.rows, scales.matrix)
    words = " by ".join(
        "none" if block is None else f"{block[0] or 'all'} x {block[1] or 'all'}"
        for block in blocks
    )
    return f"{scales.dtype}, one for {words}" + (", one float32 for all" if scales.whole else "")


def refused(n: int, k: int, how: Precision) -> str:
    """Why no operand of N or K columns can be made in a format; empty where it can."""
    high, wide = how.scales.matrix if how.scales is not None else (0, 0)
    rows, columns = max(ALIGNMENT, high), max(ALIGNMENT, wide)
    if not n % rows and not k % columns:
        return ""
    if rows == columns:
        return f"{how.name} products want N and K in multiples of {rows}: {n} and {k}"
    return f"{how.name} products want N in multiples of {rows}, K of {columns}: {n} and {k}"


def tried(product: Queued, what: str) -> Tensor:
    """Queues a product for the first time and gives it.

    Raises Unsupported where the operator refuses it: shapes and formats that it has no kernel for.
    """
    try:
        return product()
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        # A lost device and memory that ran out have types of their own, or say so.
        known = (RuntimeError, NotImplementedError, ValueError, TypeError, AttributeError)
        if type(error) not in known or "alloc" in str(error).lower():
            raise
        raise Unsupported(f"{what}: no such product here ({said[0][:200]})") from error


def products(mnk: tuple[int, int, int], set_bytes: int, site: Site) -> Job:
    """[M, K] by [N, K] transposed in the site's format; in the gate's reference, of those values.

    Raises Unsupported for what the device's operator, or the format, does not take.
    """
    m, n, k = mnk
    how, data = site.precision, SeededData(site.seed)

    def operands() -> tuple[Operand, Operand]:
        return tuple(  # type: ignore[return-value]
            encode(data.normal((rows, k), _float32()), how, matrix)
            for rows, matrix in ((m, False), (n, True))
        )

    if how.weights == "float64":
        rows, matrix = operands()
        exact = rows.exactly() @ matrix.exactly().t()
        return ReadyJob([Ready(lambda: exact, "float64", (exact,))], how.scales)
    what = f"{how.name} {m} x {n} x {k}"

    def first() -> Tensor:
        ready.append(site.products.product(*operands(), how, site.device))
        return ready[0].queue()

    ready: list[Ready] = []
    tried(first, what)
    for _ in range(buffers_of(set_bytes) - 1):
        ready.append(site.products.product(*operands(), how, site.device))
    return ReadyJob(ready, how.scales)


def groups(counts: Sequence[int], n: int, k: int, set_bytes: int, site: Site) -> Job:
    """Rows of each group, so many, by its matrix [N, K] transposed; else as `products`."""
    import torch

    how, data = site.precision, SeededData(site.seed)

    def operands() -> tuple[list[Operand], list[Operand]]:
        rows = data.normal((sum(counts), k), _float32()).split(list(counts))
        matrices = (data.normal((n, k), _float32()) for _ in counts)
        return [encode(x, how, False) for x in rows], [encode(x, how, True) for x in matrices]

    if how.weights == "float64":
        sides = zip(*operands(), strict=True)
        exact = torch.cat([rows.exactly() @ matrix.exactly().t() for rows, matrix in sides])
        return ReadyJob([Ready(lambda: exact, "float64", (exact,))], how.scales)

    def first() -> Tensor:
        ready.append(site.products.grouped(*operands(), how, site.device))
        return ready[0].queue()

    ready: list[Ready] = []
    tried(first, f"{how.name} grouped, {len(counts)} x {n} x {k}")
    for _ in range(buffers_of(set_bytes) - 1):
        ready.append(site.products.grouped(*operands(), how, site.device))
    return ReadyJob(ready, how.scales)


def _float32() -> torch.dtype:
    import torch

    return torch.float32
