"""A step as a tape: its operators in their order, recorded below autograd.

A tensor is written down as (slot, offset, size, stride, dtype), a slot being one storage from its
birth to its death: the tape holds the storages that were there before the step (weights, inputs,
state, caches), and of those made within it none.
"""

from __future__ import annotations

import itertools
import weakref
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.dispatch import seen_by
from bench.measuring.explaining import counts
from bench.measuring.explaining.calls import Call, Ref, copied
from bench.measuring.explaining.kinds import OPTIMIZER, is_structure, is_view, kind_of

if TYPE_CHECKING:
    import torch

MOST_KEPT_BYTES = 64 << 20
"""Integers keep their values up to so many bytes each: positions and indices, which the step may
move, and what decides how much work a call has."""
COMPOSITE = "CompositeImplicitAutograd"
"""torch's word for an operator that is made of others."""
NO_WORK = ("prim", "profiler")
"""Namespaces of what asks or tells something, and works on no tensor."""


class Given(NamedTuple):
    """What a call was given, and what it gave."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any


class Taken(NamedTuple):
    """Arguments of a call before it, which may change what they hold."""

    flat: tuple[Any, ...]
    """As the tape has them."""
    known: dict[int, torch.UntypedStorage]
    """See `Call.known`."""


class Tape:
    """What was recorded."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.leaves: dict[int, torch.UntypedStorage] = {}
        """Storages that were there before the step, by slot."""
        self.values: dict[int, torch.UntypedStorage] = {}
        """Of those that hold no floating-point numbers, a copy of what they held."""
        self.written: set[int] = set()
        """Slots that a call writes into."""
        self.born: set[int] = set()
        """Slots of those that were made in it."""
        self.asks: Counter[str] = Counter()
        """Operators that make the host wait for a value, or whose output's shape depends on one."""
        self.random: Counter[str] = Counter()

    @property
    def notes(self) -> tuple[str, ...]:
        """What may make a second time differ."""
        asked = [f"asks the device: {name} x{n}" for name, n in sorted(self.asks.items())]
        return (*asked, *(f"random: {name} x{n}" for name, n in sorted(self.random.items())))

    def dying(self) -> dict[int, list[int]]:
        """Of each call, the slots born in the step that no later call needs."""
        last = {ref.slot: k for k, call in enumerate(self.calls) for ref in call.refs}
        found: dict[int, list[int]] = {}
        for slot, k in last.items():
            if slot in self.born:
                found.setdefault(k, []).append(slot)
        return found

    def replay_bytes(self) -> int:
        """Most that a replay holds beside the job: what it makes itself, and the kept integers."""
        size: dict[int, int] = {}
        for call in self.calls:
            for ref in call.refs:
                size[ref.slot] = max(size.get(ref.slot, 0), ref.end_bytes)
        dying, held, live, most = self.dying(), set[int](), 0, 0
        for k, call in enumerate(self.calls):
            for ref in call.refs:
                if ref.slot in self.born and ref.slot not in held:
                    held.add(ref.slot)
                    live += size[ref.slot]
            most = max(most, live)
            live -= sum(size[slot] for slot in dying.get(k, ()))
        known = {id(one): one for call in self.calls for one in call.known.values()}
        kept = sum(one.nbytes() for one in (*self.values.values(), *known.values()))
        return most + kept + sum(self.values[slot].nbytes() for slot in self.moved)

    @property
    def moved(self) -> set[int]:
        """Slots of kept integers that the step writes into."""
        return self.written & self.values.keys()


def recorded(step: Callable[[], object], device_type: str) -> Tape:
    """The tape of a step; takes it. device_type: torch's name for the kind of device.

    What a mode sees is not quite the step: see `bench.measuring.explaining.undone`.
    """
    tape = Tape()
    with seen_by(_Recorder(tape, device_type).see):
        step()
    return tape


