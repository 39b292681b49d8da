"""A few values of the last timed output, held to float64: what the gate's small twin cannot see.

A kernel may be wrong at the timed size alone, with more elements or keys than its twin has. Jobs of
one operator therefore keep a few values of what the last timed step wrote, at its ends and drawn.
After the timing they compute the same ones on the host, by the definition, from the operands of
that step. Only those values and what they are made of are copied.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, NamedTuple

from bench.precision import Precision
from bench.records.execution import is_compiled
from bench.records.tolerances import TOLERANCES
from bench.workload import Look, Site

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ELEMENTS = 64
"""Of a product."""
AT_AN_EDGE = 10
"""Of those, drawn from the last row; and as many from the last column."""
PLACES = 4096
"""Of an array, beside its ends."""
FEW = 3.0
"""So many times what the gate allows a whole output: of a few values, chance and split sums have a
larger share. Measured of sound kernels on a CPU up to 1.3 times."""
LONG, DRIFT = 2e-4, 6e-9
"""What longer sums may lose in float32 at most, or for each of their terms where that is more:
measured 2.9e-4 of products in TF32 (rounded; cut 6.5e-4). Added one by one 3e-10 of 400,000 terms
of one sign, 6e-10 of 2,000,000; by a unit that cuts each sum of 8 to 24 bits 3e-9. Hence of more
than some 45,000 terms TF32 may pass for float32, and bfloat16 for TF32."""
CUT = {"output": 1.23, "attention": 1.4}
"""In place of `FEW`, of operands cut to 10 bits, whose error is mostly one bias: measured 8.8e-4 of
64 products' values, and 2e-3 if all lose most (in bfloat16 1.5e-3 to 2.7e-3); of attention 2.1e-3
(in bfloat16 3.5e-3 to 6.6e-3)."""

THEN = "A kernel is wrong at this size: report it, and try another version of its library"


class Spot(NamedTuple):
    """Values in one place of an output, [n], in float64 on the host."""

    place: str
    found: Tensor
    expected: Tensor
    terms: Tensor
    """Root of the squares of what each is the sum of, for a sum may cancel."""

    @property
    def error(self) -> float:
        """Norm of the difference over that of what is expected, or of its terms where that is more;
        infinite if a value is not finite."""
        off = float((self.found - self.expected).norm())
        size = max(float(self.expected.norm()), float(self.terms.norm()))
        if off == 0.0:
            return 0.0
        return off / size if size > 0.0 and math.isfinite(off) else math.inf


def allowed(precision: Precision, quantity: str, length: int, twin: int) -> float:
    """The largest error of a spot whose values are sums of so many terms.

    The gate's tolerances are of sums as long as its twin's; in float32 they lose with the root of
    their length, or their length by the worst adder, and sums of integers are exact.
    """
    most, wide = (TOLERANCES[name][quantity] for name in (precision.name, "fp32"))
    if precision.shortened:
        return CUT.get(quantity, FEW) * most + DRIFT * length
    if most < wide:
        return FEW * most
    longer = FEW * wide * math.sqrt(length / twin)
    return max(FEW * most, min(longer, max(LONG, DRIFT * length)))


def look(what: str, spots: Sequence[Spot], most: float) -> Look:
    """Whether all of them are right; most: the largest error that is allowed."""
    error, place = max((spot.error, spot.place) for spot in spots)
    asked = f"what float64 makes of its operands, within {most:.2g}"
    return Look(
        what=f"{what} at the timed size",
        asked=asked,
        seen=asked if error <= most else f"an error of {error:.2g} at {place}",
        then=THEN,
    )


class Elements(NamedTuple):
    """Which elements of a product [M, N] are looked at, by row and column."""

    rows: tuple[int, ...]
    columns: tuple[int, ...]

    def of(self, product: Tensor) -> Tensor:
        """Their values, in float64 on the host."""
        import torch

        each = zip(self.rows, self.columns, strict=True)
        return torch.stack([product[row, column].cpu() for row, column in each]).double()

    def spot(self, found: Tensor, a: Tensor, b: Tensor) -> Spot:
        """What `of` gave beside what rows and columns give, [elements, K] in float64."""
        terms = a * b
        expected, roots = terms.sum(1), terms.square().sum(1).sqrt()
        each = zip(self.rows, self.columns, strict=True)
        names = [f"row {row}, column {column}" for row, column in each]
        return of_all(names, found, expected, roots)


def of_all(names: Sequence[str], found: Tensor, expected: Tensor, terms: Tensor) -> Spot:
    """All of these values [n], called by the one that is furthest off: what is no number is."""
    furthest = int((found - expected).abs().nan_to_num(math.inf).argmax())
    return Spot(names[furthest], found, expected, terms)


def elements(m: int, n: int, seed: int) -> Elements:
    """The corners of a product, some of its last row and column, else drawn; in order of rows."""
    draw = random.Random(seed)
    found = [(0, 0), (0, n - 1), (m - 1, 0), (m - 1, n - 1)]
    found += [(m - 1, draw.randrange(n)) for _ in range(AT_AN_EDGE)]
    found += [(draw.randrange(m), n - 1) for _ in range(AT_AN_EDGE)]
    found += [(draw.randrange(m), draw.randrange(n)) for _ in range(ELEMENTS - len(found))]
    rows, columns = zip(*sorted(found), strict=True)
    return Elements(rows, columns)


def places(size: int, seed: int) -> Tensor:
    """Of an array of that size both ends and drawn places, in order: [n], int64."""
    import torch

    draw = random.Random(seed)
    return torch.tensor(sorted({0, size - 1, *(draw.randrange(size) for _ in range(PLACES))}))


def host(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """In float64 on the host; an autocast has it computed in that type, the output's."""
    there = x.detach().cpu()
    return (there if dtype is None else there.to(dtype)).double()


def taken(x: Tensor, where: Tensor) -> Tensor:
    """What lies in those places along the first dimension, in float64 on the host."""
    return host(x.detach().index_select(0, where.to(x.device)))


def worst(where: Tensor, found: Tensor, expected: Tensor, terms: Tensor) -> Spot:
    """The one of these places [n] that is furthest off, by its terms."""
    off = (found - expected).abs().nan_to_num(math.inf)
    at = int((off / terms.clamp(min=sys.float_info.min)).argmax())
    one = slice(at, at + 1)
    return Spot(f"element {int(where[at]):,}", found[one], expected[one], terms[one])


def rows_of(x: Tensor, rows: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
    """As `host`, some of [R, K]: by slices alone, which every device has. What comes more than
    once is copied once."""
    import torch

    if isinstance(rows, range):
        return host(x[rows.start : rows.stop], dtype)
    each = {row: host(x[row], dtype) for row in set(rows)}
    return torch.stack([each[row] for row in rows])


def as_written(site: Site) -> AbstractContextManager[object]:
    """Within it nothing runs compiled."""
    import torch

    if not is_compiled(site.execution):
        return nullcontext()
    stance: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return stance
