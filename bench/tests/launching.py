"""One launch of one worker, as `bench.running.launcher` makes many."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from bench.measuring.messages import Request
from bench.running.launcher import COMMAND, Finished, launch_together
from bench.running.worker_process import Listener


def launch(
    request: Request,
    variables: Mapping[str, str],
    listen: Listener = lambda progress: None,
    command: tuple[str, ...] = COMMAND,
) -> Finished:
    """Runs one worker to its end."""
    with contextlib.closing(launch_together([request], variables, listen, command)) as finished:
        return next(finished)
