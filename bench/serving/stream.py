"""One completion: asked for, and read as it streams.

Tokens are counted, never chunks: a chunk may carry none, one or many. Each word of our tokenizer is
one token, so the text itself says how many have come, and the server's usage must agree in the end.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec

from bench.records.private import cleaned, own_names
from bench.records.runfile import UNREADABLE
from bench.records.served import ServedRequest
from bench.serving import tokenizer
from bench.serving.framing import Broken
from bench.serving.wire import Pool

PATH = "/v1/completions"
GIVEN_UP = "given up by the client: the load was ended"
MOST_EVENT_BYTES = 4 << 20
BURST_NS = 200_000
"""Pieces of a burst come no further apart; no server hands 5,000 tokens a second to one user."""


class Cached(msgspec.Struct):
    """Of a prompt's tokens, those that the server had already."""

    cached_tokens: int | None = None


class Usage(msgspec.Struct):
    """What the server says it has read and written."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: Cached | None = None


class Logprobs(msgspec.Struct):
    """Of each token of an answer."""

    token_logprobs: list[float | None] | None = None


class Choice(msgspec.Struct):
    """The answer, or the next part of it."""

    text: str | None = None
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class Event(msgspec.Struct):
    """A whole answer, or one event of a stream. What we do not read may be in it too."""

    choices: list[Choice] = msgspec.field(default_factory=list)
    usage: Usage | None = None
    error: Any = None


_DECODER = msgspec.json.Decoder(Event)


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A request, before it is made."""

    prompt: tuple[int, ...]
    new_tokens: int
    due_ns: int | None = None
    """On the clock of the load; None: as soon as it is made."""


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """How this server wants to be asked."""

    model: str
    as_text: bool = False
    """Whether it takes prompts as strings alone."""

    def body(self, asked: Asked, *, stream: bool, logprobs: bool = False) -> bytes:
        """Of a request: greedy, as long as asked."""
        prompt = tokenizer.words(asked.prompt) if self.as_text else asked.prompt
        said: dict[str, Any] = {
            "model": self.model,
            "prompt": prompt,
            "max_tokens": asked.new_tokens,
            "temperature": 0,
        }
        if stream:
            said |= {"stream": True, "stream_options": {"include_usage": True}}
        if logprobs:
            said["logprobs"] = 1
        return msgspec.json.encode(said)


class Answer:
    """What came of one request, as it comes."""

    def __init__(self, asked: Asked, due_ns: int, body: bytes = b"") -> None:
        """due_ns: on the clock of `time.perf_counter_ns`, as all times here; body: of the request,
        where it was made beforehand."""
        self.asked = asked
        self.body = body
        self.due_ns = due_ns
        self.started_ns = due_ns
        """When this process got round to it."""
        self.sent_ns: int | None = None
        """When it was sent, its connection made: later than it could be, the client is late."""
        self.could_ns = due_ns
        """When it could be sent: not before the response to the one before it had ended."""
        self.arrived: list[tuple[int, int]] = []
        """When tokens came, and how many."""
        self.ended_ns: int | None = None
        """When the server said that it was all: what it sends after the last token is its time."""
        self.freed_ns: int | None = None
        """When its response had arrived: a server may end that later."""
        self.chunks = 0
        self.texts: list[str] = []
        self.usage: Usage | None = None
        self.finish = ""
        self.failed = ""

    @property
    def tokens(self) -> int:
        """Output tokens that came, by the text."""
        return sum(count for _, count in self.arrived)

    @property
    def first_tokens(self) -> int:
        """Those that came in one burst with the first; 1 where none came."""
        count, latest = 0, None
        for ns, tokens in self.arrived:
            if latest is not None and ns - latest > BURST_NS:
                break
            count, latest = count + tokens, ns
        return count or 1

    @property
    def words(self) -> tuple[int, ...] | None:
        """The tokens; None where the text is not our tokenizer's."""
        return tokenizer.tokens("".join(self.texts))

    @property
    def cached(self) -> int | None:
        """Tokens of the prompt that the server says it had already; None where it does not say."""
        details = None if self.usage is None else self.usage.prompt_tokens_details
        return None if details is None else details.cached_tokens

    def take(self, ns: int, event: Event) -> None:
        """The next event of the stream; raises `Broken` if it is an error."""
        if event.error is not None:
            raise Broken(f"the server says: {_short(event.error)}")
        if event.usage is not None:
            self.usage = event.usage
        for choice in event.choices:
            if choice.text:
                self.chunks += 1
                self.texts.append(choice.text)
                # One w a word: right too where a chunk ends within a word.
                count = choice.text.count("w")
                if count:
                    self.arrived.append((ns, count))
            if choice.finish_reason is not None:
                self.finish = choice.finish_reason

    def check(self) -> str:
        """Why this is not the answer that was asked for; empty if it is."""
        if self.words is None:
            text = _short("".join(self.texts))
            return (
                f"its text is not of the exported model's tokenizer: {text!r}. "
                "Have the server load the tokenizer of that folder too"
            )
        if self.usage is None or self.usage.completion_tokens is None:
            return (
                "the server gave no usage: its tokens cannot be counted. It must take "
                "stream_options.include_usage"
            )
        said, wanted = self.usage.completion_tokens, self.asked.new_tokens
        if said != wanted:
            return f"{said} tokens, not {wanted} as asked (finish_reason {self.finish or 'none'})"
        prompt = self.usage.prompt_tokens
        if prompt is not None and prompt != len(self.asked.prompt):
            return (
                f"the server read {prompt} tokens of a prompt of {len(self.asked.prompt)}: it adds "
                "some, or has another tokenizer than the exported model's"
            )
        if self.tokens != said:
            return f"usage says {said} tokens, the text has {self.tokens}"
        return ""

    def served(self, zero_ns: int) -> ServedRequest:
        """For the record; times since `zero_ns`."""
        times = [self.sent_ns, *(ns for ns, _ in (self.arrived[:1] + self.arrived[-1:]))]
        sent, first, last = [*(None if t is None else t - zero_ns for t in times), None, None][:3]
        return ServedRequest(
            prompt_tokens=len(self.asked.prompt),
            due_ns=self.due_ns - zero_ns,
            admitted_ns=sent,
            first_ns=first,
            last_ns=last,
            tokens=self.tokens,
            first_tokens=self.first_tokens,
            failed=self.failed,
        )


