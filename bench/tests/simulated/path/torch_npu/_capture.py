"""What is recorded of a stream between the begin and the end of a capture, and queued again whole.

A real device does not run what it records. Here an operator must run, or nobody knows the shape of
what it gives; so what it changed is put back at the end, and what it made is left as memory that
nobody has written. Within a capture nobody can tell: whoever would look at the device is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import torch

GARBAGE = 0xA5
"""Every byte of memory that a capture has made: numbers that are wrong, and easy to see."""


class Capture:
    """One graph: being recorded, or recorded."""

    def __init__(self, stream: int) -> None:
        """stream: on which the work is queued that belongs to it."""
        self.stream = stream
        self.kernels: list[tuple[str, float]] = []
        """Operators, and device seconds of each in one replay."""
        self.spoilt = ""
        """The call that ended the recording, if one did."""
        self._calls: list[Callable[[], Any]] = []
        self._made: dict[int, torch.Tensor] = {}
        self._before: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._random = torch.default_generator.get_state()

    @property
    def seconds(self) -> float:
        """Device time of one replay."""
        return sum(seconds for _, seconds in self.kernels)

    def made(self, host: torch.Tensor) -> None:
        """Memory of the graph's own: allocated while it is recorded, and held as long as it is."""
        whole = _bytes(host)
        self._made[whole.data_ptr()] = whole

    def changes(self, hosts: Iterable[torch.Tensor]) -> None:
        """Before something is written: what was there before the capture comes back at its end."""
        for host in hosts:
            whole = _bytes(host)
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
