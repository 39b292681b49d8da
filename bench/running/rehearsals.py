"""What cases need of memory, counted side by side before they are launched, while nothing measures.

A rehearsal (`bench.rehearsal`) takes one core for seconds, and the first launch of every case would
wait for its own. In forks of what has imported already as many go on at a time as there are cores.
A case that is not counted here, for whatever reason, counts in its launch, and says the reason
there.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from bench.measuring.messages import Request
from bench.planning.sweep import without_batch
from bench.records.cpu_limits import usable_cores
from bench.running.ears import Ears
from bench.running.stems import Stems
from bench.running.worker_process import WorkerProcess, start_worker

if TYPE_CHECKING:
    from bench.records.case import Case
    from bench.running.case_state import CaseState

AHEAD = 2
"""Cases that are counted at once, for each core: enough that the cores end at about one time, and
few enough that the first launch, and a budget, need not wait for all."""
LIMIT_SECONDS = 120.0
"""What takes longer counts in its launch."""
Count = Callable[[Sequence[Request]], dict[str, int]]
"""`counted`, or a script of it in tests."""


class Rehearsals:
    """Those of one run."""

    def __init__(self, count: Count | None = None) -> None:
        """count: None where nothing is counted beforehand."""
        self._count = count
        self._asked: set[str] = set()
        self._bytes: dict[str, int] = {}

    def bytes_of(self, case: Case) -> int | None:
        """What was counted of a case; None where nothing was."""
        return self._bytes.get(case.fingerprint)

    def ahead(
        self,
        going: Iterable[CaseState],
        states: Iterable[CaseState],
        request: Callable[[CaseState], Request],
    ) -> None:
        """Counts those that are about to be launched, if one of them needs it, and some that
        follow.

        states: all of this round; request: of a case's launch. Of a sweep's points one: whether it
        fits decides whether the next is tried.
        """
        if self._count is None or not any(map(self._needs, going)):
            return
        wanted: dict[str, CaseState] = {}
        for state in filter(self._needs, states):
            wanted.setdefault(without_batch(state.case).fingerprint, state)
        next_ones = [*wanted.values()][: AHEAD * usable_cores()]
        self._asked |= {state.case.fingerprint for state in next_ones}
        only = [msgspec.structs.replace(request(s), rehearsal_only=True) for s in next_ones]
        self._bytes |= self._count(only)

    def _needs(self, state: CaseState) -> bool:
        """Whether its next launch would count, and nobody has tried to before."""
        alone = state.case.devices == 1 and not state.case.space
        tried = state.seconds or state.beyond or state.case.fingerprint in self._asked
        return alone and not tried


def counted(requests: Sequence[Request], given: Mapping[str, str], stems: Stems) -> dict[str, int]:
    """Bytes by fingerprint, of those that could be counted within `LIMIT_SECONDS`.

    given: the processes' environment; stems: what they are forked from. When an exception passes
    through, no process is left.
    """
    found: dict[str, int] = {}
    left = [*reversed(requests)]
    at_work: dict[str, WorkerProcess] = {}
    end = time.monotonic() + LIMIT_SECONDS
    with contextlib.ExitStack() as stack, contextlib.suppress(OSError), Ears() as ears:
        while True:
            while left and len(at_work) < usable_cores():
                request = left.pop()
                worker = _started(request, given, stems)
                if worker is not None:
                    stack.callback(worker.leave)
                    worker.let_go()
                    ears.attend(request.case.fingerprint, worker.process)
                    at_work[request.case.fingerprint] = worker
            ready = ears.ready(max(0.0, end - time.monotonic())) if at_work else {}
            if not ready:
                break
            for name, speaks in ready.items():
                assert isinstance(name, str)
                worker = at_work[name]
                worker.listen(speaks=speaks, listen=lambda progress: None)
                if worker.report is None:
                    continue
                ears.leave(name)
                at_work.pop(name).leave()
                if (needed := worker.report.estimated_peak_bytes) is not None:
                    found[name] = needed
    return found


def _started(request: Request, given: Mapping[str, str], stems: Stems) -> WorkerProcess | None:
    """A fork that counts; None where there is none."""
    stem = stems.rehearsing(request, given)
    if stem is None:
        return None
    started = start_worker(lambda: WorkerProcess(request, given, (), stem=stem))
    return started if isinstance(started, WorkerProcess) else None
