"""Other work than a model's, planted in MindSpore's jobs for as long as a launch takes.

Loaded by its interpreter alone. Faults of training come after the gate, into the job that is timed:
it is the optimizer's law that must find them.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from bench.frameworks import on_mindspore

Change = Callable[[Any], Any]


@contextlib.contextmanager
def put(holder: Any, name: str, change: Change) -> Iterator[None]:
    """Has a holder another attribute, made of its own."""
    before = getattr(holder, name)
    setattr(holder, name, change(before))
    try:
        yield
    finally:
        setattr(holder, name, before)


@contextlib.contextmanager
def shallow() -> Iterator[None]:
    """One block a stage in ResNet-50, torch's and MindSpore's, so that it is quick."""
    from bench.workloads import resnet50

    with (
        put(resnet50, "DEPTHS", lambda depths: (1,) * len(depths)),
        put(resnet50, "PUBLISHED_PARAMETERS", lambda _: None),
    ):
        yield


@contextlib.contextmanager
def other_epsilon() -> Iterator[None]:
    from bench.frameworks.on_mindspore import bert
    from bench.frameworks.on_mindspore import resnet50 as mindspore_resnet50

    with (
        put(bert, "EPSILON", lambda _: 1e-3),
        put(mindspore_resnet50, "EPSILON", lambda _: 1e-3),
    ):
        yield


@contextlib.contextmanager
def dropout_left_on() -> Iterator[None]:
    from mindspore import ops

    from bench.frameworks.on_mindspore.bert import Attention
    from bench.frameworks.on_mindspore.resnet50 import Bottleneck

    def dropping(honest: Any) -> Any:
        return lambda self, given: ops.dropout(honest(self, given), p=0.1, training=True)

    with put(Attention, "construct", dropping), put(Bottleneck, "construct", dropping):
        yield


@contextlib.contextmanager
def compiler_off() -> Iterator[None]:
    with mock.patch.dict(os.environ, {"MS_JIT": "0"}):
        yield


def built(change: Callable[[Any], None], kind: str, which: Callable[[int], bool]) -> Any:
    """Changes those jobs of a kind that `which` says, counted from 0: the gate's is the first."""

    @contextlib.contextmanager
    def planted() -> Iterator[None]:
        from bench.frameworks.on_mindspore import models
        from bench.frameworks.on_mindspore import training as mindspore_training

        holder = {"ModelJob": models, "TrainingJob": mindspore_training}[kind]
        count = 0

        def changed(honest: Any) -> Any:
            def build(self: Any, *given: Any, **named: Any) -> None:
                nonlocal count
                honest(self, *given, **named)
                if which(count):
                    change(self)
                count += 1

            return build

        with put(getattr(holder, kind), "__init__", changed):
            yield

    return planted


def dropping(path: str, counted: Change, done: int) -> Any:
    """What the queue drops behind so many steps of the timed job is counted as if it were done.

    path: of the job, in `bench.frameworks.on_mindspore`; counted: that.
    """
    module, kind = path.split(".")

    @contextlib.contextmanager
    def planted() -> Iterator[None]:
        from bench.frameworks import mindspore
        from bench.frameworks.on_mindspore import devices

        holder: Any = getattr(importlib.import_module(f"{on_mindspore.__name__}.{module}"), kind)
        jobs, queued = list[Any](), list[Any]()

        def noted(build: Any) -> Any:
            def made(self: Any, *given: Any, **named: Any) -> None:
                jobs.append(self)
                build(self, *given, **named)

            return made

        def waited(read: Any) -> Any:
            def emptied(*given: Any) -> Any:
                queued.clear()
                return read(*given)

            return emptied

        def behind(step: Any) -> Any:
            def queue(self: Any) -> None:
                queued.append(self)
                dropped = len(queued) > done and self is not jobs[0]
                counted(self) if dropped else step(self)

            return queue

        with (
            put(holder, "__init__", noted),
            put(holder, "step", behind),
            put(devices.Reached, "synchronize", waited),
            put(mindspore.MindSporeTensors, "picked", waited),
        ):
            yield

    return planted


def step_counted(job: Any) -> None:
    from mindspore import ops

    job._taken = [next(job._batches)]
    job._steps += 1
    ops.assign_add(job._optimizer.steps, 1.0)


def narrow(job: Any) -> None:
    import mindspore as ms

    job._model.to_float(ms.float16)


def training_mode(job: Any) -> None:
    job._model.set_train(True)


def rate_doubled(job: Any) -> None:
    job._optimizer.rate *= 2


def momentum_off(job: Any) -> None:
    for name in ("momentum", "first"):
        if hasattr(job._optimizer, name):
            setattr(job._optimizer, name, 0.0)


def update_skipped(job: Any) -> None:
    job._optimizer.construct = lambda gradients: gradients


def always(number: int) -> bool:
    return True


def timed(number: int) -> bool:
    return number > 0


PLANTS: dict[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
    "compiler off": compiler_off,
    "other epsilon": other_epsilon,
    "dropout left on": dropout_left_on,
    "products in fp16": built(narrow, "ModelJob", always),
    "training mode": built(training_mode, "ModelJob", always),
    "rate doubled": built(rate_doubled, "TrainingJob", timed),
    "momentum off": built(momentum_off, "TrainingJob", timed),
    "update skipped": built(update_skipped, "TrainingJob", timed),
    "steps dropped": dropping("training.TrainingJob", step_counted, done=1),
}
