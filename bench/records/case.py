"""The unit of work: what is run, independent of where. Its hash is its identity."""

from __future__ import annotations

import functools
import hashlib
import math
import re
from collections.abc import Iterable
from typing import Any

import msgspec

from bench import units

_SUFFIXES = re.compile(r"_(size|length|tokens|steps)$")
ParameterValue = bool | int | float | str
Setting = int | str
"""A value of something that a tuned case leaves open."""
Choice = dict[str, Setting]
"""One setting of all that a tuned case leaves open: `{"batch_size": 64, "execution": "eager"}`."""
TUNABLE = ("batch_size", "execution", "memory_format", "compiler")
"""What a tuned case may leave open: none of it changes what an item is."""
COMPILER = "compiler"
PLAIN, SEARCHED = "default", "max-autotune"
"""How a compiler goes to work: as it does by itself, or trying kernels and taking the fastest."""
MOST_CHOICES = 1000
"""Of one tuned case: each is a process of its own."""
TUNED = "tuned"
"""The track's name: a key of a suite's table, and the execution of a case that leaves it open."""


class Case(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, dict=True):
    """One piece of standard work, every parameter written out (defaults included).

    Two records whose cases differ in anything here are not the same work. What may differ between
    two chips (device, driver, memory format, attention kernel) is not here but in the record.

    A case is of the *fixed* track, every parameter as it is named, or of the *tuned* one: then it
    leaves some settings open within a stated space, and its figure is that of the best of them.
    """

    workload: str
    version: int
    """The mode's own version: raised whenever its step changes meaning."""
    mode: str
    """`train`, `infer`, `prefill`, `decode`, `matmul`, `copy`, ... as the workload names them."""
    precision: str
    execution: str = "eager"
    parameters: dict[str, ParameterValue]
    devices: int = 1
    """World size: how many devices work on one step."""
    parallelism: str = "none"
    tuned: dict[str, tuple[Setting, ...]] | msgspec.UnsetType = msgspec.UNSET
    """Of a tuned case: the values, in ascending order, of each setting that it leaves open. Absent
    from the JSON of every other case, whose fingerprint so stays what it was."""

    def __post_init__(self) -> None:
        for name in ("workload", "mode", "precision", "execution", "parallelism"):
            if not getattr(self, name):
                raise ValueError(f"case without a {name}")
        if self.version < 1 or self.devices < 1:
            raise ValueError("a case's version and device count start at 1")
        if self.tuned is not msgspec.UNSET:
            _check_space(self.tuned, self.parameters)

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hex digits of the SHA-256 of the case's canonical JSON (keys sorted, no spaces).

        Reports ask for it over and over; a case does not change."""
        canonical = msgspec.json.encode(self, order="deterministic")
        return hashlib.sha256(canonical).hexdigest()[:16]

    def require(self, fingerprint: str) -> None:
        """Raises ValueError where a fingerprint is another case's."""
        if fingerprint != self.fingerprint:
            raise ValueError(
                f"fingerprint {fingerprint} is not that of its case ({self.fingerprint})"
            )

    @property
    def name(self) -> str:
        """Short name for globs and progress lines: `llama-train`; `gemm` where it has one mode."""
        return f"{self.workload}-{self.mode}"

    @property
    def space(self) -> dict[str, tuple[Setting, ...]]:
        """What a tuned case leaves open; nothing for one of the fixed track."""
        return {} if self.tuned is msgspec.UNSET else self.tuned

    @property
    def track(self) -> str:
        """`fixed` or `tuned`; figures of the two are never compared."""
        return TUNED if self.space else "fixed"

    @property
    def alone(self) -> Case:
        """The same work on one device."""
        return msgspec.structs.replace(self, devices=1, parallelism="none")

    @property
    def variant(self) -> str:
        """How it is run, where that is not eager, fixed and on one device: ` compile`, ` tuned`,
        ` dp8`, ` 8 devices`; else empty."""
        words = [] if self.execution in ("eager", TUNED) else [self.execution]
        if self.devices > 1:
            together = f"{self.devices} devices"
            words.append(together if self.parallelism == "none" else self.parallelism)
        words += [TUNED] if self.space else []
        return "".join(f" {word}" for word in words)

    @property
    def detail(self) -> str:
        """The parameters in words: `batch 8, image 224, sgd`; `size 256 MiB`.

        What is switched off, and one micro-batch a step, goes without saying. A tuned case ends
        with what it leaves open: `batch 1 to 64, compile or eager`.
        """
        return ", ".join(self.worded((*self.parameters, *self.space)))

    def worded(self, names: Iterable[str]) -> tuple[str, ...]:
        """Some of its parameters in words, and of what it leaves open, in the order of the names.

        A name that the case does not have has no words, nor has what goes without saying.
        """
        words = []
        for key in names:
            if key in self.space:
                words.append(_range(key, self.space[key]))
            elif key in self.parameters:
                words.append(_setting(key, self.parameters[key]))
        return tuple(word for word in words if word)

    @property
    def label(self) -> str:
        """Everything that tells two cases of one suite apart, on one line."""
        said = f"{self.name} {self.precision}{self.variant}"
        return f"{said} ({self.detail})" if self.detail else said


def ascending(values: Iterable[Setting]) -> tuple[Setting, ...]:
    """The values, each once: numbers in their order, then names in theirs."""
    given = list(values)
    numbers = sorted({value for value in given if isinstance(value, int)})
    return (*numbers, *sorted({value for value in given if isinstance(value, str)}))


def _check_space(space: dict[str, tuple[Setting, ...]], parameters: dict[str, Any]) -> None:
    """Raises ValueError for what no tuned case can leave open."""
    for key, values in space.items():
        if key not in TUNABLE or key in parameters:
            raise ValueError(f"a tuned case cannot leave {key} open")
        kinds = {type(value) for value in values}
        wanted = int if key == "batch_size" else str
        if kinds != {wanted} or values != ascending(values):
            raise ValueError(f"{key}: values of one kind, ascending, each once")
    if not 2 <= math.prod(len(values) for values in space.values()) <= MOST_CHOICES:
        raise ValueError(f"a tuned case must have from 2 to {MOST_CHOICES} choices")


def within(space: dict[str, tuple[Setting, ...]], choice: Choice) -> bool:
    """Whether a choice has one of the allowed values for each setting that is open, and no other.

    A case without open settings has none to choose.
    """
    return choice.keys() == space.keys() and all(choice[key] in space[key] for key in space)


def _setting(key: str, value: ParameterValue) -> str:
    """A parameter in words; empty for what is switched off, and for one micro-batch a step or one
    operation a chain."""
    if value is False or (value == 1 and (key.endswith("_steps") or key == "chained")):
        return ""
    if not value and key in ("length_sigma", "length_seed"):  # all lengths alike; the usual draw
        return ""
    if isinstance(value, str):
        return value
    if value is True:
        return key.replace("_", " ")
    if key.endswith("_ms"):
        return f"{key.removesuffix('_ms').replace('_', ' ')} {value} ms"
    if key.endswith("_bytes"):
        return f"{key.removesuffix('_bytes')} {units.memory(int(value))}"
    return f"{_SUFFIXES.sub('', key)} {value}"


def _range(key: str, values: tuple[Setting, ...]) -> str:
    if key != "batch_size":
        return " or ".join(str(value) for value in values)
    return f"batch {values[0]}" + (f" to {values[-1]}" if len(values) > 1 else "")
