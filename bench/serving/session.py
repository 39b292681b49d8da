"""One launch: a server, warmed up, asked, loaded, asked again; and what came of each load.

    start (or find) the server -> who are you? -> warm up -> is it the model? -> loads, and after
    each of them again the question -> the reference -> an outcome for each load

The reference runs in a process of its own, and never beside a load: the server may share its host.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from bench.errors import AccelmarkError, ServerError
from bench.records.case import Case
from bench.records.endpoint import Endpoint as Seen
from bench.records.endpoint import Server
from bench.records.observed import Telemetry
from bench.records.outcome import Failed, Measured, Outcome, Void
from bench.running.monitor import Monitor
from bench.serving import cases as asked_cases
from bench.serving import gate, server, verdict
from bench.serving.export import Manifest
from bench.serving.framing import Broken
from bench.serving.load import Driven, drive
from bench.serving.reference import Reference, Text
from bench.serving.stream import Answer, Asked, Dialect, Spoken, speak, stream
from bench.serving.watched import NOBODY_LOOKED, with_seen
from bench.serving.wire import Endpoint, Pool
from bench.telemetry.joined import Sight

Say = Callable[[str], None]
"""Takes a line for whoever waits."""
TURNED_AWAY = ("status 429", "status 503")
"""How the reason of a request begins for which a server has no room."""


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
    monitor: Monitor | None = None
    """Of the server's devices, while loads are made; None: nobody said which those are."""


class Came(NamedTuple):
    """Of one case in one launch."""

    case: Case
    outcome: Outcome
    seen: Seen | None
    seconds: float
    telemetry: Telemetry | str = NOBODY_LOOKED
    """Of the server's first device, or why there is none."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in a launch, with what was made until then."""

    def __init__(self, came: list[Came]) -> None:
        super().__init__()
        self.came = came


class _Loaded(NamedTuple):
    """A load, and what was asked after it, before the reference has spoken."""

    case: Case
    driven: Driven
    seen: Seen
    """What is known of the server, with this load on it."""
    after: list[Spoken]
    seconds: float
    lost: str
    """Why the server could be asked no more; empty where it could."""
    sights: tuple[Sight, ...]
    """Of the server's devices."""


def launch(
    ask: Ask, number: int, reference: Reference, trust: ssl.SSLContext | None, say: Say
) -> list[Came]:
    """One launch of every case. What goes wrong is an outcome; raises `ServerError` only where
    there is no server to measure, nor would be at the next start; `Interrupted` at Ctrl-C."""
    it = _Launch(ask, number, reference, say)
    try:
        asyncio.run(it.run(trust))
        # Out of the loop, which would not hear Ctrl-C beside the reference; a server that the run
        # started has left its memory to it.
        while it.loaded:
            it.came.append(it.judged(it.loaded[0]))
            del it.loaded[0]
    except KeyboardInterrupt as error:
        raise Interrupted(it.unread("interrupted before its answers were read again")) from error
    except AccelmarkError as error:
        if not it.loaded:
            raise
        it.came = it.unread(str(error))
    return sorted(it.came, key=lambda one: ask.cases.index(one.case))


