"""From a run's raw launches to one judged row per case. Computed on every reading, never stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from bench import units
from bench.judging import cold
from bench.judging.ceilings import with_cache, with_ceilings, with_peak
from bench.judging.endpoint import endpoint_of
from bench.judging.measured import estimated_peak_bytes, measured_row
from bench.judging.ranks.links import with_links
from bench.judging.ranks.scaling import with_efficiency
from bench.judging.row import Row
from bench.judging.serving import unfilled
from bench.planning.sweep import Limits
from bench.planning.tuning import Search, Trial, figures, in_words
from bench.records.case import Case
from bench.records.limits import ended_sooner
from bench.records.outcome import DOES_NOT_FIT, Cold, Failed, Measured, Skipped, Void
from bench.records.run import Launch, RunFile, Settings
from bench.records.runfile import by_case

WORKING = ("numerics", "build", "warm-up", "measure")
"""Phases in which a launch works; what ends before is broken, whatever the limit."""


def summarize(run: RunFile) -> list[Row]:
    """One row per planned case, in the plan's order; cases that were never reached included."""
    launches = by_case(run.launches)
    limits = Limits()
    rows = []
    for case in run.run.plan:
        of_case = tuple(launches.pop(case.fingerprint, ()))
        for launch in of_case:
            limits.note(case, launch.outcome)
        why = run.run.left_out.get(case.fingerprint)
        if why is not None and all(launch.search for launch in of_case):
            rows.append(Row(case=case, status="skipped", reason=why, untried_point=True))
            continue
        rows.append(_row(case, of_case, run.run.settings, _why_unreached(run)))
    rows = [_within(row, limits) for row in rows]
    # A launch of a case that was not planned is shown all the same: nothing is dropped.
    rows += [_row(ls[0].case, tuple(ls), run.run.settings, "") for ls in launches.values()]
    rows = [with_peak(with_cache(row, run.run.device), run.run.device) for row in rows]
    whys = run.run.instead  # after the peaks: what they rule out is a new row
    rows = [
        msgspec.structs.replace(row, instead=whys.get(row.case.fingerprint, "")) for row in rows
    ]
    return with_efficiency(with_links(with_ceilings(rows)))


def _within(row: Row, limits: Limits) -> Row:
    """Says of a sweep's points which is the first that did not fit, and which lie beyond it."""
    beyond = None if row.reached else limits.beyond(row.case)
    if beyond is not None:
        return msgspec.structs.replace(row, reached=True, reason=beyond)
    if row.status == "failed" and limits.ends(row.case):
        return msgspec.structs.replace(row, sweep_end=True)
    return row


def _why_unreached(run: RunFile) -> str:
    if run.run.only_explained:
        return "explained, not measured: see `accelmark explain` of this record"
    if run.end is None:
        return "not reached: the run's record ends before it"
    return {
        "budget": "not reached: too long for what the time budget left",
        "interrupted": "not reached: the run was interrupted",
        "complete": "not run",
    }[run.end.reason]


def _row(case: Case, launches: Sequence[Launch], settings: Settings, unreached: str) -> Row:
    if not case.space:
        row = _judged(case, launches, settings, unreached)
        served_by = endpoint_of(launches)
        if served_by is None:
            return row
        # The memory in the record is the client's.
        return msgspec.structs.replace(
            row, endpoint=served_by, peak_memory_bytes=None, memory_scope=""
        )
    search = Search(case, launches)
    finals = figures(launches)
    row = _judged(case, finals, settings, unreached)
    if not row.reached and search.next is None and search.best is None:
        row = _nothing_worked(case, search.trials)
    elif not row.reached:
        tried = f"{len(search.trials)} choices tried, {search.left} left"
        row = msgspec.structs.replace(row, reason=f"{unreached}; {tried}")
    final = finals[-1].choice if finals else None
    same = [launch for launch in launches if launch.choice == final]
    return msgspec.structs.replace(
        row,
        choice=final,
        trials=search.trials,
        untried=search.choices - len(search.trials),
        estimated_peak_bytes=estimated_peak_bytes(same),
        # Where launches found something, it was left by the one that had tried the choice.
        cold=row.cold if row.warm == Cold() else cold.of_first(same),
    )


def _unlike(launches: Sequence[Launch]) -> str:
    """Why launches are no one figure; empty where they are. Of a load, whose tokens vary, why one
    has none that was recorded with it."""
    measured = [x.outcome for x in launches if isinstance(x.outcome, Measured)]
    for served in filter(None, (outcome.served for outcome in measured)):
        if why := unfilled(served):
            return why
    works = [outcome.work for outcome in measured if outcome.served is None]
    steps = {f"{units.counted(w.items, w.unit)} and {w.flop or 'no'} FLOP a step" for w in works}
    said = f"its launches did unlike work: {' or '.join(sorted(steps))}. Measure it again"
    return said if len(steps) > 1 else ""


def _nothing_worked(case: Case, trials: Sequence[Trial]) -> Row:
    """Of a tuned case no choice of which could be measured: skipped if the device can do none."""
    broken = [trial for trial in trials if trial.status in ("void", "failed")]
    full = [trial for trial in trials if trial.status == "does not fit"]
    first = (broken or full or trials)[0]
    reason = f"none of {units.counted(len(trials), 'choice')} ran; {in_words(first.choice)}: "
    if broken:
        return Row(case=case, status="failed", reason=reason + first.why)
    fit = f"{DOES_NOT_FIT}: " if full else ""
    return Row(case=case, status="skipped", reason=fit + reason + first.why)


def _judged(case: Case, launches: Sequence[Launch], settings: Settings, unreached: str) -> Row:
    """The row that the launches make; those of a search are not among them."""
    voids = [o for o in (x.outcome for x in launches) if isinstance(o, Void)]
    if voids:  # one wrong result is enough: no number of this case is used
        return Row(case=case, status="void", reason=voids[0].reason)
    measured = [x for x in launches if isinstance(x.outcome, Measured)]
    longest = max((x.seconds for x in measured), default=0.0)
    counted = [x for x in launches if x.seconds >= longest or not _cut_off(x, settings)]
    others = [x.outcome for x in counted if isinstance(x.outcome, Skipped | Failed)]
    if measured:
        if wrong := _unlike(measured):
            return Row(case=case, status="void", reason=wrong)
        row = measured_row(case, measured, len(others), settings)
        return msgspec.structs.replace(row, exclusion=others[0].reason if others else "")
    if others:
        status: Literal["skipped", "failed"] = (
            "skipped" if isinstance(others[0], Skipped) else "failed"
        )
        return Row(case=case, status=status, reason=others[0].reason)
    return Row(case=case, status="skipped", reason=unreached, reached=False)


def _cut_off(launch: Launch, settings: Settings) -> bool:
    """Whether a small budget ended it at its work."""
    at_work = isinstance(launch.outcome, Failed) and launch.outcome.phase in WORKING
    return at_work and ended_sooner(launch, settings.launch_limit_seconds)
