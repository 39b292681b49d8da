"""Conformance: what a check of a backend is, what it is given, and what it may say.

A check is a function in `bench/conformance/checks/` that runs in a process of its own
(`bench.conformance.worker`), with the device opened, and yields findings. Nothing here
imports torch until a check runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

import msgspec

from bench import catalogue
from bench.backend import Backend, Device
from bench.framework import Framework
from bench.precision import PRECISIONS, Precision

if TYPE_CHECKING:
    import torch

Verdict = Literal["pass", "fail", "not observable", "note"]
"""`note`: a figure or a remark on which nothing hangs."""

NEXT = {
    "oom": "Free the device's memory: other work may hold it. `--device` names another device",
    "device_lost": "Look into the driver's log; the device may need a reset by its owner",
    "error": "Read the message; run the check's operation by hand, in a fresh process",
}
"""What to do after a check that an exception ended, by the kind of the failure."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table. A failure says why and what to do next."""

    title: str
    verdict: Verdict
    observed: str = ""
    """The figures."""
    reason: str = ""
    next: str = ""

    def __post_init__(self) -> None:
        if self.verdict == "fail" and not (self.reason and self.next):
            raise ValueError(f"{self.title}: a failure without its reason and the next act")
        if self.verdict == "not observable" and not self.reason:
            raise ValueError(f"{self.title}: not observable, and no reason")
        if self.verdict in ("pass", "note") and not self.observed:
            raise ValueError(f"{self.title}: nothing was observed")


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the kit: everything in it shares a process, and ends with it."""

    name: str
    summary: str
    parts: tuple[Callable[[Stand], Iterator[Finding]], ...]
    """Run one after the other; an exception ends its part, a lost device all of them."""
    limit_seconds: float = 180.0
    """From its turn to its end; longer, and it has failed."""
    precision: str = "fp32"
    """For which its process opens the device: there are switches that a process sets once."""
    absent: str = ""
    """Why it does not apply, and has no parts; empty where it does."""


class Stand:
    """The device under test, opened for a precision, and what a check asks of its surroundings."""

    def __init__(
        self,
        backend: Backend,
        index: int,
        framework: Framework | None = None,
        precision: str = "fp32",
    ) -> None:
        """framework: what computes, by default torch. Raises what the backend raises."""
        self.framework = framework or catalogue.framework("torch")
        self.backend = backend
        self.index = index
        self.device: Device = self.open(PRECISIONS[precision])
        self._heard = _stderr_bytes()

    def open(self, precision: Precision) -> Device:
        """The device with its switches set for `precision`; the checks' own from then on."""
        self.device = self.framework.open(self.backend, self.index, precision)
        return self.device

    def unsupported(self, precision: Precision) -> str | None:
        """Why the device has no such precision; None where it has."""
        return self.framework.unsupported(self.backend, self.device.info, precision)

    @property
    def place(self) -> torch.device:
        """Where tensors go."""
        return self.device.torch_device

    @property
    def on_host(self) -> bool:
        """Whether the device is the host itself."""
        return self.backend.is_host if self.framework.hands_over else self.place.type == "cpu"

    def ran_on_host(self) -> tuple[str, ...]:
        """Operators that the runtime has said, since it was last asked, to have run on the host."""
        start, self._heard = self._heard, _stderr_bytes()
        text = os.pread(2, self._heard - start, start) if self._heard > start else b""
        return self.backend.fallbacks(text.decode("utf-8", errors="replace").splitlines())


def _stderr_bytes() -> int:
    """How much there is on stderr, where that is a file that can be read back, as a worker's is."""
    sys.stderr.flush()
    return os.fstat(2).st_size


def passed(title: str, observed: str) -> Finding:
    """It is as it must be."""
    return Finding(title=title, verdict="pass", observed=observed)


def failed(title: str, observed: str, reason: str, next: str) -> Finding:
    """It is not."""
    return Finding(title=title, verdict="fail", observed=observed, reason=reason, next=next)


def unseen(title: str, reason: str, observed: str = "", next: str = "") -> Finding:
    """It cannot be told here."""
    return Finding(
        title=title, verdict="not observable", observed=observed, reason=reason, next=next
    )


def note(title: str, observed: str, next: str = "") -> Finding:
    """A figure, or a remark."""
    return Finding(title=title, verdict="note", observed=observed, next=next)


def judged(title: str, good: bool, observed: str, reason: str, next: str) -> Finding:
    """A pass, or else a failure for that reason."""
    return passed(title, observed) if good else failed(title, observed, reason, next)


def after(title: str, backend: Backend, error: BaseException) -> Finding:
    """What an exception that nobody expected means for the check in which it was raised."""
    lines = str(error).strip().splitlines() or [""]
    said = f"{type(error).__name__}: {lines[0]}"
    if len(lines) > 1:  # the first line says what failed, the last one why
        said += f" [...] {lines[-1].strip()}"
    operators = backend.fallbacks(str(error).splitlines())
    if operators:
        reason = f"host fallback: {', '.join(operators)}"
        return failed(title, said, reason, "Implement the operator on the device")
    kind = backend.failure_kind(error)
    reason = {"oom": "out of memory", "device_lost": "the device was lost"}.get(kind, "it raised")
    return failed(title, said, reason, NEXT.get(kind, NEXT["error"]))
