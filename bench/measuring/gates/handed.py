"""What a launch in another framework is handed by torch: its seeded numbers, and its reference.

In a folder of the run's own lie the pool of normals of each seed, and of each launch the draws that
torch's twin of its job makes, in their order, with the gate's reference in float64. Whoever builds
the job must draw the same, no less and no more: then weights and inputs are torch's, and the gate
and the proof of equal work say what they say of any two stacks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from bench.framework import Draws, Framework
from bench.measuring.kept import Kept
from bench.workload import Job, Site, Workload, Wrong

if TYPE_CHECKING:
    from bench.framework import Array

Which = Literal["twin", "job"]
REFERENCE = "reference "
"""Before the quantity, in the name of each array of a reference."""


class Draw(msgspec.Struct, frozen=True, kw_only=True):
    """One call, and what came of it."""

    shape: tuple[int, ...]
    std: float | None = None
    """Of normals; None of integers."""
    start: int = 0
    """Where in the pool normals begin."""
    span: tuple[int, int] = (0, 0)
    """Of integers: from the first up to before the second."""


class Handed(msgspec.Struct, frozen=True, kw_only=True):
    """What is handed over for one launch, beside the arrays."""

    seeds: dict[str, int]
    """Of the gate's twin and of the job."""
    draws: dict[str, tuple[Draw, ...]]
    estimated_peak_bytes: int | None = None
    threads: int | None = None
    """Of the host, with which torch would compute."""


class HandedOver(Kept):
    """What lies in a launch's file, of references the gate's."""

    def __init__(self, path: Path) -> None:
        """Raises OSError where there is none, ValueError where it cannot be read."""
        import numpy as np

        super().__init__()
        self._at = path.parent
        with np.load(path, allow_pickle=False) as held:
            self._arrays = {name: held[name] for name in held.files}
        self._handed = msgspec.json.decode(self._arrays.pop("handed").tobytes(), type=Handed)
        self.estimated_peak_bytes = self._handed.estimated_peak_bytes
        self.threads = self._handed.threads

    def get(self, of: Callable[[], bytes], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The gate's reference, [quantity]: float64."""
        return {
            name.removeprefix(REFERENCE): array
            for name, array in self._arrays.items()
            if name.startswith(REFERENCE)
        }

    def draws(self, which: Which) -> HandedDraws:
        """From the first one on."""
        import numpy as np

        pool = np.load(pool_file(self._at, self._handed.seeds[which]), allow_pickle=False)
        return HandedDraws(pool, self._handed.draws[which], self._arrays, which)


@dataclass(eq=False)
class HandedDraws(Draws):
    """The numbers that torch's twin of a job has, one draw after the other."""

    _pool: Array
    """float32."""
    _draws: tuple[Draw, ...]
    _arrays: Mapping[str, Array]
    """With the integers that were drawn, by `integers_name`."""
    _which: Which
    _next: int = 0

    def normal(self, shape: tuple[int, ...], std: float = 1.0) -> Array:
        """From the pool, over and over."""
        import numpy as np

        draw = self._take(shape, std, (0, 0))
        count = math.prod(shape)
        turns = -(-(draw.start + count) // len(self._pool))
        flat = np.tile(self._pool, turns)[draw.start : draw.start + count]
        found: Array = np.multiply(flat, np.float32(std)).reshape(shape)
        return found

    def integers(self, low: int, high: int, shape: tuple[int, ...]) -> Array:
        """Those that torch drew."""
        self._take(shape, None, (low, high))
        drawn: Array = self._arrays[integers_name(self._which, self._next - 1)]
        return drawn

    def finish(self) -> None:
        """Raises `Wrong` where something was not drawn."""
        if self._next < len(self._draws):
            raise Wrong(
                f"its job drew {self._next} times, torch's draws {len(self._draws)} times: their "
                "weights or inputs are not the same"
            )

    def _take(self, shape: tuple[int, ...], std: float | None, span: tuple[int, int]) -> Draw:
        asked = Draw(shape=tuple(shape), std=std, span=span)
        made = self._draws[self._next] if self._next < len(self._draws) else None
        if made is None or msgspec.structs.replace(made, start=0) != asked:
            raise Wrong(f"draw {self._next + 1} is {asked}, torch's is {made}")
        self._next += 1
        return made


def pool_file(folder: Path, seed: int) -> Path:
    """Where the pool of a seed lies."""
    return folder / f"pool-{seed}.npy"


def integers_name(which: Which, number: int) -> str:
    """Of the array of a draw."""
    return f"integers {which} {number}"


def built(
    framework: Framework, workload: Workload, mode: str, parameters: Any, site: Site, draws: Any
) -> Job:
    """A job of that framework. Raises `Wrong` where it drew other numbers than torch's does."""
    job = framework.build(workload, mode, parameters, site, draws)
    if draws is not None:
        draws.finish()
    return job
