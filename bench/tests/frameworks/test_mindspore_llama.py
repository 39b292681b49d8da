"""Llama in MindSpore: its tables and draws are torch's, and so is its work, where it is there."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from bench import catalogue
from bench.frameworks.on_mindspore import jobs, llama
from bench.judging.comparing.equal_work import of_launches
from bench.measuring.messages import Report
from bench.precision import PRECISIONS
from bench.records.case import Case
from bench.records.outcome import Measured, Void
from bench.running.elsewhere import Elsewhere
from bench.tests.frameworks.mindspore_launches import Trial, launched
from bench.tests.frameworks.mindspore_llama_faults import MODEL, OTHERS
from bench.tests.frameworks.test_mindspore import handed, there
from bench.tests.measuring.proving.watching import proof_of
from bench.tests.small_workloads import WORKLOADS, site, small
from bench.workload import PACKED, Unsupported
from bench.workloads.jobs.seeded import noted
from bench.workloads.language.llamas import SCALED, SIZES

__all__ = ["there"]  # a fixture, used by being here

LENGTHS: dict[str, dict[str, Any]] = {
    "prefill": {"prompt_length": 12},
    "decode": {"prompt_length": 12, "new_tokens": 5},
    "train": {"sequence_length": 12},
}


def case(mode: str, precision: str, execution: str = "eager") -> Case:
    return Case(
        workload="llama",
        version=WORKLOADS["llama"].version,
        mode=mode,
        precision=precision,
        execution=execution,
        parameters={"model": MODEL, "batch_size": 2, **LENGTHS[mode]},
    )


OWN_MATRIX = "an output matrix of its own"
"""Of a model that has it on both sides; it is in fp16 besides."""
HONEST = {
    f"{mode} fp32 {execution}": case(mode, "fp32", execution)
    for mode in LENGTHS
    for execution in ("eager", "compile")
} | {OWN_MATRIX: case("decode", "fp16", "compile")}
FAULTY = {
    "wrong weights": case("decode", "fp32"),
    "fp16 for fp32": case("prefill", "fp32"),
    "another epsilon": case("prefill", "fp32"),
    "wrong places": case("decode", "fp32"),
    "no mask": case("decode", "fp32"),
    "nothing written": case("decode", "fp32"),
}
LATE = {
    "tokens dropped": "steps of a block gave what comes of another input",
    "stale tokens": "steps that build on one another differ by up to",
}
"""Faults of a compiled decode that the gate does not see: what finds them."""


def alike(name: str) -> contextlib.AbstractContextManager[None]:
    """The model of that launch."""
    return OTHERS.get(name, contextlib.nullcontext)()


@pytest.fixture(scope="module")
def reports(there: Elsewhere, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Report]:
    """Of one process: each launch by what it is."""
    folder = tmp_path_factory.mktemp("handed")
    trials = {}
    for name, one in HONEST.items():
        with alike(name):
            trials[name] = Trial(request=handed(one, folder), fault=name)
    folder = tmp_path_factory.mktemp("planted")  # one case has one file, and other models above
    late = dict.fromkeys(LATE, case("decode", "fp32", "compile"))
    for fault, one in {**FAULTY, **late}.items():
        trials[fault] = Trial(request=handed(one, folder), fault=fault)
    return dict(zip(trials, launched(there, trials.values(), folder), strict=True))


@pytest.mark.parametrize("name", HONEST)
def test_its_work_passes_the_gate_and_is_torchs(reports: dict[str, Report], name: str) -> None:
    outcome, one = reports[name].outcome, HONEST[name]
    assert isinstance(outcome, Measured), outcome
    assert all(check.passed for check in outcome.numerics.checks)
    assert outcome.proof is not None
    with alike(name):
        torchs = proof_of(one, seed=1)
    found = of_launches([(1, torchs)], [(1, outcome.proof)], one.precision)
    assert found.proved, found.words


@pytest.mark.parametrize("fault", FAULTY)
def test_planted_faults_are_void(reports: dict[str, Report], fault: str) -> None:
    outcome = reports[fault].outcome
    assert isinstance(outcome, Void) and outcome.reason.startswith("numerics: logits"), outcome


@pytest.mark.parametrize("fault", LATE)
def test_tokens_that_were_not_computed_are_void(reports: dict[str, Report], fault: str) -> None:
    outcome = reports[fault].outcome
    assert isinstance(outcome, Void) and LATE[fault] in outcome.reason, outcome


@pytest.mark.parametrize("model", ["tiny", "llama-3.2-1b-2l"])
def test_its_rotations_are_the_librarys(model: str) -> None:
    """Plain, and scaled as of Llama 3.1: the longest waves have turned by then."""
    import torch
    from transformers.models.llama.modeling_llama import LlamaConfig, LlamaRotaryEmbedding

    size, length = SIZES[model], 1500
    options = size.options("eager")
    if size.rope_factor is not None:
        options["rope_parameters"] |= {**SCALED, "factor": size.rope_factor}
    theirs: Any = LlamaRotaryEmbedding(LlamaConfig(**options))
    cosines, sines = theirs(torch.zeros(1), torch.arange(length)[None])
    mine, signed = llama.rotation(size, length)
    half = size.head // 2
    assert np.abs(mine - cosines[0].numpy()).max() < 2e-4
    assert np.abs(signed[:, half:] - sines[0, :, half:].numpy()).max() < 2e-4
    assert (signed[:, :half] == -signed[:, half:]).all()


class Noting:
    """Draws that are zeros, and noted."""

    def __init__(self) -> None:
        self.made: list[tuple[Any, ...]] = []

    def normal(self, shape: tuple[int, ...], std: float = 1.0) -> Any:
        self.made.append((shape, std))
        return np.zeros(shape, np.float32)


@pytest.mark.parametrize("model", ["tiny", "untied"])
def test_its_weights_are_drawn_in_torchs_order(monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    """And are as many, in the same order: what a witness of the weights compares."""
    size = SIZES["tiny"]
    if model == "untied":
        size = msgspec.structs.replace(size, tied=False)
    monkeypatch.setattr(jobs, "placed", lambda values, site: values)
    at, draws = site(PRECISIONS["fp32"]), Noting()
    mine = llama.weights_of(size, at, draws)  # type: ignore[arg-type]
    monkeypatch.setitem(SIZES, "tiny", size)
    with noted() as found:
        job: Any = WORKLOADS["llama"].build("prefill", small("llama", "prefill"), at)
    normals = [(tuple(shape), how) for shape, how, _ in found if isinstance(how, float)]
    assert draws.made == normals
    assert [w.shape for w in mine] == [tuple(w.shape) for w in job.weights()]
    ones = [bool((w == 1).all()) for w in mine]
    assert ones == [w.dim() == 1 for w in job.weights()]


@pytest.mark.parametrize(
    ("dtype", "value", "wrong"),
    [
        ("Float32", 1.0, {}),
        ("Float32", 0.0, {"cache": "left empty"}),
        ("Float16", 1.0, {"dtype of the cache": "float16"}),
    ],
)
def test_its_cache_is_looked_at(
    monkeypatch: pytest.MonkeyPatch, dtype: str, value: float, wrong: Any
) -> None:
    monkeypatch.setattr(jobs, "placed", lambda values, site: values)
    model = llama.Model(SIZES["tiny"], site(), Noting())  # type: ignore[arg-type]
    caches = [SimpleNamespace(dtype=dtype, asnumpy=lambda v=v: np.full(3, v)) for v in (1.0, value)]
    looks = list(model.looks(caches))
    assert {look.what: look.seen for look in looks if look.seen != look.asked} == wrong


def test_no_token_sees_what_comes_after_it() -> None:
    mask = llama.causal(np.arange(2, 5), 6)
    assert (mask == 0).sum(1).tolist() == [3, 4, 5] and (mask[:, -1] == llama.NEVER).all()


@pytest.mark.parametrize(
    ("mode", "layout", "given", "said"),
    [
        ("decode", PACKED, {}, "no packed layout"),
        ("train", "contiguous", {"gradient_checkpointing": True}, "no gradient checkpointing"),
        ("lora", "contiguous", {}, "no llama-lora, so far. There are: gemm-matmul"),
    ],
)
def test_what_it_has_not_is_named(mode: str, layout: str, given: Any, said: str) -> None:
    at = site(PRECISIONS["fp32"], memory_format=layout)
    parameters, draws = small("llama", mode, **given), Noting()
    with pytest.raises(Unsupported, match=said):
        catalogue.framework("mindspore").build(
            WORKLOADS["llama"],
            mode,
            parameters,
            at,
            draws,  # type: ignore[arg-type]
        )
    assert draws.made == []
