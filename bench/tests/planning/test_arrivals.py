"""Loads: the same from the same seed, and of the lengths and the rate that were asked for."""

from __future__ import annotations

import statistics

import pytest

from bench.planning.arrivals import LONGEST, Lengths, closed, offline, poisson

FIXED = Lengths(input_tokens=32, output_tokens=8)
SPREAD = Lengths(input_tokens=100, output_tokens=50, sigma=0.5)


def test_a_load_is_its_seed_and_its_digest_says_so() -> None:
    """Anyone can draw it again; another seed, rate or length is another load."""
    load = poisson(50, SPREAD, 2.0, 1)
    assert load == poisson(50, SPREAD, 2.0, 1)
    others = [poisson(50, SPREAD, 2.0, 2), poisson(50, SPREAD, 2.1, 1), poisson(50, FIXED, 2.0, 1)]
    assert len({load.digest, *(other.digest for other in others)}) == 4
    # Written down: what was published must stay what it was.
    assert closed(4, SPREAD, 2, 1).digest == "2a34085efc5250d8"


def test_lengths_do_not_depend_on_how_requests_arrive() -> None:
    """So that a curve over rates or concurrencies is one load, thinner or denser."""
    loads = [closed(20, SPREAD, 4, 3), poisson(20, SPREAD, 9.0, 3), offline(20, SPREAD, 3)]
    lengths = [[(r.prompt_tokens, r.new_tokens) for r in load.requests] for load in loads]
    assert lengths[0] == lengths[1] == lengths[2]
    assert len(set(lengths[0])) > 10


def test_log_normal_lengths_have_their_mean_and_spread() -> None:
    """Within the error of a sample of 2,000; never beyond what a cache must hold."""
    lengths = [r.prompt_tokens for r in offline(2000, SPREAD, 0).requests]
    assert statistics.fmean(lengths) == pytest.approx(100, rel=0.05)
    assert statistics.stdev(lengths) == pytest.approx(53.3, rel=0.1)  # 100 sqrt(e^0.25 - 1)
    assert min(lengths) >= 1 and max(lengths) <= LONGEST * 100
    assert SPREAD.longest == LONGEST * 150 and FIXED.longest == 40


def test_a_poisson_process_has_its_rate_and_exponential_gaps() -> None:
    """Mean and deviation of the gaps are both 1 / rate."""
    due = [r.due_ns or 0 for r in poisson(2000, FIXED, 4.0, 0).requests]
    gaps = [(b - a) / 1e9 for a, b in zip([0, *due], due, strict=False)]
    assert min(gaps) >= 0
    assert statistics.fmean(gaps) == pytest.approx(0.25, rel=0.08)
    assert statistics.stdev(gaps) == pytest.approx(0.25, rel=0.1)


def test_a_closed_loop_begins_with_its_concurrency() -> None:
    """The others are due when one ends, which nobody knows beforehand."""
    assert [r.due_ns for r in closed(5, FIXED, 3, 0).requests] == [0, 0, 0, None, None]
    assert [r.due_ns for r in offline(2, FIXED, 0).requests] == [0, 0]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: closed(4, FIXED, 0, 0),
        lambda: poisson(4, FIXED, 0.0, 0),
        lambda: poisson(4, FIXED, float("inf"), 0),
        lambda: offline(0, FIXED, 0),
        lambda: offline(1, Lengths(input_tokens=0, output_tokens=1), 0),
    ],
)
def test_no_load_of_nothing(wrong) -> None:  # type: ignore[no-untyped-def]
    """Said at once, not found out by a division later."""
    with pytest.raises(ValueError):
        wrong()
