"""Explanations of a run: after all launches, each case once or several times, never among them."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from bench import catalogue
from bench.measuring.messages import Report
from bench.planning.tuning import hopeless, too_many
from bench.records.explained import Account, Explanation, Unexplained
from bench.records.outcome import Failed, Measured, Outcome, Skipped
from bench.running.header import utc_now
from bench.running.launcher import Finished
from bench.running.worker_process import within, without_worker

if TYPE_CHECKING:
    from bench.running.case_state import CaseState
    from bench.running.session import EndReason, Session

LIMIT_SECONDS = 1800.0
"""That tape, profiler and remedies keep within: a quick suite's limit is for measuring alone."""
NO_SECONDS = 1e-3
"""Of what is refused without a worker: a record's times are above zero."""

TOGETHER = (
    "what several devices do together is not explained: an operator that waits for the others "
    "takes as long as they do. Explain the same case on one device"
)
SERVED = (
    "a load has no step to take apart: each forward holds what has come by then. Explain `llama`, "
    "of like sizes, in the modes prefill and decode"
)

UNSEARCHED = (
    "which settings are its best was not searched: `accelmark run SUITE --explain` searches first; "
    "or name the settings in the suite"
)
"""Of a tuned case that is explained and not run, or whose search the budget ended."""


class Explaining(NamedTuple):
    """What a run explains."""

    each: int = 0
    """How often each case."""
    only: bool = False
    """Whether its cases have no other launches."""
    trying: bool = False
    """Whether the first of each tries known remedies too; where an accident ends that, the last:
    they may be what ended it."""
    done: Sequence[Explanation] = ()
    """What the record holds already."""


NOTHING = Explaining()


def explain(session: Session) -> EndReason:
    """Has each case explained, as often as is asked; in turn, so that drift hits all alike."""
    explaining = session.explaining
    done = Counter(one.fingerprint for one in explaining.done)
    accidents = Counter[str]()
    unexplained = (one for one in explaining.done if isinstance(one.account, Unexplained))
    first_fell = {one.fingerprint for one in unexplained if one.number == 0}
    longest = max((one.seconds for one in explaining.done), default=0.0)
    for number in range(explaining.each):
        for state in session.states:
            fingerprint = state.case.fingerprint
            refused = fingerprint in session.left_out or (state.hopeless and not explaining.only)
            if number < done[fingerprint] or refused:
                continue
            if not session.fits(state, longest):
                return "budget"
            turn = explaining.each - 1 if fingerprint in first_fell else 0
            trying = explaining.trying and number == turn
            made, outcome = _explained(session, state, number, trying=trying)
            session.software.require(made, session.writer)
            session.writer.append(made)
            longest = max(longest, made.seconds)
            session.face.explained(made)
            if isinstance(made.account, Unexplained):
                if number == 0:
                    first_fell.add(fingerprint)
                accident = isinstance(outcome, Failed) and not hopeless(outcome)
                accidents[fingerprint] += accident
                if not accident or too_many(accidents[fingerprint], number + 1):
                    done[fingerprint] = explaining.each  # it would say the same again
    return "complete"


def _explained(
    session: Session, state: CaseState, number: int, *, trying: bool
) -> tuple[Explanation, Outcome]:
    case, choice, started_at = state.case, state.choice, utc_now()
    session.face.explains(case, number + 1, session.explaining.each)
    seed = session.settings.seed + number
    reason = TOGETHER if case.devices > 1 else UNSEARCHED if state.searching else ""
    if catalogue.workload(case.workload).modes[case.mode].serves:
        reason = SERVED
    if reason := reason or (state.beyond and session.limits.beyond(case)) or "":
        choice, report = None, without_worker(Skipped(reason=reason))
        finished = Finished(report=report, seconds=NO_SECONDS, stderr_tail="")
    else:
        request = msgspec.structs.replace(
            session.request(state),
            settings=within(session.settings, session.budget_seconds, LIMIT_SECONDS),
            explain=True,
            try_remedies=trying,
            seed=seed,
            thorough=False,
            most_seconds=None,
        )
        variables = dict(session.backend.worker_environment())
        launches = session.launcher([request], variables, session.face.progress)
        with contextlib.closing(launches):
            finished = next(launches)
        state.seconds.append(finished.seconds)
        session.note_limits(case, finished.report.outcome)
    made = Explanation(
        case=case,
        fingerprint=case.fingerprint,
        number=number,
        seed=seed,
        started_at=started_at,
        seconds=finished.seconds,
        environment=finished.report.environment,
        account=account_of(finished.report),
        choice=choice,
        stderr_tail=finished.stderr_tail,
    )
    return made, finished.report.outcome


def account_of(report: Report) -> Account:
    """What it found; of a worker that was not measured, why not."""
    outcome = report.outcome
    if not isinstance(outcome, Measured):
        return Unexplained(reason=f"{type(outcome).__name__.lower()}: {outcome.reason}")
    return report.account or Unexplained(reason="the worker ended without an account")
