"""Launches in MindSpore, all in one process: `python -m bench.tests.frameworks.mindspore_launches`.

Run by its interpreter, which has no pytest. Reads a list of `Trial`s as JSON from stdin, writes one
`Report` a line to stdout.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable
from typing import Any

import msgspec

from bench.frameworks import _mindspore_jobs as jobs
from bench.measuring.launch import Launch
from bench.measuring.messages import Channel, Request
from bench.tests.frameworks.mindspore_faults import PLANTS, shallow
from bench.tests.frameworks.mindspore_llama_faults import LLAMA_PLANTS


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """A launch, and what is wrong with it."""

    request: Request
    fault: str = ""
    shallow: bool = False
    """Whether ResNet-50 is cut, see there."""


def wrong_weights(placed: Callable[..., Any]) -> Callable[..., Any]:
    return lambda values, site: placed(values[::-1].copy(), site)


def fp16_for_fp32(placed: Callable[..., Any]) -> Callable[..., Any]:
    import mindspore as ms

    return lambda values, site: placed(values, site).astype(ms.float16)


FAULTS = {"wrong weights": wrong_weights, "fp16 for fp32": fp16_for_fp32}


def main() -> None:
    """The process."""
    private = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    honest = jobs.placed
    for trial in msgspec.json.decode(sys.stdin.buffer.read(), type=list[Trial]):
        jobs.placed = FAULTS[trial.fault](honest) if trial.fault in FAULTS else honest
        cut = shallow if trial.shallow else contextlib.nullcontext
        plants = {**PLANTS, **LLAMA_PLANTS}
        with plants.get(trial.fault, contextlib.nullcontext)(), cut():
            report = Launch(trial.request, Channel(io.BytesIO())).run()
        private.write(msgspec.json.encode(report) + b"\n")
    private.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
