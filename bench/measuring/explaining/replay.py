"""The tape played again, in its order, on the job's own tensors.

It trains the weights and writes the caches as the step does. Integers that the step moves on
(positions, counters) start where they started: else a cache would overflow.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.measuring.explaining.kinds import is_view
from bench.measuring.explaining.tape import Call, Ref, Tape

if TYPE_CHECKING:
    import torch

FLOOR_CALLS = 3000
"""Calls of which the floor is the median."""
LEAST_VIEWS = 20
"""In a tape, of which the floor is the median instead."""


class Replay(NamedTuple):
    """What one replay took."""

    call_ns: list[int]
    """Of each call, the clock's own cost taken off."""
    freeing_ns: int


class Player:
    """Plays a tape."""

    def __init__(self, tape: Tape, clock: Callable[[], int]) -> None:
        """clock: monotonic ns."""
        self.tape = tape
        self.clock = clock
        self._dying = tape.dying()
        self.tick_ns = min(b - a for a, b in ((clock(), clock()) for _ in range(1000)))
        """What reading the clock twice costs."""

    def play(self) -> Replay:
        """Once, from the first operator to the last."""
        import torch
        from torch.utils._pytree import tree_leaves, tree_unflatten

        tape, clock, tick = self.tape, self.clock, self.tick_ns
        live = dict(tape.leaves)
        live.update((slot, tape.values[slot].clone()) for slot in tape.moved)
        times: list[int] = []
        freeing = 0
        with torch.no_grad():
            for k, call in enumerate(tape.calls):
                flat = [on(live[v.slot], v) if isinstance(v, Ref) else v for v in call.flat]
                args, kwargs = tree_unflatten(flat, call.spec)
                start = clock()
                out = call.func(*args, **kwargs)
                times.append(max(0, clock() - start - tick))
                for ref, given in zip(call.outs, tree_leaves(out), strict=True):
                    if ref is not None and ref.slot not in live:
                        live[ref.slot] = given.untyped_storage()
                # Nothing but `live` may hold what is to be freed now.
                del flat, args, kwargs, out
                given = None
                if dying := self._dying.get(k):
                    start = clock()
                    for slot in dying:
                        live.pop(slot, None)
                    freeing += max(0, clock() - start - tick)
        return Replay(times, freeing)

    def floor_in_place_ns(self, call_ns: Sequence[float]) -> float:
        """What a call of the tape costs that does nothing: the median of its views.

        In their place: after a large operator Python's own code is out of the caches, and a call
        costs twice what it costs in a loop. Of a tape with few views, that of the loop. call_ns:
        of each call.
        """
        views = [
            ns for call, ns in zip(self.tape.calls, call_ns, strict=True) if is_view(call.func)
        ]
        return statistics.median(views) if len(views) >= LEAST_VIEWS else self.floor_ns()

    def floor_ns(self) -> float:
        """What a call costs in a loop that does nothing: an alias."""
        import torch

        one, alias = torch.ones(8), torch.ops.aten.alias.default
        return statistics.median(self._called(alias, one) for _ in range(FLOOR_CALLS))

    def launch_ns(self) -> float:
        """The least that a call takes that works on one element, the floor taken off."""
        import torch

        one, two, add = torch.ones(1), torch.ones(1), torch.ops.aten.add.out
        taken = statistics.median(
            self._called(add, one, two, out=two) for _ in range(FLOOR_CALLS // 3)
        )
        return max(1.0, taken - self.floor_ns())

    def _called(self, func: Any, *args: Any, **kwargs: Any) -> int:
        start = self.clock()
        func(*args, **kwargs)
        return self.clock() - start - self.tick_ns


def on(storage: torch.UntypedStorage, ref: Ref) -> torch.Tensor:
    """The tensor of the tape on a storage."""
    import torch

    empty = torch.empty(0, dtype=ref.dtype, device=storage.device)
    return empty.set_(storage, ref.offset, ref.size, ref.stride)


def operands(tape: Tape, call: Call, device: torch.device) -> tuple[Any, Any]:
    """Fresh operands of a call, laid out alike: integers keep their values, aliases stay aliases.

    Integers that were made within the step are not known; they are 0, the one index that is always
    there. Numbers lie between 0.5 and 1, so that nothing overflows or becomes denormal.
    """
    import torch
    from torch.utils._pytree import tree_unflatten

    made: dict[int, torch.UntypedStorage] = {}
    extent: dict[int, int] = {}
    refs = [v for v in call.flat if isinstance(v, Ref)]
    for ref in refs:
        extent[ref.slot] = max(extent.get(ref.slot, 0), ref.end_bytes)
    for ref in refs:
        if ref.slot not in made:
            if ref.slot in tape.values and not ref.dtype.is_floating_point:
                made[ref.slot] = tape.values[ref.slot].clone()
                continue
            count = max(1, -(-extent[ref.slot] // ref.dtype.itemsize))
            base = torch.empty(count, dtype=ref.dtype, device=device)
            if ref.dtype.is_floating_point and ref.dtype.itemsize > 1:
                base.uniform_(0.5, 1)
            else:
                base.view(torch.uint8).zero_()
            made[ref.slot] = base.untyped_storage()
    flat = [on(made[v.slot], v) if isinstance(v, Ref) else v for v in call.flat]
    given: tuple[Any, Any] = tree_unflatten(flat, call.spec)
    return given
