"""How a launch executes its case: what compiles, what records, and whether they did."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from bench.framework import Executing
from bench.measuring import asked, compilers
from bench.records import environment
from bench.records.case import SEARCHED
from bench.records.execution import NO_GRAPHS, is_compiled, is_recorded
from bench.workload import Unsupported

if TYPE_CHECKING:
    import torch

    from bench.backend import Backend, Device
    from bench.workload import Look


class Execution(Executing):
    """Of one launch, in torch."""

    def __init__(self, name: str, backend: Backend, device: Device, searches: bool = False) -> None:
        """name: of a case; searches: whether its compiler is to search for its kernels. Raises
        `Unsupported` where nothing compiles, searches, or records, that must."""
        self._name = name
        self._place: torch.device = device.torch_device
        self.watched: asked.Watched | None = None
        """What records; None where nothing need."""
        if is_recorded(name):
            recorder = device.recorder()
            if recorder is None:
                raise Unsupported(NO_GRAPHS)
            self.recorder = self.watched = asked.Watched(recorder)
        self._compiler = self.compiler = compilers.TORCHS_OWN
        """torch's name for what compiles."""
        if is_compiled(name):
            compilers.strictly()
            self._compiler = self.compiler = compilers.chosen(backend.compilers, self._place)
        self._searching: compilers.Searching | None = None
        if searches:
            given = backend.compiler_searches.get(self._compiler)
            if given is None:
                raise Unsupported(
                    f"{SEARCHED}: the backend {backend.name} names no search of its compiler "
                    f"{self._compiler}"
                )
            self._searching = compilers.Searching(self._compiler, given)
            self.compiler = self._searching.name
        if is_compiled(name) and self.watched is not None:
            noted = compilers.noted(self.compiler)
            self.compiler, self.watched.compiled_calls = noted.name, lambda: noted.calls
        self._before = environment.compiler() if is_compiled(name) else {}
        """What the compiler had done when the numerics gate, or the timed job, began."""
        self._searched_before = 0

    def gated(self) -> None:
        """From here on it is the timed job that compiles and records, as if nothing had been
        compiled before: the twin's code counts for none of it, and takes none of its room."""
        if is_compiled(self._name):
            import torch

            torch.compiler.reset()
            self._before = environment.compiler()
        if self._searching is not None:
            self._searched_before = self._searching.graphs
        if self.watched is not None:
            self.watched.timed()

    def looks(self, record: dict[str, Any]) -> list[Look]:
        """Whether the execution is the case's, as far as it has come; what the compiler has done is
        noted in the record's environment."""
        found: list[Look] = []
        if is_compiled(self._name):
            counted = environment.compiler()
            own = self._compiler == compilers.TORCHS_OWN
            record["compiler"] = counted if own else {**counted, "name": self._compiler}
            since = {what: n - self._before.get(what, 0) for what, n in counted.items()}
            found += asked.compiled(since, self._name)
        if self._searching is not None:
            record["compiler_searched"] = self._searching.graphs
            own = self._compiler == compilers.TORCHS_OWN
            if own and not compilers.searches_products(self._place):
                record["compiler"][environment.UNSEARCHED] = 1
            found += asked.searched(self._searching.graphs - self._searched_before)
        if is_recorded(self._name):
            found += asked.replayed(self.watched, self._name)
        return found

    def lacking(self) -> str:
        """After a launch failed: why its compiler does not work here at all; empty where it does,
        or none was asked for."""
        if not is_compiled(self._name):
            return ""
        with contextlib.suppress(Exception):  # of a device that cannot be asked any more
            return compilers.trial(self._compiler, self._place).words
        return ""
