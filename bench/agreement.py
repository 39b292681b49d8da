"""Does the harness tell the truth? Its throughput against a bare hand-written loop, interleaved.

    python -m bench.agreement [--launches 6] [--only 'llama-*']

For each case of `quick` that has a bare loop below, on the CPU: a fresh process builds the
harness's job and the bare loop's model, and lets them take turns (AB, BA, AB, ...), a block each,
the one timed by the engine and the other by hand. A launch gives the median over its turns of
harness / bare throughput; printed is the geometric mean over launches with its 95 % t interval.
Taking turns within a process, because on a shared machine two processes differ by more than what
is to be shown.

The bare loops are written against transformers and torch alone, as an engineer would by hand: the
library's own weights, one batch, one clock reading before and one after. Nothing of the harness.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from bench import catalogue, config, plan, stats
from bench.case import Case
from bench.measure import Engine, process_usage
from bench.models import with_cache
from bench.precision import PRECISIONS
from bench.record import Settings
from bench.workload import Site

WARMUP_TURNS = 4
TURNS = 12

Parameters = Mapping[str, Any]
Timed = Callable[[], None]


class Loop(NamedTuple):
    """A bare loop: its step, how many make a pass, and what is done, untimed, before a pass."""

    step: Timed
    steps: int = 1
    before_pass: Timed = lambda: None

    def seconds(self) -> float:
        """Times one pass by hand."""
        self.before_pass()
        start = time.perf_counter()
        for _ in range(self.steps):
            self.step()
        return time.perf_counter() - start


def _resnet50() -> Any:
    from transformers.models.resnet.configuration_resnet import ResNetConfig
    from transformers.models.resnet.modeling_resnet import ResNetForImageClassification

    return ResNetForImageClassification(ResNetConfig(num_labels=1000))


def bare_resnet50_infer(p: Parameters) -> Loop:
    """bfloat16 weights."""
    import torch

    model = _resnet50().eval().to(torch.bfloat16)
    images = torch.randn(p["batch_size"], 3, p["image_size"], p["image_size"]).to(torch.bfloat16)

    @torch.inference_mode()
    def step() -> None:
        model(images)

    return Loop(step)


def bare_resnet50_train(p: Parameters) -> Loop:
    """SGD with momentum."""
    import torch

    model = _resnet50().train()
    images = torch.randn(p["batch_size"], 3, p["image_size"], p["image_size"])
    labels = torch.randint(0, 1000, (p["batch_size"],))
    optimizer = torch.optim.SGD(
        model.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4, fused=True
    )

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(images).logits
        torch.nn.functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    return Loop(step)


def bare_bert_infer(p: Parameters) -> Loop:
    """bfloat16 weights."""
    import torch
    from transformers.models.bert.configuration_bert import BertConfig
    from transformers.models.bert.modeling_bert import BertForQuestionAnswering

    model = BertForQuestionAnswering(BertConfig()).eval().to(torch.bfloat16)
    tokens = torch.randint(1, 30522, (p["batch_size"], p["sequence_length"]))

    @torch.inference_mode()
    def step() -> None:
        model(tokens)

    return Loop(step)


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


def bare_llama_prefill(p: Parameters) -> Loop:
    """bfloat16 weights."""
    import torch
    from transformers.cache_utils import StaticCache

    model = _llama(8192)
    prompt = torch.randint(0, 49152, (p["batch_size"], p["prompt_length"]))
    cache = StaticCache(config=model.config, max_cache_len=p["prompt_length"])
    keywords = with_cache(model, cache)

    @torch.inference_mode()
    def step() -> None:
        cache.reset()
        model(prompt, **keywords, logits_to_keep=1).logits.argmax(-1)

    return Loop(step)


def bare_llama_decode(p: Parameters) -> Loop:
    """bfloat16 weights."""
    import torch
    from transformers.cache_utils import StaticCache

    model = _llama(8192)
    prompt = torch.randint(0, 49152, (p["batch_size"], p["prompt_length"]))
    cache = StaticCache(config=model.config, max_cache_len=p["prompt_length"] + p["new_tokens"])
    keywords = with_cache(model, cache)
    token = prompt[:, :1]

    @torch.inference_mode()
    def before_pass() -> None:
        nonlocal token
        cache.reset()
        token = model(prompt, **keywords, logits_to_keep=1).logits.argmax(-1)

    @torch.inference_mode()
    def step() -> None:
        nonlocal token
        token = model(token, **keywords).logits.argmax(-1)

    return Loop(step, p["new_tokens"], before_pass)


BARE: dict[str, Callable[[Parameters], Loop]] = {
    "resnet50-infer": bare_resnet50_infer,
    "resnet50-train": bare_resnet50_train,
    "bert-infer": bare_bert_infer,
    "llama-prefill": bare_llama_prefill,
    "llama-decode": bare_llama_decode,
}


def take_turns(case: Case) -> float:
    """Median of harness / bare throughput over the turns of this process."""
    precision = PRECISIONS[case.precision]
    device = catalogue.backend("cpu").open(0, precision)
    workload = catalogue.workload(case.workload)
    site = Site(device=device.torch_device, precision=precision, seed=0)
    job = workload.build(case.mode, plan.parameters_of(case, workload), site)
    engine = Engine(job, device, Settings(), usage=process_usage())
    loop = BARE[case.name](case.parameters)

    def by_harness() -> float:
        return engine.block(loop.steps).wall_ns / 1e9

    return median_ratio(by_harness, loop.seconds)


def median_ratio(ours: Callable[[], float], theirs: Callable[[], float]) -> float:
    """Median over turns (AB, BA, AB, ...) of our throughput over theirs, from seconds a turn."""
    ratios = []
    for turn in range(WARMUP_TURNS + TURNS):
        if turn % 2:
            their_seconds, our_seconds = theirs(), ours()
        else:
            our_seconds, their_seconds = ours(), theirs()
        ratios.append(their_seconds / our_seconds)
    return statistics.median(ratios[WARMUP_TURNS:])


def run_launches(script: str, cases: Sequence[Case], launches: int) -> dict[str, list[float]]:
    """The ratio of each launch, by case; a launch is a process of the script with `--turns`."""
    variables = catalogue.backend("cpu").worker_environment()
    ratios: dict[str, list[float]] = {case.label: [] for case in cases}
    for launch in range(launches):
        for case in cases:
            output = subprocess.run(
                [sys.executable, "-m", script, "--turns"],
                input=msgspec.json.encode(case),
                stdout=subprocess.PIPE,
                check=True,
                env={**variables, **os.environ},
            ).stdout
            ratio = float(output.splitlines()[-1])
            ratios[case.label].append(ratio)
            print(f"launch {launch + 1}: {case.label} {ratio:.3f}", file=sys.stderr)
    return ratios


def sentence(ratios: Sequence[float]) -> str:
    """The geometric mean of the launches' ratios, with its interval."""
    estimate = stats.log_estimate(ratios, stats.FIXED_LEVEL)
    spread = f"95 % {estimate.low:.3f} to {estimate.high:.3f}" if estimate else "no interval"
    return f"{stats.geometric_mean(ratios):.3f} ({spread}, {len(ratios)} launches)"


def script(
    name: str, text: str | None, cases: Sequence[Case], turns: Callable[[Case], float]
) -> None:
    """A script that compares two sides of each case: its options, and what it prints.

    name: its module; text: its docstring, which ends with what its ratio is; turns: the ratio of
    one case in this process.
    """
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--launches", type=int, default=6)
    parser.add_argument("--only", default="*", metavar="GLOB")
    parser.add_argument("--turns", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.turns:
        print(turns(msgspec.json.decode(sys.stdin.buffer.read(), type=Case)))
        return
    chosen = [case for case in cases if fnmatch.fnmatchcase(case.label, arguments.only)]
    for label, ratios in run_launches(name, chosen, arguments.launches).items():
        print(f"{label}: {sentence(ratios)}")


def main() -> None:
    """The script."""
    suite = config.read_suite(config.find_suite("quick"))
    cases = [case for case in plan.plan(suite) if case.name in BARE]
    script("bench.agreement", __doc__, cases, take_turns)


if __name__ == "__main__":
    main()
