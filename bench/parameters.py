"""Parameters of a workload's modes: typed fields with defaults, whose types say what is allowed."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Any, ClassVar, TypeVar, get_type_hints

import msgspec

from bench.errors import suggestion
from bench.records.case import ParameterValue


class Within(msgspec.Struct, frozen=True):
    """In the type of a parameter: from `low` to `high`, in multiples of `step`."""

    low: int
    high: int
    step: int = 1

    def check(self, name: str, value: int) -> None:
        """Raises ValueError, with what is allowed."""
        require_within(name, value, self.low, self.high)
        if value % self.step:
            raise ValueError(f"{name} must be a multiple of {self.step}, not {value}")


class OneOf(msgspec.Struct, frozen=True):
    """In the type of a parameter: one of these names."""

    names: Collection[str]

    def check(self, name: str, value: str) -> None:
        """Raises ValueError, with what is allowed."""
        require_one_of(name, value, self.names)


class Later(msgspec.Struct, frozen=True):
    """In the type of a parameter: it came after cases of its mode had been measured.

    Its default means what was done before. A case has it only where it is something else, so that
    what was measured before keeps its fingerprint.
    """


BatchSize = Annotated[int, Within(1, 65536)]
AdamW = Annotated[str, OneOf(["adamw"])]
Sgd = Annotated[str, OneOf(["sgd"])]
AccumulationSteps = Annotated[int, Within(1, 1024)]
"""Micro-batches whose gradients add up before the optimizer takes its step."""


class Parameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of a mode's parameters: fields with defaults, whose types say what is allowed.

    `batch_size: BatchSize = 8`, `layers: Annotated[int, Within(1, 12)] = 12`. What depends on two
    fields is checked in a `__post_init__` of one's own. A value that cannot exist raises ValueError
    with what is allowed. Every field is part of the case's fingerprint; one that is added later is
    marked so, `Annotated[bool, Later()] = False`, and leaves the cases before it what they were.
    """

    earlier: ClassVar[Mapping[int, Mapping[str, ParameterValue]]] = {}
    """Earlier versions of the mode whose step was the same, by number: of each, the parameters that
    it had not, at the values which say what was done then. Their figures are compared with today's.
    """

    def __post_init__(self) -> None:
        """Raises ValueError for what cannot be."""
        for name, rule in _rules(type(self)):
            rule.check(name, getattr(self, name))

    def forward_bytes(self, precision: Any) -> int:
        """Of a mode that serves: what each forward must move, if it is counted."""
        return 0

    def unfit(self, precision: str, execution: str, parallelism: str) -> str:
        """Why no case of these can have them, and what to do instead; empty where one can."""
        return ""

    def winograd_share(self) -> float:
        """Of a step's FLOP, where each 3x3 convolution of stride 1 is Winograd's F(4x4, 3x3), in a
        quarter of its multiplications (Lavin and Gray, arXiv 1509.09308); 1 without any."""
        return 1.0

    @classmethod
    def written(cls, values: Mapping[str, ParameterValue]) -> dict[str, ParameterValue]:
        """The values as a case has them: in the fields' order, without a later one's default."""
        later = _later(cls)
        return {
            name: values[name]
            for name in cls.__struct_fields__
            if name in values
            and not (
                name in later
                and values[name] == later[name]
                and type(values[name]) is type(later[name])
            )
        }


@functools.cache
def _later(kind: type[Parameters]) -> Mapping[str, object]:
    """The defaults of the fields that came later."""
    hints = get_type_hints(kind, include_extras=True)
    return {
        field.name: field.default
        for field in msgspec.structs.fields(kind)
        if any(isinstance(r, Later) for r in getattr(hints[field.name], "__metadata__", ()))
    }


@functools.cache
def _rules(kind: type[Parameters]) -> tuple[tuple[str, Within | OneOf], ...]:
    """What the types of the fields say, field by field."""
    hints = get_type_hints(kind, include_extras=True)
    return tuple(
        (name, rule)
        for name in kind.__struct_fields__
        for rule in getattr(hints[name], "__metadata__", ())
        if isinstance(rule, Within | OneOf)
    )


def require_within(name: str, value: int, low: int, high: int) -> None:
    """Raises ValueError, with what is allowed, unless `low` <= `value` <= `high`."""
    if not low <= value <= high:
        raise ValueError(f"{name} must be from {low} to {high}, not {value}")


def require_one_of(name: str, value: str, allowed: Iterable[str]) -> None:
    """Raises ValueError, with what is allowed, unless `value` is one of them."""
    names = list(allowed)
    if value not in names:
        raise ValueError(f"unknown {name} `{value}`.{suggestion(value, names)}")


Dimensions = TypeVar("Dimensions", bound=msgspec.Struct)
"""A workload's own struct of the dimensions of one model."""

TWIN_SUFFIX = "-2l"
"""Ends the name of a model that is cut to two layers for the numerics gate."""
TWIN_VOCABULARY = 4096
"""Most tokens that a cut model knows."""


def with_twins(sizes: Mapping[str, Dimensions], **cut: Any) -> dict[str, Dimensions]:
    """The sizes, and after them each again, cut for the gate: the named fields to at most so much.

    What is no number is replaced, and what a model has not it has not. A cut has no published
    parameter count.
    """
    twins = {
        name + TWIN_SUFFIX: msgspec.structs.replace(
            size,
            published_parameters=None,
            **{field: _cut(getattr(size, field), value) for field, value in cut.items()},
        )
        for name, size in sizes.items()
    }
    return {**sizes, **twins}


def _cut(found: Any, most: Any) -> Any:
    if not isinstance(most, int):
        return most
    return None if found is None else min(found, most)


def twin_name(model: str) -> str:
    """The name of a model's cut, which is its own."""
    return model.removesuffix(TWIN_SUFFIX) + TWIN_SUFFIX
