"""Which case stands beside which."""

from __future__ import annotations

from bench.judging.comparing.compare import compare
from bench.tests.judging.two_runs import CASE, FAST, SLOW, changed, runs, steps
from bench.tests.values import make_case


def test_equal_work_first_then_the_nearest_then_what_is_left() -> None:
    far = changed(precision="fp32", parameters={"batch_size": 64, "length": 512})
    near = changed(precision="fp32")
    alone_base, alone_other = make_case(), make_case(workload="memory", mode="copy")
    half = changed(precision="fp16")
    base = runs(*((c, steps(FAST)) for c in (half, CASE, alone_base)))
    other = runs(*((c, steps(SLOW)) for c in (far, near, alone_other, CASE)))
    found = compare(base, other)
    pairs = [(c.base and c.base.case, c.other and c.other.case) for c in found.cases]
    assert (CASE, CASE) in pairs and (half, near) in pairs and (alone_base, None) in pairs
    assert (None, far) in pairs and (None, alone_other) in pairs and len(pairs) == 5
    reasons = {c.case.label: c.reasons for c in found.cases}
    assert reasons[alone_base.label] == ("no such case in the other run",)
    assert reasons[alone_other.label] == ("no such case in the base run",)
    assert [c.verdict for c in found.cases].count("INCOMPARABLE") == 4


def test_a_case_stands_beside_one_other_only() -> None:
    base = runs(*((changed(precision=p), steps(FAST)) for p in ("bf16", "fp16")))
    other = runs(*((changed(precision=p, execution="compile"), steps(SLOW)) for p in ("bf16",)))
    found = compare(base, other).cases
    assert [c.reasons for c in found] == [
        ("execution differs (eager, compile)",),
        ("no such case in the other run",),
    ]
