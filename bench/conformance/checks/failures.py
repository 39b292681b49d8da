"""Failures: each is sorted into its kind, and leaves the device as its kind says."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from bench.conformance.check import Check, Finding, Stand, judged, unseen
from bench.records.reason import first_line

WORKS = "works"
"""Of a device, after a failure."""


def refused(stand: Stand) -> Iterator[Finding]:
    """A call that torch refuses is an error, and hurts nothing."""
    import torch

    a, b = torch.ones(2, 3, device=stand.place), torch.ones(2, 3, device=stand.place)
    yield refusal(stand, "call", lambda: a @ b, lambda: _state(_broken(stand)))


def refusal(
    stand: Stand, what: str, call: Callable[[], object], state: Callable[[], str]
) -> Finding:
    """Whether a product of shapes that do not fit is an error, and hurts nothing.

    what: a title's word for it; state: `WORKS`, or how the device does not any more.
    """
    title = f"a {what} that is refused is an error"
    try:
        call()
        stand.device.synchronize()
    except Exception as error:  # noqa: BLE001 - the very thing
        kind, then = stand.backend.failure_kind(error), state()
        observed = f"shapes that do not fit: {kind}; the device {then} afterwards"
        reason = f"it was sorted as {kind}, or broke the device"
        next = "Let Backend.failure_kind say `error` for what is neither oom nor a loss"
        return judged(title, kind == "error" and then == WORKS, observed, reason, next)
    return unseen(title, "a product of shapes that do not fit was not refused")


def lost(stand: Stand) -> Iterator[Finding]:
    """An assertion that fails on the device: on many it takes the process's context with it."""
    title = "a lost device is said to be lost"
    error = _provoke(stand)
    broken = _broken(stand)
    error = error or broken
    if error is None:
        yield unseen(title, "an assertion that fails on the device was not heard of")
        return
    kind = stand.backend.failure_kind(error)
    said = first_line(error)[:80]
    observed = f"{kind} ({said}); the device {_state(broken)} afterwards"
    absent = isinstance(error, NotImplementedError) or bool(
        stand.backend.fallbacks(str(error).splitlines())
    )
    if broken is None and absent:
        yield unseen(title, "the device has no assertions of its own", said)
        return
    reason = "the device works, and is said to be lost"
    if broken is not None:
        reason = f"the device is unusable, and failure_kind says {kind}"
    next = "Let `lost` of the backend match the message, or no longer match it"
    good = (broken is not None) == (kind == "device_lost")
    yield judged(title, good, observed, reason, next)


def _provoke(stand: Stand) -> Exception | None:
    """What an assertion that fails on the device raises, at once or at the next wait."""
    import torch

    try:
        torch._assert_async(torch.zeros((), device=stand.place), "provoked by the kit")
        stand.device.synchronize()
    except Exception as error:  # noqa: BLE001 - the very thing
        return error
    return None


def _broken(stand: Stand) -> Exception | None:
    """What a small sum raises now, or that it is wrong; None if the device works."""
    import torch

    try:
        found = torch.ones(8).to(stand.place).add(1).sum().item()
    except Exception as error:  # noqa: BLE001 - whatever a broken context raises
        return error
    return None if found == 16 else ArithmeticError(f"eight times two is {found}")


def _state(broken: Exception | None) -> str:
    return WORKS if broken is None else "does not work"


CHECKS = (Check(name="failures", summary="each is sorted into its kind", parts=(refused, lost)),)
