"""Undoes what recording did to the step: below a mode autograd adds gradients out of place.

Source: `can_accumulate_inplace` in torch/csrc/autograd/input_buffer.cpp, which refuses where a mode
is active. What is left of the difference is found by the operators' counts.
"""

from __future__ import annotations

from typing import Any

from bench.measuring.explaining.counts import Bytes
from bench.measuring.explaining.tape import Call, Ref, Tape


def accumulate_in_place(tape: Tape) -> int:
    """Makes `add` of two gradients the `add_` that a step does by itself; gives how many."""
    import torch

    last = {ref.slot: k for k, call in enumerate(tape.calls) for ref in call.refs}
    renamed: dict[int, int] = {}
    done = 0

    def now(value: Any) -> Any:
        if isinstance(value, Ref) and value.slot in renamed:
            return value._replace(slot=renamed[value.slot])
        return value

    for k, call in enumerate(tape.calls):
        pair = _pair(tape, call, k, last) if call.func is torch.ops.aten.add.Tensor else None
        if pair is None:
            flat, outs = tuple(map(now, call.flat)), tuple(map(now, call.outs))
            tape.calls[k] = call._replace(flat=flat, outs=outs)
            continue
        into, other = map(now, pair)
        out = call.outs[0]
        assert isinstance(out, Ref)
        renamed[out.slot] = into.slot
        tape.born.discard(out.slot)
        size = into.numel * int(into.dtype.itemsize)
        more = other.numel * int(other.dtype.itemsize)
        tape.calls[k] = call._replace(
            func=torch.ops.aten.add_.Tensor,
            flat=(into, other),
            outs=(into,),
            moved=Bytes(size + more, size),
        )
        done += 1
    return done


def _pair(tape: Tape, call: Call, k: int, last: dict[int, int]) -> tuple[Ref, Ref] | None:
    """Into which of two gradients the other is added, as autograd would; None where in neither."""
    out = call.outs[0]
    if not call.backward or len(call.flat) != 2 or not isinstance(out, Ref):
        return None
    if not all(isinstance(v, Ref) for v in call.flat):
        return None
    for into, other in (call.flat, call.flat[::-1]):
        same = into.size == other.size == out.size and into.dtype == out.dtype
        alone = last[into.slot] == k and into.slot in tape.born and into.slot != other.slot
        if same and alone and _whole(into) and _whole(out):
            return into, other
    return None


def _whole(ref: Ref) -> bool:
    """Whether it is all of its storage, in whatever order of dimensions."""
    return ref.offset == 0 and ref.numel * int(ref.dtype.itemsize) == ref.end_bytes
