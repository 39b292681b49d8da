"""What the exported model answers, in float64: the reference that a server is held to.

Runs in a process of its own (`python -m bench.serving.reference`), because torch takes memory and
threads that the client must not have. Of each answer the tokens that the server chose are given to
the model one after the other, whatever it would have chosen itself (teacher forcing): one near-tie
that falls the other way is no error, but all that follows from it would differ.

The model is the library's own, with its plain attention and no cache. Each layer, and the output
matrix, is made wide when it is reached and narrow again behind it: a model needs the memory of its
own weights, of the larger of these in float64, and of one text's logits; and of a long text three
times the attention scores of a layer (8 bytes x heads x tokens^2).

Beside the reference stands what a right server may differ by, and what a wrong one would: the same
tokens with the weights' own precision in every product; with 8-bit weights; without a layer.
"""

from __future__ import annotations

import contextlib
import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bench.errors import AccelmarkError
from bench.lifeline import command
from bench.records.value import Value

if TYPE_CHECKING:
    from torch import nn

LIMIT_SECONDS = 3600.0
INT8, NO_LAYER = "int8 weights", "a layer missing"


class Text(Value, frozen=True, kw_only=True):
    """A prompt, and the tokens that the server gave after it."""

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.prompt or not self.tokens:
            raise ValueError("a text has a prompt and an answer")


class Question(Value, frozen=True, kw_only=True):
    """What the reference is asked."""

    folder: str
    texts: tuple[Text, ...]
    wrong: bool
    """Whether to say too by how much the wrong models differ."""


class Truth(Value, frozen=True, kw_only=True):
    """Of each text and each of its tokens."""

    logprobs: tuple[tuple[float, ...], ...]
    """Of the token that the server chose."""
    best: tuple[tuple[float, ...], ...]
    """Of the token that the reference would have chosen."""
    rounded: tuple[tuple[float, ...], ...]
    """Of the server's token, by the same model in its own precision."""
    wrong: dict[str, float] = msgspec.field(default_factory=dict)
    """Root mean square difference from `logprobs` of models that are not the right one, by what is
    wrong with them; nothing where nobody asked."""

    def of(self, part: slice) -> Truth | None:
        """Of some of the texts; None of none."""
        columns = {name: getattr(self, name)[part] for name in ("logprobs", "best", "rounded")}
        return Truth(**columns) if columns["best"] else None


Reference = Callable[[Path, Sequence[Text], bool], Truth]
"""Of a folder, texts, and whether wrong models are tried."""


def in_a_process(folder: Path, texts: Sequence[Text], wrong: bool) -> Truth:
    """`Reference`; raises `AccelmarkError` where the process fails, or takes too long."""
    question = Question(folder=str(folder), texts=tuple(texts), wrong=wrong)
    try:
        child = subprocess.run(
            command("bench.serving.reference"),
            input=msgspec.json.encode(question),
            capture_output=True,
            timeout=LIMIT_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise AccelmarkError(
            f"{folder}: the reference of the exported model had not answered after "
            f"{LIMIT_SECONDS:g} s. It computes {len(texts)} texts on this host, in float64 and in "
            "the weights' own precision, which a CPU without arithmetic of it does by reference "
            "code. Run the client on a faster host, or export a smaller model."
        ) from error
    with contextlib.suppress(msgspec.DecodeError):  # what is not finite is no number there
        if not child.returncode:
            return msgspec.json.decode(child.stdout, type=Truth)
    last = child.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
    said = last[0] if child.returncode and last else "it gave no log-probabilities"
    raise AccelmarkError(
        f"{folder}: the reference of the exported model failed ({said}). It needs the memory of "
        "the weights, and in float64 of a layer, the output matrix, or three times a layer's "
        "attention scores (heads x tokens^2); end other work, or give shorter prompts, and run "
        "again."
    )


def truth(folder: Path, texts: Sequence[Text], wrong: bool) -> Truth:
    """`Reference`, in this process."""
    import torch
    from transformers import AutoModelForCausalLM

    library: Any = AutoModelForCausalLM
    model: Any = library.from_pretrained(
        folder, local_files_only=True, dtype="auto", attn_implementation="eager"
    ).eval()
    with torch.inference_mode():
        with _widened(model):
            exact = [_logprobs(model, text) for text in texts]
        rounded = [_logprobs(model, text)[0] for text in texts]
        chosen, best = zip(*exact, strict=True)
        found: dict[str, float] = {}
        if wrong:
            for name, spoiled in ((NO_LAYER, _without_a_layer), (INT8, _quantized)):
                with spoiled(model):
                    theirs = [_logprobs(model, text)[0] for text in texts]
                found[name] = distance(theirs, chosen)
    return Truth(logprobs=chosen, best=best, rounded=tuple(rounded), wrong=found)


def distance(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]) -> float:
    """Root mean square difference over all tokens; infinite where a value is not finite."""
    squares = [
        (a - b) ** 2
        for one, other in zip(first, second, strict=True)
        for a, b in zip(one, other, strict=True)
    ]
    mean = math.fsum(squares) / len(squares)
    return math.sqrt(mean) if math.isfinite(mean) else math.inf


def _logprobs(model: Any, text: Text) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Of each token of the answer, given all before it; and of the likeliest in its place."""
    import torch

    whole = torch.tensor([[*text.prompt, *text.tokens[:-1]]])
    logits = model(input_ids=whole, use_cache=False, logits_to_keep=len(text.tokens)).logits[0]
    rows = (row.double().log_softmax(-1) for row in logits)
    pairs = zip(rows, text.tokens, strict=True)
    said = [(row[token].item(), row.max().item()) for row, token in pairs]
    chosen, best = zip(*said, strict=True)
    return chosen, best


@contextlib.contextmanager
def _widened(model: Any) -> Iterator[None]:
    """Has the model compute in float64, one layer at a time; its weights are what they were."""
    import torch

    inner, dtype = model.model, model.dtype

    def widen(module: nn.Module, *_: Any) -> None:
        module.to(torch.float64)

    def narrow(module: nn.Module, *_: Any) -> None:
        module.to(dtype)

    hooks = [inner.embed_tokens.register_forward_hook(lambda *said: said[-1].double())]
    for module in (*inner.layers, inner.norm, model.lm_head):
        hooks += [module.register_forward_pre_hook(widen), module.register_forward_hook(narrow)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def _without_a_layer(model: Any) -> Iterator[None]:
    """The one in the middle."""
    layers = model.model.layers
    middle = len(layers) // 2
    kept = [layer for index, layer in enumerate(layers) if index != middle]
    model.model.layers = type(layers)(kept)
    try:
        yield
    finally:
        model.model.layers = layers


@contextlib.contextmanager
def _quantized(model: Any) -> Iterator[None]:
    """Each row of each matrix of the layers in 8 bits and a scale; the last that is tried, for the
    weights stay so."""
    import torch

    for module in model.model.layers.modules():
        if isinstance(module, torch.nn.Linear):
            scale = module.weight.abs().amax(dim=1, keepdim=True).float() / 127
            rounded = (module.weight.float() / scale).round_() * scale
            module.weight.data = rounded.to(module.weight.dtype)
    yield


def main() -> None:
    """Reads a `Question` from stdin, writes a `Truth` to stdout."""
    output = sys.stdout.buffer
    sys.stdout = sys.stderr  # what a library prints is no answer
    question = msgspec.json.decode(sys.stdin.buffer.read(), type=Question)
    answer = truth(Path(question.folder), question.texts, question.wrong)
    output.write(msgspec.json.encode(answer))


if __name__ == "__main__":
    main()
