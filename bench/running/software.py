"""A run's launches are all of one software: what is installed meanwhile would be mixed in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bench.errors import RecordError
from bench.records import flaws
from bench.records.environment import section
from bench.records.explained import Explanation
from bench.records.run import Launch
from bench.records.runfile import Writer

FACTS = ("python", "packages")
"""What a launch says of its software, if it came so far."""


def _said(launch: Launch | Explanation) -> dict[str, Any]:
    """Each fact by its name; a package of plug-ins is one, as each case has its own."""
    said = {k: v for k, v in launch.environment.items() if k in FACTS}
    return said | dict(section(launch.environment, "plug_ins"))


class Software:
    """What the launches of a run were measured with, and its explanations."""

    def __init__(self, done: Iterable[Launch | Explanation] = ()) -> None:
        """done: those that the record holds already."""
        self._first: dict[str, Any] = {}
        for launch in done:
            self._note(launch)

    def _note(self, launch: Launch | Explanation) -> None:
        self._first = _said(launch) | self._first

    def require(self, launch: Launch | Explanation, writer: Writer) -> None:
        """Raises `RecordError` if a launch that is to be added to the record had other software."""
        changed = [
            f"{name} was {self._first[name]}, is {now}"
            for name, now in _said(launch).items()
            if self._first.get(name, now) != now
        ]
        if changed:
            raise RecordError(
                f"{writer.path}: software changed while the run went on, and launches of two do "
                f"not mix: {'; '.join(changed)}. What was measured before is on disk. Restore "
                f"what was there, then {flaws.go_on(str(writer.path), writer.command)}"
            )
        self._note(launch)
