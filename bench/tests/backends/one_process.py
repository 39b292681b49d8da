"""The command, whose launches all happen in its own process: what they import, it imports once.

`python -m bench.tests.backends.one_process run --device ascend`. A launch takes as few samples,
requests and queued steps as it may, as soon as it can; no memory is counted beforehand, and nobody
looks at the device. ResNet-50 has a block a stage, which has all its operators; ViT-B/16 and the
toy of a UNet are narrow.
"""

from __future__ import annotations

import gc
import io
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import msgspec

from bench import cli
from bench.measuring import messages
from bench.measuring.launch import Launch
from bench.measuring.proving import left_out
from bench.measuring.timing import single_steps
from bench.records import environment
from bench.running import launcher
from bench.tests.values import SMALL_RESNET, SMALL_VIT, small_unets
from bench.workloads import _denoisers, resnet50, vit_b16

SAMPLES = 1
WARMUP_SECONDS = 0.02
PAIRS = 4
"""Of steps that are told from one another: one of each input."""


def launch_here(
    requests: Sequence[messages.Request], variables: Mapping[str, str], *_: Any, **__: Any
) -> Iterator[launcher.Finished]:
    """As `launcher.launch_together`."""
    os.environ.update(environment.worker_variables(variables))
    for request in requests:
        start = time.monotonic()
        gc.freeze()  # or each launch would look through what all before it have imported
        few: dict[str, Any] = {"samples": SAMPLES, "rehearse": False, "thorough": False}
        settings = msgspec.structs.replace(request.settings, warmup_limit_seconds=WARMUP_SECONDS)
        short = msgspec.structs.replace(request, settings=settings, **few)
        report = Launch(short, messages.Channel(io.BytesIO())).run()
        yield launcher.Finished(report=report, seconds=time.monotonic() - start, stderr_tail="")


def main() -> None:
    """The command."""
    with (
        mock.patch.object(launcher, "launch_together", launch_here),
        mock.patch.multiple(single_steps, QUEUED_STEPS=1, WAITING_STEPS=1, REQUESTS=1),
        # Not by times, which of a queue that is a thread say what else this host is at work for;
        # by what steps give they are looked at all the same.
        mock.patch.object(left_out, "_turns", lambda *_: (0.0, None)),
        mock.patch.object(left_out, "SHORT_BLOCK", PAIRS),
        mock.patch.multiple(resnet50, **SMALL_RESNET),
        mock.patch.multiple(vit_b16, **SMALL_VIT),
        mock.patch.dict(_denoisers.UNETS, small_unets()),
    ):
        cli.main()


if __name__ == "__main__":
    gc.disable()  # as a worker does
    main()
