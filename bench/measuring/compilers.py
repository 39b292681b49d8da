"""Which compiler a launch is given: of those that its backend names, one that works here.

What a vendor's software has of compilers depends on what else is installed. A backend that names
one has it used, and it is tried where a case fails with it: then the device does not have that
execution, which is no fault of the work. Of several, each is tried beforehand, until one works.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import TYPE_CHECKING

from bench.records.reason import reason
from bench.workload import Unsupported

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TORCHS_OWN = "inductor"
"""What compiled, where a record names nothing."""
LONGEST = 300
"""Characters of a compiler's words that are told."""


def chosen(names: Iterable[str], device: torch.device) -> str:
    """torch's name for the compiler of a launch; raises `Unsupported` where none works."""
    first, *others = names
    if not others:
        return first
    refused = []
    for name in (first, *others):
        why = refusal(name, device)
        if why is None:
            _forget()
            return name
        refused.append(why)
    raise Unsupported("; ".join(refused))


@functools.cache
def refusal(name: str, device: torch.device) -> str | None:
    """Why a compiler does not work on a device; None if it compiles a small function rightly.

    Raises what is no compiler's word: out of memory.
    """
    import torch

    def work(x: Tensor) -> Tensor:
        return (x @ x - 60.0).relu()  # a product, and what may be fused behind it

    why = f"torch.compile does not work here with {name}: "
    x = torch.full((16, 16), 2.0, device=device)
    try:
        found = torch.compile(work, backend=name, fullgraph=True, dynamic=False)(x).cpu()
    except Exception as error:  # noqa: BLE001 - a compiler raises what it likes
        said = str(error).strip().splitlines() or [""]
        return why + reason(f"{type(error).__name__}: {said[0]}")[:LONGEST]
    if torch.equal(found, torch.full((16, 16), 4.0)):
        return None
    return f"{why}4 comes out as {float(found[0, 0]):g}"


def _forget() -> None:
    """The trials: what is counted from here on is the case's."""
    from torch._dynamo.utils import counters

    counters.clear()
