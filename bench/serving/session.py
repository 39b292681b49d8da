"""One launch: a server, warmed up, asked, loaded, asked again; and what came of each load.

    start (or find) the server -> who are you? -> warm up -> is it the model? -> loads, and after
    each of them again the question -> the reference -> an outcome for each load

The reference runs in a process of its own, and never beside a load: the server may share its host.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from bench.errors import ServerError
from bench.records.case import Case
from bench.records.endpoint import Endpoint as Seen
from bench.records.endpoint import Server
from bench.records.outcome import Failed, Measured, Outcome, Void
from bench.serving import cases as asked_cases
from bench.serving import gate, server, verdict
from bench.serving.export import Manifest
from bench.serving.framing import Broken
from bench.serving.load import Driven, drive
from bench.serving.reference import Reference, Text
from bench.serving.stream import Answer, Asked, Dialect, Spoken, speak, stream
from bench.serving.wire import Endpoint, Pool

Say = Callable[[str], None]
"""Takes a line for whoever waits."""


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What a run asks of a server."""

    endpoint: Endpoint
    folder: Path
    manifest: Manifest
    cases: tuple[Case, ...]
    seed: int
    fresh_seed: bool
    """Whether no run before can have had it."""
    model: str | None = None
    as_text: bool = False
    command: str | None = None
    token: str | None = None
    request_seconds: float = 600.0
    ready_seconds: float = 1800.0


class Came(NamedTuple):
    """Of one case in one launch."""

    case: Case
    outcome: Outcome
    seen: Seen | None
    seconds: float


class _Loaded(NamedTuple):
    """A load, and what was asked after it, before the reference has spoken."""

    case: Case
    driven: Driven
    cached: int | None
    drafted: bool
    after: list[Spoken]
    seconds: float


def launch(
    ask: Ask, number: int, reference: Reference, trust: ssl.SSLContext | None, say: Say
) -> list[Came]:
    """One launch of every case. What goes wrong is an outcome; raises `ServerError` only where
    there is no server to measure, and it was not the run's to start."""
    return asyncio.run(_launch(ask, number, reference, trust, say))


async def _launch(
    ask: Ask, number: int, reference: Reference, trust: ssl.SSLContext | None, say: Say
) -> list[Came]:
    pool = Pool(ask.endpoint, ask.token, trust)
    process = None
    start = time.perf_counter()
    try:
        if ask.command is not None:
            await server.nobody_there(pool)
            process = server.Process(ask.command)
            say(f"launch {number}: the server starts")
            try:
                await process.ready(pool, ask.ready_seconds)
            except ServerError as error:
                failed = Failed(kind="error", phase="start", message=str(error))
                return _all(ask, failed, None, start)
        started = () if ask.command is None else server.shown(ask.command)
        own = process is not None
        who, model = await server.identify(pool, ask.model, started, by_the_run=own)
        return await _with_server(
            _Launch(ask, ask.seed + number, pool, who, model, reference, say), start
        )
    finally:
        pool.close()
        if process is not None:
            process.stop()


class _Launch(NamedTuple):
    """What a launch has in its hands."""

    ask: Ask
    seed: int
    pool: Pool
    who: Server
    model: str
    """As it must be asked for."""
    reference: Reference
    say: Say


async def _with_server(it: _Launch, start: float) -> list[Came]:
    """Of a server that answers."""
    ask, vocabulary = it.ask, it.ask.manifest.vocabulary
    dialect = Dialect(model=it.model, as_text=ask.as_text)
    seen = Seen(
        server=it.who,
        weights=ask.manifest.digest,
        prompts="text" if ask.as_text else "token ids",
        warm_up_requests=0,
    )
    try:
        warm = asked_cases.warm_up(ask.cases, vocabulary, it.seed)
        await _warm_up(it, dialect, warm)
        seen = msgspec.structs.replace(seen, warm_up_requests=len(warm))
        spoken = await _speak(it, dialect, "before")
    except Broken as error:
        failed = Failed(kind="error", phase="warm-up", message=str(error))
        return _all(ask, failed, seen, start)
    if not spoken:
        return _all(ask, Void(reason=verdict.UNVERIFIED), seen, start)
    truth = it.reference(ask.folder, _texts(spoken), True)
    before = gate.judge("before the load", spoken, truth)
    seen = msgspec.structs.replace(seen, rounding=before.rounding, wrong=before.wrong)
    wrong = verdict.wrong_model(before.checks)
    if wrong is not None:
        return _all(ask, wrong, seen, start)
    it.say(f"the server answers as {ask.manifest.model} does: {before.checks[0].finding}")
    loaded: list[_Loaded] = []
    came: list[Came] = []
    for case in ask.cases:
        began = time.perf_counter()
        try:
            loaded.append(await _loaded(it, dialect, case, began))
        except Broken as error:
            failed = Failed(kind="error", phase="measure", message=str(error))
            came.append(Came(case, failed, seen, time.perf_counter() - began))
    found = _judged(it, seen, before, loaded)
    came += list(found)
    return sorted(came, key=lambda one: ask.cases.index(one.case))


