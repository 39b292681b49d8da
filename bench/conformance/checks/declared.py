"""What the backend declares (names, precisions, memory format, switches) against what is so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from bench import units
from bench.backends._trial import refusal
from bench.conformance.check import (
    Check,
    Finding,
    Stand,
    after,
    failed,
    judged,
    note,
    passed,
    unseen,
)
from bench.conformance.checks.arithmetic import FORMATS, PRODUCTS, kept_bits
from bench.judging import chips
from bench.measuring.surroundings import harmful
from bench.precision import PRECISIONS, Precision
from bench.records.reason import first_line

LEAST_BYTES, MOST_BYTES = 2**28, 2**44
"""Memory of a device: 256 MiB to 16 TiB."""
MOST_DIES = 16
NO_ANSWER = ("not observable", "not available")
"""What a backend writes where its device has no answer."""


def identity(stand: Stand) -> Iterator[Finding]:
    """Who the device says it is, and in what state its environment is."""
    info = stand.device.info
    named = f"{info.name}, {info.vendor or stand.backend.vendor or 'no vendor of its own'}"
    next = "Give it in Backend.devices, as the driver says it"
    yield judged("the device has a name", bool(info.name.strip()), named, "it has none", next)
    yield _memory(info.memory_bytes)
    yield _facts({**info.facts, **stand.device.facts()})
    harm = harmful(stand.backend, stand.framework)
    title = "no variable spoils the timing"
    if harm:
        yield failed(title, "set", harm, "Unset it: a run would be void")
    else:
        whose = (stand.backend, stand.framework)
        names = sorted({name for one in whose for name in one.harmful_variables()})
        yield passed(title, f"not set: {', '.join(names)}" if names else "none is known")
    whole = (info.name, chips.units_of(info.facts))
    chip = chips.find(*whole)
    title = "an entry in configs/chips.toml"
    if chip is None:
        reason = f"no MFU: {chips.unknown(*whole)}"
        yield note(title, reason, "Add one: accelmark guide new-backend")
    else:
        yield note(title, f"{chip.name}: {chip.summary}")


def _memory(size: int | None) -> Finding:
    title = "its memory is plausible"
    if size is None:
        return unseen(title, "the device does not say")
    observed = units.memory(size)
    reason = f"allowed is {units.memory(LEAST_BYTES)} to {units.memory(MOST_BYTES)}"
    next = "Give info.memory_bytes in bytes, of one device"
    return judged(title, LEAST_BYTES <= size <= MOST_BYTES, observed, reason, next)


def _facts(facts: dict[str, str]) -> Finding:
    title = "its facts are plausible"
    wrong = [f"{name} is empty" for name, value in facts.items() if not value.strip()]
    dies = facts.get("dies_per_package")
    if dies is not None and dies not in NO_ANSWER:
        good = dies.isdecimal() and 1 <= int(dies) <= MOST_DIES
        wrong += [] if good else [f"dies_per_package is {dies}, not 1 to {MOST_DIES}"]
    mute = [name for name, value in facts.items() if value.startswith(NO_ANSWER)]
    observed = f"{len(facts)} facts" + (f"; no answer: {', '.join(mute)}" if mute else "")
    next = "Look at Backend.describe and Device.facts"
    return judged(title, not wrong, observed, "; ".join(wrong), next)


def precisions(stand: Stand) -> Iterator[Finding]:
    """Each that is declared must run; one that is denied should not run without a word."""
    for name, precision in PRECISIONS.items():
        denied = stand.unsupported(precision)
        error = _trial(stand, precision)
        title = f"{name} is as declared"
        lost = error is not None and stand.backend.failure_kind(error) == "device_lost"
        if denied is None and error is not None:
            yield after(f"{name} runs, as declared", stand.backend, error)
        elif denied is None:
            yield passed(title, "declared, and a product in it is right")
        elif error is None:
            observed = f"denied ({denied}), and yet a product in it is right"
            yield note(title, observed, "If it is not emulated, let Backend.unsupported allow it")
        else:
            yield passed(title, f"denied ({denied[:100]}), and refused")
        if lost:
            return


def _trial(stand: Stand, precision: Precision) -> BaseException | None:
    """What goes wrong with a small product in a precision; None if it is right."""
    import torch

    try:
        stand.open(precision)
        if precision.tried:
            reason = refusal(stand.backend, stand.place, precision)
            return None if reason is None else RuntimeError(reason)
        x = torch.arange(64).view(8, 8).to(stand.place, precision.dtype)
        eye = torch.eye(8).to(stand.place, precision.dtype)
        with torch.autocast(
            stand.place.type,
            precision.autocast_dtype or torch.bfloat16,
            enabled=precision.autocast is not None,
        ):
            found = x @ eye
        wanted = precision.autocast_dtype or precision.dtype
        if found.dtype != wanted:
            raise TypeError(f"{wanted} asked for, {found.dtype} given")
        if not bool((found.cpu().float() == torch.arange(64).view(8, 8)).all()):
            raise ArithmeticError("a product with the unit matrix is wrong")
    except Exception as error:  # noqa: BLE001 - the answer
        return error
    return None


def formats(stand: Stand) -> Iterator[Finding]:
    """Whether convolutions take channels_last where that is declared, and refuse it where not."""
    import torch

    title = "channels_last is as declared"
    declared = stand.backend.memory_format("channels_last")
    image = torch.arange(2.0 * 4 * 5 * 5).view(2, 4, 5, 5)
    weight = torch.ones(3, 4, 3, 3)
    expected = torch.nn.functional.conv2d(image, weight)
    try:
        there = image.to(stand.place).to(memory_format=torch.channels_last)
        out = torch.nn.functional.conv2d(there, weight.to(stand.place)).cpu()
    except Exception as error:  # noqa: BLE001 - a refusal is an answer
        if declared == "channels_last":
            yield after(title, stand.backend, error)
        else:
            said = first_line(error)
            yield passed(title, f"{declared} is declared, channels_last is refused: {said[:80]}")
        return
    if not torch.allclose(out, expected):
        next = "Have Backend.memory_format answer `contiguous`"
        yield failed(title, f"{declared} is declared", "a convolution in it is wrong", next)
    elif declared == "channels_last":
        yield passed(title, "declared, and a convolution in it is right")
    else:
        observed = f"{declared} is declared, and yet a convolution in channels_last is right"
        yield note(title, observed, "If it is faster, add it to `formats`")


def switches(stand: Stand) -> Iterator[Finding]:
    """Whether `float32_reduced` reads back what the arithmetic does, its switch off and on."""
    device = stand.open(PRECISIONS["fp32"])
    form = FORMATS["fp32"]
    said = device.float32_reduced()
    bits = {name: kept_bits(stand, form.dtype, form.bits, call) for name, call in PRODUCTS.items()}
    yield reads_back(said, bits)
    short = PRECISIONS["tf32"]
    if stand.unsupported(short) is not None:
        return
    said = stand.open(short).float32_reduced()
    bits = {"matmul": kept_bits(stand, form.dtype, form.bits, PRODUCTS["matmul"])}
    stand.open(PRECISIONS["fp32"])
    yield reads_back(said, bits, " in tf32")


def reads_back(said: bool, bits: Mapping[str, int], where: str = "") -> Finding:
    """Whether `float32_reduced` says what products of float32 keep of their operands.

    bits: of the mantissa, by the kind of product; where: ends the title.
    """
    told = ", ".join(f"{name} {count} bits" for name, count in bits.items())
    observed = f"float32_reduced says {'yes' if said else 'no'}; {told}"
    reason = f"a run would say that float32 was {'not ' if said else ''}float32"
    next = "Let Device.float32_reduced ask every switch that shortens float32"
    good = said == (min(bits.values()) < FORMATS["fp32"].least)
    title = f"float32_reduced says what is computed{where}"
    return judged(title, good, observed, reason, next)


CHECKS = (
    Check(
        name="declared",
        summary="what the backend says is so",
        parts=(identity, precisions, formats, switches),
    ),
)
