"""What may be wrong with Llama in MindSpore, for as long as it is planted."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

STEPS = "bench.frameworks._mindspore_llama_steps"
JOBS = "bench.frameworks._mindspore_llama"


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


FAULTS: dict[str, tuple[str, str, Callable[[Any], Any]]] = {
    "another epsilon": (STEPS, "EPSILON", lambda _: 1e-6),
    "wrong places": (JOBS, "Model.behind", one_place_on),
    "no mask": (JOBS, "causal", no_mask),
    "nothing written": (STEPS, "_written", kept_by_nobody),
}
"""By what is wrong: where it is planted, and what stands there in its place."""


@contextlib.contextmanager
def planted(fault: str) -> Iterator[None]:
    """Nothing of a fault that is none of these."""
    if fault not in FAULTS:
        yield
        return
    module, name, wrong = FAULTS[fault]
    *owner, last = name.split(".")
    holder: Any = importlib.import_module(module)
    for part in owner:
        holder = getattr(holder, part)
    with mock.patch.object(holder, last, wrong(getattr(holder, last))):
        yield