def _all(ask: Ask, outcome: Outcome, seen: Seen | None, start: float) -> list[Came]:
    """The same outcome for every case: it is not come to them."""
    seconds = (time.perf_counter() - start) / len(ask.cases)
    return [Came(case, outcome, seen, seconds) for case in ask.cases]


def _texts(spoken: Sequence[Spoken]) -> list[Text]:
    return [Text(prompt=one.prompt, tokens=one.tokens) for one in spoken]


async def _warm_up(it: _Launch, dialect: Dialect, asked: Sequence[Asked]) -> None:
    """First requests are cold: kernels are made, memory is taken. Half of them, then the rest.

    Raises `Broken` with the reason of the first that fails.
    """
    half = -(-len(asked) // 2)
    for part in (asked[:half], asked[half:]):
        answers = [Answer(one, time.perf_counter_ns()) for one in part]
        limit = it.ask.request_seconds
        await asyncio.gather(*(stream(it.pool, dialect, one, limit) for one in answers))
        for answer in answers:
            if answer.failed:
                raise Broken(answer.failed)


async def _speak(it: _Launch, dialect: Dialect, when: str) -> list[Spoken]:
    """Answers with log-probabilities, a few at a time; empty where the server gives none."""
    found: list[Spoken] = []
    questions = gate.questions(it.ask.manifest.vocabulary, it.seed, when)
    for start in range(0, len(questions), 4):
        part = questions[start : start + 4]
        limit = it.ask.request_seconds
        answers = await asyncio.gather(*(speak(it.pool, dialect, one, limit) for one in part))
        known = [one for one in answers if one is not None]
        if len(known) < len(part):
            return []
        found += known
    return found


async def _loaded(it: _Launch, dialect: Dialect, case: Case, began: float) -> _Loaded:
    drawn = asked_cases.drawn(case, it.ask.manifest.vocabulary, it.seed)
    before = await server.counters(it.pool)
    driven = await drive(it.pool, dialect, drawn, it.ask.request_seconds)
    counted = (await server.counters(it.pool)).since(before)
    said = [round(count) for count in (counted.cached, driven.cached) if count is not None]
    it.say(f"{case.label}: {len(driven.answers)} requests in {driven.wall_seconds:.1f} s")
    spoken = await _speak(it, dialect, f"after {case.fingerprint}")
    cached = max(said) if said else None
    return _Loaded(case, driven, cached, bool(counted.drafted), spoken, time.perf_counter() - began)


def _judged(
    it: _Launch, seen: Seen, before: gate.Judged, loaded: Sequence[_Loaded]
) -> Iterator[Came]:
    """Outcomes of loads, by what the reference says of all that was answered in and after them."""
    groups = [group for one in loaded for group in (_texts(one.after), _sample(one.driven))]
    truths = iter(gate.grouped(it.reference, it.ask.folder, groups))
    for one in loaded:
        of_after, of_sample = next(truths), next(truths)
        after = None if of_after is None else gate.judge("after the load", one.after, of_after)
        found = verdict.Found(
            case=one.case,
            served=one.driven.served(asked_cases.ramp_of(one.case)),
            saturated=one.driven.saturated,
            client=one.driven.client,
            cached_tokens=one.cached,
            drafted=one.drafted,
            unseen=it.ask.fresh_seed or it.who.started == "by the run",
            before=before,
            after=after,
            regret=None if of_sample is None else gate.regret(of_sample, before.rounding),
        )
        outcome = verdict.outcome(found)
        of_load = msgspec.structs.replace(
            seen,
            client=found.client,
            cached_tokens=one.cached,
            load=None if isinstance(outcome, Measured) else found.served,
        )
        yield Came(one.case, outcome, of_load, one.seconds)


def _sample(driven: Driven) -> list[Text]:
    """Some of the answers under load; none where their text is not our tokenizer's."""
    whole = [(a.asked.prompt, a.words) for a in driven.answers if not a.failed]
    return gate.sample([(prompt, words) for prompt, words in whole if words])
