"""The kit for a framework other than torch: what a measurement relies on, by its jobs alone.

Of each check for torch here is its like, by the same name, or why there is none. What is asked is
asked through `bench.framework`, so that a further framework has it without a line here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from bench.conformance.check import Check, Finding, Stand, after, judged, note, passed, unseen
from bench.conformance.checks import declared, failures, memory, telemetry, timing
from bench.conformance.checks._jobs import Given, held, output, product
from bench.conformance.checks.arithmetic import FORMATS, KNOWN, SIZE, Format, passing_bits
from bench.errors import AccelmarkError
from bench.measuring import asked
from bench.measuring.gates.numerics import relative_error
from bench.precision import PRECISIONS
from bench.records.tolerances import TOLERANCES
from bench.workload import Unsupported

if TYPE_CHECKING:
    from bench.framework import Array

TORCHS = "not applicable: these are torch's own operators; a framework is asked for jobs, and "
WHY = {
    "streams": "not applicable: a job queues its steps, and names no stream",
    "operators": TORCHS + "the gate of each of those judges what they compute",
    "optimizers": TORCHS + "the gate of those that train judges their updates",
    "narrow formats": TORCHS + "none of those multiplies narrow values, so far",
}
"""Why a check for torch has no like."""
OTHERS = TORCHS + "none is made for this"
NEXT = "Look at how the framework builds its jobs"
PIECE = 512
"""Rows and columns of what is held, twice: 32 MiB in sixteen pairs."""
SHORT = "tf32"
"""float32 whose products have a short mantissa."""
REFUSALS = (AccelmarkError, Unsupported, RuntimeError, TypeError, ValueError)
"""By which a framework refuses a precision. Another exception is a fault of its code, or of the
kit's."""


def normals() -> list[Array]:
    """Two square matrices of normals."""
    import numpy as np

    generator = np.random.default_rng(0)
    return [generator.standard_normal((SIZE, SIZE), np.float32) for _ in range(2)]


def error(stand: Stand, precision: str, execution: str = "eager") -> float:
    """Relative error of a product, against that of the operands as they lie there, in float64."""
    made = product(stand, SIZE, Given(normals()), precision, execution)
    found = output(stand, made)
    a, b = (stand.framework.tensors.on_host(operand) for operand in made.weights()[:2])
    return relative_error(found, a @ b)


def precisions(stand: Stand) -> Iterator[Finding]:
    """Each that is declared multiplies rightly; one that is denied is refused."""
    for name, precision in PRECISIONS.items():
        if not precision.shortened:
            yield _as_declared(stand, name)


def shortened(stand: Stand) -> Iterator[Finding]:
    """The same of float32 with a short mantissa, in a process that was opened for it: its switch
    may be one that a process sets once."""
    yield _as_declared(stand, SHORT)
    title = f"{SHORT} shortens what it multiplies"
    denied = stand.unsupported(PRECISIONS[SHORT])
    if denied is not None:
        yield unseen(title, denied)
        return
    bits = _kept_bits(stand, SHORT, FORMATS["fp32"])
    reason = "its switch does nothing here"
    next = f"Let Framework.unsupported deny {SHORT}, or Framework.open turn its switch on"
    yield judged(title, bits < FORMATS["fp32"].least, f"{bits} bits", reason, next)
    yield declared.reads_back(stand.device.float32_reduced(), {"matmul": bits})


def _as_declared(stand: Stand, name: str) -> Finding:
    precision, title = PRECISIONS[name], f"{name} is as declared"
    denied = stand.unsupported(precision)
    if denied is not None:
        return _refused(stand, title, name, denied)
    try:
        stand.open(precision)
        found, most = error(stand, name), TOLERANCES[name]["output"]
    except Exception as wrong:  # noqa: BLE001 - the others are still to be tried
        return after(title, stand.backend, wrong)
    observed = f"declared; a product differs from float64 by {found:.2g} (at most {most:g})"
    reason = "another format was computed in, or wrongly"
    return judged(title, found <= most, observed, reason, NEXT)


