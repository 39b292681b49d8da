"""Narrow formats: the format asked for is the one that runs, with its scales, or it is refused.

Each is multiplied by the operator that a workload would use (`bench.quantized_product.Products`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from bench.conformance.check import (
    Check,
    Finding,
    Stand,
    after,
    judged,
    passed,
    unseen,
)
from bench.formats import Operand, encode
from bench.measuring.gates.numerics import relative_error
from bench.precision import PRECISIONS, Precision
from bench.records.reason import first_line
from bench.records.tolerances import TOLERANCES

if TYPE_CHECKING:
    import torch
    from torch import Tensor

FORMATS = tuple(name for name, how in PRECISIONS.items() if how.scales is not None)
GROUPED = ("bf16", "fp8-row", "mxfp8")
"""In which torch has products of several experts."""
N, K = 256, 256
ROWS = (1, 16, 64)
"""Rows of the first operand: one and few, as in a decode, which operators treat apart, and many."""
COUNTS = (3, 0, 64, 1)
"""Rows of experts, one of them without any."""
NEXT = "Let Backend.unsupported deny it, or give Backend.products the operator that is right"


def formats(stand: Stand) -> Iterator[Finding]:
    """What each format that the device has makes of codes, scales, layouts and normals."""
    for name in FORMATS:
        how = PRECISIONS[name]
        reason = stand.unsupported(how)
        if reason is not None:
            yield unseen(f"{name} is {name}", reason)
            continue
        stand.open(how)
        for check in (_codes, _scales, _layout, _numbers):
            try:
                yield check(stand, name, how)
            except Exception as error:  # noqa: BLE001 - the other checks are still to be tried
                yield after(f"{name}: {check.__name__[1:]}", stand.backend, error)
                if stand.backend.failure_kind(error) == "device_lost":
                    return


def _codes(stand: Stand, name: str, how: Precision) -> Finding:
    """Each value of the format, once by 1: what is rounded further, or read as another format
    (e4m3fnuz has half of each), comes out as another value."""
    import torch

    every = _every_code(how)
    # Of one value in each row's every block, so that no scale is another's.
    matrix = encode(_normals(N, K), how, True)
    ones = torch.ones_like(matrix.shared, dtype=torch.float32).to(matrix.shared.dtype)
    whole = None if matrix.whole is None else torch.ones_like(matrix.whole)
    zero = 8 if matrix.element == "uint4" else 0
    codes = torch.full_like(matrix.codes.view(torch.uint8), zero)
    codes[: len(every), 0] = every
    matrix = matrix._replace(codes=codes.view(matrix.codes.dtype), scales=ones, whole=whole)
    first = torch.zeros(16, K)
    first[:, 0] = 1.0
    expected = matrix.exactly()[: len(every), 0]
    product = _product(stand, encode(first, how, False), matrix, how)
    found = product[0, : len(every)]
    wrong = int((found != expected).sum())
    bits = 8 * matrix.packed().itemsize * matrix.packed().numel() // (N * K)
    bits = 4 if matrix.element == "uint4" else bits
    observed = f"{len(every) - wrong} of {len(every)} values of {bits} bits"
    title = f"{name}: every value is itself"
    return judged(title, wrong == 0, observed, "it ran as another format", NEXT)


def _every_code(how: Precision) -> Tensor:
    """All codes of an element that are numbers, as bytes; of e4m3 0x7f and 0xff are none."""
    import torch

    if how.quantized != "float8_e4m3fn":
        return torch.arange(16, dtype=torch.uint8)
    codes = torch.arange(256, dtype=torch.uint8)
    return codes[~codes.view(torch.float8_e4m3fn).float().isnan()]


def _scales(stand: Stand, name: str, how: Precision) -> Finding:
    """Blocks whose scales differ by powers of two: of either side, wherever they lie. None grows:
    beyond e4m3 torch 2.11 makes no number."""
    import torch

    title = f"{name}: scales are applied"
    sides = [encode(_normals(ROWS[1], K), how, False), encode(_normals(N, K, 1), how, True)]
    turned = [side for side in sides if side.scales is not None]
    plain = _product(stand, sides[0], sides[1], how)
    worst, moved = 0.0, []
    for side in turned:
        powers = torch.randint(-4, 1, side.shared.shape, generator=_generator()).float().exp2()
        other = side._replace(scales=(side.shared.float() * powers).to(side.shared.dtype))
        pair = [other if one is side else one for one in sides]
        found = _product(stand, pair[0], pair[1], how)
        worst = max(worst, relative_error(found, pair[0].exactly() @ pair[1].exactly().t()))
        moved.append(relative_error(found, plain))
    good = worst <= TOLERANCES[name]["output"] and min(moved) > TOLERANCES[name]["output"]
    observed = f"{len(turned)} of 2 operands scaled anew, off by {worst:.1e}"
    reason = "products do not follow the scales of their blocks"
    return judged(title, good, observed, reason, NEXT)


def _layout(stand: Stand, name: str, how: Precision) -> Finding:
    """An operand whose scales are those of half of its rows must be refused, not read beyond."""
    title = f"{name}: wrong layouts are refused"
    rows = encode(_normals(ROWS[1], K), how, False)
    matrix = encode(_normals(N, K, 1), how, True)
    scales = matrix.shared
    halved = matrix._replace(scales=scales[: len(scales) // 2].contiguous())
    try:
        _product(stand, rows, halved, how)
    except Exception as error:
        if stand.backend.failure_kind(error) == "device_lost":
            raise
        said = first_line(error)
        return passed(title, f"half of the scales: {said[:80]}")
    reason = "scales of half of the rows were taken for those of all"
    return judged(title, False, "half of the scales were accepted", reason, NEXT)


def _numbers(stand: Stand, name: str, how: Precision) -> Finding:
    """Normals beside float64 of the same narrow values, at a decode's few rows too."""
    matrix = encode(_normals(N, K, 1), how, True)
    errors = {}
    for rows in ROWS:
        first = encode(_normals(rows, K), how, False)
        exact = first.exactly() @ matrix.exactly().t()
        try:
            errors[rows] = relative_error(_product(stand, first, matrix, how), exact)
        except (RuntimeError, ValueError):
            if rows == ROWS[-1]:
                raise
    return _beside(f"{name}: products", TOLERANCES[name]["output"], errors, "rows")


