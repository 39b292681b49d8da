"""Has torch hand over what a launch in another framework needs (`bench.measuring.gates.handed`)."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from bench.backend import Backend
from bench.errors import OutputError
from bench.lifeline import Lifeline, command
from bench.measuring.messages import Answer, Order, Request
from bench.records.encoding import encoded
from bench.records.outcome import Failed, Skipped
from bench.records.reason import reason
from bench.running import child
from bench.running.elsewhere import TORCH

COMMAND = command("bench.frameworks._hand_over")
AHEAD = 10
"""Launches of a case that are handed over at once: to import torch takes longest."""
KILLED = -9
"""How a process ends that the kernel kills."""

Ask = Callable[[Order, Mapping[str, str], float], Answer]


class Handing:
    """What was handed over so far in one run."""

    def __init__(self, folder: Path, given: Mapping[str, str], ask: Ask | None = None) -> None:
        """folder: of the run; given: variables of the process that has torch; ask: for tests."""
        self._folder = folder / "handed"
        self._given = given
        self._ask = ask or asked
        self._answers: dict[str, Answer] = {}

    @staticmethod
    def of(framework: str, folder: Path | None, backend: Backend) -> Handing | None:
        """None for torch. Raises `OutputError` where there is no folder for it."""
        if framework == TORCH:
            return None
        if folder is None:
            raise OutputError(f"--framework {framework}: there is no temporary folder. Set TMPDIR.")
        return Handing(folder, child.variables(backend))

    def handed(self, request: Request) -> Request | Skipped | Failed:
        """The request with its file; or why there is none."""
        launches = request.settings.launches
        count = AHEAD if launches == "auto" else min(AHEAD, launches)
        seeds = tuple(range(request.seed, request.seed + count))
        order = Order(request=request, seeds=seeds, folder=str(self._folder))
        path = self._folder / order.file(request.seed)
        if not path.exists():
            self._folder.mkdir(exist_ok=True)
            answer = self._ask(order, self._given, request.settings.launch_limit_seconds)
            if answer.skipped:
                return Skipped(reason=answer.skipped)
            if answer.failed:
                message = f"torch did not hand over what {request.framework} needs: {answer.failed}"
                return Failed(kind="error", phase="start", message=message)
        return msgspec.structs.replace(request, handed=str(path))


def asked(order: Order, given: Mapping[str, str], limit_seconds: float) -> Answer:
    """What a process with torch answers."""
    lifeline = Lifeline()
    with contextlib.ExitStack() as undo:
        try:
            process = lifeline.start(
                COMMAND,
                given,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        except OSError as error:
            return Answer(failed=f"no process starts ({error.strerror})")
        undo.callback(lifeline.cut)
        undo.enter_context(process)  # closes its pipes
        undo.callback(child.end, process)
        try:
            said, complaint = process.communicate(encoded(order), timeout=limit_seconds)
        except subprocess.TimeoutExpired:
            return Answer(
                failed=f"no answer within {limit_seconds:.0f} s. "
                "Raise launch_limit_seconds in the suite, or take a smaller model or prompt"
            )
    with contextlib.suppress(msgspec.DecodeError, IndexError):
        return msgspec.json.decode(said.splitlines()[-1], type=Answer)
    if process.returncode == KILLED:
        return Answer(
            failed="its process was killed, perhaps by the kernel for want of memory. End other "
            "work, or take a smaller model"
        )
    last = complaint.decode("utf-8", errors="replace").strip().splitlines()[-1:]
    return Answer(failed=reason(f"exit {process.returncode}: {''.join(last)}", given))
