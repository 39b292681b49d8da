"""Undoes what recording did to the step: below a mode torch computes out of place.

Source: `can_accumulate_inplace` in torch/csrc/autograd/input_buffer.cpp, `isTensorSubclassLike` in
its derivatives' formulas. Which calls those are, is not guessed: torch's profiler saw them, in a
step that nobody recorded. What is left of the difference is found by the operators' counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from bench.measuring.explaining.calls import Call, Ref
from bench.measuring.explaining.counts import ADDS, PLACES, Bytes
from bench.measuring.explaining.tape import Tape

SUMS = ("aten::add",)
"""Either operand may be the one that is written."""
FURTHEST = 40
"""Calls within which two steps that differ are alike again."""
ALIKE = 3
"""Calls in a row that make them alike."""


def in_place(tape: Tape, seen: Sequence[str]) -> int:
    """Makes those calls write their operand that did so in the unrecorded step; gives how many.

    seen: names of the step's operators in their order, those within others left out.
    """
    working = [k for k, call in enumerate(tape.calls) if not call.structure]
    recorded = [tape.calls[k].name for k in working]
    wanted = {
        working[mine]
        for mine, theirs in aligned([*map(_plain, recorded)], [*map(_plain, seen)])
        if seen[theirs] == f"{recorded[mine]}_"
    }
    last = {ref.slot: k for k, call in enumerate(tape.calls) for ref in call.refs}
    born, renamed = frozenset(tape.born), dict[int, int]()
    done = 0

    def now(value: Any) -> Any:
        if isinstance(value, Ref) and value.slot in renamed:
            return value._replace(slot=renamed[value.slot])
        return value

    for k, call in enumerate(tape.calls):
        flat, outs = tuple(map(now, call.flat)), tuple(map(now, call.outs))
        known = {renamed.get(slot, slot): held for slot, held in call.known.items()}
        place = _written(call, k, last, born) if k in wanted else None
        func = None if place is None else _variant(call.func)
        if place is None or func is None:
            tape.calls[k] = call._replace(flat=flat, outs=outs, known=known)
            continue
        into, out = flat[place], call.outs[0]
        assert isinstance(into, Ref) and isinstance(out, Ref)
        renamed[out.slot] = into.slot
        tape.born.discard(out.slot)
        tape.calls[k] = call._replace(
            func=func,
            flat=(into, *flat[:place], *flat[place + 1 :]),
            outs=(into,),
            known=known,
            moved=_moved(call, into, flat[:place] + flat[place + 1 :]),
        )
        done += 1
    return done


def aligned(mine: Sequence[str], theirs: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Places of what is the same in both, in their order; what only one has is passed over."""
    i = j = 0
    while i < len(mine) and j < len(theirs):
        if mine[i] == theirs[j]:
            yield i, j
            i, j = i + 1, j + 1
            continue
        ways = ((i + n, j + far - n) for far in range(1, FURTHEST) for n in range(far + 1))
        alike = (
            (a, b)
            for a, b in ways
            if mine[a : a + ALIKE] == theirs[b : b + ALIKE] and mine[a : a + 1]
        )
        i, j = next(alike, (len(mine), len(theirs)))


def _plain(name: str) -> str:
    return name.rstrip("_")


def _variant(func: Any) -> Any:
    """The overload that writes its first operand; None where there is none."""
    import torch

    namespace, _, name = func._schema.name.partition("::")
    packet = getattr(getattr(torch.ops, namespace), f"{name}_", None)
    return getattr(packet, func._overloadname, None)


def _written(call: Call, k: int, last: dict[int, int], born: frozenset[int]) -> int | None:
    """Which of its operands a call may write: one that nobody needs afterwards."""
    out = call.outs[0]
    if len(call.outs) != 1 or not isinstance(out, Ref):
        return None
    for place in (0, 1) if call.name in SUMS else (0,):
        into = call.flat[place]
        if not isinstance(into, Ref) or (into.size, into.dtype) != (out.size, out.dtype):
            continue
        others = [v for n, v in enumerate(call.flat) if n != place and isinstance(v, Ref)]
        alone = last[into.slot] == k and all(v.slot != into.slot for v in others)
        if alone and into.slot in born and _whole(into) and _whole(out):
            return place
    return None


def _whole(ref: Ref) -> bool:
    """Whether it is all of its storage, in whatever order of dimensions."""
    return ref.offset == 0 and _bytes(ref) == ref.end_bytes


def _moved(call: Call, into: Ref, others: Sequence[Any]) -> Bytes:
    """What it must move now: of a table only what is brought; see `counts.least_bytes`."""
    name = f"{call.name.rpartition('::')[2]}_"
    if name not in (*ADDS, *PLACES):
        return call.moved
    table, brought = (
        _bytes(into),
        sum(_bytes(v) for v in others if isinstance(v, Ref) and v.dtype.is_floating_point),
    )
    placed = min(table, brought)
    return Bytes(call.moved.read - table + (placed if name in ADDS else 0), placed)


def _bytes(ref: Ref) -> int:
    return ref.numel * int(ref.dtype.itemsize)