def _refused(stand: Stand, title: str, name: str, denied: str) -> Finding:
    """Of a precision that is denied: whether it is, too, where somebody asks for it all the same.

    One whose operands a job would have to narrow itself is not tried.
    """
    precision, said = PRECISIONS[name], f"denied ({denied[:100]})"
    if precision.tried or precision.autocast:
        return passed(title, said)
    try:
        stand.open(precision)
        found = error(stand, name)
    except REFUSALS as wrong:  # the answer
        _settle(stand)
        return passed(title, f"{said}, and refused ({type(wrong).__name__})")
    except Exception as wrong:  # noqa: BLE001 - the others are still to be tried
        _settle(stand)
        return after(title, stand.backend, wrong)
    if found > TOLERANCES[name]["output"]:
        return passed(title, f"{said}; a product in it is wrong, by {found:.2g}")
    observed = f"{said}, and yet a product in it is right"
    return note(title, observed, "If it is not emulated, let Framework.unsupported allow it")


def formats(stand: Stand) -> Iterator[Finding]:
    """Each precision: how much of its operands a product keeps."""
    for name, form in FORMATS.items():
        title = f"{name} matmul keeps {form.bits} bits"
        if denied := stand.lacks(name):
            yield unseen(title, denied)
            continue
        bits = _kept_bits(stand, name, form)
        reason = f"it ran as {KNOWN.get(bits, 'a shorter format')}, not as {name}"
        next = "Turn off, in Framework.open, the switch by which the device shortens its operands"
        yield judged(title, bits >= form.least, f"{bits} bits of {form.bits}", reason, next)
    device = stand.open(PRECISIONS["fp32"])
    bits = _kept_bits(stand, "fp32", FORMATS["fp32"])
    yield declared.reads_back(device.float32_reduced(), {"matmul": bits})


def _kept_bits(stand: Stand, name: str, form: Format) -> int:

    def multiplied(*pair: Array) -> Array:
        given = Given(x.astype("float32") for x in pair)
        return output(stand, product(stand, SIZE, given, name))

    return passing_bits(form.bits, multiplied)


def transfers(stand: Stand) -> Iterator[Finding]:
    """Whether bits that are put into a tensor come back as they went, numbers or not."""
    import numpy as np

    kit = stand.framework.tensors
    tensor = product(stand, SIZE, Given(normals())).weights()[0]
    bits = np.random.default_rng(0).integers(0, 2**32, kit.words(tensor).shape, np.uint32)
    kit.rewrite(tensor, bits)
    stand.device.synchronize()
    wrong = int((kit.words(tensor) != bits).sum())
    reason = f"{wrong} others came back"
    next = "Look at Tensors.words and Tensors.rewrite"
    yield judged("copies to and fro change no bit", not wrong, f"{bits.size} words", reason, next)


def peak(stand: Stand) -> Iterator[Finding]:
    """Holds known numbers of bytes and looks at the counters, as of torch's tensors."""
    stays, _ = held(stand, SIZE)
    _, size = held(stand, PIECE)
    # What it took to make them is no part of them.
    yield from memory.moves(stand, size, lambda: held(stand, PIECE), lambda: memory.release(stand))
    stays.close()


def exhausted(stand: Stand) -> Iterator[Finding]:
    """Nobody asks for more than there is."""
    reason = "not seen: none is provoked"
    if stand.on_host:
        reason = (
            "not applicable: what a job holds has lain on the host before, which has no more than "
            "there is"
        )
    yield unseen("out of memory is said to be that", reason)


def draws(stand: Stand) -> Iterator[Finding]:
    """A job holds what it was given; what it gives comes of that alone."""
    given = normals()
    first, second = (product(stand, SIZE, Given(given)) for _ in range(2))
    tensors = stand.framework.tensors
    off = [i for i, w in enumerate(first.weights()[:2]) if (tensors.on_host(w) != given[i]).any()]
    reason = f"operand {off[0] + 1 if off else 0} is another"
    yield judged("its operands are what was drawn", not off, "two matrices of fp32", reason, NEXT)
    before = stand.device.random_state()
    same = bool((output(stand, first) == output(stand, second)).all())
    reason = "other bits came of the same operands"
    yield judged("two jobs of the same draws agree", same, "two products, bit by bit", reason, NEXT)
    title = "a step draws nothing"
    if before is None:
        yield unseen(title, "the framework does not say how its generator stands")
        return
    still = stand.device.random_state() == before
    reason = "its generator moved"
    yield judged(title, still, "the generator stands where it stood", reason, NEXT)


