"""Which of several implementations a step runs through: seen in one step that nobody times.

torch's dispatcher names what it calls. An operator that a device lacks is made of others: where it
is one of those that are looked for, it is followed down to what the device has.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from bench.dispatch import seen_by
from bench.records.executed import Executed
from bench.records.execution import COMPILE, COMPILE_GRAPH, GRAPH

if TYPE_CHECKING:
    from torch import Tensor

KINDS = {
    "attention": r"attention|flash",
    "experts": r"grouped_|moe",
    "convolution": r"conv(olution|_|\d|$)",
    "scan": r"scan",
}
"""Parts of the names of operators, by what they do; whoever's they are."""
LEFT_OUT = r"backward|choice"
"""Parts of names that tell no implementation."""
SOFTMAX = r"::_?(safe_)?softmax"
"""What is seen of attention that has no operator of its own, between its two products."""
PRODUCT = r"mm|matmul"
"""Of what an operator is made, those that are named."""
COMPOSITE = ("CompositeImplicitAutograd", "CompositeExplicitAutograd")
"""torch's words for an operator that is made of others: always, and where a device has none."""
NOT_OBSERVABLE = {
    COMPILE: "not observable: compiled code calls no operators",
    **dict.fromkeys(
        (GRAPH, COMPILE_GRAPH),
        "not observable: a recording is replayed without calling operators",
    ),
}
"""By execution."""


def executed(step: Callable[[], object], device_type: str) -> Executed:
    """What a step runs through; takes it. device_type: torch's name for the kind of device."""
    watch = _Watch(device_type)
    with seen_by(watch.see):
        step()
    found = {kind: tuple(sorted(names)) for kind, names in watch.found.items() if names}
    if "attention" not in found and watch.softmax:
        # torch's own attention takes the safe one; others may be of routers or outputs.
        safe = {name for name in watch.softmax if "safe" in name} or watch.softmax
        found["attention"] = (f"no operator of its own ({', '.join(sorted(safe))})",)
    tokens = _tokens(watch.ends)
    return Executed(
        operators=found,
        expert_tokens=tuple(map(sum, zip(*tokens, strict=True))),
        experts_hit=statistics.fmean(sum(map(bool, one)) for one in tokens) if tokens else None,
    )


def kind_of(name: str) -> str | None:
    """What an operator is an implementation of; None of all others."""
    if re.search(LEFT_OUT, name):
        return None
    return next((kind for kind, part in KINDS.items() if re.search(part, name)), None)


def _tokens(ends: Sequence[Tensor]) -> list[list[int]]:
    """Of each expert, layer by layer; ends: where in the tokens each expert's come to an end."""
    if not ends or len({x.numel() for x in ends}) > 1:
        return []
    import torch

    return [torch.diff(x.cpu(), prepend=torch.zeros(1, dtype=x.dtype)).tolist() for x in ends]


class _Watch:
    """Sees every operator of a step, and notes those that are looked for."""

    def __init__(self, device_type: str) -> None:
        import torch

        self._has: Any = torch._C._dispatch_has_kernel_for_dispatch_key
        self._key = str(torch._C._dispatch_key_for_device(device_type))
        self.found: dict[str, set[str]] = {kind: set() for kind in KINDS}
        self.softmax: set[str] = set()
        self.ends: list[Tensor] = []
        self._parts: list[set[str]] = []
        """What each operator is made of that is being taken apart, the innermost last."""

    def see(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Calls an operator; of one that is looked for, and lacking, what it is made of."""
        name = func.name()
        kind = kind_of(name)
        for parts in self._parts:
            parts.add(name)
        if kind is None:
            if re.search(SOFTMAX, name) and not re.search(LEFT_OUT, name):
                self.softmax.add(name)
            return func(*args, **kwargs)
        if kind == "experts":
            self._note_ends(args, kwargs)
        made_by = next((key for key in (self._key, *COMPOSITE) if self._has(name, key)), self._key)
        if made_by == self._key:
            self.found[kind].add(name)
            return func(*args, **kwargs)
        result, parts = self._apart(func, made_by, args, kwargs)
        # What is always made of others is none itself; of the rest the innermost tells.
        if made_by != COMPOSITE[0] and not any(kind_of(part) == kind for part in parts):
            products = ", ".join(sorted(p for p in parts if re.search(PRODUCT, p)))
            self.found[kind].add(f"{name} ({products})" if products else name)
        return result

    def _apart(
        self, func: Any, made_by: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, set[str]]:
        """What an operator gives that is made of others, and their names."""
        import torch

        self._parts.append(set())
        try:
            with seen_by(self.see):
                result = func._op_dk(getattr(torch._C.DispatchKey, made_by), *args, **kwargs)
        finally:
            parts = self._parts.pop()
        return result, parts

    def _note_ends(self, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        """One layer's several products, and their gradients, share what says whose is what."""
        import torch

        for x in (*args, *kwargs.values()):
            if not isinstance(x, torch.Tensor) or x.dim() != 1 or x.dtype != torch.int32:
                continue
            if all(x.data_ptr() != one.data_ptr() for one in self.ends):
                self.ends.append(x.detach())
