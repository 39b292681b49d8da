"""Arithmetic: the format asked for is the one that runs, told by its rounding.

1 + 2^-(k/2) + 2^-k has k bits of mantissa. It passes through a product with 1 unchanged if the unit
keeps k bits of its operands, and not if it keeps fewer: the largest k that passes is the format's.
Without the bit between, two pieces of bfloat16 would hold it for every k.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from bench.conformance.check import Check, Finding, Stand, after, failed, judged, passed, unseen
from bench.precision import PRECISIONS

if TYPE_CHECKING:
    from torch import Tensor

    from bench.framework import Array

SIZE = 64
"""Of the matrices: large enough for a matrix unit."""
LONG = 4096
"""Ones in a sum: bfloat16 alone stops counting at 256, float16 at 2048."""
KNOWN = {
    23: "float32",
    3: "fp8",
    7: "bfloat16",
    10: "TF32 or float16",
    11: "HF32",
    15: "two bfloat16 pieces",
    16: "two bfloat16 pieces",
}
"""Formats by the bits of their mantissa."""
DOUBLE_BITS = 52
COPIED = ("float32", "bfloat16", "float16", "int64", "uint8")


class Format(NamedTuple):
    """A dtype: its mantissa, and a value near the end of its range that no shorter one reaches."""

    dtype: str
    bits: int
    least: int
    """Bits that are enough: a fast float32 product, by transforms or from pieces, costs a few."""
    far: float
    far_lost: str


FORMATS = {
    "fp32": Format("float32", 23, 20, 2.0**100, "float16's range"),
    "bf16": Format("bfloat16", 7, 7, 2.0**100, "float16's range"),
    "fp16": Format("float16", 10, 10, 2.0**15, "a range below float16's"),
}
"""By the precision that has it."""


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Of two square matrices."""
    return a @ b


def conv2d(a: Tensor, b: Tensor) -> Tensor:
    """The same product as a convolution by 1 x 1: `a` has the weights, `b` the image."""
    import torch

    image = b.reshape(1, SIZE, SIZE, 1)
    out = torch.nn.functional.conv2d(image, a.reshape(SIZE, SIZE, 1, 1))
    return out.reshape(SIZE, SIZE)


PRODUCTS = {"matmul": matmul, "conv2d": conv2d}


def formats(stand: Stand) -> Iterator[Finding]:
    """Each precision, in both kinds of product."""
    for name, form in FORMATS.items():
        if why := stand.lacks(name):
            yield unseen(f"{name} is {name}", why)
            continue
        for kind, product in PRODUCTS.items():
            title = f"{name} {kind} keeps {form.bits} bits"
            try:
                yield _kept(stand, title, name, form, product)
            except Exception as error:  # noqa: BLE001 - the other formats are still to be tried
                yield after(title, stand.backend, error)
                if stand.backend.failure_kind(error) == "device_lost":
                    return
        if form.bits < FORMATS["fp32"].bits:
            yield _accumulates(stand, name, form)
    yield _shortened(stand)
    yield _double(stand)


def _shortened(stand: Stand) -> Finding:
    """Whether tf32, where the device has it, is neither float32 nor less than its own format."""
    title = "tf32 matmul keeps 10 to 16 bits"
    if why := stand.lacks("tf32"):
        return unseen(title, why)
    bits = kept_bits(stand, "float32", FORMATS["fp32"].bits, matmul)
    stand.open(PRECISIONS["fp32"])
    next = "Let Backend.shorten_float32 turn on what the device calls TF32 or HF32"
    reason = f"it ran as {KNOWN.get(bits, 'another format')}"
    return judged(title, 10 <= bits <= 16, f"{bits} bits", reason, next)


def kept_bits(stand: Stand, dtype: str, bits: int, product: Callable[..., Tensor]) -> int:
    """Bits of the mantissa that a product keeps of either operand, at most `bits`.

    Raises TypeError if the result has another dtype than the operands.
    """
    import torch

    wanted = getattr(torch, dtype)

    def multiplied(*pair: Array) -> Array:
        found = product(*(torch.from_numpy(x).to(wanted).to(stand.place) for x in pair))
        if found.dtype != wanted:
            raise TypeError(f"{wanted} asked for, {found.dtype} given")
        values: Array = found.cpu().double().numpy()
        return values

    return passing_bits(bits, multiplied)


