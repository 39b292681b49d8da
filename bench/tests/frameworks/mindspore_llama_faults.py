"""What may be wrong with Llama in MindSpore; and models of other shapes."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import msgspec

from bench.frameworks import on_mindspore
from bench.tests.frameworks.mindspore_faults import Change, dropping, put
from bench.workloads.language.llamas import SIZES

MODEL = "tiny-2l"
Plant = Callable[[], contextlib.AbstractContextManager[None]]


def one_place_on(behind: Callable[..., Any]) -> Callable[..., Any]:
    """The cosines of each token behind the prompt are the next one's."""

    def wrong(model: Any, batch: int, prompt: int, tokens: int) -> Any:
        right = behind(model, batch, prompt, tokens)
        after = behind(model, batch, prompt, tokens + 1)[1:]
        return [(a[0], b[1], b[2], a[3]) for a, b in zip(right, after, strict=True)]

    return wrong


def no_mask(_: Callable[..., Any]) -> Callable[..., Any]:
    import numpy as np

    return lambda places, length: np.zeros((len(places), length), np.float32)


def kept_by_nobody(written: Callable[..., Any]) -> Callable[..., Any]:
    return lambda cache, places, new: cache


def token_counted(job: Any) -> None:
    if job._index == job._new_tokens:
        job._rewind()
    job._index += 1


def stale(step: Callable[..., Any]) -> Callable[..., Any]:
    """From the fourth token on, of its own choice, a step gives what the third gave."""

    def wrong(job: Any) -> None:
        if 3 <= job._index < job._new_tokens and not job._forcing:
            job._index += 1
        else:
            step(job)

    return wrong


def model_with(**changes: Any) -> Plant:
    """No fault, where torch's twin is the same."""

    @contextlib.contextmanager
    def planted() -> Iterator[None]:
        with mock.patch.dict(SIZES, {MODEL: msgspec.structs.replace(SIZES[MODEL], **changes)}):
            yield

    return planted


OTHERS = {
    "an output matrix of its own": model_with(tied=False),
    "prefill fp32 eager": model_with(layers=1),
    "train fp32 eager": model_with(layers=1),
}
"""Launches of other models; of one layer where the host takes a millisecond an operator."""


def at(module: str, path: str, change: Change) -> Plant:
    """Of a module of `bench.frameworks.on_mindspore`, which is imported where it is planted."""

    def planted() -> contextlib.AbstractContextManager[None]:
        holder: Any = importlib.import_module(f"{on_mindspore.__name__}.{module}")
        *owner, last = path.split(".")
        for name in owner:
            holder = getattr(holder, name)
        return put(holder, last, change)

    return planted


LLAMA_PLANTS: dict[str, Plant] = {
    "another epsilon": at("llama_steps", "EPSILON", lambda _: 1e-6),
    "wrong places": at("llama", "Model.behind", one_place_on),
    "no mask": at("llama", "causal", no_mask),
    "nothing written": at("llama_steps", "_written", kept_by_nobody),
    "tokens dropped": dropping("llama.DecodeJob", token_counted, done=2),
    "stale tokens": at("llama", "DecodeJob.step", stale),
    **OTHERS,
}