def grouped(stand: Stand) -> Iterator[Finding]:
    """Rows of several experts by their own matrices, where the device has such products."""
    import torch

    for name in GROUPED:
        title, how = f"{name}: grouped products", PRECISIONS[name]
        reason = stand.unsupported(how)
        if reason is not None:
            yield unseen(title, reason)
            continue
        stand.open(how)
        rows = [encode(_normals(count, K, count), how, False) for count in COUNTS]
        matrices = [encode(_normals(N, K, 9 + i), how, True) for i in range(len(COUNTS))]
        exact = torch.cat(
            [a.exactly() @ b.exactly().t() for a, b in zip(rows, matrices, strict=True)]
        )
        try:
            ready = stand.backend.products.grouped(rows, matrices, how, stand.place)
            found = ready.queue().cpu().to(torch.float64)
        except (AttributeError, NotImplementedError, RuntimeError, ValueError) as error:
            if stand.backend.failure_kind(error) != "error":
                yield after(title, stand.backend, error)
                return
            said = first_line(error)
            yield unseen(title, f"there is no such product here ({said[:120]})")
            continue
        errors = {len(COUNTS): relative_error(found, exact)}
        yield _beside(title, TOLERANCES[name]["output"], errors, "experts")


def by_experts(stand: Stand) -> Iterator[Finding]:
    """Rows of bfloat16 by experts' weights that are narrow, where the device has such a product."""
    import torch

    title, how = "mxfp4: rows of bfloat16 by experts", PRECISIONS["mxfp4"]
    wide = PRECISIONS["bf16"]
    reason = stand.unsupported(wide)
    if reason is not None:
        yield unseen(title, reason)
        return
    stand.open(wide)
    rows = [_normals(count, K, count).to(torch.bfloat16) for count in COUNTS]
    matrices = [encode(_normals(N, K, 9 + i), how, True) for i in range(len(COUNTS))]
    exact = [a.double() @ b.exactly().t() for a, b in zip(rows, matrices, strict=True)]
    codes = torch.stack([matrix.packed().view(torch.uint8) for matrix in matrices])
    scales = torch.stack([matrix.shared for matrix in matrices])
    ends = torch.tensor(COUNTS).cumsum(0).to(stand.place, torch.int32)
    try:
        product = stand.backend.products.by_experts(codes, scales, stand.place)
        found = product(torch.cat(rows).to(stand.place), ends).cpu().to(torch.float64)
    except NotImplementedError as error:
        yield unseen(title, str(error))
        return
    errors = {len(COUNTS): relative_error(found, torch.cat(exact))}
    yield _beside(title, TOLERANCES["bf16"]["output"], errors, "experts")


def _beside(title: str, tolerance: float, errors: dict[int, float], what: str) -> Finding:
    observed = ", ".join(f"{error:.1e} at {count} {what}" for count, error in errors.items())
    wrong = [str(count) for count, error in errors.items() if not error <= tolerance]
    reason = f"at {', '.join(wrong)} {what} they are off by more than {tolerance:g} from float64"
    return judged(title, not wrong, observed, reason, NEXT)


def _product(stand: Stand, rows: Operand, matrix: Operand, how: Precision) -> Tensor:
    """On the device, in float64 on the host."""
    import torch

    product: Callable[[], Tensor]
    product = stand.backend.products.product(rows, matrix, how, stand.place).queue
    return product().cpu().to(torch.float64)


def _generator(seed: int = 0) -> torch.Generator:
    import torch

    return torch.Generator().manual_seed(seed)


def _normals(rows: int, columns: int, seed: int = 0) -> Tensor:
    import torch

    return torch.randn((rows, columns), generator=_generator(seed))


CHECKS = (
    Check(
        name="narrow formats",
        summary="values, scales and layouts of 8 bits and less",
        parts=(formats, grouped, by_experts),
    ),
)
