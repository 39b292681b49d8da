"""torch's profiler sees the device's kernels: each with the time that the device owes for it.

A real plug-in hands its kernels to kineto in C++. Here a kernel is a mark of torch's own, within
the operator that queued it; what reads the profile makes an event of the device of it. So names,
counts and times are exact, and where a kernel lies in time is where it was queued.
"""

from __future__ import annotations

from typing import Any

import torch

from ._devices import TYPE

_autograd: Any = torch.autograd
MARK = "simnpu kernel "
NAMES = {"mm": "MatMulV2", "addmm": "MatMulV2", "bmm": "BatchMatMulV2", "_copy_from": "memcpy"}
"""Of operators whose kernel is not named as they are."""


def note(name: str, seconds: float) -> None:
    """A kernel is queued; name: of its operator, without namespace and overload."""
    if _autograd._profiler_enabled():
        kernel = NAMES.get(name, "".join(part.capitalize() for part in name.split("_")))
        with torch.autograd.profiler.record_function(f"{MARK}{kernel} {seconds * 1e6}"):
            pass


def register() -> None:
    """Has `torch.profiler` tell the device's events."""
    kind: Any = torch.profiler.profile
    plain = kind.events

    def events(self: Any) -> Any:
        found = plain(self)
        for event in found or ():
            event.use_device = TYPE
            if event.name.startswith(MARK):
                _to_device(event)
        return found

    kind.events = events


def _to_device(event: Any) -> None:
    """What was a mark on the host becomes a kernel of the operator that holds it."""
    kernel, _, us = event.name.removeprefix(MARK).rpartition(" ")
    event.name, event.is_user_annotation = kernel, False
    event.device_type = _autograd.DeviceType.PrivateUse1
    event.time_range.end = event.time_range.start + float(us)
    above, event.cpu_parent = event.cpu_parent, None
    if above is not None:
        above.cpu_children.remove(event)
        above.append_kernel(kernel, 0, float(us))
