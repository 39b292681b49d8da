"""Jobs of products: operands that rotate, a product each step, and the last product to look at."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from bench.formats import Operand, encode
from bench.precision import Precision, Scales
from bench.quantized_product import Ready
from bench.records.reason import first_line
from bench.workload import Job, Look, Site, Unsupported
from bench.workloads.jobs.rotation import RotatingJob, Rotation
from bench.workloads.jobs.seeded import SeededData
from bench.workloads.spots import spots

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from bench.quantized_product import Queued

    Sides = list[tuple[Operand, Operand]]
    """Rows of one operand, and of the other transposed, that belong together."""

ROTATION_BYTES = 256 * 2**20
"""Operands rotate through this much memory, more than most last-level caches hold: a server's with
more, or another chip's of as much, may keep a part."""
MOST_BUFFERS = 16
ALIGNMENT = 16
"""N and K are multiples of this in 8 bits and less: others have kernels on some devices only."""
RESULTS = 2
"""Products that are there at once where a step makes its own: the last one and the next."""


TWIN_K = 256
"""Columns of the operands of the numerics gate's twin, at most."""


class ProductJob(RotatingJob):
    """What the products of all widths share: operands that rotate, and the last product."""

    _site: Site

    def looks(self) -> Iterator[Look]:
        """At elements of the last product that was timed, each against its row and column."""
        operands, elements, found = self._timed()
        a, b = self._sides(operands, elements)
        precision = self._site.precision
        most = spots.allowed(precision, "output", a.shape[1], min(a.shape[1], TWIN_K))
        yield spots.look("product", [elements.spot(found, a, b)], most)

    def _keep(self) -> tuple[Any, spots.Elements, Tensor]:
        """Operands, which elements of the product to look at, and those."""
        m, n = self._output.shape
        elements = spots.elements(m, n, self._site.seed)
        return self._inputs.last, elements, elements.of(self._output)

    def _sides(self, operands: Any, elements: spots.Elements) -> tuple[Tensor, Tensor]:
        """What each of the elements is made of, row and column, [elements, K] in float64."""
        a, b, *_ = operands
        return spots.rows_of(a, elements.rows), spots.rows_of(b.t(), elements.columns)

    def weights(self) -> Sequence[Tensor]:
        """All operands."""
        return [operand for a, b, *_ in self._inputs.items for operand in (a, b)]

    def inputs(self) -> Sequence[Tensor]:
        """The first operand of the last product."""
        return [self._inputs.last[0]]


class ReadyJob(ProductJob):
    """Products whose operands wait on the device, in the order that its operator wants."""

    def __init__(self, products: list[Ready], site: Site, kept: Sequence[Sides] = ()) -> None:
        """Starts with the first product. kept: of each, what its `spots.elements` are made of."""
        self._inputs, self._site, self._of = Rotation(products), site, kept
        scales = site.precision.scales
        self.facts = {"operand buffers": str(len(products)), "operator": products[0].operator}
        if scales is not None:
            self.facts |= {"scales": described(scales)}

    def step(self) -> None:
        """Queues one product."""
        self._output = next(self._inputs).queue()

    def weights(self) -> Sequence[Tensor]:
        """All operands, but for what lies in an order of the device's own."""
        return [tensor for product in self._inputs.items for tensor in product.seen]

    def inputs(self) -> Sequence[Tensor]:
        """The first operand of the last product."""
        return [self._inputs.last.seen[0]]

    def _sides(self, operands: Any, elements: spots.Elements) -> tuple[Tensor, Tensor]:
        import torch

        products = self._inputs.items
        place = next(i for i, product in enumerate(products) if product is operands)
        rows, columns = zip(*self._of[place], strict=True)
        return torch.cat([x.exactly() for x in rows]), torch.cat([x.exactly() for x in columns])


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
        # A lost device and memory that ran out have types of their own, or say so.
        known = (RuntimeError, NotImplementedError, ValueError, TypeError, AttributeError)
        if type(error) not in known or "alloc" in str(error).lower():
            raise
        raise Unsupported(f"{what}: no such product here ({first_line(error)[:200]})") from error


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
        return ReadyJob([Ready(lambda: exact, "float64", (exact,))], site)
    elements = spots.elements(m, n, site.seed)

    def make() -> tuple[Ready, Sides]:
        rows, matrix = operands()
        seen = [(rows.taken(elements.rows), matrix.taken(elements.columns))]
        return site.products.product(rows, matrix, how, site.device), seen

    return _rotating(make, f"{how.name} {m} x {n} x {k}", set_bytes, site)


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
        return ReadyJob([Ready(lambda: exact, "float64", (exact,))], site)
    elements, ends = spots.elements(sum(counts), n, site.seed), list(accumulate(counts))

    def make() -> tuple[Ready, Sides]:
        rows, matrices = operands()
        seen = []
        for row, column in zip(*elements, strict=True):
            group = bisect_right(ends, row)
            within = row - ends[group] + counts[group]
            seen.append((rows[group].taken([within]), matrices[group].taken([column])))
        return site.products.grouped(rows, matrices, how, site.device), seen

    return _rotating(make, f"{how.name} grouped, {len(counts)} x {n} x {k}", set_bytes, site)


def _rotating(
    make: Callable[[], tuple[Ready, Sides]], what: str, set_bytes: int, site: Site
) -> Job:
    """As many products as take turns, the first of them tried."""
    made: list[tuple[Ready, Sides]] = []

    def first() -> Tensor:
        made.append(make())
        return made[0][0].queue()

    tried(first, what)
    made += [make() for _ in range(buffers_of(set_bytes) - 1)]
    ready, seen = zip(*made, strict=True)
    return ReadyJob(list(ready), site, seen)


def _float32() -> torch.dtype:
    import torch

    return torch.float32
