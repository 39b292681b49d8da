"""Figures of a known schedule: each is known beforehand, to the last digit."""

from __future__ import annotations

import msgspec
import pytest

from bench.judging.serving import (
    Limits,
    arrival_rate,
    figures,
    over_launches,
    percentiles,
    tpot,
    ttft,
)
from bench.records.served import EngineSteps, Served, ServedRequest

MS = 1_000_000
SLOTS, TOKENS = 2, 5
WIDE = Limits(ttft_seconds=1.0, tpot_seconds=1.0)


def request(index: int) -> ServedRequest:
    """Two at a time, one beginning every 50 ms: due at once, admitted 10 ms later, first token
    after another 10 ms, then one each 20 ms."""
    due = 50 * MS * index
    return ServedRequest(
        prompt_tokens=7,
        due_ns=due,
        admitted_ns=due + 10 * MS,
        first_ns=due + 20 * MS,
        last_ns=due + 100 * MS,
        tokens=TOKENS,
    )


def known(count: int = 6) -> Served:
    """A load of so many of them, and its engine: a step each 10 ms, 1 ms of it overhead."""
    requests = [request(index) for index in range(count)]
    moments = sorted(
        (r.first_ns or 0) + 20 * MS * token for r in requests for token in range(TOKENS)
    )
    steps = range(5 * count + 5)
    return Served(
        requests=tuple(requests),
        arrived_ns=tuple(moments),
        arrived_tokens=(1,) * len(moments),
        ramp=SLOTS,
        load="abc",
        steps=EngineSteps(
            start_ns=tuple(10 * MS * i for i in steps),
            wall_ns=(10 * MS,) * len(steps),
            forward_ns=(9 * MS,) * len(steps),
            decode_rows=(1,) * len(steps),
            prompt_rows=(0,) * len(steps),
            slots=SLOTS,
            chunk=4,
        ),
    )


def test_every_figure_of_a_known_schedule() -> None:
    """Window from the second completion, at 150 ms, to the last admission, at 260 ms."""
    found = figures(known(), WIDE)
    assert found is not None
    # Request 1 has its last token at 150, which is not in; of 2 (120 to 200) come 160, 180, 200;
    # of 3 (170 to 250) all five; of 4 (220 to 300) 220, 240, 260: 11 tokens.
    # First tokens in the window: of 3 and 4.
    assert found.total_rate == pytest.approx((11 + 2 * 7) / 0.110)
    # Ended within it: 2 and 3, of which 3 was admitted in it too, at 160.
    assert found.requests == 1
    # Admitted within it, whenever they ended: 3, 4 and 5.
    assert found.ttft.requests == 3 and found.ttft.p50 == pytest.approx(0.020)
    assert found.tpot.p50 == pytest.approx(0.020)
    assert found.interactivity == pytest.approx(50.0)
    assert found.goodput == pytest.approx(2 / 0.110) and found.good_share == 1.0
    assert found.arrival_rate == pytest.approx(20.0)
    assert found.occupancy == pytest.approx(0.5)
    assert found.overhead == pytest.approx(0.1)
    assert found.failed == 0


def test_slots_are_busy_only_while_a_step_runs_and_as_far_as_it_lies_in_the_window() -> None:
    """Steps of 10 ms of which one in five is left: of the 110 ms from 150 on all of the one
    at 150, of the one at 200, and 10 ms of one that lasts from 250 to 300; one slot of two."""
    served = known()
    assert served.steps is not None
    kept = {
        name: tuple(getattr(served.steps, name)[5::5])
        for name in ("start_ns", "wall_ns", "forward_ns", "decode_rows", "prompt_rows")
    }
    kept["wall_ns"] = (*kept["wall_ns"][:4], 50 * MS, *kept["wall_ns"][5:])
    steps = msgspec.structs.replace(served.steps, **kept)
    found = figures(msgspec.structs.replace(served, steps=steps), WIDE)
    assert found is not None
    assert found.occupancy == pytest.approx((10 + 10 + 10) / 110 / SLOTS)


@pytest.mark.parametrize(
    ("limits", "good"),
    [
        (WIDE, 2),
        (Limits(ttft_seconds=0.02, tpot_seconds=0.02), 2),
        (Limits(ttft_seconds=0.019, tpot_seconds=1.0), 0),
        (Limits(ttft_seconds=1.0, tpot_seconds=0.019), 0),
    ],
)
def test_goodput_keeps_every_limit(limits: Limits, good: int) -> None:
    """One of two limits kept is not good."""
    found = figures(known(), limits)
    assert found is not None and found.goodput == pytest.approx(good / 0.110)


def test_latency_counts_from_the_scheduled_arrival() -> None:
    """However long the engine, or a client's own queue, let a request wait."""
    late = msgspec.structs.replace(
        request(0), admitted_ns=500 * MS, first_ns=600 * MS, last_ns=680 * MS
    )
    assert ttft(late) == pytest.approx(0.6)
    assert tpot(late) == pytest.approx(0.02)
    assert tpot(msgspec.structs.replace(late, tokens=1, last_ns=late.first_ns)) is None


