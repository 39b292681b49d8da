"""The script that sets decode beside `generate`: the same tokens, and its ratio is a ratio."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from bench.planning import plan
from bench.records.case import Case
from bench.tests.small_workloads import WORKLOADS, build, site
from bench.tests.validation import against_generate, agreement
from bench.workloads.layers.transformers import ATTENTION

NEW = 6


def small_case(**changes: Any) -> Case:
    case = against_generate.cases()[0]
    return Case(
        workload=case.workload,
        version=case.version,
        mode=case.mode,
        precision="fp32",
        parameters={**case.parameters, "model": "tiny", "prompt_length": 9, "new_tokens": NEW}
        | changes,
    )


def job_of(case: Case) -> Any:
    given = dict(case.parameters)
    return build("llama", "decode", site(), **given)


@pytest.mark.parametrize("batch", [1, 3])
def test_generate_picks_the_tokens_that_we_pick(batch: int) -> None:
    job = job_of(small_case(batch_size=batch))
    ours = against_generate.tokens_of(job, NEW)
    theirs, seconds = against_generate.Generate(job, NEW).run()
    assert ours.shape == (batch, 1 + NEW)
    assert len(ours.unique()) > batch, "not one token over and over"
    assert torch.equal(ours, theirs)
    assert seconds > 0


def test_generate_has_our_weights_and_its_own_attention() -> None:
    job = job_of(small_case())
    other = against_generate.Generate(job, NEW)._model
    for name, weight in job.generator.model.state_dict().items():
        assert weight.data_ptr() == other.state_dict()[name].data_ptr(), name
    assert other.config._attn_implementation == "sdpa"
    assert job.generator.model.config._attn_implementation == ATTENTION


def test_other_tokens_are_no_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    right = against_generate.tokens_of
    monkeypatch.setattr(against_generate, "tokens_of", lambda job, n: right(job, n) + 1)
    with pytest.raises(RuntimeError, match="7 of 7 tokens differ"):
        against_generate.take_turns(small_case())


def test_a_launch_gives_one_ratio() -> None:
    assert against_generate.take_turns(small_case(), turns=2).ratio > 0


def test_the_ratio_is_of_throughputs_and_turns_alternate() -> None:
    """Ours takes 2 s, theirs 3 s; the warm-up turns, which take a hundred, do not count."""
    order: list[str] = []
    turn = itertools.count()

    def side(name: str, seconds: float) -> float:
        order.append(name)
        return seconds if next(turn) >= 2 * agreement.WARMUP_TURNS else 100 * seconds**2

    found = agreement.in_turns(lambda: side("A", 2.0), lambda: side("B", 3.0))
    assert found.ratio == pytest.approx(1.5)
    assert (found.ours, found.theirs) == (2.0, 3.0)
    assert "".join(order[:6]) == "ABBAAB"


def test_what_is_compared_is_at_quick_size() -> None:
    labels = [case.label for case in against_generate.cases()]
    assert len(labels) == 4 and all("smollm2-135m" in label for label in labels)
    for case in against_generate.cases():
        plan.parameters_of(case, WORKLOADS["llama"])


def test_the_sentence_has_the_interval_over_launches() -> None:
    assert agreement.sentence([1.0, 1.0]) == "1.000 (no interval, 2 launches)"
    assert agreement.sentence([1.1, 1.1, 1.1]) == "1.100 (95 % 1.100 to 1.100, 3 launches)"


def test_a_launch_far_out_is_named_with_the_side_that_took_its_time() -> None:
    """In the fourth launch the other side took 2.4 times what it takes; the rest vary by 1 %."""
    launches = [agreement.Turns(1.0 + i / 100, 2.0, 2.0 + i / 50) for i in range(3)]
    assert agreement.remarks(launches) == []
    assert agreement.remarks([*launches, agreement.Turns(2.4, 2.0, 4.8)]) == [
        "launch 4 stands far out at 2.40: ours took 1.00 of its usual time, the other 2.36"
    ]