def compiled(stand: Stand) -> Iterator[Finding]:
    """A compiled product is one, and right."""
    for execution in ("compile", "graph", "compile-graph"):
        title = f"{execution} is what runs, and computes the same"
        try:
            made = product(stand, SIZE, Given(normals()), "fp32", execution)
        except Unsupported as why:
            yield unseen(title, f"cases that ask for it are skipped: {why}")
            continue
        found = error(stand, "fp32", execution)
        made.step()
        ran = [f"{look.what}: {look.seen}" for look in made.looks() if look.asked != look.seen]
        most = TOLERANCES["fp32"]["output"]
        observed = f"a product differs from float64 by {found:.2g}"
        reason = "; ".join(ran) or f"allowed is {most:g}"
        yield judged(title, found <= most and not ran, observed, reason, NEXT)


def fallback(stand: Stand) -> Iterator[Finding]:
    """Where the kernels of a product run, as the framework's own profiler sees them."""
    for execution in ("eager", "compile"):
        title = f"a product's kernels run on the device, {execution}"
        try:
            made = product(stand, SIZE, Given(normals()), "fp32", execution)
        except Unsupported as why:
            yield unseen(title, f"cases that ask for it are skipped: {why}")
            continue
        made.step()  # what is compiled is compiled by then
        ran = stand.framework.executed(made.step, stand.device, execution)
        if ran.kernels is None:
            yield unseen(title, ran.absent or "the framework does not say where a kernel ran")
            continue
        seen = [f"{', '.join(names)} on {place}" for place, names in ran.kernels.items()]
        wrong = asked.complaint(asked.places(ran, on_host=stand.on_host))
        yield judged(title, not wrong, "; ".join(seen) or "no kernel", wrong, NEXT)


def refused(stand: Stand) -> Iterator[Finding]:
    """A step that cannot be done is an error, and hurts nothing."""
    a, b = normals()
    given = Given([a, b[: SIZE // 2]])
    yield failures.refusal(
        stand, "step", lambda: output(stand, product(stand, SIZE, given)), lambda: _state(stand)
    )
    reason = "not applicable: no job provokes it"
    yield unseen("a lost device is said to be lost", reason)


def _settle(stand: Stand) -> None:
    """Lets a device that queues tell of a failure to the end: else the next step is told of it."""
    with contextlib.suppress(Exception):
        stand.device.synchronize()


def _state(stand: Stand) -> str:
    """How a small product goes now."""
    _settle(stand)
    try:
        right = error(stand, "fp32") < TOLERANCES["fp32"]["output"]
        return failures.WORKS if right else "computes wrongly"
    except Exception as wrong:  # noqa: BLE001 - whatever a broken context raises
        return f"fails ({type(wrong).__name__})"


LIKES = {
    "synchronize": (timing.synchronize,),
    "events": (timing.events,),
    "memory": (peak,),
    "out of memory": (exhausted,),
    "formats": (formats,),
    "transfers": (transfers,),
    "failures": (refused,),
    "telemetry": (telemetry.readings,),
}
"""Of torch's checks those that say the same of a framework: their parts."""
OWN = (
    Check(
        name="declared",
        summary="what the framework says is so",
        parts=(declared.identity, precisions),
    ),
    Check(name="draws", summary="a job is made of what it is handed", parts=(draws,)),
    Check(name="executions", summary="what is compiled computes the same", parts=(compiled,)),
    Check(name="host fallback", summary="kernels run on the device", parts=(fallback,)),
    Check(
        name="shortened",
        summary="the short float32 is what it says",
        parts=(shortened,),
        precision=SHORT,
    ),
)


def of_frameworks(of_torch: dict[str, Check]) -> dict[str, Check]:
    """The kit in the order of torch's, by name: of each of its checks the like, or why not."""
    absent = {
        name: Check(name=name, summary=check.summary, parts=(), absent=WHY.get(name, OTHERS))
        for name, check in of_torch.items()
    }
    alike = {n: msgspec.structs.replace(of_torch[n], parts=parts) for n, parts in LIKES.items()}
    return absent | alike | {check.name: check for check in OWN}
