"""From the accounts of a case to one: shares, bounds, coverage, and what is to be said of them.

Computed on every reading, never stored. A bound is of this box, by ceilings that the same process
measured in turns with the operators: what is above it is not what can be saved, for no way to reach
it need exist.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import msgspec

from bench import stats, units
from bench.judging.explaining import host_bound
from bench.judging.explaining.bounds import bound, of_several
from bench.judging.explaining.explained_answer import answers, coverage_of, coverage_verdict
from bench.judging.interval import Interval
from bench.judging.summary import summarize
from bench.records.case import Case
from bench.records.explained import Explained, Explanation, How, Kind, Operator, Tried, Unexplained
from bench.records.run import RunFile

BEATS = 0.9
"""Of its bound; what takes less beats it."""
NO_BANDWIDTH = "no bandwidth ceiling: there was no room for buffers larger than the caches"
COUNT_TOLERANCE = 0.01
"""Relative difference of an operator's calls, recorded and not."""
Verdict = Literal["EXPLAINED", "NOT-EXPLAINED", "VOID", "REFUSED", "UNREACHED"]
MEANINGS = {
    "BEATS-BOUND": "faster than its bound: a cache held its operands, and the bound is memory's",
    "TINY": "a call takes less than what it costs to make one here: its time is little known",
    "CHANGED-BY-RECORDING": "called another number of times in a step that nobody recorded",
    "CONTENDED": "other work ran on the host meanwhile",
    "QUOTA": "a quota of its container held the job back meanwhile",
    "HOST-BOUND": "calling operators takes much of the step, whatever they take themselves",
    "HOT": "its operands could not be rotated through more than a cache holds",
}
"""What a flag means."""


class OperatorRow(msgspec.Struct, frozen=True, kw_only=True):
    """An operator with operands of certain shapes, over all accounts."""

    name: str
    kind: Kind
    operands: str
    fuses: tuple[str, ...]
    calls: float
    """In a step."""
    flop: int
    least_bytes: int | None
    ms: Interval | None
    """None where it could not be measured; `absent` says why."""
    share: float | None
    """Of the step."""
    bound_ms: float | None
    bound_by: str
    own_ceiling_fraction: float | None
    """Of the FLOP/s that its shape reaches by itself, its operands hot."""
    flags: tuple[str, ...]
    absent: str

    @property
    def times_bound(self) -> float | None:
        """Its time over its bound."""
        if self.ms is None or not self.bound_ms:
            return None
        return self.ms.value / self.bound_ms

    @property
    def above_ms(self) -> float | None:
        """Its time less its bound; below 0 of what beats it."""
        return None if self.ms is None or self.bound_ms is None else self.ms.value - self.bound_ms


class ClassRow(msgspec.Struct, frozen=True, kw_only=True):
    """All operators of a kind."""

    kind: Kind
    ms: Interval
    share: float
    """Of the step."""
    bound_ms: float | None
    """Of those that have one; None where none has."""
    bounded_ms: float
    """What those take that have one."""
    profiled_share: float | None
    """Of all operators' time, as the profiler saw it; None where it did not."""
    replayed_share: float
    """The same as it was measured here: of all operators that do work."""
    flags: tuple[str, ...]

    @property
    def times_bound(self) -> float | None:
        """Time over bound, of those that have one."""
        return self.bounded_ms / self.bound_ms if self.bound_ms else None

    @property
    def above_ms(self) -> float | None:
        """Time above the bound, of those that have one."""
        return None if self.bound_ms is None else self.bounded_ms - self.bound_ms


class ExplainedCase(msgspec.Struct, frozen=True, kw_only=True):
    """A case, explained or not."""

    case: Case
    verdict: Verdict
    reason: str = ""
    """Why it is not explained; empty where it is."""
    launches: int = 0
    """Processes that explained it."""
    how: How | None = None
    step_ms: Interval | None = None
    operators_ms: Interval | None = None
    freeing_ms: Interval | None = None
    host_ms: Interval | None = None
    """The rest of the step; below 0 where operators took longer by themselves."""
    coverage: Interval | None = None
    """Operators and freeing, over the step."""
    classes: tuple[ClassRow, ...] = ()
    """Those that took longest first."""
    operators: tuple[OperatorRow, ...] = ()
    """Those furthest above their bounds first, then those without one."""
    ceilings: dict[str, float] = {}
    """By name, in B/s and FLOP/s; `launch` in ns."""
    flags: dict[str, str] = {}
    """Of the whole account: which, and what was seen."""
    notes: tuple[str, ...] = ()
    tried: tuple[Tried, ...] = ()
    profile_absent: str = ""
    choice: dict[str, int | str] | None = None
    accounts: tuple[Explained, ...] = ()
    """Those that count."""


