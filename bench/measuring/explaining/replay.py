"""The tape played again, in its order, on the job's own tensors.

It trains the weights and writes the caches as the step does. Integers that the step moves on
(positions, counters) start where they started: else a cache would overflow.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.measuring.explaining import counts
from bench.measuring.explaining.calls import Call, Ref, copied
from bench.measuring.explaining.kinds import is_view
from bench.measuring.explaining.tape import Tape

if TYPE_CHECKING:
    import torch

FLOOR_CALLS = 3000
"""Calls of which the floor is the median."""
LEAST_VIEWS = 20
"""In a tape, of which the floor is a quantile instead."""
MOST_DRAWN = (1 << 22) - 3
"""Numbers of an operand, which then come again: a prime, so that no two rows are alike."""


class Replay(NamedTuple):
    """What one replay took."""

    call_ns: list[int]
    """Of each call, the clock's own cost taken off."""
    freeing_ns: int


class Ready:
    """A call whose arguments are found without a look at what they are made of."""

    def __init__(self, call: Call) -> None:
        import torch
        from torch.utils._pytree import tree_unflatten

        self.func, self.outs = call.func, call.outs
        self.reshapes = torch.Tag.inplace_view in call.func.tags
        """Whether it makes a tensor another view of its memory."""
        args, self.kwargs = tree_unflatten(list(call.flat), call.spec)
        self.args = list(args)
        self.changing = [k for k, v in enumerate(self.args) if _has_tensors(v)]
        self.changing_names = [name for name, v in self.kwargs.items() if _has_tensors(v)]


def _has_tensors(value: Any) -> bool:
    if isinstance(value, list | tuple) and not isinstance(value, Ref):
        return any(map(_has_tensors, value))
    return isinstance(value, Ref)


class Live:
    """Memory of the tape that is there, by slot, and the tensors on it that were given.

    As in the step, a tensor that an operator gave is what the next one gets. To make it anew would
    take longer than many a call, and drive what that needs out of the nearest caches.
    """

    def __init__(self, tape: Tape) -> None:
        self._storages = dict(tape.leaves)
        self._storages.update((slot, copied(tape.values[slot])) for slot in tape.moved)
        self._tensors: dict[int, dict[Ref, torch.Tensor]] = {}

    def arguments(self, ready: Ready) -> tuple[list[Any], dict[str, Any]]:
        """What a call is given."""
        args, kwargs = ready.args, ready.kwargs
        if ready.changing:
            args = args.copy()
            for k in ready.changing:
                args[k] = self._found(args[k], ready)
        if ready.changing_names:
            kwargs = kwargs.copy()
            for name in ready.changing_names:
                kwargs[name] = self._found(kwargs[name], ready)
        return args, kwargs

    def _found(self, value: Any, ready: Ready) -> Any:
        if isinstance(value, Ref):
            if ready.reshapes:  # of another tensor it would not be known
                return on(self._storages[value.slot], value)
            made = self._tensors.setdefault(value.slot, {})
            if value not in made:
                made[value] = on(self._storages[value.slot], value)
            return made[value]
        if isinstance(value, list | tuple):
            return [self._found(v, ready) for v in value]
        return value

    def keep(self, ready: Ready, out: Any) -> None:
        """What a call gave."""
        from torch.utils._pytree import tree_leaves

        given = (out,) if len(ready.outs) == 1 and not isinstance(out, list) else tree_leaves(out)
        for ref, tensor in zip(ready.outs, given, strict=True):
            if ref is None or ready.reshapes:
                continue
            if ref.slot not in self._storages:
                self._storages[ref.slot] = tensor.untyped_storage()
            self._tensors.setdefault(ref.slot, {}).setdefault(ref, tensor)

    def free(self, slots: Iterable[int]) -> None:
        """Gives memory back."""
        for slot in slots:
            self._tensors.pop(slot, None)
            self._storages.pop(slot, None)