async def stream(pool: Pool, dialect: Dialect, answer: Answer, limit_seconds: float) -> None:
    """Makes the request and fills in its answer; what goes wrong is in `failed`, never raised.

    A request that is cancelled keeps what it had, and says so; whoever waits for it is cancelled
    too, and makes no other.
    """
    answer.started_ns = time.perf_counter_ns()
    try:
        async with asyncio.timeout(limit_seconds):
            await _stream(pool, dialect, answer)
        answer.failed = answer.check()
    except TimeoutError:
        answer.failed = f"no whole answer within {limit_seconds:g} s"
    except Broken as error:
        answer.failed = str(error)
    except asyncio.CancelledError:
        answer.failed = GIVEN_UP
        raise


async def _stream(pool: Pool, dialect: Dialect, answer: Answer) -> None:
    body = answer.body or dialect.body(answer.asked, stream=True)
    answer.body = b""
    async with pool.request("POST", PATH, body) as response:
        answer.sent_ns = time.perf_counter_ns()
        head = await response.head()
        if head.status != 200:
            raise Broken(f"status {head.status}: {_short(await response.whole())}")
        rest, ended = b"", False
        async for ns, data in response.pieces():
            *lines, rest = (rest + data).split(b"\n")
            if len(rest) > MOST_EVENT_BYTES:
                raise Broken("an event without an end")
            for line in lines:
                if not line.startswith(b"data:"):
                    continue
                said = line[5:].strip()
                if said == b"[DONE]":
                    ended, answer.ended_ns = True, ns
                else:
                    answer.take(ns, decoded(said))
        answer.freed_ns = response.ended_ns or None
        if not ended:
            raise Broken(f"the stream ended without [DONE], after {answer.tokens} tokens")


def decoded(said: bytes) -> Event:
    """An event; raises `Broken` where it is none."""
    try:
        return _DECODER.decode(said)
    except UNREADABLE as error:
        raise Broken(f"an event that is none ({error}): {_short(said)}") from error


class Spoken(msgspec.Struct, frozen=True, kw_only=True):
    """An answer with the log-probability of each of its tokens."""

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]


async def speak(pool: Pool, dialect: Dialect, asked: Asked, limit_seconds: float) -> Spoken | None:
    """A whole answer, and None in the place of one without log-probabilities; raises `Broken`."""
    body = dialect.body(asked, stream=False, logprobs=True)
    head, said = await pool.ask("POST", PATH, body, limit_seconds)
    if head.status != 200:
        raise Broken(f"status {head.status}: {_short(said)}")
    event = decoded(said)
    if not event.choices:
        raise Broken(f"an answer without a choice: {_short(said)}")
    choice = event.choices[0]
    tokens = tokenizer.tokens(choice.text or "")
    if tokens is None or len(tokens) != asked.new_tokens:
        raise Broken(
            f"not {asked.new_tokens} words of the exported model's tokenizer: "
            f"{_short(choice.text or '')!r}"
        )
    values = None if choice.logprobs is None else choice.logprobs.token_logprobs
    if not values:
        return None
    known = tuple(value for value in values if value is not None)
    if not len(known) == len(values) == len(tokens):
        raise Broken(f"{len(values)} log-probabilities of {len(tokens)} tokens")
    return Spoken(prompt=asked.prompt, tokens=tokens, logprobs=known)


def _short(said: Any) -> str:
    """At most 200 characters of what a server says, on one line."""
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
    return plain(" ".join(text.split())[:200])


def plain(said: str) -> str:
    """What a server says, without the paths, names and addresses that it may say."""
    return cleaned(said, None, own_names())
