"""The unit of work: what is run, independent of where. Its hash is its identity."""

from __future__ import annotations

import hashlib
import re

import msgspec

from bench import units

_SUFFIXES = re.compile(r"_(size|length|tokens|steps)$")
ParameterValue = bool | int | float | str


class Case(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One piece of standard work, every parameter written out (defaults included).

    Two records whose cases differ in anything here are not the same work. What may differ between
    two chips (device, driver, memory format, attention kernel) is not here but in the record.
    """

    workload: str
    version: int
    """The workload's own version: raised whenever its step changes meaning."""
    mode: str
    """`train`, `infer`, `prefill`, `decode`, `matmul`, `copy`, ... as the workload names them."""
    precision: str
    execution: str = "eager"
    parameters: dict[str, ParameterValue]
    devices: int = 1
    """World size: how many devices work on one step."""
    parallelism: str = "none"

    def __post_init__(self) -> None:
        for name in ("workload", "mode", "precision", "execution", "parallelism"):
            if not getattr(self, name):
                raise ValueError(f"case without a {name}")
        if self.version < 1 or self.devices < 1:
            raise ValueError("a case's version and device count start at 1")

    @property
    def fingerprint(self) -> str:
        """16 hex digits of the SHA-256 of the case's canonical JSON (keys sorted, no spaces)."""
        canonical = msgspec.json.encode(self, order="deterministic")
        return hashlib.sha256(canonical).hexdigest()[:16]

    @property
    def name(self) -> str:
        """Short name for globs and progress lines: `llama-train`; `gemm` where it has one mode."""
        return f"{self.workload}-{self.mode}"

    @property
    def detail(self) -> str:
        """The parameters in words: `batch 8, image 224, sgd`; `size 256 MiB`.

        What is switched off, and one micro-batch a step, goes without saying.
        """
        words = []
        for key, value in self.parameters.items():
            if value is False or (key.endswith("_steps") and value == 1):
                continue
            if isinstance(value, str):
                words.append(value)
            elif value is True:
                words.append(key.replace("_", " "))
            elif key.endswith("_bytes"):
                words.append(f"{key.removesuffix('_bytes')} {units.memory(int(value))}")
            else:
                words.append(f"{_SUFFIXES.sub('', key)} {value}")
        return ", ".join(words)

    @property
    def label(self) -> str:
        """Everything that tells two cases of one suite apart, on one line."""
        execution = "" if self.execution == "eager" else f" {self.execution}"
        return f"{self.name} {self.precision}{execution} ({self.detail})"