class Player:
    """Plays a tape."""

    def __init__(self, tape: Tape, clock: Callable[[], int]) -> None:
        """clock: monotonic ns."""
        self.tape = tape
        self.clock = clock
        self._calls = [Ready(call) for call in tape.calls]
        self._dying = tape.dying()
        self.tick_ns = min(b - a for a, b in ((clock(), clock()) for _ in range(1000)))
        """What reading the clock twice costs."""

    def play(self) -> Replay:
        """Once, from the first operator to the last; as it was recorded, below autograd."""
        import torch

        clock, tick, live = self.clock, self.tick_ns, Live(self.tape)
        times: list[int] = []
        freeing = 0
        with torch.inference_mode():
            for k, ready in enumerate(self._calls):
                args, kwargs = live.arguments(ready)
                start = clock()
                out = ready.func(*args, **kwargs)
                times.append(max(0, clock() - start - tick))
                live.keep(ready, out)
                del args, kwargs, out  # nothing but `live` may hold what is to be freed now
                if dying := self._dying.get(k):
                    start = clock()
                    live.free(dying)
                    freeing += max(0, clock() - start - tick)
        return Replay(times, freeing)

    def floor_in_place_ns(self, call_ns: Sequence[float]) -> float:
        """What a call of the tape costs that does nothing: a quarter of its views cost less.

        In their place: after a large operator Python's own code is out of the caches, and a call
        costs twice what it costs in a loop. No more than a quarter, as views have some work too
        (strides, several outputs): with their median taken off, `mul_` of a decode step came to 0
        where the profiler saw 2 us. Of a tape with few views, that of the loop. call_ns: of each
        call.
        """
        views = sorted(
            ns for call, ns in zip(self.tape.calls, call_ns, strict=True) if is_view(call.func)
        )
        return views[len(views) // 4] if len(views) >= LEAST_VIEWS else self.floor_ns()

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


def typical(played: Sequence[Replay], step_ns: Sequence[int]) -> list[float]:
    """ns of each call over several replays: its median, in proportion; together as much of a median
    step as each replay takes of the step beside it, in the middle.

    Whatever disturbs a replay meets one call or another, and so no call's median; but it does meet
    each replay, as it does each step. And a host whose speed moves meets both. step_ns: of as many
    steps, one beside each replay.
    """
    each = [statistics.median(column) for column in zip(*(r.call_ns for r in played), strict=True)]
    shares = [sum(one.call_ns) / step for one, step in zip(played, step_ns, strict=True)]
    whole = statistics.median(shares) * statistics.median(step_ns)
    scale = whole / sum(each) if any(each) else 1.0
    return [ns * scale for ns in each]


def on(storage: torch.UntypedStorage, ref: Ref) -> torch.Tensor:
    """The tensor of the tape on a storage."""
    import torch

    empty = torch.empty(0, dtype=ref.dtype, device=storage.device)
    return empty.set_(storage, ref.offset, ref.size, ref.stride)


def operands(tape: Tape, call: Call, device: torch.device) -> tuple[Any, Any]:
    """Fresh operands of a call, laid out alike: integers keep their values, aliases stay aliases.

    Of integers it depends how much work a call has: where a group of rows ends, which row is read.
    Those too large to be kept are 0, the one index that is always there. What is multiplied is
    normal, as in `ceilings`; scales and all else lie between 0.5 and 1, so that nothing overflows
    or becomes denormal.
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
            held = call.known.get(ref.slot, tape.values.get(ref.slot))
            if held is not None and not ref.dtype.is_floating_point:
                made[ref.slot] = copied(held)
                continue
            count = max(1, -(-extent[ref.slot] // ref.dtype.itemsize))
            base = torch.empty(count, dtype=ref.dtype, device=device)
            _fill(base, bool(call.flop) and counts.word(ref.dtype) == call.precision)
            made[ref.slot] = base.untyped_storage()
    flat = [on(made[v.slot], v) if isinstance(v, Ref) else v for v in call.flat]
    given: tuple[Any, Any] = tree_unflatten(flat, call.spec)
    return given


def _fill(base: torch.Tensor, multiplied: bool) -> None:
    """Numbers for a tensor [N]; multiplied: of the precision of a product, as its scales may be."""
    import torch

    dtype = base.dtype
    packed = "float4" in str(dtype)  # two numbers a byte, whatever that is
    drawn = torch.empty(min(len(base), MOST_DRAWN), dtype=torch.float32, device=base.device)
    if multiplied and (packed or dtype == torch.int8):
        base = base.view(torch.int8)
        drawn.uniform_(-128, 128)
    elif packed or not dtype.is_floating_point:
        base.view(torch.uint8).zero_()
        return
    elif multiplied and torch.finfo(dtype).min < 0:  # what has no sign is a scale
        drawn.normal_()
    else:
        drawn.uniform_(0.5, 1)
    for part in base.split(len(drawn)):
        part.copy_(drawn[: len(part)])
