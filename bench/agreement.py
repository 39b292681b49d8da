"""Does the harness tell the truth? Its throughput against a bare hand-written loop, interleaved.

    python -m bench.agreement [--pairs 10] [--only 'llama-*']

For each case of the suite `quick` that has a bare loop below: one launch by the harness and one
process of the bare loop, in turn (AB, BA, AB, ...), on the CPU, in the same process environment.
Prints the ratio harness / bare, a geometric mean over pairs with its 95 % t interval. Launches of
one and the same program differ by 5 to 10 % on a shared machine: believe the interval, not a pair.

The bare loops are written against transformers and torch alone, as an engineer would by hand: the
library's own weights, one batch, one clock reading before and one after. Nothing of the harness.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from bench import catalogue, config, launcher, plan, stats
from bench.case import Case
from bench.record import Measured, Settings
from bench.worker import Request

WARMUP_STEPS = 8
LEAST_STEPS = 20
LEAST_SECONDS = 5.0

Parameters = Mapping[str, Any]
Timed = Callable[[], None]


def _time(
    step: Timed, items: int, before_pass: Timed = lambda: None, steps_a_pass: int = 1
) -> float:
    """Items per second. `before_pass` runs untimed before every pass of so many steps."""
    for _ in range(-(-WARMUP_STEPS // steps_a_pass)):
        before_pass()
        for _ in range(steps_a_pass):
            step()
    steps, seconds = 0, 0.0
    while steps < LEAST_STEPS or seconds < LEAST_SECONDS:
        before_pass()
        start = time.perf_counter()
        for _ in range(steps_a_pass):
            step()
        seconds += time.perf_counter() - start
        steps += steps_a_pass
    return items * steps / seconds


def _resnet50() -> Any:
    from transformers.models.resnet.configuration_resnet import ResNetConfig
    from transformers.models.resnet.modeling_resnet import ResNetForImageClassification

    return ResNetForImageClassification(ResNetConfig(num_labels=1000))


def bare_resnet50_infer(p: Parameters) -> float:
    """Images per second, bfloat16 weights."""
    import torch

    model = _resnet50().eval().to(torch.bfloat16)
    images = torch.randn(p["batch_size"], 3, p["image_size"], p["image_size"]).to(torch.bfloat16)

    @torch.inference_mode()
    def step() -> None:
        model(images)

    return _time(step, p["batch_size"])


def bare_resnet50_train(p: Parameters) -> float:
    """Images per second, float32 weights under bfloat16 autocast, SGD with momentum."""
    import torch

    model = _resnet50().train()
    images = torch.randn(p["batch_size"], 3, p["image_size"], p["image_size"])
    labels = torch.randint(0, 1000, (p["batch_size"],))
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4, fused=True
    )

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(images).logits
        torch.nn.functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    return _time(step, p["batch_size"])


def bare_bert_infer(p: Parameters) -> float:
    """Sequences per second, BERT base, bfloat16 weights."""
    import torch
    from transformers.models.bert.configuration_bert import BertConfig
    from transformers.models.bert.modeling_bert import BertForQuestionAnswering

    model = BertForQuestionAnswering(BertConfig()).eval().to(torch.bfloat16)
    tokens = torch.randint(1, 30522, (p["batch_size"], p["sequence_length"]))

    @torch.inference_mode()
    def step() -> None:
        model(tokens)

    return _time(step, p["batch_size"])


def _llama(positions: int) -> Any:
    import torch
    from transformers.models.llama.configuration_llama import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaForCausalLM

    shape = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=positions,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(shape).eval().to(torch.bfloat16)


def bare_llama_prefill(p: Parameters) -> float:
    """Prompt tokens per second to the first token, into a static cache, bfloat16 weights."""
    import torch
    from transformers.cache_utils import StaticCache

    model = _llama(8192)
    prompt = torch.randint(0, 49152, (p["batch_size"], p["prompt_length"]))
    cache = StaticCache(config=model.config, max_cache_len=p["prompt_length"])

    @torch.inference_mode()
    def step() -> None:
        cache.reset()
        model(prompt, past_key_values=cache, logits_to_keep=1).logits.argmax(-1)

    return _time(step, p["batch_size"] * p["prompt_length"])


def bare_llama_decode(p: Parameters) -> float:
    """Tokens per second after a prompt, greedy, over a static cache, bfloat16 weights."""
    import torch
    from transformers.cache_utils import StaticCache

    model = _llama(8192)
    prompt = torch.randint(0, 49152, (p["batch_size"], p["prompt_length"]))
    cache = StaticCache(config=model.config, max_cache_len=p["prompt_length"] + p["new_tokens"])
    token = prompt[:, :1]

    @torch.inference_mode()
    def before_pass() -> None:
        nonlocal token
        cache.reset()
        token = model(prompt, past_key_values=cache, logits_to_keep=1).logits.argmax(-1)

    @torch.inference_mode()
    def step() -> None:
        nonlocal token
        token = model(token, past_key_values=cache).logits.argmax(-1)

    return _time(step, p["batch_size"], before_pass, p["new_tokens"])


BARE: dict[str, Callable[[Parameters], float]] = {
    "resnet50-infer": bare_resnet50_infer,
    "resnet50-train": bare_resnet50_train,
    "bert-infer": bare_bert_infer,
    "llama-prefill": bare_llama_prefill,
    "llama-decode": bare_llama_decode,
}


def _by_harness(case: Case, launch: int, variables: Mapping[str, str]) -> float:
    settings = Settings(launches=1, steady_limit_seconds=2 * LEAST_SECONDS)
    request = Request(case=case, backend="cpu", index=0, settings=settings, samples=20, seed=launch)
    outcome = launcher.launch(request, variables).report.outcome
    if not isinstance(outcome, Measured):
        sys.exit(f"{case.label}: the harness did not measure it: {outcome}")
    return outcome.throughput


def _by_hand(case: Case, variables: Mapping[str, str]) -> float:
    output = subprocess.run(
        [sys.executable, "-m", "bench.agreement", "--bare", case.name],
        input=json.dumps(case.parameters),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**variables, **os.environ},
    ).stdout
    return float(output.splitlines()[-1])


def compare(pairs: int, pattern: str) -> None:
    """Runs the pairs and prints a line for each case."""
    suite = config.read_suite(config.find_suite("quick"))
    cases = [c for c in plan.plan(suite) if c.name in BARE and fnmatch.fnmatchcase(c.name, pattern)]
    variables = dict(catalogue.backend("cpu").worker_environment())
    ratios: dict[str, list[float]] = {case.name: [] for case in cases}
    for pair in range(pairs):
        for case in cases:
            if pair % 2:
                bare = _by_hand(case, variables)
                harness = _by_harness(case, pair, variables)
            else:
                harness = _by_harness(case, pair, variables)
                bare = _by_hand(case, variables)
            ratios[case.name].append(harness / bare)
            print(f"pair {pair + 1}: {case.name} {harness:.4g} / {bare:.4g}", file=sys.stderr)
    for name, values in ratios.items():
        estimate = stats.log_estimate(values, stats.FIXED_LEVEL)
        spread = f"95 % {estimate.low:.3f} to {estimate.high:.3f}" if estimate else "no interval"
        ratio = stats.geometric_mean(values)
        print(f"{name}: harness / bare {ratio:.3f} ({spread}, {len(values)} pairs)")


def main() -> None:
    """The script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--only", default="*", metavar="GLOB")
    parser.add_argument("--bare", choices=BARE, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare:
        print(BARE[arguments.bare](json.load(sys.stdin)))
    else:
        compare(arguments.pairs, arguments.only)


if __name__ == "__main__":
    main()
