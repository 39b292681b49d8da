"""Operators that ran on the host, as torch and vendors' plug-ins announce them. Not a backend."""

from __future__ import annotations

import re
from collections.abc import Iterable

FALLBACK = re.compile(
    r"operator '?(\w+::[\w.]+)'?[^\n]{0,400}?"
    r"(?:(?:will|would) fall ?back|falling back|fell back to cpu|executed via cpu fallback"
    r"|would execute its main computation on cpu)",
    re.IGNORECASE,
)
"""How runtimes say that an operator runs on the host (read: torch and four vendors' plug-ins)."""
LOGGED_FALLBACK = re.compile(r"\b(\w+::[\w.]+) not supported in \w+, and fallback to torch cpu")
"""In the log of torch_gcu."""
WARNED_FALLBACK = re.compile(r"\b(\w+(?:::|\.)[\w.]+) is falling back to cpu")
"""In torch_spyre's warnings."""
KERNEL_FALLBACK = re.compile(
    r"\b([\w.]+)\]? is not supported by \w+ currently\.\s*Now this kernel is running on"
)
"""In torch_npu's own operators, of some without their brackets."""
UNNAMED_FALLBACK = re.compile(
    r"op fallback from \w+ to cpu|fallback to cpu execution due to \w+ compilation failure",
    re.IGNORECASE,
)


def host_fallbacks(lines: Iterable[str]) -> tuple[str, ...]:
    """Operators that ran on the host, each once, in the order in which a runtime announced them."""
    found: dict[str, None] = {}
    for line in lines:
        for said in (FALLBACK, LOGGED_FALLBACK, WARNED_FALLBACK, KERNEL_FALLBACK):
            found.update((match[1], None) for match in said.finditer(line))
        if UNNAMED_FALLBACK.search(line):
            found["an operator that the runtime does not name"] = None
    return tuple(found)
