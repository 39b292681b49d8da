"""Executions: what is compiled computes rightly, and what is recorded is replayed where it lies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bench.conformance.check import Check, Finding, Stand, failed, judged, passed, unseen
from bench.measuring.compilers import compiled, trial
from bench.records.execution import NO_GRAPHS
from bench.workload import Unsupported

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

COMPILER = "{} compiles"
GRAPHS = "a recording is replayed"
BOTH = "compiled work is recorded and replayed"
ON_THE_HOST = "of the host a case of its own tells it, in the time that this would take"
NEXT = "Name its graphs in `graph_type` of the backend, or report it to whoever makes them"


def compilers(stand: Stand) -> Iterator[Finding]:
    """Each that the backend names."""
    for name in stand.backend.compilers:
        title = COMPILER.format(name)
        if stand.on_host:
            yield unseen(title, ON_THE_HOST)
            continue
        found = trial(name, stand.place)
        next = "Name another in `compilers` of the backend, or report it to whoever makes it"
        if found.wrong:
            yield failed(title, found.why, "what it compiles computes wrongly", next)
        elif found.why:
            yield unseen(title, f"cases that it compiles are skipped: {found.why}", next=next)
        else:
            yield passed(title, "a product, and what is fused behind it, are right")


def graphs(stand: Stand) -> Iterator[Finding]:
    """A recording of plain operators."""
    yield _replayed(stand, GRAPHS, lambda x: (x @ x - 60.0).relu())


def both(stand: Stand) -> Iterator[Finding]:
    """A recording of what the first compiler that works has made."""
    works = [] if stand.on_host else stand.backend.compilers
    name = next((name for name in works if not trial(name, stand.place).why), None)
    if name is None:
        yield unseen(BOTH, ON_THE_HOST if stand.on_host else "nothing compiles here")
    else:
        yield _replayed(stand, BOTH, compiled(name))


def _replayed(stand: Stand, title: str, run: Callable[[Tensor], Tensor]) -> Finding:
    """Twice, with another input in the same place: 1 gives 0, 2 gives 4 and 3 gives 84."""
    import torch

    recorder = stand.device.recorder()
    if recorder is None:
        return unseen(title, f"{NO_GRAPHS}: cases that ask for it are skipped")
    x = torch.full((16, 16), 1.0, device=stand.place)
    count = torch.zeros(1, device=stand.place)
    out = torch.zeros(16, 16, device=stand.place)

    def work() -> None:
        out.copy_(run(x))
        count.add_(1)

    try:
        replay = recorder(work, lambda: None)
    except Unsupported as why:
        return unseen(title, f"cases that ask for it are skipped: {why}")
    count.zero_()
    seen = []
    for value in (2.0, 3.0):
        x.fill_(value)
        replay()
        seen.append(float(out[0, 0].item()))
    times = int(count.item())
    observed = f"2 gives {seen[0]:g} and 3 gives {seen[1]:g}, after {times} replays"
    reason = "2 must give 4, and 3 give 84, after 2 replays"
    return judged(title, (seen, times) == ([4.0, 84.0], 2), observed, reason, NEXT)


CHECKS = (
    Check(
        name="executions",
        summary="what is compiled or recorded computes the same",
        parts=(compilers, graphs, both),
    ),
)