def explain_run(run: RunFile) -> list[ExplainedCase]:
    """Each planned case, explained or with the reason why not; nothing of a run without any."""
    if not run.explanations and not run.run.explanations:
        return []
    found: dict[str, list[Explanation]] = {}
    for one in run.explanations:
        found.setdefault(one.fingerprint, []).append(one)
    complete = run.end is not None and run.end.reason == "complete"
    whys = {
        row.case.fingerprint: ": ".join(filter(None, (row.reason, row.exclusion)))
        if row.measured
        else row.why
        for row in summarize(run)
        if row.reached and (complete or not row.measured)
    }
    return [
        explained_case(case, found.get(case.fingerprint, []), whys.get(case.fingerprint, ""))
        for case in run.run.plan
        if case.fingerprint not in run.run.left_out
    ]


def ended_before(run: RunFile) -> bool:
    """Whether a run ended before it explained all that it was to, so that it can go on."""
    early = run.end is None or run.end.reason != "complete"
    return early and any(case.verdict == "UNREACHED" for case in explain_run(run))


def explained_case(case: Case, explanations: Sequence[Explanation], why: str = "") -> ExplainedCase:
    """One case over all processes that explained it; why: it was reached and not explained."""
    accounts = [one.account for one in explanations if isinstance(one.account, Explained)]
    refused = [one.account.reason for one in explanations if isinstance(one.account, Unexplained)]
    tried = tuple(each for one in explanations for each in one.account.tried)
    if not accounts:
        if reason := refused[0] if refused else why:
            return ExplainedCase(case=case, verdict="REFUSED", reason=reason, tried=tried)
        return ExplainedCase(case=case, verdict="UNREACHED", reason="the run ended before it")
    # In a row of its own an operator is not called as in the step: what that costs blurs nothing.
    in_turn = [a.call_floor_ns for a in accounts if a.how != "operands rotated"]
    floor_ns = statistics.fmean(in_turn) if in_turn else 0.0
    notes, total = accounts[0].notes, len(accounts)
    made = [account for account in accounts if account.how == accounts[0].how]
    accounts = answers(made)
    if left_out := total - len(accounts):
        notes = (*notes, f"{left_out} of {total} launches went another way, and count for nothing")
    if not all(account.ceilings.bytes_per_second for account in accounts):
        notes = (NO_BANDWIDTH, *notes)
    if refused:
        notes = (*notes, f"{len(refused)} of {len(explanations)} launches refused it: {refused[0]}")
    steps = [statistics.median(account.step_ns) for account in accounts]
    step_ns = statistics.fmean(steps)
    operators = [sum(op.ns or 0.0 for op in account.operators) for account in accounts]
    freeing = [account.freeing_ns for account in accounts]
    host = [s - o - f for o, f, s in zip(operators, freeing, steps, strict=True)]
    rows = _operators(accounts, step_ns, floor_ns)
    calls = host_bound.calls_of(made, statistics.fmean(host), step_ns)
    verdict, reason = coverage_verdict(accounts, calls)
    return ExplainedCase(
        case=case,
        verdict=verdict,
        reason=reason,
        launches=len(accounts),
        how=accounts[0].how,
        step_ms=_ms(steps),
        operators_ms=_ms(operators),
        freeing_ms=_ms(freeing),
        host_ms=_ms(host),
        coverage=coverage_of(accounts),
        classes=_classes(accounts, rows, step_ns),
        operators=rows,
        ceilings=_ceilings(accounts),
        flags=_flags(accounts, rows, step_ns / 1e6) | ({"HOST-BOUND": calls} if calls else {}),
        notes=notes,
        tried=tried,
        profile_absent=accounts[0].profile_absent,
        choice=explanations[0].choice,
        accounts=tuple(accounts),
    )


def _ms(values: Sequence[float]) -> Interval:
    return Interval.over([ns / 1e6 for ns in values], stats.FIXED_LEVEL)


Key = tuple[str, Kind, str, tuple[str, ...]]


def _operators(
    accounts: Sequence[Explained], step_ns: float, floor_ns: float
) -> tuple[OperatorRow, ...]:
    """The rows of all accounts; what one of them does not have took no time there.

    floor_ns: what a call costs; of what takes less the time is little known.
    """
    each: list[dict[Key, Operator]] = [
        {(op.name, op.kind, op.operands, op.fuses): op for op in account.operators}
        for account in accounts
    ]
    keys = dict.fromkeys(key for one in each for key in one)
    changed = changed_names(accounts)
    rows = []
    for key in keys:
        there = [(one[key], a) for one, a in zip(each, accounts, strict=True) if key in one]
        first = there[0][0]
        measured = all(op.ns is not None for op, _ in there)
        times = [one[key].ns or 0.0 if key in one else 0.0 for one in each]
        bounds = [b for op, account in there if (b := bound(op, account.ceilings))]
        bound_ns = None
        if bounds:  # of the launches that can tell it; one without the operator took no time for it
            bound_ns = statistics.fmean(b.ns for b in bounds) * len(there) / len(accounts)
        mean = statistics.fmean(times)
        own = [
            op.flop / op.ns * 1e9 / op.alone_flop_per_second
            for op, _ in there
            if op.ns and op.alone_flop_per_second
        ]
        calls = sum(op.calls for op, _ in there) / len(accounts)
        flags = []
        if measured and bound_ns is not None and mean < BEATS * bound_ns:
            flags.append("BEATS-BOUND")
        if measured and first.operands and mean / calls < floor_ns:
            flags.append("TINY")
        if first.name in changed and first.operands:
            flags.append("CHANGED-BY-RECORDING")
        known = first.read_bytes is not None and first.written_bytes is not None
        rows.append(
            OperatorRow(
                name=first.name,
                kind=first.kind,
                operands=first.operands,
                fuses=first.fuses,
                calls=calls,
                flop=first.flop,
                least_bytes=(first.read_bytes or 0) + (first.written_bytes or 0) if known else None,
                ms=_ms(times) if measured else None,
                share=mean / step_ns if measured else None,
                bound_ms=None if bound_ns is None else bound_ns / 1e6,
                bound_by=bounds[0].by if bounds else "",
                own_ceiling_fraction=statistics.fmean(own) if own else None,
                flags=tuple(flags),
                absent=first.absent,
            )
        )

    def place(row: OperatorRow) -> tuple[bool, float]:
        above = row.above_ms
        return above is None, -(above if above is not None else row.ms.value if row.ms else 0.0)

    return tuple(sorted(rows, key=place))


