"""The rule by which two rows are the same work: tolerances of the case's own, and what is said."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from bench.judging.comparing.compare import compare
from bench.judging.comparing.equal_work import EqualWork, judged, percent
from bench.measuring.proving.witness import resting
from bench.precision import PRECISIONS
from bench.records.agreement import BOUNDS, chance
from bench.records.proof import PROJECTIONS, Noise, Proof, StepReading, Vector
from bench.records.run import RunFile
from bench.report import Canvas
from bench.reports.flat.comparison import flat
from bench.reports.terminal.comparison import render
from bench.tests.judging.two_runs import CASE, only, run, runs
from bench.tests.values import another, failed, make_measured


def vector(error: float = 0.0, *, size: int = 1000, length: float = 1.0) -> Vector:
    """A unit vector, turned by so much; of that error against the one that is not."""
    turn = 2 * math.asin(error / 2)
    others = (0.0,) * (PROJECTIONS - 2)
    sums = tuple(length * x for x in (math.cos(turn), math.sin(turn), *others))
    return Vector(size=size, norm=length, projections=sums)


def number(value: float, size: int = 1) -> Vector:
    return Vector(size=size, norm=value)


def proof(noise: dict[str, Noise] | None = None, **quantities: Vector) -> Proof:
    return Proof(readings=(StepReading(step=1, quantities=quantities),), noise=noise or {})


def told(base: Proof, other: Proof, precision: str = "bf16") -> EqualWork:
    return judged([(0, base)], [(0, other)], precision)


@pytest.mark.parametrize(
    ("noise", "most"),
    [
        (None, 0.08),  # as wide as honest work has been
        (0.001, 0.035),  # no narrower than rounding is known to be
        (0.08, 0.048),  # its own
        (0.5, 0.16),  # and no wider than what matters
    ],
)
def test_the_tolerance_is_the_cases_own(noise: float | None, most: float) -> None:
    loud = None if noise is None else {"output": Noise(error=noise, norm_error=noise)}
    measured = proof(loud, output=vector())
    inside, beyond = (proof(output=vector(most * part)) for part in (0.99, 1.01))
    for base, other in ((measured, inside), (inside, measured)):  # whichever took the noise
        assert told(base, other).proved
        assert told(base, other).findings[0].most == pytest.approx(most)
    assert not told(measured, beyond).proved


def test_gradients_that_rounding_turns_are_compared_by_length() -> None:
    """Noise 0.5: half of it is the tolerance of the length, and no direction counts."""
    base = proof({"gradients": Noise(error=0.5, norm_error=0.0)}, gradients=vector())
    found = told(base, proof(gradients=vector(1.0, length=1.1)))
    assert found.proved and found.findings[0].quantity == "lengths of the gradients"
    assert found.findings[0].error == pytest.approx(0.1 / 1.1)
    assert found.findings[0].most == pytest.approx(0.25)
    assert not told(base, proof(gradients=vector(length=1.4))).proved
    calm = proof({"gradients": Noise(error=0.02, norm_error=0.01)}, gradients=vector())
    assert not told(calm, proof(gradients=vector(1.0))).proved


@pytest.mark.parametrize(
    ("noise", "precision", "most"),
    [(0.02, "bf16", 0.03), (0.2, "bf16", 0.2), (0.9, "bf16", 0.4), (0.9, "bf16-amp", 0.4)],
)
def test_an_update_is_compared_by_length(noise: float, precision: str, most: float) -> None:
    """By the noise of the gradients, not of their length, which may happen to be nothing; a rate
    that is doubled in a bf16 ResNet makes 0.46 and more."""
    base = proof({"gradients": Noise(error=noise, norm_error=0.0)}, update=number(1.0, 9))
    for error, proved in ((0.99 * most, True), (1.01 * most, False), (0.46, False), (1.0, False)):
        other = proof(update=number(1.0 - error, 9))
        assert told(base, other, precision).proved is proved


@pytest.mark.parametrize(
    ("rests", "noise", "most"),
    [
        ((5.0, 5.0), 0.9, 1.7 * 0.9 / 5**0.5),  # ResNet in bf16: chance alone makes that
        ((5.0, None), 0.9, 1.7 * 0.9 / 5**0.5),  # the other one moved nothing, or is older
        ((5.0, 1e9), 5.0, 0.4),  # a side alone does not widen it
        ((5.0, 6.0), 5.0, 1.7 / 5**0.5),  # unrelated is as far as rounding turns
        ((400.0, 400.0), 0.9, 0.4),
        ((None, None), 0.9, 0.4),  # an older record's stays what it was
        ((5.0, 5.0), None, 1.7 * 0.4 / 5**0.5),
    ],
)
def test_a_length_that_few_values_make_is_known_by_chance_only(
    rests: tuple[float | None, float | None], noise: float | None, most: float
) -> None:
    """And nothing but a length is: a skipped update, which is as far off as can be, is told."""
    mine, theirs = (msgspec.structs.replace(number(1.0, 9), rests_on=n) for n in rests)
    loud = {} if noise is None else {"gradients": Noise(error=noise, norm_error=0.0)}
    base, other = proof(loud, update=mine), proof(update=theirs)
    (found,) = told(base, other).findings
    assert found.most == pytest.approx(max(most, 0.4))
    assert not told(base, proof(update=number(0.0, 9))).proved
    few = msgspec.structs.replace(vector(), rests_on=5.0)
    assert told(proof(output=few), proof(output=few)).findings[0].most == 0.08


def test_honest_lengths_are_refused_once_in_a_thousand_at_most() -> None:
    """4,000 pairs of 300 values of very unlike sizes, turned by 0.9 (seen of ResNet): by the rule
    one in a thousand at most; by what one length may be at the most, more than ten times that."""
    import torch

    draw = torch.Generator().manual_seed(1)
    sizes = torch.randn(300, generator=draw, dtype=torch.float64).mul(2).exp()
    one, rest = (torch.randn(4000, 300, generator=draw, dtype=torch.float64) for _ in range(2))
    turned = (1 - 0.9**2 / 2) * one + (0.9**2 - 0.9**4 / 4) ** 0.5 * rest
    mine, theirs = one * sizes, turned * sizes
    lengths = mine.norm(dim=1), theirs.norm(dim=1)
    errors = (lengths[0] - lengths[1]).abs() / torch.maximum(*lengths)
    rests = [
        [Vector(size=300, norm=1.0, rests_on=resting(row / row.norm())) for row in side]
        for side in (mine, theirs)
    ]
    most = torch.tensor([chance(a, b, turn=0.9) for a, b in zip(*rests, strict=True)])
    assert float((errors > most).double().mean()) <= 1e-3
    assert float((errors > 0.4).double().mean()) > 1e-2


def test_a_side_that_differs_from_itself_does_not_widen_its_tolerance() -> None:
    """Its noise counts for twice the other's at the most; a number's may be small by chance."""
    calm, wild = (
        proof(
            {n: Noise(error=e * x, norm_error=e) for n, x in (("gradients", 1), ("loss", 0.03))},
            gradients=vector(turned),
            loss=number(1.0),
        )
        for e, turned in ((0.05, 0.0), (0.7, 0.6))
    )
    for base, other in ((calm, wild), (wild, calm)):
        found = {finding.quantity: finding for finding in told(base, other).findings}
        assert not found["gradients"].agrees
        assert found["gradients"].most == pytest.approx(1.5 * 2 * 0.05)
        assert found["losses"].most == pytest.approx(2 * 0.7 * 0.03)
    assert told(proof(gradients=vector()), wild).findings[0].quantity == "lengths of the gradients"


@pytest.mark.parametrize(("precision", "most"), [("fp32", 0.06), ("bf16", 0.03)])
def test_noise_in_float32_may_have_none_of_the_jumps(precision: str, most: float) -> None:
    base = proof({"gradients": Noise(error=0.01, norm_error=0.01)}, gradients=vector())
    found = told(base, proof(gradients=vector(0.061)), precision)
    assert not found.proved and found.findings[0].most == pytest.approx(most)


def test_one_unit_on_the_other_side_is_honest_in_float32_and_another_loss_is_not() -> None:
    calm = {name: Noise(error=1e-5, norm_error=1e-5) for name in ("gradients", "loss")}
    base = proof(calm, gradients=vector(), loss=number(1.0))
    assert told(base, proof(gradients=vector(0.016), loss=number(1.0)), "fp32").proved
    coarse = told(base, proof(gradients=vector(1e-3), loss=number(1 + 3e-4)), "fp32")
    assert [finding.quantity for finding in coarse.findings if not finding.agrees] == ["losses"]


@pytest.mark.parametrize(
    ("kinks", "error", "proved"),
    [((False, False), 1e-5, True), ((False, False), 5e-3, False)]
    + [(either, 5e-3, True) for either in ((False, True), (True, False), (True, True))],
)
@pytest.mark.parametrize("noise", [None, 5e-5])
def test_a_backward_in_bfloat16_is_none_in_float32_where_nothing_has_kinks(
    kinks: tuple[bool, bool], error: float, proved: bool, noise: float | None
) -> None:
    known = {} if noise is None else {"gradients": Noise(error=noise, norm_error=noise)}
    sides = (proof(known, gradients=vector(size)) for size in (0.0, error))
    base, other = (
        msgspec.structs.replace(side, kinks=has) for side, has in zip(sides, kinks, strict=True)
    )
    assert told(base, other, "fp32").proved is proved


def test_a_tolerance_that_no_device_measured_is_said() -> None:
    loud = {"output": Noise(error=0.05, norm_error=0.05)}
    measured, older = proof(loud, output=vector()), proof(output=vector())
    refuses = msgspec.structs.replace(older, no_noise="the device refused it: RuntimeError: no")
    assert told(measured, measured).words == "same work: outputs are equal"
    assert told(measured, refuses).words == (
        "same work: outputs are equal (tolerance not measured on other: the device refused it: "
        "RuntimeError: no)"
    )
    assert told(older, measured).unmeasured == (
        "tolerance not measured on base: no launch came to it"
    )
    both = told(refuses, older)
    assert both.proved and "base: the device refused it: RuntimeError: no, on other" in both.words
    assert told(refuses, refuses).unmeasured.startswith("tolerance not measured on either side: ")
    assert not told(refuses, proof(output=vector(1.0))).proved
    case, said = card(proved_run(measured), proved_run(refuses))
    assert case.ratio is not None and "not measured on other: the device refused it" in said
    found = flat(compare(proved_run(measured), proved_run(refuses)))["cases"][0]["same_work"]
    assert "the device refused it" in found["tolerance_not_measured"]


def test_wide_weights_are_seen_beside_narrow_ones() -> None:
    """Integers up to 127 drown the head that was put through 8 bits."""
    base, other = (
        Proof(weights=vector(), wide_weights=w, readings=proof(output=vector()).readings)
        for w in (vector(), vector(4e-3))
    )
    found = told(base, other, "int8")
    assert not found.proved and "weights of 16 bits or more before" in found.words
    older = msgspec.structs.replace(other, wide_weights=None)
    assert told(base, older, "int8").proved


@pytest.mark.parametrize(
    ("base", "other"),
    [
        ({"output": vector()}, {"output": vector(size=500)}),  # half a batch
        ({"output": vector()}, {"logits": vector()}),
        ({"loss": number(1.0), "output": vector()}, {"output": vector()}),
    ],
)
def test_other_elements_are_other_work(base: dict[str, Vector], other: dict[str, Vector]) -> None:
    found = told(proof(None, **base), proof(None, **other))
    assert not found.proved and "have other elements after step 1 at seed 0" in found.words


def test_a_step_that_only_one_side_read_is_no_question() -> None:
    """A slow launch, whose warm-up ended at its limit after two steps."""
    first = proof(output=vector()).readings[0]
    third = StepReading(step=3, quantities={"output": vector()})
    whole, short = Proof(readings=(first, third)), Proof(readings=(first,))
    for base, other in ((whole, short), (short, whole)):
        found = told(base, other)
        assert found.proved and {finding.step for finding in found.findings} == {1}
    found = told(whole, Proof(readings=(msgspec.structs.replace(first, step=2),)))
    assert not found.proved and "no step of the one was read" in found.words


@pytest.mark.parametrize(
    ("precision", "error", "proved"),
    [("fp32", 2e-7, True), ("fp32", 2e-3, False), ("bf16", 2e-5, True), ("bf16", 1e-3, False)],
)
def test_weights_before_the_first_step(precision: str, error: float, proved: bool) -> None:
    """Normals that differ in the last bit between CPUs, and weights that went through 8 bits."""
    readings = proof(output=vector()).readings
    base, other = (Proof(weights=w, readings=readings) for w in (vector(), vector(error)))
    assert told(base, other, precision).proved is proved


def test_every_precision_has_its_bounds() -> None:
    assert set(BOUNDS) == set(PRECISIONS)
    for bounds in BOUNDS.values():
        assert "output" in bounds
        assert all(0 < one.least < one.most < 1 for one in bounds.values())


def test_an_error_in_words() -> None:
    errors = (0.0, 2.4e-6, 0.0091, 0.17, 1.4)
    assert [percent(x) for x in errors] == ["0 %", "0.00024 %", "0.91 %", "17 %", "140 %"]


def proved_run(*proofs: Proof | None) -> RunFile:
    """Five launches, of seeds 0 to 4; the last proof is that of all that follow."""
    given = [*proofs, *([proofs[-1]] * (5 - len(proofs)))]
    return runs((CASE, [make_measured([0.01], proof=one, witness=(0.1, 0.1)) for one in given]))


def card(base: RunFile, other: RunFile) -> tuple[Any, str]:
    found = compare(base, other)
    return only(found), render([found], Canvas(width=200))


GOOD = proof(output=vector())


def test_compare_says_that_it_is_the_same_work() -> None:
    near = proof(output=vector(0.009))
    case, said = card(proved_run(GOOD), proved_run(GOOD, near))
    assert "same work: outputs agree within 0.9 %" in said and case.ratio is not None
    assert case.same_work.seeds == 5 and case.witness_gap is None
    found = flat(compare(proved_run(GOOD), proved_run(near)))["cases"][0]["same_work"]
    assert found["proved"] and found["quantities"]["outputs"]["error"] == pytest.approx(0.009)


def test_compare_refuses_other_work_and_gives_no_ratio() -> None:
    far = proof(output=vector(0.17))
    case, said = card(proved_run(GOOD), proved_run(GOOD, GOOD, far, GOOD))
    assert case.verdict == "INCOMPARABLE" and case.ratio is None and case.interval is None
    assert (
        "not the same work: the outputs differ by 17 % after step 1 at seed 2 (rounding explains "
        "at most 8 %)"
    ) in said
    other = proof(output=vector(size=7))
    found = flat(compare(proved_run(GOOD), proved_run(other)))["cases"][0]["same_work"]
    assert not found["proved"] and found["quantities"]["outputs"]["error"] is None


def test_older_records_compare_as_before_and_are_not_proved() -> None:
    """The remark on the mean of the outputs is theirs alone."""
    older = runs((CASE, [make_measured([0.01], witness=(0.2, 0.1)) for _ in range(5)]))
    case, said = card(proved_run(GOOD), older)
    assert case.ratio is not None and case.witness_gap == pytest.approx(0.5)
    assert "work not proved: other has no witness (its record is an older one)" in said
    assert "first loss or mean output differs at equal seeds: bert-train bf16 50%" in said
    _, said = card(older, another(older))
    assert "work not proved: base has no witness (its record is an older one)" in said
    bare = proved_run(Proof(absent="the workload gives no outputs"))
    _, said = card(bare, another(bare))
    assert "work not proved: base has no witness (the workload gives no outputs)" in said


def test_only_launches_of_one_seed_are_compared() -> None:
    assert judged([(1, GOOD)], [(2, proof(output=vector(1.0)))], "bf16").absent == (
        "no launch of the one has the seed of one of the other"
    )


def test_of_what_was_not_measured_it_is_no_question() -> None:
    assert only(compare(run([0.01] * 5), runs((CASE, [failed()])))).same_work is None
