"""What joins the devices of one host, in words: facts of a launch of many ranks."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

Pair = tuple[int, int]


def pairs(devices: int) -> list[Pair]:
    """Each two of devices 0 to `devices` - 1, once."""
    return list(itertools.combinations(range(devices), 2))


def peers(module: Any, devices: int) -> str:
    """How many pairs reach each other's memory, as torch's module of the device says.

    module: `torch.cuda` and its like.
    """
    ask: Callable[[int, int], bool] | None = getattr(module, "can_device_access_peer", None)
    if ask is None:
        return "peer access not observable: torch does not say"
    reached = 0
    for first, second in pairs(devices):
        try:
            reached += bool(ask(first, second)) and bool(ask(second, first))
        except (RuntimeError, AssertionError) as error:  # whatever a runtime raises
            return f"peer access not observable: {error}".splitlines()[0]
    return f"peer access in {reached} of {len(pairs(devices))} pairs"


def heeded(library: str, given: Mapping[str, str]) -> dict[str, str]:
    """The environment as NCCL, or RCCL, heeds it: what is not set, by a file of the user's or that
    variable's, else by the machine's. Source: NCCL, src/misc/param.cc, `initEnv`.
    """
    own = given.get("NCCL_CONF_FILE") or f"~/.{library}.conf"
    found = dict(given)
    for file in (Path(own), Path(f"/etc/{library}.conf")):
        with suppress(OSError, RuntimeError):  # none there, or nobody's home
            text = file.expanduser().read_text(errors="backslashreplace")
            for line in text.splitlines():
                name, is_set, value = line.partition("=")
                if is_set and not line.startswith("#"):
                    found.setdefault(name, value)
    return found


def kinds(links: Iterable[str]) -> str:
    """What the pairs are joined by, the most frequent first: `HCCS in 12 pairs, SYS in 16`."""
    counted = Counter(links).most_common()
    if not counted:
        return ""
    (first, count), *rest = counted
    return ", ".join([f"{first} in {count} pairs", *(f"{kind} in {n}" for kind, n in rest)])


def version(module: Any) -> str:
    """The collective library's, where torch's module of the device has it: `2.27.5`."""
    library = getattr(module, "nccl", None)
    found = getattr(library, "version", lambda: None)()
    return ".".join(map(str, found)) if isinstance(found, tuple) else str(found or "")