def _classes(
    accounts: Sequence[Explained], rows: Sequence[OperatorRow], step_ns: float
) -> tuple[ClassRow, ...]:
    kinds = dict.fromkeys(op.kind for account in accounts for op in account.operators)
    profiles = [account.profile for account in accounts if account.profile is not None]
    profiled = {
        kind: statistics.fmean(
            p.kinds.get(kind, 0.0) / (sum(p.kinds.values()) or 1.0) for p in profiles
        )
        for kind in (kinds if profiles else ())
    }
    working = sum(row.ms.value for row in rows if row.ms and (row.operands or row.fuses))
    found = []
    for kind in kinds:
        times = [sum(op.ns or 0.0 for op in a.operators if op.kind == kind) for a in accounts]
        mine = [row for row in rows if row.kind == kind and row.ms is not None]
        bounded = [row for row in mine if row.bound_ms is not None]
        bound_ms = sum(row.bound_ms or 0.0 for row in bounded)
        took = sum(row.ms.value for row in bounded if row.ms)
        work = sum(row.ms.value for row in mine if row.ms and (row.operands or row.fuses))
        found.append(
            ClassRow(
                kind=kind,
                ms=_ms(times),
                share=statistics.fmean(times) / step_ns,
                bound_ms=bound_ms if bounded else None,
                bounded_ms=took,
                profiled_share=profiled.get(kind),
                replayed_share=work / working if working else 0.0,
                flags=("BEATS-BOUND",) if bounded and took < BEATS * bound_ms else (),
            )
        )
    return tuple(sorted(found, key=lambda row: -row.ms.value))


def changed_names(accounts: Sequence[Explained]) -> dict[str, tuple[float, float]]:
    """Operators that were recorded another number of times than the profiler saw them called in a
    step that nobody recorded: recorded, and seen."""
    found: dict[str, tuple[float, float]] = {}
    for account in accounts:
        if account.profile is None or account.how == "profiler":
            continue
        recorded: Counter[str] = Counter()
        for op in account.operators:
            if op.operands:
                recorded[op.name] += op.calls
        for name, calls in recorded.items():
            seen = account.profile.calls.get(name, 0.0)
            if abs(seen - calls) > COUNT_TOLERANCE * max(calls, seen):
                found[name] = (float(calls), seen)
    return found


def _flags(
    accounts: Sequence[Explained], rows: Sequence[OperatorRow], step_ms: float
) -> dict[str, str]:
    flags: dict[str, str] = {}
    for account in accounts:
        flags |= {str(name): cause for name, cause in account.causes.items()}
    changed = changed_names(accounts)

    def having(flag: str) -> str:
        with_it = [row for row in rows if flag in row.flags]
        took = sum(row.ms.value for row in with_it if row.ms)
        return f"{units.counted(len(with_it), 'operator')}, {took / step_ms:.1%} of the step"

    if changed:
        listed = [f"{name} {a:g} for {b:g}" for name, (a, b) in list(changed.items())[:3]]
        more = f", and {len(changed) - 3} more" if len(changed) > 3 else ""
        flags["CHANGED-BY-RECORDING"] = (
            f"{having('CHANGED-BY-RECORDING')}: {', '.join(listed)}{more}"
        )
    for flag in ("BEATS-BOUND", "TINY"):
        if any(flag in row.flags for row in rows):
            flags[flag] = having(flag)
    return flags


def _ceilings(accounts: Sequence[Explained]) -> dict[str, float]:
    """Means over accounts."""
    means = of_several([account.ceilings for account in accounts])
    found: dict[str, float] = {str(name): rate for name, rate in means.bytes_per_second.items()}
    launch = {} if means.launch_ns is None else {"launch": means.launch_ns}
    return found | means.flop_per_second | launch
