"""What is recorded of a stream between the begin and the end of a capture, and queued again whole.

A real device does not run what it records. Here an operator must run, or nobody knows the shape of
what it gives; so what it changed is put back at the end, and what it made is left as memory that
nobody has written. Within a capture nobody can tell: whoever would look at the device is refused.
"""

from __future__ import annotations

import bisect
import weakref
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import torch

from ._memory import Memory

GARBAGE = 0xA5
"""Every byte of memory that a capture has made: numbers that are wrong, and easy to see."""


class Capture:
    """One graph: being recorded, or recorded."""

    def __init__(self, stream: int, memory: Memory) -> None:
        """stream: on which the work is queued that belongs to it; memory: of its device."""
        self.stream = stream
        self.pool = memory.new_pool()
        """What it allocates comes of this, and stays reserved as long as the graph is there."""
        weakref.finalize(self, memory.let_go, self.pool).atexit = False
        self.kernels: list[tuple[str, float]] = []
        """Operators, and device seconds of each in one replay."""
        self.spoilt = ""
        """The call that ended the recording, if one did."""
        self._calls: list[Callable[[], Any]] = []
        self._made: dict[int, torch.Tensor] = {}
        self._places: list[int] = []
        """Addresses of what it made, ascending."""
        self._before: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._random = torch.default_generator.get_state()

    @property
    def seconds(self) -> float:
        """Device time of one replay."""
        return sum(seconds for _, seconds in self.kernels)

    def made(self, host: torch.Tensor) -> None:
        """Memory of the graph's own: written by every replay, whoever has let go of its tensor."""
        whole = _bytes(host)
        if whole.numel():
            self._made[whole.data_ptr()] = whole
            bisect.insort(self._places, whole.data_ptr())

    def host(self, alias: torch.Tensor) -> torch.Tensor:
        """A CPU alias of a device tensor, as a replay may keep it: where the memory is the graph's,
        one that keeps no tensor of the device alive, whose memory would then never be free."""
        if alias.is_conj():
            return self.host(alias.conj()).conj()
        if alias.is_neg():
            return torch._neg_view(self.host(torch._neg_view(alias)))
        place = bisect.bisect_right(self._places, alias.data_ptr())
        whole = self._made[self._places[place - 1]] if place else None
        offset = alias.data_ptr() - whole.data_ptr() if whole is not None else 0
        if whole is None or not alias.numel() or offset >= whole.numel():
            return alias
        with torch.no_grad():
            return torch.empty(0, dtype=alias.dtype).set_(
                whole.untyped_storage(), offset // alias.itemsize, alias.shape, alias.stride()
            )

    def changes(self, hosts: Iterable[torch.Tensor]) -> None:
        """Before something is written: what was there before the capture comes back at its end."""
        for host in hosts:
            whole = _bytes(self.host(host))
            key = whole.data_ptr()
            if whole.numel() and key not in self._made and key not in self._before:
                self._before[key] = whole, whole.clone()

    def add(self, call: Callable[[], Any]) -> None:
        """What a replay does, on the same memory, in this order."""
        self._calls.append(call)

    def refuse(self, call: str) -> NoReturn:
        """What waits for the device cannot be recorded, and ends the recording."""
        self.spoilt = self.spoilt or call
        raise RuntimeError(
            f"NPU function error: {call}: operation not permitted when stream is capturing "
            "[simulated]"
        )

    @torch.inference_mode()
    def end(self) -> None:
        """Nothing of it has happened yet. Raises RuntimeError where the recording was ended."""
        for whole, copy in self._before.values():
            whole.copy_(copy)
        for whole in self._made.values():
            whole.fill_(GARBAGE)
        self._before.clear()
        torch.default_generator.set_state(self._random)
        if self.spoilt:
            self._calls.clear()
            raise RuntimeError(
                "NPU function error: aclmdlRICaptureEnd: operation failed due to a previous error "
                f"during capture ({self.spoilt}) [simulated]"
            )

    @torch.inference_mode()
    def replay(self) -> None:
        """Everything once more."""
        for call in self._calls:
            call()


def _bytes(host: torch.Tensor) -> torch.Tensor:
    """A tensor's whole storage, on the host."""
    storage = host.untyped_storage()
    return torch.empty(0, dtype=torch.uint8).set_(storage, 0, (storage.nbytes(),), (1,))