class _Launch:
    """What a launch has in its hands, and what it has made, whatever ends it."""

    pool: Pool
    who: Server
    dialect: Dialect
    seen: Seen
    """What is known of the server, before any load."""
    before: gate.Judged

    def __init__(self, ask: Ask, number: int, reference: Reference, say: Say) -> None:
        self.ask = ask
        self.number = number
        self.seed = ask.seed + number
        self.reference = reference
        self.say = say
        self.start = time.perf_counter()
        self.begun: set[int] = set()
        """First tokens of all prompts up to now."""
        self.came: list[Came] = []
        self.loaded: list[_Loaded] = []

    def unread(self, why: str) -> list[Came]:
        """All of it, where nobody can say that the rest was answered right: its loads are kept."""
        failed = Failed(kind="error", phase="numerics", message=why)
        rest = [Came(one.case, failed, one.seen, one.seconds) for one in self.loaded]
        return [*self.came, *rest]

    async def run(self, trust: ssl.SSLContext | None) -> None:
        """Up to where the reference is to read what was answered."""
        ask = self.ask
        pool = self.pool = Pool(ask.endpoint, ask.token, trust)
        process = None
        try:
            if ask.command is not None:
                await server.nobody_there(pool)
                process = server.Process(ask.command)
                self.say(f"launch {self.number}: the server starts")
                try:
                    await process.ready(pool, ask.model, ask.ready_seconds)
                except server.NoModel:  # the next start would name none either
                    raise
                except ServerError as error:
                    self._all(Failed(kind="error", phase="start", message=str(error)), None)
                    return
            started = () if ask.command is None else server.shown(ask.command)
            own = process is not None
            self.who, model = await server.identify(pool, ask.model, started, by_the_run=own)
            self.dialect = Dialect(model=model, as_text=ask.as_text)
            await self._with_server()
        finally:
            pool.close()
            if process is not None:
                process.stop()

    async def _with_server(self) -> None:
        """Of a server that answers."""
        ask = self.ask
        seen = Seen(
            server=self.who,
            weights=ask.manifest.digest,
            prompts="text" if ask.as_text else "token ids",
            warm_up_requests=0,
        )
        try:
            warm = asked_cases.warm_up(ask.cases, ask.manifest.vocabulary, self.seed)
            await self._warm_up(warm)
            seen = msgspec.structs.replace(seen, warm_up_requests=len(warm))
            spoken = await self._speak("before")
        except Broken as error:
            message = f"{error}{_hint(ask, str(error))}"
            self._all(Failed(kind="error", phase="warm-up", message=message), seen)
            return
        if not spoken:
            self._all(Void(reason=verdict.UNVERIFIED), seen)
            return
        try:
            truth = self.reference(ask.folder, _texts(spoken), True)
        except AccelmarkError:
            await asyncio.sleep(0)  # Ctrl-C, of which its process may have died, is heard here only
            raise
        before = gate.judge("before the load", spoken, truth)
        seen = msgspec.structs.replace(seen, rounding=before.rounding, wrong=before.wrong)
        wrong = verdict.wrong_model(before.checks)
        if wrong is not None:
            self._all(wrong, seen)
            return
        self.seen, self.before = seen, before
        self.say(f"the server answers as {ask.manifest.model} does: {before.checks[0].finding}")
        for case in ask.cases:
            began = time.perf_counter()
            try:
                self.loaded.append(await self._loaded(case, began))
            except Broken as error:
                failed = Failed(kind="error", phase="measure", message=str(error))
                self.came.append(Came(case, failed, seen, time.perf_counter() - began))

    def _all(self, outcome: Outcome, seen: Seen | None) -> None:
        """The same outcome for every case: it is not come to them."""
        seconds = (time.perf_counter() - self.start) / len(self.ask.cases)
        self.came = [Came(case, outcome, seen, seconds) for case in self.ask.cases]

    async def _warm_up(self, asked: Sequence[Asked]) -> None:
        """First requests are cold: kernels are made, memory is taken. Half of them, then the rest.

        Some may be turned away for want of room: more than there is to warm up. Raises `Broken`
        with the reason of the first that fails otherwise, or where all are turned away.
        """
        self.begun.update(one.prompt[0] for one in asked)
        half = -(-len(asked) // 2)
        limit = self.ask.request_seconds
        for part in (asked[:half], asked[half:]):
            answers = [Answer(one, time.perf_counter_ns()) for one in part]
            await asyncio.gather(*(stream(self.pool, self.dialect, one, limit) for one in answers))
            failed = [answer.failed for answer in answers if answer.failed]
            otherwise = [reason for reason in failed if not reason.startswith(TURNED_AWAY)]
            if otherwise or len(failed) == len(answers):
                raise Broken([*otherwise, *failed][0])

    async def _speak(self, when: str) -> list[Spoken]:
        """Answers with log-probabilities, a few at a time; empty where the server gives none."""
        found: list[Spoken] = []
        questions = gate.questions(self.ask.manifest.vocabulary, self.seed, when)
        self.begun.update(one.prompt[0] for one in questions)
        limit = self.ask.request_seconds
        for start in range(0, len(questions), 4):
            part = questions[start : start + 4]
            asking = (speak(self.pool, self.dialect, one, limit) for one in part)
            known = [one for one in await asyncio.gather(*asking) if one is not None]
            if len(known) < len(part):
                return []
            found += known
        return found

    async def _loaded(self, case: Case, began: float) -> _Loaded:
        ask = self.ask
        drawn = asked_cases.drawn(case, ask.manifest.vocabulary, self.seed, self.begun)
        before = await server.counters(self.pool)
        if ask.monitor is not None:
            ask.monitor.lets_go()
        driven = await drive(self.pool, self.dialect, drawn, ask.request_seconds)
        sights: tuple[Sight, ...] = ()
        if ask.monitor is not None:
            begun = dict.fromkeys(ask.monitor.order.indices, driven.zero_ns)
            sights = ask.monitor.saw((), begun)
        counted = (await server.counters(self.pool)).since(before)
        said = [round(count) for count in (counted.cached, driven.cached) if count is not None]
        self.say(f"{case.label}: {len(driven.answers)} requests in {driven.wall_seconds:.1f} s")
        spoken: list[Spoken] = []
        lost = ""
        try:
            spoken = await self._speak(f"after {case.fingerprint}")
        except Broken as error:  # the load was made all the same
            lost = str(error)
        seen = msgspec.structs.replace(
            self.seen,
            client=driven.client,
            cached_tokens=max(said) if said else None,
            guessed=server.guesses(self.who, counted),
            load=driven.served(asked_cases.ramp_of(case)),
        )
        return _Loaded(case, driven, seen, spoken, time.perf_counter() - began, lost, sights)

    def judged(self, one: _Loaded) -> Came:
        """Of a load, by what the reference says of all that was answered in and after it."""
        ask, seen, served = self.ask, one.seen, one.seen.load
        assert served is not None
        if one.lost:
            return Came(one.case, verdict.server_lost(served, one.lost), seen, one.seconds)
        texts, count = [*_texts(one.after), *_sample(one.driven)], len(one.after)
        truth = self.reference(ask.folder, texts, False) if texts else None
        of_after, of_sample = (truth and truth.of(s) for s in (slice(count), slice(count, None)))
        after = None if of_after is None else gate.judge("after the load", one.after, of_after)
        rounding = self.before.rounding
        found = verdict.Found(
            case=one.case,
            served=served,
            saturated=one.driven.saturated,
            client=one.driven.client,
            stopped=one.driven.stopped(served.window) if served.window else "",
            cached_tokens=seen.cached_tokens,
            drafted=seen.guessed,
            fresh=ask.fresh_seed,
            unseen=ask.fresh_seed or seen.server.started == "by the run",
            before=self.before,
            after=after,
            regret=None if of_sample is None else gate.regret(of_sample, rounding),
        )
        outcome, looked = with_seen(verdict.outcome(found), one.sights)
        if isinstance(outcome, Measured):  # which has the load itself
            seen = msgspec.structs.replace(seen, load=None)
        return Came(one.case, outcome, seen, one.seconds, looked)


def _hint(ask: Ask, error: str) -> str:
    """What may be done about it, where that is known; with a space in front."""
    if error.startswith("no whole answer within"):
        return ". Look whether the server is at work, or give it longer: --request-limit"
    if error.startswith(("status 400", "status 422")) and not ask.as_text:
        return ". If it takes prompts as strings alone, give --text"
    return ""


def _texts(spoken: Sequence[Spoken]) -> list[Text]:
    return [Text(prompt=one.prompt, tokens=one.tokens) for one in spoken]


def _sample(driven: Driven) -> list[Text]:
    """Some of the answers under load; none where their text is not our tokenizer's."""
    whole = [(a.asked.prompt, a.words) for a in driven.answers if not a.failed]
    return gate.sample([(prompt, words) for prompt, words in whole if words])
