"""The conformance kit's parent: each check in a process of its own, whatever becomes of it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence

import msgspec

from bench import catalogue, lifeline
from bench.backend import DeviceInfo
from bench.conformance.check import Check, Finding, failed, unseen
from bench.conformance.worker import Task, checks
from bench.errors import OutputError
from bench.lifeline import Lifeline
from bench.records.reason import reason
from bench.running import child, scratch
from bench.running.ears import Lines
from bench.running.elsewhere import HERE, TORCH, Elsewhere

TOGETHER = 4
"""Processes that import torch side by side; none opens the device before all of them have."""
IMPORT_SECONDS = 120.0
"""A torch that takes longer to import is taken for broken."""
DECODER = msgspec.json.Decoder(Finding | None)


class Examined(msgspec.Struct, frozen=True, kw_only=True):
    """What one check found."""

    check: str
    summary: str
    findings: tuple[Finding, ...]
    seconds: float

    @property
    def failures(self) -> int:
        """How many of its findings are failures."""
        return sum(finding.verdict == "fail" for finding in self.findings)


def examine(
    device: DeviceInfo,
    wanted: Sequence[Check],
    command: tuple[str, ...] | None = None,
    where: Elsewhere = HERE,
) -> Generator[Examined, None, None]:
    """Runs the checks one after the other; none ends another. Leaves no process behind.

    command: of a check's process, for tests; where: the framework that reaches the device. Raises
    `OutputError` where its compilers have no place to write.
    """
    command = command or lifeline.command("bench.conformance.worker", where.python)
    with contextlib.ExitStack() as stack:
        given = child.variables(catalogue.backend(device.backend), _folders(where, stack))
        for first in range(0, len(wanted), TOGETHER):
            batch = wanted[first : first + TOGETHER]
            yield from _batch(device, batch, given, command, where.framework)


def _folders(where: Elsewhere, stack: contextlib.ExitStack) -> dict[str, str]:
    """Variables that say where a framework's compilers write, for as long as the stack is."""
    if where.framework == TORCH:
        return {}
    try:
        folder = scratch.new()
    except OSError as error:
        raise OutputError(
            f"--framework {where.framework}: there is no temporary folder ({error.strerror}). "
            "Set TMPDIR."
        ) from error
    stack.callback(scratch.gone, folder)
    names = catalogue.framework(where.framework).compiler_folders
    return {name: str(folder / name.lower()) for name in names if name not in os.environ}


def _batch(
    device: DeviceInfo,
    batch: Sequence[Check],
    given: Mapping[str, str],
    command: tuple[str, ...],
    framework: str,
) -> Generator[Examined, None, None]:
    with contextlib.ExitStack() as stack:
        running = [
            None
            if check.absent
            else stack.enter_context(_Running(check, device, given, command, framework))
            for check in batch
        ]
        for there in filter(None, running):
            there.until_imported()
        for check, one in zip(batch, running, strict=True):
            start = time.monotonic()
            found = [unseen(check.summary, check.absent)] if one is None else one.findings()
            yield Examined(
                check=check.name,
                summary=check.summary,
                findings=tuple(found),
                seconds=time.monotonic() - start if one else 0.0,
            )


class _Running:
    """One check's process."""

    def __init__(
        self,
        check: Check,
        device: DeviceInfo,
        given: Mapping[str, str],
        command: tuple[str, ...],
        framework: str,
    ) -> None:
        self._check = check
        self._given = given
        self._end = ""
        with contextlib.ExitStack() as undo:
            self._stderr = undo.enter_context(tempfile.TemporaryFile())
            lifeline = Lifeline()
            self._process = lifeline.start(
                command, given, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr
            )
            undo.callback(lifeline.cut)
            self._close = undo.pop_all().close
        self._lines = Lines(self._process)
        task = Task(
            check=check.name, backend=device.backend, index=device.index, framework=framework
        )
        self._tell(msgspec.json.encode(task))

    def __enter__(self) -> _Running:
        return self

    def __exit__(self, *_: object) -> None:
        child.end(self._process)
        self._close()

    def until_imported(self) -> None:
        """Waits for torch, or another framework, to be imported, or for the end."""
        late = f"it had not imported its framework after {IMPORT_SECONDS:.0f} s"
        self._line(time.monotonic() + IMPORT_SECONDS, late)

    def findings(self) -> list[Finding]:
        """Gives it its turn, hears it out, and ends it."""
        deadline = time.monotonic() + self._check.limit_seconds
        self._tell(b"")
        found = list(self._said(deadline))
        child.end(self._process)
        return found

    def _said(self, deadline: float) -> Generator[Finding, None, None]:
        late = f"it did not end within {self._check.limit_seconds:.0f} s"
        while not self._end:
            line = self._line(deadline, late)
            if line is None:
                break
            try:
                finding = DECODER.decode(line)
            except (msgspec.DecodeError, ValueError) as error:
                self._end = f"what it said is garbled: {error}"
                break
            if finding is None:
                return
            yield finding
        next = "Run the check by hand in a debugger; what it did is in `bench/conformance/checks/`"
        said = reason(self._end, self._given)
        yield failed(f"{self._check.name}: to its end", "", said, next)

    def _tell(self, line: bytes) -> None:
        child.tell(self._process, line)

    def _line(self, deadline: float, late: str) -> bytes | None:
        """The next line that it says; None at its end, which `_end` then describes.

        late: how, where nothing came by the deadline.
        """
        line = self._lines.next(deadline)
        if line is None and self._lines.late:
            child.ask_for_stacks(self._process)
            self._end = late
        elif line is None:
            self._end = child.epitaph(self._process, self._stderr)
        return line


def all_checks(framework: str = TORCH) -> tuple[Check, ...]:
    """The whole kit."""
    return tuple(checks(framework).values())
