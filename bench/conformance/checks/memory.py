"""Memory: the peak counter moves as it must; running out of it is said, and survived."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from bench import units
from bench.conformance.check import (
    Check,
    Finding,
    Stand,
    after,
    failed,
    judged,
    passed,
    unseen,
)
from bench.records.outcome import Memory

if TYPE_CHECKING:
    from torch import Tensor

PIECE_BYTES = 64 * 2**20
"""What is allocated, twice; of a small device less."""
PIECE_SHARE = 16
"""A piece is at most this part of the device's memory."""
SLACK = 0.25
"""What a counter may show on top of what was asked for: blocks are rounded up, a host does more."""
SHARE_RELEASED = 0.75
"""Of what was handed back: another process may take some of it meanwhile."""
OF_PROCESS = "process RSS"
"""How the scope of a figure begins that the operating system keeps."""
PAGES_SHARE = 0.05
"""Of a piece: by so much the operating system's figure may be behind."""
BEYOND = 4
"""Times the device's memory: no device has that."""
BEYOND_HOST_BYTES = 2**60
"""Above every address space: the host's allocator refuses at once, and nothing is touched."""
NO_COUNTER = "not available"
"""In the scope of a memory figure where the device has no peak counter of its own."""


def peak(stand: Stand) -> Iterator[Finding]:
    """Allocates known numbers of bytes and looks at the counters."""
    import torch

    size = _piece(stand)

    def hold() -> Tensor:
        return torch.ones(size // 4, device=stand.place)

    # The first use of an allocator, and of a kernel, takes memory of its own. Something stays, as
    # a peak of nothing at all cannot be told from no counter.
    stays = torch.ones(256, device=stand.place)
    hold()
    yield from moves(stand, size, hold, stand.device.synchronize)
    del stays


def moves(
    stand: Stand, size: int, hold: Callable[[], object], settle: Callable[[], object]
) -> Iterator[Finding]:
    """Whether the counters follow what is held, twice, and let go.

    hold: gives what holds `size` bytes; settle: comes before the counters are read of both.
    """
    device = stand.device
    release(stand)
    before = device.memory()
    if NO_COUNTER in before.scope:
        yield unseen("the peak grows with what is allocated", f"its scope is {before.scope}")
        return
    held = [hold(), hold()]
    settle()
    full = device.memory()
    yield grows(before, full, 2 * size)
    held.pop()
    device.synchronize()
    yield keeps(full, device.memory(), size)
    held.clear()
    release(stand)
    free = device.memory()
    yield forgets(full, free, 2 * size)
    yield returns(full, free, 2 * size, stand.on_host)


def _piece(stand: Stand) -> int:
    """Bytes, a multiple of a MiB."""
    whole = stand.device.info.memory_bytes or PIECE_BYTES * PIECE_SHARE
    return max(1, min(PIECE_BYTES, whole // PIECE_SHARE) // 2**20) * 2**20


def release(stand: Stand) -> None:
    """Hands back what nobody holds, and forgets the peak."""
    gc.collect()
    stand.device.synchronize()
    stand.device.release_memory()
    stand.device.reset_peak_memory()


def grows(before: Memory, full: Memory, size: int) -> Finding:
    """Whether the peak rose by the `size` bytes that were allocated."""
    grown = full.peak_bytes - before.peak_bytes
    observed = f"{_mib(grown)} more for {_mib(size)} allocated ({full.scope})"
    good = size <= grown <= size * (1 + SLACK)
    if not good and full.scope.startswith(OF_PROCESS):
        good = size * (1 - SLACK) <= grown <= size * (1 + SLACK)  # the heap had some of it
    reason = f"allowed is what was allocated to {SLACK:.0%} more"
    next = "Let Device.memory report the allocator's peak, in bytes"
    return judged("the peak grows with what is allocated", good, observed, reason, next)


def keeps(full: Memory, lower: Memory, size: int) -> Finding:
    """Whether the peak of `full` is still that of `lower`, after `size` bytes were freed.

    A device's allocator must say exactly the same. An operating system counts a process's pages in
    batches: its peak may seem to fall by a few.
    """
    observed = f"{_mib(lower.peak_bytes)} after a half was freed, {_mib(full.peak_bytes)} before"
    reason = "a peak is the most that was in use, not what is"
    next = "Let Device.memory report the allocator's peak, not its present size"
    good = lower.peak_bytes >= full.peak_bytes
    if not good and full.scope.startswith(OF_PROCESS):
        good = full.peak_bytes - lower.peak_bytes <= size * PAGES_SHARE
    return judged("the peak stays when memory is freed", good, observed, reason, next)


def forgets(full: Memory, free: Memory, size: int) -> Finding:
    """Whether a reset, after `size` bytes were freed, had the peak fall."""
    title = "a reset forgets the peak"
    fell = full.peak_bytes - free.peak_bytes
    observed = f"{_mib(free.peak_bytes)} after the reset, {_mib(full.peak_bytes)} before"
    if "since" in free.scope:
        return unseen(title, f"nothing resets it: its scope is {free.scope}", observed)
    reason = "the peak was reset when all was freed, and did not fall"
    next = "Let Device.reset_peak_memory restart the counter that Device.memory reads"
    return judged(title, fell >= size * SHARE_RELEASED, observed, reason, next)


def returns(full: Memory, free: Memory, size: int, on_host: bool) -> Finding:
    """Whether `size` bytes that were freed and released are no longer in use."""
    title = "released memory is handed back"
    if on_host:
        fell = full.host_rss_bytes - free.host_rss_bytes
    elif full.device_used_bytes is None or free.device_used_bytes is None:
        return unseen(title, "the device does not say how much of its memory is in use")
    else:
        fell = full.device_used_bytes - free.device_used_bytes
    observed = f"{_mib(fell)} less in use after {_mib(size)} were freed"
    reason = f"allowed is {SHARE_RELEASED:.0%} of it"
    next = "Let Device.release_memory empty the allocator's cache"
    return judged(title, fell >= size * SHARE_RELEASED, observed, reason, next)


def out_of_memory(stand: Stand) -> Iterator[Finding]:
    """Asks for more than there can be, twice, and goes on; not where the host has to give it."""
    if stand.device.shares_host_memory and not stand.on_host:
        why = "its memory is the host's, which may stand still when asked for more than there is"
        yield unseen("out of memory is said to be that", why)
        return
    size = _beyond(stand)
    if size is None:
        yield unseen("out of memory is said to be that", "the device does not say its memory")
        return
    for attempt in ("first", "second"):
        error = _refusal(stand, size)
        if error is None:
            next = "Look at info.memory_bytes, and at whether the device swaps to the host"
            observed = f"{units.prefixed(size, 'B')} were allocated"
            has = units.memory(stand.device.info.memory_bytes or 0)
            reason = f"the device says that it has {has}"
            yield failed("out of memory is said to be that", observed, reason, next)
            return
        if attempt == "first":
            yield _sorted(stand, error, size)
        del error
        yield from _survives(stand, attempt)


def _beyond(stand: Stand) -> int | None:
    if stand.on_host:
        return BEYOND_HOST_BYTES
    whole = stand.device.info.memory_bytes
    return None if whole is None else whole * BEYOND


def _refusal(stand: Stand, size: int) -> BaseException | None:
    import torch

    try:
        torch.empty(size, dtype=torch.uint8, device=stand.place)
        stand.device.synchronize()
    except (RuntimeError, MemoryError) as error:
        return error.with_traceback(None)
    return None


def _sorted(stand: Stand, error: BaseException, size: int) -> Finding:
    kind = stand.backend.failure_kind(error)
    said = (str(error).strip().splitlines() or [""])[0]
    observed = (
        f"{units.prefixed(size, 'B')} asked for: {kind} ({type(error).__name__}: {said[:80]})"
    )
    reason = f"failure_kind says {kind}, not oom"
    next = "Let Backend.failure_kind know this message"
    return judged("out of memory is said to be that", kind == "oom", observed, reason, next)


def _survives(stand: Stand, attempt: str) -> Iterator[Finding]:
    """After each refusal, something small must compute rightly."""
    import torch

    title = f"work goes on after the {attempt} time"
    try:
        release(stand)
        x = torch.arange(64, device=stand.place).float().view(8, 8)
        found = (x @ torch.eye(8).to(stand.place) + 1).cpu()
    except Exception as error:  # noqa: BLE001 - whatever a broken context raises
        yield after(title, stand.backend, error)
        return
    right = bool((found == torch.arange(64).float().view(8, 8) + 1).all())
    next = "An allocation that fails must leave the context as it was"
    if right:
        yield passed(title, "a small product is right")
    else:
        yield failed(title, "a small product is wrong", "the refusal broke something", next)


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"


CHECKS = (
    Check(name="memory", summary="counters move as they must", parts=(peak,)),
    Check(name="out of memory", summary="said to be that, and survived", parts=(out_of_memory,)),
)
