"""Launches in MindSpore, all in one process: `python -m bench.tests.frameworks.mindspore_launches`.

Run by its interpreter, which has no pytest. Reads a list of `Trial`s as JSON from stdin, writes one
`Report` a line to stdout, or the findings of a check of the conformance kit. `launched` starts it.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from bench.conformance.check import Finding
from bench.conformance.worker import Task, findings
from bench.frameworks.on_mindspore import jobs
from bench.lifeline import command
from bench.measuring.launch import Launch
from bench.measuring.messages import Channel, Report, Request
from bench.running.elsewhere import Elsewhere
from bench.tests.frameworks.mindspore_faults import PLANTS, put, shallow
from bench.tests.frameworks.mindspore_fused import FUSED
from bench.tests.frameworks.mindspore_llama_faults import LLAMA_PLANTS, Plant


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """A launch, and what is wrong with it; or a check."""

    request: Request | None = None
    fault: str = ""
    check: str = ""
    shallow: bool = False
    """Whether ResNet-50 is cut, see there."""


def launched(there: Elsewhere, trials: Iterable[Trial], folder: Path) -> list[Any]:
    """What came of each, of one process: a `Report`, or a list of findings."""
    given = [*trials]
    done = subprocess.run(
        command("bench.tests.frameworks.mindspore_launches", there.python),
        input=msgspec.json.encode(given),
        stdout=subprocess.PIPE,
        cwd=folder,  # where a compiler that fails leaves what it was about
        check=True,
    )
    return [
        msgspec.json.decode(line, type=list[Finding] if trial.check else Report)
        for trial, line in zip(given, done.stdout.splitlines(), strict=True)
    ]


def wrong_weights(placed: Callable[..., Any]) -> Callable[..., Any]:
    return lambda values, site: placed(values[::-1].copy(), site)


def fp16_for_fp32(placed: Callable[..., Any]) -> Callable[..., Any]:
    import mindspore as ms

    return lambda values, site: placed(values, site).astype(ms.float16)


FAULTS = {"wrong weights": wrong_weights, "fp16 for fp32": fp16_for_fp32}


def by_numpy(product: Callable[..., Any]) -> Callable[..., Any]:
    import mindspore as ms

    def planted(a: Any, b: Any) -> Any:
        return ms.Tensor(a.asnumpy() @ b.asnumpy())

    return planted


def wrong_scale(attended: Callable[..., Any]) -> Callable[..., Any]:
    def planted(query: Any, key: Any, value: Any, mask: Any) -> Any:
        return attended(query * 0.99, key, value, mask)

    return planted


def wrong_scalar(added: Callable[..., Any]) -> Callable[..., Any]:
    def planted(first: Any, second: Any) -> Any:
        return added(first, second * 1.001)

    return planted


STEPS = {
    "wrong scale": ("attended", wrong_scale),
    "wrong scalar": ("added", wrong_scalar),
    "numpy for MindSpore": ("product", by_numpy),
}
"""Another function in the place of a step."""


@contextlib.contextmanager
def other_step(fault: str) -> Iterator[None]:
    from bench.frameworks.on_mindspore import steps as mindspore_steps

    name, change = STEPS[fault]
    with put(mindspore_steps, name, change):
        yield


def done(trial: Trial) -> Report | list[Finding]:
    if trial.request is not None:
        return Launch(trial.request, Channel(io.BytesIO())).run()
    return [*findings(Task(check=trial.check, backend="cpu", index=0, framework="mindspore"))]


def main() -> None:
    """The process."""
    private = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    honest = jobs.placed
    steps = {fault: functools.partial(other_step, fault) for fault in STEPS}
    plants: dict[str, Plant] = {**PLANTS, **LLAMA_PLANTS, **FUSED, **steps}
    for trial in msgspec.json.decode(sys.stdin.buffer.read(), type=list[Trial]):
        jobs.placed = FAULTS[trial.fault](honest) if trial.fault in FAULTS else honest
        cut = shallow if trial.shallow else contextlib.nullcontext
        with plants.get(trial.fault, contextlib.nullcontext)(), cut():
            report = done(trial)
        private.write(msgspec.json.encode(report) + b"\n")
    private.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
