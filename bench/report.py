"""The protocol of a report: runs in, text out. One file per format in `bench/reports/`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import msgspec

from bench.records.run import RunFile


class Canvas(msgspec.Struct, frozen=True, kw_only=True):
    """What the reader's terminal can show; formats for files ignore it."""

    width: int = 100
    colour: bool = False
    wide: bool = False
    """Whether everything is shown of every case, rather than a line."""
    beside_record: bool = False
    """Whether it is read where the record lies, by who typed its path: then a command to type next
    has that path. What is handed on names a file by its last name only."""


class Report(ABC):
    """One output format."""

    @abstractmethod
    def render(self, runs: Sequence[RunFile], canvas: Canvas) -> str:
        """The whole report as text, ending in a newline."""
