"""Is decode as fast as it can be had? `llama` in mode decode against `generate` of transformers.

    python -m bench.tests.validation.against_generate [--launches 5] [--only '*bf16*']
        [--execution compile]

The same model with the same weights, the same prompt, a static cache of the same length, greedy,
the same number of new tokens, on the CPU; eager, or both compiled, each as it compiles itself. A
fresh process lets the two take turns (AB, BA, AB, ...), a whole window of tokens each: ours timed
by the engine, `generate` by readings of the clock as it picks its first token and its last, so that
its prefill and its preparations are not counted. In float32 both must pick the same tokens, or
it was not the same work. A launch gives the median over its turns of our tokens/s over those of
`generate`; printed is the geometric mean over launches with its 95 % t interval.

What differs: ours takes a step of its own (`bench.workloads.decoding`), with masks and rotations
made beforehand, where `generate` makes them for each token; and ours grows no list of tokens.
"""

from __future__ import annotations

import copy
import time
from typing import TYPE_CHECKING, Any

import msgspec

from bench import catalogue
from bench.measuring.timing.engine import Engine
from bench.measuring.timing.usage import process_usage
from bench.planning import plan
from bench.planning.suite_file import Suite
from bench.precision import PRECISIONS
from bench.records.case import Case
from bench.records.run import Settings
from bench.tests.validation.agreement import TURNS, Turns, in_turns, script
from bench.workload import EXECUTIONS, Site
from bench.workloads.decoding.generation import DecodeJob

if TYPE_CHECKING:
    from torch import Tensor

WORK = {
    "workload": "llama",
    "mode": "decode",
    "precision": ["bf16", "fp32"],
    "batch_size": [1, 4],
    "model": "smollm2-135m",
    "prompt_length": 128,
    "new_tokens": 32,
}


class Clock:
    """A logits processor that changes nothing: `generate` calls it before it picks each token."""

    def __init__(self) -> None:
        """No reading yet."""
        self.readings: list[float] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Gives the scores back."""
        self.readings.append(time.perf_counter())
        return scores

    @property
    def seconds(self) -> float:
        """From the first token to the last."""
        return self.readings[-1] - self.readings[0]


class Generate:
    """`generate` of transformers with the weights, the prompt and the window of a job of ours."""

    def __init__(self, job: DecodeJob, new_tokens: int, compiled: bool = False) -> None:
        """new_tokens: after the first, which comes of the prefill; compiled: by `generate`."""
        from transformers import CompileConfig, GenerationConfig

        ours: Any = job.generator.model
        shape = copy.deepcopy(ours.config)
        shape.eos_token_id = None  # every sequence has all its tokens
        self._model = type(ours)(shape).eval()
        self._model.set_attn_implementation("sdpa")
        self._model.load_state_dict(ours.state_dict(), assign=True)
        self._model.generation_config = GenerationConfig(
            max_new_tokens=new_tokens + 1,
            do_sample=False,
            cache_implementation="static",
            disable_compile=not compiled,
            compile_config=CompileConfig(mode="default") if compiled else None,
            pad_token_id=0,
        )
        if compiled:  # else it compiles on accelerators alone
            self._model.generation_config.compile_config._compile_all_devices = True
        self._prompt = job.prompt

    def run(self) -> tuple[Tensor, float]:
        """The tokens [B, 1 + N] after the prompt, and the seconds from the first to the last."""
        import torch

        clock = Clock()
        mask = torch.ones_like(self._prompt)
        texts: Tensor = self._model.generate(
            self._prompt, attention_mask=mask, logits_processor=[clock]
        )
        return texts[:, self._prompt.shape[1] :], clock.seconds


def tokens_of(job: DecodeJob, new_tokens: int) -> Tensor:
    """What a new job of ours picks: [B, 1 + N]."""
    import torch

    picked = [job.first_token]
    for _ in range(new_tokens):
        job.step()
        picked.append(job.token)
    return torch.cat(picked, dim=1)


def require_same_tokens(case: Case, parameters: Any, site: Site) -> None:
    """Raises RuntimeError unless both pick the same tokens, eager and in float32.

    In fewer bits two honest roundings part at the first choice between near-equal logits.
    """
    wide = msgspec.structs.replace(site, precision=PRECISIONS["fp32"], execution="eager")
    job = catalogue.workload(case.workload).build(case.mode, parameters, wide)
    assert isinstance(job, DecodeJob)
    ours = tokens_of(job, parameters.new_tokens)
    theirs, _ = Generate(job, parameters.new_tokens).run()
    if ours.tolist() != theirs.tolist():
        differ = int((ours != theirs).sum())
        raise RuntimeError(f"{case.label}: {differ} of {ours.numel()} tokens differ")


def take_turns(case: Case, turns: int = TURNS) -> Turns:
    """Of ours and generate, in this process.

    Raises RuntimeError if they do not pick the same tokens.
    """
    precision = PRECISIONS[case.precision]
    device = catalogue.backend("cpu").open(0, precision)
    workload = catalogue.workload(case.workload)
    parameters = plan.parameters_of(case, workload)
    site = Site(device=device.torch_device, precision=precision, seed=0, execution=case.execution)
    require_same_tokens(case, parameters, site)
    job = workload.build(case.mode, parameters, site)
    assert isinstance(job, DecodeJob)
    other = Generate(job, parameters.new_tokens, case.execution == "compile")
    other.run()  # what it compiles, it compiles here
    engine = Engine(job, device, Settings(), usage=process_usage())

    def by_harness() -> float:
        job.again()  # reads the prompt, as generate has just done where its clock starts
        return engine.block(parameters.new_tokens).wall_ns / 1e9

    return in_turns(by_harness, lambda: other.run()[1], turns)


def cases(execution: str = "eager") -> tuple[Case, ...]:
    """What is compared."""
    return plan.plan(
        Suite(
            name="generate",
            source="bench/tests/validation/against_generate.py",
            description="",
            settings=Settings(),
            entries=({**WORK, "execution": execution},),
        )
    )


BY_EXECUTION = {execution: cases(execution) for execution in EXECUTIONS}

if __name__ == "__main__":
    script("bench.tests.validation.against_generate", __doc__, BY_EXECUTION, take_turns)
