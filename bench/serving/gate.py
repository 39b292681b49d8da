"""Whether it is the exported model that answers, and right: before the load, during and after it.

Two questions. Of prompts of their own, by the log-probabilities that the server gives for its
tokens: how far are they from the float64 reference, root mean square over all tokens? And of the
answers under load, whose tokens alone are known: how much less likely than the best is the worst
token that was chosen (its regret)? Equal tokens are no test: a right server in bfloat16 differs
from the reference in half of its answers, a wrong one may differ in two.

The bounds are calibrated on the server's own tokens, by the same model in the precision of its
weights on this host: a right server rounds as it does, somewhere else.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import msgspec

from bench.records.outcome import Check
from bench.serving.reference import Text, Truth, distance
from bench.serving.stream import Asked, Spoken

PROMPTS, PROMPT_TOKENS, NEW_TOKENS = 24, 32, 32
"""Of the questions before and after the load: 768 tokens."""
SAMPLED = 4
"""Answers of the load that are checked, evenly over it."""
SAMPLED_TOKENS = 1024
"""Of each, at most so many of its first tokens."""
ROUNDING = 1.5
"""A right server may be further from the reference than rounding on this host by this factor."""
FLOOR = 2e-3
"""And so much in any case: float32 has next to no rounding, and an order of its sums."""
TIE = 8.0
"""A token of a right server has at most so many times its rounding as regret: the errors of two
logits, each four standard deviations and more."""


def questions(vocabulary: int, seed: int, when: str) -> list[Asked]:
    """Prompts to be answered `before` or `after` the load; each time others."""
    draw = random.Random(f"{when} {seed}")
    return [
        Asked(prompt=prompt(draw, vocabulary, PROMPT_TOKENS), new_tokens=NEW_TOKENS)
        for _ in range(PROMPTS)
    ]


def prompt(draw: random.Random, vocabulary: int, tokens: int) -> tuple[int, ...]:
    """Uniform token ids."""
    return tuple(int(draw.random() * vocabulary) for _ in range(tokens))


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """What the gate found."""

    checks: tuple[Check, ...]
    rounding: float
    """How far the right model in its own precision is from the reference."""
    wrong: dict[str, float]
    """How far wrong ones are; nothing where nobody asked."""
    witness: float
    """Mean log-probability that the server gave."""


def bound(rounding: float) -> float:
    """What a right server's distance may be."""
    return max(ROUNDING * rounding, FLOOR)


def judge(when: str, spoken: Sequence[Spoken], truth: Truth) -> Judged:
    """The log-probabilities of answers beside their reference."""
    rounding = distance(truth.rounded, truth.logprobs)
    said = [one.logprobs for one in spoken]
    error = distance(said, truth.logprobs)
    tokens = [value for one in said for value in one]
    return Judged(
        checks=(
            Check(quantity=f"log-probabilities {when}", error=error, tolerance=bound(rounding)),
        ),
        rounding=rounding,
        wrong=truth.wrong,
        witness=math.fsum(tokens) / len(tokens),
    )


def regret(truth: Truth, rounding: float) -> Check:
    """Of the answers under load: of the worst token. rounding: as `judge` found it."""
    regrets = [
        best - chosen
        for of_best, of_chosen in zip(truth.best, truth.logprobs, strict=True)
        for best, chosen in zip(of_best, of_chosen, strict=True)
    ]
    # A maximum that meets a NaN depends on the order.
    worst = max(regrets) if all(map(math.isfinite, regrets)) else math.inf
    return Check(
        quantity="regret under load", error=max(0.0, worst), tolerance=TIE * bound(rounding)
    )


def sample(answers: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> list[Text]:
    """Some of a load's answers, evenly over it: of each its prompt and its first tokens."""
    count = min(SAMPLED, len(answers))
    # From the middle of each equal part: neither the first answer, alone, nor the last.
    chosen = [answers[(2 * k + 1) * len(answers) // (2 * count)] for k in range(count)]
    return [Text(prompt=prompt, tokens=tokens[:SAMPLED_TOKENS]) for prompt, tokens in chosen]
