"""What no runtime can be asked, by trying it: whether a device multiplies in a precision, and
whether its events say a time.

A product is of numbers whose result is known, so small that it takes no time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from bench import formats, quantized_product
from bench.backend import Backend, Device
from bench.precision import Precision
from bench.records.reason import first_line

if TYPE_CHECKING:
    import torch

SIZE = 1024
"""Rows and columns: what libraries treat as a matrix product, not as something small."""
LARGEST_ERROR = 5e-3
"""Relative, of a product of narrow values; as the numerics gate has it."""
SLOW = 8.0
"""A product that takes this many times as long as the same in float32 has no arithmetic of its own:
torch's reference code took 38 to 130 times as long on a CPU with AVX2 alone; where there is some it
takes less than float32, and numbers widened in registers cost a conversion besides."""
SLOW_SIZE = 256
"""Rows and columns of the products that are timed: 0.04 s by reference code."""
TRIES = 5
LONG = 2.0**18 + 2.0**9 + 1
"""Needs 18 bits of mantissa. TF32 and HF32 lose the last one, and so do two pieces of bfloat16, in
which 2^18 + 1 is whole (hipBLASLt's TF32 on gfx950); float16 has no number so large."""


def refusal(backend: Backend, device: torch.device, precision: Precision) -> str | None:
    """Why the device does not multiply in `precision`; None if it does.

    Raises what says nothing about the arithmetic: out of memory, device lost.
    """
    import torch

    before = torch.get_float32_matmul_precision() != "highest"
    try:
        backend.shorten_float32(False)
        if precision.scales is not None:
            return _wrong_format(backend, device, precision)
        if precision.quantized is not None:
            return _wrong_product(backend, device, precision.quantized)
        if shortens(device):  # as float16, on an Ascend before 910B
            return "float32 products are short with the switch off too: their format is not known"
        backend.shorten_float32(True)
        if not shortens(device):
            return "float32 products keep their whole mantissa here although the switch is on"
    except (RuntimeError, AttributeError, TypeError, ValueError) as error:
        if backend.failure_kind(error) != "error":
            raise
        return f"torch has no such product here ({first_line(error)[:200]})"
    finally:
        backend.shorten_float32(before)
    return None


def by_reference(precision: Precision) -> str | None:
    """What shows that the host multiplies in `precision` by reference code; None where it does not.

    By the time on a core of one thread, which other work does not lengthen.
    """
    import torch

    narrow = precision.autocast or precision.weights
    if narrow == "float32" or precision.quantized is not None:
        return None
    wide = torch.ones((SLOW_SIZE, SLOW_SIZE))
    operands = (wide, wide.to(getattr(torch, narrow)))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        turns = [[_core_seconds(operand) for operand in operands] for _ in range(TRIES)]
    finally:
        torch.set_num_threads(threads)
    float32, found = (min(turn) for turn in zip(*turns, strict=True))
    if found < SLOW * float32:
        return None
    # Without the figure, which is another each time: one machine says one thing.
    return f"torch multiplies {narrow} here by reference code, many times as slowly as float32"


def events_tell(device: Device, make: Callable[..., Any]) -> bool:
    """Whether the time between two of a device's events can be read: some layers only order work by
    theirs, and raise. make: torch's or the vendor's, of one that has times."""
    try:
        marks = [make(enable_timing=True) for _ in range(2)]
        for mark in marks:
            mark.record()
    except RuntimeError:  # NotImplementedError is one
        return False
    device.synchronize()
    try:
        device.elapsed_ns(*marks)
    except RuntimeError:
        return False
    return True


def _core_seconds(operand: torch.Tensor) -> float:
    start = time.thread_time()
    operand @ operand
    return time.thread_time() - start


def switches(places: Mapping[str, str], to: bool | None = None) -> dict[str, str]:
    """How those of `TorchDevice.switches` stood that are here; then sets them, if told."""
    import torch

    found = {}
    for name, place in places.items():
        holder, _, switch = place.rpartition(".")
        with suppress(AttributeError):  # another plug-in's
            held = attrgetter(holder)(torch)
            found[name] = str(getattr(held, switch))
            if to is not None:
                setattr(held, switch, to)
    return found


def shortens(device: torch.device) -> bool:
    """Whether a float32 product loses the last bits of its operands."""
    import torch

    long = torch.full((SIZE, SIZE), LONG, device=device)
    found = float((long @ torch.eye(SIZE, device=device))[0, 0])
    return not abs(found - LONG) < 0.5  # what overflows may be no number


def _wrong_product(backend: Backend, device: torch.device, name: str) -> str | None:
    """2 x 3 x 32, with the scales that layers have."""
    import torch

    rows, matrix = (torch.full((32, 32), value, device=device) for value in (2.0, 3.0))
    dtype = getattr(torch, name)
    scales = (torch.full(shape, 0.5, device=device) for shape in ((32, 1), (1, 32)))
    row_scale, matrix_scale = scales
    product = quantized_product.multiply(
        rows.to(dtype), row_scale, matrix.to(dtype), matrix_scale, backend.products
    )
    found = float(product[0, 0])
    return None if found == 48.0 else f"a product of 48 comes out as {found:g}"


def _wrong_format(backend: Backend, device: torch.device, precision: Precision) -> str | None:
    """A product of normals, beside that of the same narrow values in float64."""
    import torch

    normals = torch.Generator().manual_seed(0)
    rows, matrix = (
        formats.encode(torch.randn((128, 256), generator=normals), precision, matrix=second)
        for second in (False, True)
    )
    found = backend.products.product(rows, matrix, precision, device).queue()
    exact = rows.exactly() @ matrix.exactly().t()
    error = float((found.cpu().to(torch.float64) - exact).norm() / exact.norm())
    # Rounding to bfloat16 makes 1.7e-3; NaN is no number below.
    return None if error <= LARGEST_ERROR else f"a product is off by {error:.1%}"
