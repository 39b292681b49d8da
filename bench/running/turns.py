"""Two sessions of the same cases in turns, for a comparison on one host."""

from __future__ import annotations

import contextlib

from bench import stats
from bench.running.case_state import CaseState
from bench.running.session import EndReason, Session


def alternate(first: Session, second: Session) -> EndReason:
    """Two sessions of the same cases in turns: AB, BA, AB, ... of each case, round after round.

    What drifts on the host then hits both alike. A case goes on until both have enough launches of
    it, or one of them is hopeless: then there is nothing to compare. Of a tuned case each side has
    found its best choice before either measures it.
    """
    reason: EndReason = "complete"
    with contextlib.closing(first), contextlib.closing(second):
        try:
            for side, session in (("A", first), ("B", second)):
                session.face.turn(side)
                session.begin()
            _take_turns(first, second)
        except KeyboardInterrupt:
            reason = "interrupted"
        for session in (first, second):
            session.end(reason)
    return reason


def _take_turns(first: Session, second: Session) -> None:
    order = [first, second]
    pairs = list(zip(first.states, second.states, strict=True))
    enough: set[int] = set()
    while under_way := [k for k, pair in enumerate(pairs) if _goes_on(pair, enough)]:
        for k in under_way:
            if not _goes_on(pairs[k], enough):  # a smaller batch did not fit
                continue
            searching = [s for s in order if s.states[k].searching]
            for session in searching or order:
                session.face.turn("A" if session is first else "B")
                session.launch([session.states[k]])
        order.reverse()


def _goes_on(pair: tuple[CaseState, CaseState], enough: set[int]) -> bool:
    """enough: states, by `id`, that have had enough launches at one look. With one launch more or
    fewer in their figures the two are never at a look together. What is compared are the rounds
    that are in both figures: of those `auto` makes enough too, unless ten or more have less than a
    third of such, as they have only if one side is disturbed too often to be ranked."""
    for state in pair:
        if state.finished:
            enough.add(id(state))
        elif not state.launches:  # another choice is the best now
            enough.discard(id(state))
    first, second = pair
    done = {id(first), id(second)} <= enough
    if done and first.settings.launches == "auto" and not first.case.space:
        both = first.undisturbed & second.undisturbed
        made = max(len(state.launches) for state in pair)
        in_vain = not both or (made >= stats.LOOKS[1] and 3 * len(both) < made)
        done = in_vain or len(both) >= stats.LOOKS[0]
    return not (done or first.hopeless or second.hopeless)
