"""Which compiler a launch is given: of those that its backend names, one that works here.

What a vendor's software has of compilers depends on what else is installed. A backend that names
one has it used, and it is tried where a case fails with it: then the device does not have that
execution, which is no fault of the work. Of several, each is tried beforehand, until one works.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.records.reason import reason
from bench.workload import Unsupported

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TORCHS_OWN = "inductor"
"""What compiled, where a record names nothing."""
LONGEST = 300
"""Characters of a compiler's words that are told."""


def strictly() -> None:
    """From here on this process compiles each size of a tensor for itself, or fails.

    torch compiles code that it meets with a second size for any size, of which a compiler knows
    less: inductor gives convolutions no layout then. But the other size was the numerics gate's
    twin, or the same job before a remedy, and the timed job is to be what a user compiles alone.
    Of what fails to compile, TORCHDYNAMO_SUPPRESS_ERRORS (set to anything) would run part eagerly.
    """
    import torch._dynamo

    config: Any = torch._dynamo.config
    config.automatic_dynamic_shapes = config.suppress_errors = False


def make_room(jobs: int) -> None:
    """For the code of so many jobs in this process, whose sizes share torch's limit on how often it
    compiles a function: what comes after that runs eagerly."""
    import torch._dynamo

    config: Any = torch._dynamo.config
    config.cache_size_limit *= jobs  # the name that torch 2.6 has too


def chosen(names: Iterable[str], device: torch.device) -> str:
    """torch's name for the compiler of a launch; raises `Unsupported` where none works."""
    first, *others = names
    if not others:
        return first
    refused = []
    for name in (first, *others):
        found = trial(name, device)
        if not found.why:
            _forget()
            return name
        refused.append(found.words)
    raise Unsupported("; ".join(refused))


class Trial(NamedTuple):
    """What came of compiling a small function."""

    name: str
    why: str = ""
    """Why the compiler does not work; empty where it does."""
    wrong: bool = False
    """Whether it compiles, and what it makes computes wrongly."""

    @property
    def words(self) -> str:
        """For a launch that has no figure."""
        return f"torch.compile does not work here with {self.name}: {self.why}" if self.why else ""


def small(x: Tensor) -> Tensor:
    """[16, 16] of 2 to 4: a product, and what may be fused behind it."""
    return (x @ x - 60.0).relu()


def compiled(name: str) -> Callable[[Tensor], Tensor]:
    """`small`, compiled in its first call."""
    import torch

    made: Callable[[Tensor], Tensor] = torch.compile(
        small, backend=name, fullgraph=True, dynamic=False
    )
    return made


@functools.cache
def trial(name: str, device: torch.device) -> Trial:
    """Of a compiler on a device. Raises what is no compiler's word: out of memory."""
    import torch

    x = torch.full((16, 16), 2.0, device=device)
    try:
        found = compiled(name)(x).cpu()
    except Exception as error:  # noqa: BLE001 - a compiler raises what it likes
        said = [line for line in str(error).splitlines() if line.strip()] or [""]
        return Trial(name, reason(f"{type(error).__name__}: {' '.join(said[:2])}")[:LONGEST])
    right = torch.equal(found, torch.full((16, 16), 4.0))
    why = "" if right else f"4 comes out as {float(found[0, 0]):g}"
    return Trial(name, why, wrong=not right)


def searches_products(place: torch.device) -> bool:
    """Whether torch's own compiler, told to search, does so for matrix products too on a device: on
    large GPUs alone, of 68 multiprocessors and more of one vendor's (`is_big_gpu`)."""
    with contextlib.suppress(Exception):  # no public name, and another torch may have another
        from torch._inductor.utils import is_big_gpu

        return place.type == "cpu" or bool(is_big_gpu(place))
    return True


class Searching:
    """A compiler that is given what has it search for its kernels, and counts what it made so."""

    def __init__(self, name: str, given: Mapping[str, Any]) -> None:
        """name: torch's, of the compiler that does the work; given: to that, beside graph and
        inputs."""
        import torch

        self.name = f"accelmark-{name}-searching"
        """By which torch knows this one."""
        self.graphs = 0

        def search(graph: Any, inputs: Any) -> Any:
            made = torch._dynamo.lookup_backend(name)(graph, inputs, **given)
            self.graphs += 1
            return made

        torch._dynamo.register_backend(search, name=self.name)


class Noted:
    """A compiler whose code says that it runs, for work whose replay has none of that."""

    def __init__(self, name: str) -> None:
        """name: torch's, of the compiler that does the work; once a process."""
        import torch

        self.name = f"accelmark-{name}"
        """By which torch knows this one."""
        self.calls = 0
        """Of what it made."""

        def noting(graph: Any, inputs: Any) -> Any:
            code = torch._dynamo.lookup_backend(name)(graph, inputs)

            def run(*arguments: Any) -> Any:
                self.calls += 1
                return code(*arguments)

            return run

        torch._dynamo.register_backend(noting, name=self.name)


noted = functools.cache(Noted)
"""The one of that name."""


def _forget() -> None:
    """The trials: what is counted from here on is the case's."""
    from torch._dynamo.utils import counters

    counters.clear()
