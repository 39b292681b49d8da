"""The protocol of a source of telemetry: power, clocks, heat and other users of one device.

A backend gives the source of its devices (`Backend.telemetry`); a side process reads it
(`bench.running.sampler`), never the process that measures. Nothing here imports torch.

Why not `zeus` (0.16), which many measure energy with: it reads the counters that are read here too,
of four kinds of chip, but it brings pandas, scikit-learn, pydantic and an HTTP client into every
installation, it knows no throttle reasons and no other users, and its windows synchronize and read
in the process that it measures. What is needed of a counter is one call of the vendor's own
library, made directly.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from bench.records.observed import Reading, Scope

TOOL_SECONDS = 5.0
"""A vendor's program that takes longer says nothing."""


class NotObservable(Exception):
    """A device that has no telemetry here; the message is the reason."""


class Process(NamedTuple):
    """A process on the device. Whose it is and what it is called is nobody's business."""

    pid: int
    """As the source counts: inside a container not always as the container does."""
    memory_bytes: int | None


class Source(ABC):
    """Where the figures of one device come from, opened in the side process."""

    name: str
    """As its vendor calls it."""
    scope: Scope = "board"
    interval_seconds: float = 0.2
    """Least time between two readings; at least 0.2 s is kept by whoever reads."""

    card: str = ""
    """Which card or package the power and energy are of, by whatever tells it from the others of
    this host: devices that say the same have one figure between them, which is counted once. Empty:
    it does not say; then nothing is added up over devices, unless the scope is `chip`. It is
    compared, and never recorded."""
    card_devices: int | None = None
    """Devices that lie on that card or package; None: it does not say."""
    part: str = ""
    """Where this device is a part of what the figures are of: what makes it one. The whole's power
    and energy are then nobody's figure of the part, and whoever reads leaves them out."""

    def __init__(self) -> None:
        self.absent: dict[str, str] = {}
        """What this device does not say, and why: by the names of `QUANTITIES`."""

    def is_part(self, why: str) -> None:
        """Says that this device is a part of what the figures are of, and why; "": it is not."""
        if why:
            self.part, self.scope = why, "shared"

    def ask(self, quantity: str, library: Any, name: str, *arguments: Any) -> Any:
        """What a vendor's library says under a name; None where it fails, or an older one lacks it,
        which costs that quantity alone."""
        try:
            answer = getattr(library, name)(*arguments)
        except Exception as error:  # noqa: BLE001 - a vendor's library fails as it likes
            self.absent[quantity] = f"{self.name}: {error}"
            return None
        self.absent.pop(quantity, None)
        return answer

    @abstractmethod
    def read(self) -> Reading:
        """The figures now. None for what is not said, with the reason in `absent`.

        Raises `NotObservable` if there is nothing at all.
        """

    def processes(self) -> tuple[Process, ...] | None:
        """Processes that have the device open; None where the source cannot say."""
        return None


def of_this_device(source: Source, reading: Reading) -> tuple[Reading, dict[str, str]]:
    """The reading without the power and energy of a whole of which this is a part; and why not."""
    if not source.part:
        return reading, {}
    why = f"{source.name} counts the whole device, of which this is a part: {source.part}"
    gone = {"power_watts": None, "energy_joules": None}
    return msgspec.structs.replace(reading, **gone), dict.fromkeys(("power", "energy"), why)


class Sayings:
    """What programs printed a moment ago, so that devices which ask side by side run each once.

    Most print the whole card, or the whole host: 16 dies that ask for themselves would have it
    printed 16 times.
    """

    def __init__(self) -> None:
        self.kept_seconds = 0.0
        """For how long an answer is good for others; 0: each runs its own."""
        self._lock = threading.Lock()
        self._asking: dict[tuple[str, ...], threading.Lock] = {}
        self._last: dict[tuple[str, ...], tuple[float, str | NotObservable]] = {}

    def of(self, words: tuple[str, ...], run: Callable[[], str]) -> str:
        """What `run` gives, or gave to another thread that asked for it in these words."""
        with self._lock:
            asking = self._asking.setdefault(words, threading.Lock())
        with asking:
            ended, answer = self._last.get(words, (-math.inf, ""))
            if time.monotonic() - ended > self.kept_seconds:
                try:
                    answer = run()
                except NotObservable as why:
                    answer = why
                self._last[words] = (time.monotonic(), answer)
        if isinstance(answer, str):
            return answer
        raise NotObservable(*answer.args)


SAYINGS = Sayings()


def said(program: str, *arguments: str, seconds: float = TOOL_SECONDS) -> str:
    """What a vendor's program prints. In the side process, which looks at devices side by side,
    that may be what it has just printed for another.

    Raises `NotObservable` where it is not there, fails, or takes longer than `seconds`.
    """
    if SAYINGS.kept_seconds > 0:
        return SAYINGS.of((program, *arguments), lambda: _said(program, arguments, seconds))
    return _said(program, arguments, seconds)


def _said(program: str, arguments: Sequence[str], seconds: float) -> str:
    found = shutil.which(program)
    if found is None:
        raise NotObservable(f"{program} is not on PATH")
    try:
        done = subprocess.run(
            [found, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        raise NotObservable(f"{program} did not answer within {seconds:g} s") from None
    except OSError as error:
        raise NotObservable(f"{program} does not start ({error.strerror})") from error
    if done.returncode != 0:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise NotObservable(f"{program} failed: {last[0] if last else f'exit {done.returncode}'}")
    return done.stdout


def printed_json(text: str, program: str) -> Any:
    """The JSON that a vendor's program has printed, past the lines of a log before it and after.

    Raises `NotObservable` where there is none, or not to its end.
    """
    decoder = json.JSONDecoder()
    at = 0
    for line in text.splitlines(keepends=True):
        bare = line.strip()
        if bare.startswith(("{", "[")):
            try:
                found, end = decoder.raw_decode(text, at + line.index(bare[0]))
            except (ValueError, RecursionError) as error:
                if bare[0] == "{" or bare[1:2] in ("", "{", "[", '"', "]"):  # no `[WARNING] ...`
                    raise NotObservable(f"{program} printed no whole JSON ({error})") from error
            else:
                if not text[end:].partition("\n")[0].strip():
                    return found
        at += len(line)
    raise NotObservable(f"{program} printed no JSON")
