"""What `bench.tests.scripts.explain_check` makes of accounts, without its measuring."""

from __future__ import annotations

import pytest

from bench.records.explained import Profile, Tried
from bench.tests.judging.explaining.accounts import (
    MM,
    MS,
    SGD,
    VIEWS,
    account,
    judged,
    operator,
)
from bench.tests.scripts import explain_check


def test_the_check_of_all_this_judges_truly() -> None:
    good, less = judged(account()), judged(account(step_ns=(round(120 * MS),)))
    assert not explain_check.coverage([good] * 8 + [less] * 2).met
    assert explain_check.coverage([good] * 9 + [less]).met and not explain_check.coverage([]).met
    assert not explain_check.shares([good]).met, "matmul is 5 points off"
    alike = Profile(
        step_ns=1e8, kinds={"matmul": 60.0, "elementwise": 20.0, "optimizer": 4.0}, calls={}
    )
    assert explain_check.shares([judged(account(profile=alike))]).met
    unseen = judged(account(profile=None, profile_absent="nobody looked"))
    assert not explain_check.shares([judged(account(profile=alike)), unseen]).met
    op = operator("planted::layer_norm", "normalization", 10.8)
    with_it = judged(account(operators=(*account().operators, op)))
    assert explain_check.planted(with_it).met and not explain_check.planted(good).met
    assert explain_check.layouts(good, judged(account(0.5))).met is False, "the host's 5 ms are not"
    without = account(step_ns=(round(80 * MS),), operators=(MM, SGD, VIEWS), order=(), call_ns=())
    assert explain_check.layouts(good, judged(without)).met
    counted = {good.case.fingerprint: account()}
    assert explain_check.counts([good], counted).met
    assert not explain_check.counts([good], {}).met and not explain_check.counts([], {}).met


@pytest.mark.parametrize(
    ("tried", "apart", "true"),
    [
        (90, 89, True),
        (90, 99, True),  # by 1 %, which may be one or the other
        (90, 105, False),
        (100, 101, True),
        (100, 90, False),
    ],
)
def test_advice_is_true_where_a_measurement_apart_says_the_same(
    tried: int, apart: int, true: bool
) -> None:
    said_of = Tried(remedy="x", before_ns=(100,) * 9, after_ns=(tried,) * 9)
    assert explain_check.told(said_of, 100.0, float(apart)) is true
    assert not explain_check.told(Tried(remedy="x", absent="no"), 100.0, 90.0)
    unsure = Tried(remedy="x", before_ns=(260, 200), after_ns=(190, 210))
    assert explain_check.told(unsure, 100.0, 90.0) is None
    pieces = [(said_of, 100.0, float(apart))]
    assert explain_check.advice(pieces * 3).met is true and not explain_check.advice(pieces * 2).met


@pytest.mark.parametrize(
    ("after", "met"),
    [
        ((101, 128, 91, 119, 100), True),
        ((110, 143, 99, 132, 110), False),
        ((180, 91, 130, 80, 140), False),  # of which nothing can be said
        ((101,), False),
    ],
)
def test_runs_that_explain_are_held_against_those_beside_them(
    after: tuple[int, ...], met: bool
) -> None:
    """On a machine whose speed moves by a third from one pair to the next."""
    pairs = list(zip((100.0, 130.0, 90.0, 120.0, 100.0), map(float, after), strict=False))
    assert explain_check.unchanged(pairs).met is met