class _Writer:
    """Writes the calls of a step onto a tape."""

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        self._slots: dict[int, int] = {}
        self._count = itertools.count()
        self._known: dict[int, torch.UntypedStorage] = {}
        """Of integers made in the step, by slot, what they hold until they are written."""
        self._variants: set[Hashable] = set()
        self._marks: list[bool] = []

    def mark(self, func: Any, args: tuple[Any, ...]) -> None:
        """Where an optimizer's step begins and ends, torch says to its profiler."""
        mark = str(func)
        if "record_function_enter" in mark:
            self._marks.append(str(args[0]).startswith(OPTIMIZER))
        elif "record_function_exit" in mark and self._marks:
            self._marks.pop()

    def taken(self, func: Any, flat: Sequence[Any]) -> Taken:
        """Arguments before the call, which may change what they hold."""
        import torch

        refs = tuple(self._ref(v, True) if isinstance(v, torch.Tensor) else v for v in flat)
        known: dict[int, torch.UntypedStorage] = {}
        for ref, tensor in () if is_structure(func) else zip(refs, flat, strict=True):
            if not isinstance(ref, Ref) or ref.dtype.is_floating_point:
                continue
            storage = tensor.untyped_storage()
            if ref.slot in self.tape.born and storage.nbytes() <= MOST_KEPT_BYTES:
                if ref.slot not in self._known:
                    self._known[ref.slot] = copied(storage)
                known[ref.slot] = self._known[ref.slot]
        return Taken(refs, known)

    def write(self, func: Any, taken: Taken, spec: Any, given: Given) -> None:
        """One call; taken: its arguments as they were before it."""
        from torch.utils._pytree import tree_leaves

        args, kwargs, out = given
        for ref in self._targets(func, args, kwargs):
            self.tape.written.add(ref.slot)
            self._known.pop(ref.slot, None)
        structure, kind = is_structure(func), kind_of(func)
        if any(self._marks) and not structure:
            kind = "optimizer"
        self._note(func, structure)
        flop = 0 if structure else counts.least_flop(func, args, kwargs, out)
        moved = counts.Bytes(0, 0)
        if not structure:
            moved = counts.least_bytes(func, args, kwargs, out)
        call = Call(
            func=func,
            flat=taken.flat,
            spec=spec,
            outs=tuple(map(self._given, tree_leaves(out))),
            kind=kind,
            flop=flop,
            moved=moved,
            precision=counts.arithmetic(args) if flop else "",
            structure=structure,
            known=taken.known,
        )
        if call.known:
            if (variant := call.variant) in self._variants:
                call = call._replace(known={})
            self._variants.add(variant)
        self.tape.calls.append(call)

    def _given(self, value: Any) -> Ref | None:
        import torch

        return self._ref(value, False) if isinstance(value, torch.Tensor) else None

    def _note(self, func: Any, structure: bool) -> None:
        import torch

        name, tags = str(func._schema.name), func.tags
        if torch.Tag.data_dependent_output in tags or torch.Tag.dynamic_output_shape in tags:
            self.tape.asks[name] += 1
        if torch.Tag.nondeterministic_seeded in tags and not structure:
            self.tape.random[name] += 1

    def _targets(self, func: Any, args: Any, kwargs: Any) -> list[Ref]:
        given = counts.by_name(func, args, kwargs)
        return [
            self._ref(tensor, True)
            for argument in func._schema.arguments
            if counts.is_written(argument)
            for tensor in counts.tensors(given.get(argument.name))
        ]

    def _ref(self, tensor: torch.Tensor, is_input: bool) -> Ref:
        storage = tensor.untyped_storage()
        key = storage._cdata
        slot = self._slots.get(key)
        if slot is None:
            slot = self._slots[key] = next(self._count)
            weakref.finalize(storage, self._forget, key)
            if is_input:
                self.tape.leaves[slot] = storage
            else:
                self.tape.born.add(slot)
        whole = is_input and not tensor.is_floating_point() and slot in self.tape.leaves
        if whole and slot not in self.tape.values and storage.nbytes() <= MOST_KEPT_BYTES:
            self.tape.values[slot] = copied(storage)
        size, stride = tuple(tensor.shape), tuple(tensor.stride())
        return Ref(slot, int(tensor.storage_offset()), size, stride, tensor.dtype)

    def _forget(self, key: int) -> None:
        """A storage is gone."""
        self._known.pop(self._slots.pop(key, -1), None)


def _keep_requirement(flat: Sequence[Any], out: Any) -> None:
    """In inference mode a weight's view requires what the weight does, and within a composite below
    a mode it does not: products would be folded otherwise (`should_fold` of aten's LinearAlgebra).
    Of a view that Python asks for, torch sees to it, and refuses one that has it already."""
    import torch

    if any(isinstance(v, torch.Tensor) and v.requires_grad for v in flat):
        for one in counts.tensors(out):
            if one.is_floating_point():
                one.requires_grad_()


class _Recorder:
    """Has operators written down."""

    def __init__(self, tape: Tape, device_type: str) -> None:
        import torch

        self._writer = _Writer(tape)
        self._has: Any = torch._C._dispatch_has_kernel_for_dispatch_key
        self._key = str(torch._C._dispatch_key_for_device(device_type))
        self._within = 0  # how many composites

    def see(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Calls an operator, and writes it down."""
        import torch
        from torch.utils._pytree import tree_flatten

        if not isinstance(func, torch._ops.OpOverload) or func.namespace in NO_WORK:
            result = func(*args, **kwargs)
            self._writer.mark(func, args)
            return result
        # In inference mode nothing takes composites apart before a mode sees them. What has a
        # kernel is one operator, though it could be taken apart too.
        # By torch's own kernel: what Python has in its place (`decompose`) may do more.
        if not self._has(func.name(), self._key) and self._has(func.name(), COMPOSITE):
            self._within += 1
            try:
                with seen_by(self.see):
                    kernel = getattr(torch._C.DispatchKey, COMPOSITE)
                    return func._op_dk(kernel, *args, **kwargs)
            finally:
                self._within -= 1
        flat, spec = tree_flatten((args, kwargs))
        taken = self._writer.taken(func, flat)
        out = func(*args, **kwargs)
        if self._within and torch.is_inference_mode_enabled() and is_view(func):
            _keep_requirement(flat, out)
        self._writer.write(func, taken, spec, Given(args, kwargs, out))
        return out
