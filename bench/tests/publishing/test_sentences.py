"""Texts in anybody's words: whoever publishes is looked for in each, by the name they have here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from msgspec import inspect

from bench.publishing import publish
from bench.records import private
from bench.records.explained import Account, Explanation, Unexplained
from bench.records.run import End, Launch, Resumed, Run
from bench.tests.judging.explaining.accounts import account, explanation
from bench.tests.publishing.test_private import (
    PLACES,
    holds_words,
    lines,
    structs,
    with_planted,
)

OWN = "zqxowner"
SAID = f"No such thing: {OWN} has none"
NO_SENTENCES = {
    "names that accelmark or the work gave": """
        Run.run_id Run.suite Run.framework Launch.fingerprint Explanation.fingerprint
        Launch.choice Explanation.choice Work.unit Numerics.reference Check.quantity
        Memory.scope Proof.noise Proof.written StepReading.quantities Measured.latency_name
        Watched.reasons Executed.operators Executed.kernels Served.load Served.schedule
        Endpoint.weights Endpoint.wrong Operator.name Operator.operands Operator.precision
        Operator.fuses Explained.notes Ceilings.flop_per_second Profile.calls Tried.remedy
    """,
    "names that a library or a server has": """
        Watched.source Telemetry.source Server.name Server.version Server.model
    """,
    "facts, cleaned by what they are called, and by the name here too": """
        Run.host Run.device Resumed.host Resumed.device Launch.environment Explanation.environment
    """,
    "moments": "Run.started_at Launch.started_at Explanation.started_at Resumed.started_at "
    "End.finished_at",
    "of which only known words are kept, or nothing": """
        Run.command Resumed.command Launch.stderr_tail Explanation.stderr_tail
    """,
    "cleaned by the name here when it is recorded": "Server.command Server.settings",
}
"""Fields that hold any word, and no sentence of an exception or a tool: why."""


EVERY = [
    one
    for kind in (Run, Launch, End, Resumed, Explanation)
    for one in structs(inspect.type_info(kind))
]
WORDY = {f"{s.cls.__name__}.{f.name}" for s in EVERY for f in s.fields if holds_words(f.type)}
KNOWN = {name for names in NO_SENTENCES.values() for name in names.split()}
SENTENCES = {field.split(".")[1] for field in WORDY - KNOWN}


def test_every_field_is_a_sentence_or_is_known_to_be_none() -> None:
    """By the types: whoever adds a field to a record says which it is."""
    assert set(publish.SENTENCES) == SENTENCES
    assert KNOWN <= WORDY
    assert SENTENCES.isdisjoint(field.split(".")[1] for field in KNOWN)


def sentences(value: Any, within: bool = False) -> Iterator[str]:
    """Of a line as builtins."""
    if isinstance(value, dict):
        for name, one in value.items():
            yield from sentences(one, within or name in SENTENCES)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from sentences(one, within)
    elif isinstance(value, str) and within:
        yield value


def facts(line: dict[str, Any]) -> Iterator[str]:
    """Of a line as builtins."""
    for name in ("host", "device", "environment"):
        yield from sentences(line.get(name), within=True)


@pytest.mark.parametrize("kind", [sentences, facts])
def test_no_sentence_and_no_fact_says_who_publishes(
    kind: Callable[[Any], Iterator[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is a rank's, or of an explanation."""
    monkeypatch.setattr(private, "own_names", lambda: (OWN,))
    run = with_planted(dict.fromkeys(range(len(PLACES)), SAID))
    accounts: list[Account] = [account(profile=None, profile_absent=SAID), Unexplained(reason=SAID)]
    explained = tuple(
        msgspec.structs.replace(explanation(one, number=k), environment={"note": SAID})
        for k, one in enumerate(accounts)
    )
    run = msgspec.structs.replace(run, explanations=explained)
    before, after = (
        [text for line in of for text in kind(msgspec.to_builtins(line))]
        for of in ((*lines(run), *explained), publish.without_private(run))
    )
    assert before.count(SAID) > 20
    assert [text for text in after if OWN in text] == []