def test_who_waits_longest_and_ends_late_counts_for_ttft() -> None:
    """Of those that end in the window none waited: its end is the last admission."""
    served = known(20)
    slow = [
        msgspec.structs.replace(r, first_ns=r.due_ns + 2000 * MS, last_ns=r.due_ns + 2080 * MS)
        if index >= 10
        else r
        for index, r in enumerate(served.requests)
    ]
    found = figures(msgspec.structs.replace(served, requests=tuple(slow)), WIDE)
    assert found is not None and found.ttft.requests == 17 and found.tpot.requests == 7
    assert found.ttft.p50 == pytest.approx(2.0) and found.tpot.p50 == pytest.approx(0.020)


def test_tokens_that_came_at_once_have_no_time_each_and_keep_a_limit_if_all_did_together() -> None:
    """What a buffer in between holds back; of older records too, where a first arrival counts as
    one token. An answer of one token has no later one."""
    whole = msgspec.structs.replace(request(0), last_ns=request(0).first_ns, first_tokens=TOKENS)
    older = msgspec.structs.replace(whole, first_tokens=1)
    single = msgspec.structs.replace(whole, tokens=1, first_tokens=1)
    assert tpot(whole) is None and tpot(older) is None and tpot(single) is None
    seconds = ttft(whole) or 0.0
    for each, kept in ((seconds / 3.9, True), (seconds / 4.1, False)):
        limits = Limits(ttft_seconds=1.0, tpot_seconds=each)
        assert [limits.kept(one) for one in (whole, older, single)] == [kept, kept, True]


def test_percentiles_only_from_enough_requests() -> None:
    """36 for p90, 368 for p99."""
    few, some, many = (percentiles([0.1] * n) for n in (35, 36, 368))
    assert (few.p50, few.p90, few.p99) == (0.1, None, None)
    assert some.p90 == pytest.approx(0.1) and some.p99 is None
    assert many.p99 == pytest.approx(0.1)
    assert percentiles([]).p50 is None


def test_a_load_without_a_steady_part_has_no_figures() -> None:
    """Two requests at two slots: the second completion is after the last admission."""
    assert known(2).window is None
    assert figures(known(2), WIDE) is None


def test_failed_requests_are_rows_and_never_good() -> None:
    """A request that failed in the window counts as failed, and not as goodput."""
    served = known()
    third = msgspec.structs.replace(served.requests[3], failed="connection closed")
    requests = (*served.requests[:3], third, *served.requests[4:])
    found = figures(msgspec.structs.replace(served, requests=requests), WIDE)
    assert found is not None
    assert (found.failed, found.requests) == (1, 0)
    assert found.goodput == pytest.approx(1 / 0.110)


def test_all_at_once_have_no_arrival_rate() -> None:
    """There is no time between them to divide by."""
    requests = [msgspec.structs.replace(request(i), due_ns=0) for i in range(3)]
    assert arrival_rate(requests) is None


def test_over_launches_an_interval_from_three() -> None:
    """The launch is the unit: geometric mean, t interval; none of two, none where one is silent."""
    one = figures(known(), WIDE)
    assert one is not None
    known_figures = [msgspec.structs.replace(one, total_rate=x) for x in (90.0, 100.0, 110.0)]
    rate = over_launches(known_figures, lambda f: f.total_rate, 0.95)
    assert rate is not None and rate.low is not None and rate.high is not None
    assert rate.low < rate.value < rate.high
    two = over_launches(known_figures[:2], lambda f: f.total_rate, 0.95)
    assert two is not None and two.low is None
    assert over_launches(known_figures, lambda f: f.ttft.p99, 0.95) is None
    nothing = over_launches(known_figures, lambda f: 0.0, 0.95)
    assert nothing is not None and nothing.value == 0.0


@pytest.mark.parametrize(
    "change",
    [
        {"arrived_tokens": (2,) * 30},
        {"arrived_ns": (0,)},
        {"ramp": 0},
        {"requests": ()},
        {"load": ""},
    ],
)
def test_nonsense_cannot_be_written_down(change: dict[str, object]) -> None:
    """A record whose parts contradict each other is none."""
    with pytest.raises(ValueError):
        msgspec.structs.replace(known(), **change)


@pytest.mark.parametrize(
    "change",
    [
        *({"first_ns": 0}, {"tokens": 0}, {"last_ns": None}, {"prompt_tokens": 0}, {"tokens": 1}),
        *({"first_tokens": 0}, {"first_tokens": TOKENS + 1}),
    ],
)
def test_no_request_is_answered_before_it_came(change: dict[str, object]) -> None:
    """Due, admitted, begun, ended: in this order, and with a token."""
    with pytest.raises(ValueError):
        msgspec.structs.replace(request(1), **change)


@pytest.mark.parametrize(
    "change", [{"forward_ns": (11 * MS,) * 35}, {"decode_rows": (3,) * 35}, {"slots": 0}]
)
def test_no_step_is_more_than_its_engine(change: dict[str, object]) -> None:
    """Forwards within their steps, rows within the slots."""
    steps = known().steps
    assert steps is not None
    with pytest.raises(ValueError):
        msgspec.structs.replace(steps, **change)
