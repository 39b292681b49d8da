"""What the host adds to a step beside its operators: each is called, from Python or by autograd.

What a call costs that does nothing is measured in its place and taken off each operator. Where
that, times the calls, is most of what is left of the step, it is the calls that take it, and no
work that nobody saw. What is queued counts where a device has too little work to hide it.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from bench import units
from bench.judging.row import HOST_BOUND
from bench.records.explained import Explained

LEAST_SHARE = 0.10
"""Of the step; what is less bounds nothing."""
LEAST_OF_HOST = 0.5
"""What making calls must be of the host's part, for that to be what it does."""


def calls_of(accounts: Sequence[Explained], host_ns: float, step_ns: float) -> str:
    """`22% of the step: 440 calls, each 4.3 us beside its operator`; empty where the host takes
    little, or not by its calls. accounts: as they were made, whatever answers for them."""
    queued = accounts[0].how == "operands rotated"
    calls = [
        sum(op.calls for op in account.operators if op.operands or not queued)
        for account in accounts
    ]
    making = statistics.fmean(
        account.call_floor_ns * count for account, count in zip(accounts, calls, strict=True)
    )
    least = HOST_BOUND * step_ns if queued else LEAST_OF_HOST * host_ns
    if host_ns < LEAST_SHARE * step_ns or making < least:
        return ""
    mean = statistics.fmean(calls)
    each = units.duration(host_ns / mean / 1e9)
    return (
        f"{host_ns / step_ns:.0%} of the step: {mean:,.0f} calls, each {each} beside its operator"
    )