def passing_bits(bits: int, product: Callable[[Array, Array], Array]) -> int:
    """The same of a product of arrays in float64, whose values must pass unchanged."""
    import numpy as np

    powers = np.arange(SIZE) % bits + 1
    values = 1 + 2.0 ** -(powers // 2) + 2.0**-powers
    diagonal, one = np.diag(values), np.eye(SIZE)
    least = bits
    for pair in ((diagonal, one), (one, diagonal)):
        wrong = powers[product(*pair).diagonal() != values]
        least = min(least, int(wrong.min()) - 1 if len(wrong) else bits)
    return least


def _kept(
    stand: Stand, title: str, name: str, form: Format, product: Callable[..., Tensor]
) -> Finding:
    import torch

    bits = kept_bits(stand, form.dtype, form.bits, product)
    observed = f"{bits} bits of {form.bits}, {form.dtype} out"
    next = "Turn off, in Backend.open, the switch by which the device shortens its operands"
    if bits < form.least:
        what = KNOWN.get(bits, "a shorter format")
        return failed(title, observed, f"it ran as {what}, not as {name}", next)
    far = torch.eye(SIZE, dtype=getattr(torch, form.dtype)) * form.far
    out = product(far.to(stand.place), torch.eye(SIZE, dtype=far.dtype).to(stand.place))
    if not bool((out.cpu() == far).all()):
        return failed(title, f"{form.far:.3g} became {float(out[0, 0]):.3g}", form.far_lost, next)
    return passed(title, observed)


def _accumulates(stand: Stand, name: str, form: Format) -> Finding:
    """Whether sums of products keep more than the format of the operands."""
    import torch

    title = f"{name} products are summed in float32"
    ones = torch.ones(SIZE, LONG, dtype=getattr(torch, form.dtype))
    try:
        found = float((ones.to(stand.place) @ ones.T.contiguous().to(stand.place))[0, 0].item())
    except Exception as error:  # noqa: BLE001 - said, and the next format is tried
        return after(title, stand.backend, error)
    reason = f"{LONG} ones make {LONG}: the sum stopped where its format ends"
    next = "Have the unit accumulate in float32"
    return judged(title, found == LONG, f"{LONG} ones make {found:g}", reason, next)


def _double(stand: Stand) -> Finding:
    """float64 is no precision of a suite: a device may refuse it, or be without it."""
    import torch

    title = "float64 is float64"
    try:
        given = torch.ones(2, dtype=torch.float64).to(stand.place)
    except (TypeError, RuntimeError, NotImplementedError) as error:
        return unseen(title, "the device refuses float64", str(error).strip().split("\n")[0])
    if given.dtype != torch.float64:
        observed = f"a float64 tensor became {given.dtype} on its way to the device"
        return unseen(title, "the device has no float64, and casts it", observed)
    try:
        bits = kept_bits(stand, "float64", DOUBLE_BITS, matmul)
    except (TypeError, RuntimeError, NotImplementedError) as error:
        return unseen(title, "the device has no float64 products", str(error).split("\n")[0])
    reason = "float64 was asked for, and less was computed without a word"
    next = "Refuse float64 where the device has none"
    observed = f"{bits} bits of {DOUBLE_BITS}"
    return judged(title, bits == DOUBLE_BITS, observed, reason, next)


def transfers(stand: Stand) -> Iterator[Finding]:
    """Whether bits come back as they went, to the device and back.

    Of a precision that the device lacks it may be without the dtype: that is left out, and said.
    """
    import torch

    whys = {form.dtype: stand.unsupported(PRECISIONS[name]) for name, form in FORMATS.items()}
    absent = {dtype: why for dtype, why in whys.items() if why is not None}
    copied = [name for name in COPIED if name not in absent]
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**15), 2**15, (2**20,), generator=generator).to(torch.int16)
    wrong = [
        f"{name} {way}"
        for name in copied
        for way, back in _ways(stand, bits.view(getattr(torch, name)))
        if not _same(back, bits)
    ]
    without = "".join(f"; no {dtype}: {why}" for dtype, why in absent.items())
    observed = f"2 MiB of {', '.join(copied)}, waiting and not{without}"
    next = "Look at the copy, and at whether synchronize waits for it"
    reason = f"other bits came back: {', '.join(wrong)}"
    yield judged("copies to and fro change no bit", not wrong, observed, reason, next)


def _ways(stand: Stand, host: Tensor) -> Iterator[tuple[str, Tensor]]:
    import torch

    yield "waiting", host.to(stand.place).cpu()
    there = host.to(stand.place, non_blocking=True)
    back = torch.empty_like(host)
    stand.device.synchronize()
    back.copy_(there, non_blocking=True)
    stand.device.synchronize()
    yield "not waiting", back


def _same(a: Tensor, b: Tensor) -> bool:
    """Bit for bit: NaNs too."""
    import torch

    return torch.equal(a.view(torch.uint8), b.view(torch.uint8))


CHECKS = (
    Check(name="formats", summary="the dtype asked for is the dtype run", parts=(formats,)),
    Check(name="transfers", summary="copies change no bit", parts=(transfers,)),
)
