"""What launches of one work that is spread otherwise say of each other's work."""

from __future__ import annotations

from typing import Any

import pytest

from bench.judging.comparing.compare import compare
from bench.judging.comparing.comparison import CaseComparison
from bench.judging.comparing.systems import compare_systems
from bench.records.proof import Proof, StepReading, Vector
from bench.records.run import RunFile
from bench.tests.judging.comparing.test_equal_work import number, vector
from bench.tests.judging.two_runs import ten
from bench.tests.judging.two_systems import WORK, on, runs_on
from bench.tests.values import make_case, make_measured

DECODE = make_case(workload="gpt", mode="decode", parameters={"batch_size": 64})


def read(
    spread: str, *, loss: float = 6.7, part: float = 0.0, turned: float = 0.0, update: float = 1.0,
    size: int = 1000, work: Any = WORK,
) -> RunFile:  # fmt: skip
    """A run of a training; loss: of the global batch after the first step, of which the first
    rank's rows have `part` more; turned: its gradients, of so many elements."""
    quantities = {
        "loss": number(loss + part),
        "gradients": vector(turned, size=size),
        "update": number(update, size),
    }
    later = {**quantities, "loss": number(loss - 1 + part)}
    proof = Proof(
        weights=vector(size=size),
        readings=(
            StepReading(step=1, quantities=quantities),
            StepReading(step=3, quantities=later),
        ),
    )
    outcomes = [make_measured([s], witness=(loss, 1.0), proof=proof) for s in ten(0.01, 0.01)]
    return runs_on((on(spread, work), outcomes))


def told(base: RunFile, other: RunFile) -> CaseComparison:
    (case,) = compare_systems(base, other).cases
    return case


def quantities(case: CaseComparison) -> set[str]:
    assert case.same_work is not None and case.same_work.proved
    return {finding.quantity for finding in case.same_work.findings}


WHOLE = {"losses", "lengths of the gradients", "lengths of the update"}


@pytest.mark.parametrize("base", ["none", "dp2", "dp8"])
def test_one_device_and_dp_hold_all_but_each_its_own_rows(base: str) -> None:
    """The loss of the first rank's rows is another; that of the global batch is the same."""
    case = told(read(base), read("dp64", part=0.5))
    assert quantities(case) == {*WHOLE, "weights before the first step"}
    assert case.verdict == "EQUIVALENT"


@pytest.mark.parametrize("spreads", [("none", "fsdp64"), ("dp8", "fsdp64"), ("fsdp8", "hsdp2x32")])
def test_shards_are_held_to_the_loss_of_the_global_batch(spreads: tuple[str, str]) -> None:
    """Shards of two numbers of devices are other elements, and no other work."""
    base, other = spreads
    case = told(read(base, size=125), read(other, size=16, part=0.5, turned=1.0))
    assert quantities(case) == {"losses"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loss": 6.8}, "the losses differ by 1.5 % after step 1"),
        ({"turned": 1.9, "size": 999}, "have other elements"),
        ({"update": 2.0}, "the lengths of the update differ by 50 %"),
    ],
)
def test_other_work_is_refused(changes: dict[str, Any], words: str) -> None:
    work = make_case(workload="gpt", mode="train", precision="fp32", parameters=WORK.parameters)
    case = told(read("none", work=work), read("dp8", work=work, **changes))
    assert case.verdict == "INCOMPARABLE" and set(case.codes) == {"other-work"}
    assert any(words in reason for reason in case.reasons)
    lossless = {name: value for name, value in changes.items() if name != "loss"}
    sharded = told(read("none", work=work), read("fsdp8", work=work, **lossless))
    assert sharded.verdict == "EQUIVALENT", "of a shard that says nothing"


def test_another_loss_is_refused_of_shards_too() -> None:
    case = told(read("fsdp8", size=125), read("fsdp64", size=16, loss=7.5))
    assert case.codes == ("other-work",)


def test_whatever_has_a_loss_is_held_to_it() -> None:
    work = make_case(workload="gpt", mode="lora", parameters=WORK.parameters)
    sharded = read("fsdp8", size=125, work=work)
    case = told(sharded, read("fsdp64", size=16, loss=7.5, work=work))
    assert case.codes == ("other-work",)
    bare = runs_on((on("fsdp64", work), [make_measured([0.01], witness=(8.0, 1.0))] * 5))
    assert told(sharded, bare).witness_gap == pytest.approx(1.3 / 8)


def test_equal_spreads_are_judged_as_equal_cases_are() -> None:
    base, other = read("fsdp8"), read("fsdp8", part=1.0)
    assert told(base, other).codes == ("other-work",) == compare(base, other).cases[0].codes


def test_replicas_have_rows_of_their_own() -> None:
    def outputs(spread: str, size: int) -> RunFile:
        reading = StepReading(step=1, quantities={"output": Vector(size=size, norm=1.0)})
        proof = Proof(readings=(reading,))
        outcomes = [
            make_measured([s], proof=proof, witness=(1.0 * size, 1.0)) for s in ten(0.01, 0.01)
        ]
        return runs_on((on(spread, DECODE), outcomes))

    case = told(outputs("none", 64), outputs("replicas8", 8))
    assert case.same_work is not None and case.verdict == "EQUIVALENT"
    assert case.same_work.unproved == (
        "work not proved: each rank has outputs of its own rows (replicas8)"
    )
    assert case.witness_gap is None, "nor do its first outputs tell"


def test_a_record_without_a_witness_says_so_and_its_losses_are_looked_at() -> None:
    bare = runs_on((on("dp8"), [make_measured([0.01], witness=(8.0, 1.0))] * 5))
    case = told(bare, read("dp64"))
    assert case.same_work is not None and "base has no witness" in case.same_work.unproved
    assert case.witness_gap == pytest.approx(1.3 / 8)
