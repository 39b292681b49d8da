"""The reports of a launch's ranks as one: joined where all measured, else whose end was it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from bench.measuring.messages import Report
from bench.records.outcome import Block, Failed, Measured, Share
from bench.records.reason import reason
from bench.running.hosts.seating import Seat
from bench.running.worker_process import failed
from bench.telemetry.joined import of_ranks


def merged(
    reports: Mapping[int, Report],
    seats: Sequence[Seat],
    devices: Sequence[int],
    given: Mapping[str, str],
) -> Report:
    """Rank 0's report with every rank's part in it, where all have measured.

    seats, devices: of each rank where it is, and its device's index there; given: the environment,
    whose secrets are in no message.
    """
    first_report = reports[0]
    measured = {
        rank: report.outcome
        for rank, report in sorted(reports.items())
        if isinstance(report.outcome, Measured)
    }
    outcome = measured[0]
    counts = {rank: len(reports[rank].busy_ns) for rank in measured}
    if len(set(counts.values())) > 1:
        text = reason(f"the ranks took other numbers of blocks: {counts}", given)
        return failed("error", "report", text)
    shares = tuple(
        Share(
            rank=rank,
            device=devices[rank],
            host=seats[rank].host,
            busy_ns=reports[rank].busy_ns,
            peer_ns=reports[rank].peer_ns,
            memory=one.memory,
            flags=one.flags,
            causes=one.causes,
            silent_ns=reports[rank].silent_ns,
        )
        for rank, one in measured.items()
    )
    flags = dict.fromkeys(flag for one in measured.values() for flag in one.flags)
    by_flag: dict[str, dict[int, str]] = {}
    for rank, one in measured.items():
        for flag, cause in one.causes.items():
            by_flag.setdefault(flag, {})[rank] = cause
    causes = {flag: of_ranks(by_rank, len(measured)) for flag, by_rank in by_flag.items()}
    most = max(measured.values(), key=lambda one: one.memory.peak_bytes)
    joined = msgspec.structs.replace(
        outcome,
        ranks=shares,
        flags=tuple(flags),
        causes=causes,
        memory=most.memory,
        steady=_slowest_steps([*measured.values()]),
    )
    return msgspec.structs.replace(first_report, outcome=joined)


def _slowest_steps(outcomes: Sequence[Measured]) -> tuple[Block, ...]:
    """Rank 0's steady blocks; where steps are requests, each as long as on the slowest rank."""
    first, *others = outcomes
    if first.latency_name is None or first.step_clock != "host":
        return first.steady
    alike = zip(first.steady, *(one.steady for one in others), strict=True)
    return tuple(
        msgspec.structs.replace(
            blocks[0], step_ns=tuple(map(max, zip(*(b.step_ns for b in blocks), strict=True)))
        )
        for blocks in alike
    )


class End(NamedTuple):
    """How a rank ended that has not measured."""

    rank: int
    report: Report
    died: bool
    """Whether its process ended without a report."""


def first(ends: list[End]) -> int:
    """Whose end was the cause, of those that are given in their order.

    Who died without a word, unless another had said of itself before what no peer's end brings
    about; else who failed of something of its own; else the earliest.
    """
    deaths = [place for place, end in enumerate(ends) if end.died]
    ranked = [
        [end for end in ends[: deaths[0]] if _of_its_own(end.report)] if deaths else [],
        [end for end in ends if end.died],
        [end for end in ends if not end.report.blames_peer],
        ends,
    ]
    return next(group[0].rank for group in ranked if group)


def _of_its_own(report: Report) -> bool:
    """Whether it is certainly no word of another's end: an error may be one that nobody knows."""
    outcome = report.outcome
    sure = not isinstance(outcome, Failed) or outcome.kind in ("oom", "device_lost")
    return sure and not report.blames_peer
