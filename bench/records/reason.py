"""Why a launch failed, as its record keeps it: beginning and end, without secrets or folders."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from bench import units
from bench.records import environment

REASON_CHARACTERS = 2000
"""Longest reason that a record keeps."""
FOLDERS = re.compile(r"(?<![\w/.~<-])(?:~|[A-Za-z]:)?(?:[/\\][\w.+@-]*\w)+[/\\](?=[\w.+@-])")
"""The folders of a path within a text; not those of a URL, nor of a name of shared memory."""
OF_THE_SYSTEM = ("/dev/", "/proc/", "/sys/")
SHARED_MEMORY = Path("/dev/shm")
OF_SHARED_MEMORY = re.compile(
    r"shared memory|\bshm\b|torch_shm|/dev/shm|DataLoader worker .*(killed|exited)|\bBus error\b"
    r"|\bSIGBUS\b|No space left on device",
    re.IGNORECASE,
)
"""What is said where processes could not share memory, or one of them died of it."""


def reason(text: str, given: Mapping[str, str] = os.environ) -> str:
    """A reason for the record; where shared memory may be behind it, with the size of that.

    Of a long one the middle is left out: the first line says what failed, the last one why.
    given: the environment whose secrets are not told.
    """
    said = FOLDERS.sub(_folder, environment.without_secrets(text.strip(), given))
    about = shared_memory() if OF_SHARED_MEMORY.search(text) else ""
    return shortened(said, REASON_CHARACTERS - len(about)) + about


def of_error(error: BaseException) -> str:
    """An exception by kind and words, and those that it names as its cause."""
    said: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(said) < 4:  # no circle, and no endless chain
        words = str(cause)
        said.append(f"{type(cause).__name__}: {words}" if words else type(cause).__name__)
        cause = cause.__cause__
    return "\nbecause of ".join(said)


def first_line(error: BaseException) -> str:
    """Of its words; its kind where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def shortened(text: str, characters: int) -> str:
    """Its beginning and its end, with what was left out between them counted."""
    if len(text) <= characters:
        return text
    left_out = f"\n[... {len(text) - characters} characters or more ...]\n"
    room = max(0, characters - len(left_out))
    return f"{text[: room // 2]}{left_out}{text[len(text) - (room - room // 2) :]}"


def shared_memory() -> str:
    """How much of it there is, as the end of a reason; empty where there is none (not Linux)."""
    try:
        total, _, free = shutil.disk_usage(SHARED_MEMORY)
    except OSError:
        return ""
    return (
        f"\n{SHARED_MEMORY} has {units.memory(total)}, {units.memory(free)} of it free now. If "
        "that is too little, enlarge it: docker run --shm-size=8g, or mount a larger tmpfs there."
    )


def _folder(found: re.Match[str]) -> str:
    return found[0] if found[0].startswith(OF_THE_SYSTEM) else ""
