"""A server of OpenAI's protocol whose every answer and every moment is known beforehand."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import random
import ssl
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.serving import tokenizer
from bench.serving.reference import Text, Truth

VOCABULARY = 512


def answer(prompt: Sequence[int], count: int) -> tuple[list[int], list[float]]:
    """Tokens and their log-probabilities, the same for the same prompt."""
    draw = random.Random(repr(list(prompt)))
    tokens = [draw.randrange(VOCABULARY) for _ in range(count)]
    return tokens, [-3.0 - draw.random() for _ in range(count)]


def reference(folder: Path, texts: Sequence[Text], wrong: bool) -> Truth:
    """What the mock answers, and the rounding that a right server may have."""
    exact = [logprobs_of(text) for text in texts]
    return Truth(
        logprobs=tuple(map(tuple, exact)),
        best=tuple(tuple(answer(text.prompt, len(text.tokens))[1]) for text in texts),
        rounded=tuple(tuple(value + 0.03 for value in one) for one in exact),
        wrong={"a layer missing": 0.6, "int8 weights": 0.07} if wrong else {},
    )


def logprobs_of(text: Text) -> list[float]:
    """Of another model's tokens, that they are far from likely."""
    tokens, logprobs = answer(text.prompt, len(text.tokens))
    pairs = zip(tokens, text.tokens, logprobs, strict=True)
    return [value if mine == theirs else value - 2 for mine, theirs, value in pairs]


@dataclasses.dataclass
class Manners:
    """How it behaves."""

    ttft: float = 0.004
    gap: float = 0.0005
    per_chunk: int = 1
    accepts: float = 0.0
    """Seconds until it reads what comes on a new connection."""
    slots: int = 10_000
    """Requests at a time; the others wait."""
    stall_after: int | None = None
    stall: float = 0.0
    error: str = ""
    """`status`, `event`, `drop`, `garbage`, `no end`: from the `error_from`-th request on."""
    says: str = "no room"
    """With the status of an error."""
    error_from: int = 0
    short: int = 0
    """Tokens too few."""
    usage: bool = True
    prefix_cache: bool = False
    decodes_only: bool = False
    """Whether it counts as cached what another process has read for it: every prompt."""
    tells_cached: bool = True
    logprobs: bool = True
    off: float = 0.0
    """Of its log-probabilities."""
    wrong_load: bool = False
    """Whether its answers are another model's where they stream."""
    token: str = ""
    metrics: str = ""
    """A counter of prompt tokens that its cache knew; or all that it says there."""
    as_text_only: bool = False
    word: str = "w"
    """With which its tokenizer's words begin."""
    dies_after: int | None = None
    """From the so many-th stream on it answers nothing any more."""
    cheap: bool = False
    """Whether every answer is the same, and nothing has to be drawn or written for it: then 256
    streams leave the mock as punctual as four."""


class Mock:
    """The server, in a thread of this process."""

    def __init__(self, manners: Manners, tls: ssl.SSLContext | None = None) -> None:
        self.manners = manners
        self.tls = tls
        self.port = 0
        self.seen: set[tuple[int, ...]] = set()
        self.bodies: list[dict[str, Any]] = []
        self.truths: list[tuple[int, int, int]] = []
        """Of each stream: when it was asked, and when its first and last tokens were written."""
        self.hits = 0
        self.streams = 0
        self._slots: asyncio.Semaphore | None = None
        self._open: dict[asyncio.StreamWriter, asyncio.Task[None]] = {}
        """Each connection, from the moment that it is made, and who speaks there."""
        self._server: asyncio.Server | None = None

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        """Its address."""
        loop = asyncio.new_event_loop()
        ready = threading.Event()

        async def serve() -> None:
            self._slots = asyncio.Semaphore(self.manners.slots)
            self._server = await asyncio.start_server(
                self._connected, "127.0.0.1", self.port, backlog=2048, ssl=self.tls
            )
            self.port = self._server.sockets[0].getsockname()[1]
            ready.set()

        starting = loop.create_task(serve())
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        assert ready.wait(10), starting
        try:
            yield f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"
        finally:
            asyncio.run_coroutine_threadsafe(self._end(), loop).result(10)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)
            loop.close()

    async def _end(self) -> None:
        assert self._server is not None
        self._server.close()
        mine = {asyncio.current_task(), *self._open.values()}
        if accepting := asyncio.all_tasks() - mine:  # what it has accepted becomes a connection
            await asyncio.wait(accepting)
        for writer, task in tuple(self._open.items()):
            task.cancel()
            writer.transport.abort()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()
        await asyncio.gather(*self._open.values(), return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._speaks(reader, writer))
        self._open[writer] = task
        task.add_done_callback(lambda _: writer.close())

    async def _speaks(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(self.manners.accepts)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await self._request(reader, writer):
                pass

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.split("\r\n")
        path = first.split(" ")[1]
        headers = {line.partition(":")[0].lower(): line.partition(": ")[2] for line in lines}
        said = await reader.readexactly(int(headers.get("content-length", 0)))
        asked_ns = time.perf_counter_ns()
        dies = self.manners.dies_after
        if dies is not None and self.streams >= dies:
            return False
        if self.manners.token and headers.get("authorization") != f"Bearer {self.manners.token}":
            return await _whole(writer, 401, {"error": "no"})
        if path == "/v1/models":
            model = {"id": "m", "owned_by": "mock", "max_model_len": 2048, "root": "/home/alice/m"}
            return await _whole(writer, 200, {"data": [model]})
        if path == "/version":
            return await _whole(writer, 200, {"version": "1.2.3", "api_key": "secret-of-theirs"})
        if path == "/metrics" and self.manners.metrics:
            text = f'{self.manners.metrics}{{model_name="m"}} {self.hits}\n'
            text = self.manners.metrics if "\n" in self.manners.metrics else text
            return await _whole(writer, 200, text.encode())
        if path != "/v1/completions":
            return await _whole(writer, 404, {"error": "not here"})
        body = json.loads(said)
        self.bodies.append(body)
        if not body.get("stream"):
            return await self._spoken(writer, body)
        assert self._slots is not None
        async with self._slots:
            return await self._streamed(writer, body, asked_ns)

    async def _spoken(self, writer: asyncio.StreamWriter, body: dict[str, Any]) -> bool:
        prompt = _prompt(body)
        if prompt is None or (self.manners.as_text_only and not isinstance(body["prompt"], str)):
            return await _whole(writer, 400, {"error": "prompts are strings"})
        tokens, logprobs = answer(prompt, body["max_tokens"])
        values = [value + self.manners.off for value in logprobs]
        choice = {
            "text": " " + tokenizer.words(tokens),
            "logprobs": {"token_logprobs": values} if self.manners.logprobs else None,
            "finish_reason": "length",
        }
        usage = {"prompt_tokens": len(prompt), "completion_tokens": len(tokens)}
        return await _whole(writer, 200, {"choices": [choice], "usage": usage})

    async def _streamed(
        self, writer: asyncio.StreamWriter, body: dict[str, Any], asked_ns: int
    ) -> bool:
        manners, prompt = self.manners, _prompt(body)
        self.streams += 1
        error = manners.error if self.streams > manners.error_from else ""
        if error == "status" or prompt is None:
            return await _whole(writer, 503, {"error": manners.says})
        known = manners.prefix_cache and tuple(prompt) in self.seen
        cached = len(prompt) - 1 if known or manners.decodes_only else 0
        self.seen.add(tuple(prompt))
        self.hits += cached
        count = body["max_tokens"] - manners.short
        tokens = [1] * count
        if not manners.cheap:
            tokens, _ = answer([*prompt, 1] if manners.wrong_load else prompt, count)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        start, first = time.perf_counter(), 0
        late = 0.0
        for k, begin in enumerate(range(0, count, manners.per_chunk)):
            if manners.stall_after is not None and begin >= manners.stall_after:
                late = manners.stall
            wait = start + manners.ttft + k * manners.gap + late - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            if manners.cheap:
                writer.write(CHEAP)
            else:
                words = tokenizer.words(tokens[begin : begin + manners.per_chunk])
                words = words.replace("w", manners.word)
                _event(writer, {"choices": [{"text": f" {words}", "finish_reason": None}]})
            first = first or time.perf_counter_ns()
            if error and error != "no end" and k == 1:
                return await _broken(writer, error)
        self.truths.append((asked_ns, first, time.perf_counter_ns()))
        _event(writer, {"choices": [{"text": "", "finish_reason": "length"}]})
        if manners.usage:
            details = {"cached_tokens": cached} if manners.tells_cached else None
            usage = {"prompt_tokens": len(prompt), "completion_tokens": count}
            _event(writer, {"choices": [], "usage": usage | {"prompt_tokens_details": details}})
        if error != "no end":
            _chunk(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True


async def _broken(writer: asyncio.StreamWriter, error: str) -> bool:
    if error == "event":
        _event(writer, {"error": {"message": "the engine is dead"}})
    elif error == "garbage":
        writer.write(b"zz\r\n")
    await writer.drain()
    return False


def _prompt(body: dict[str, Any]) -> list[int] | None:
    said = body["prompt"]
    if isinstance(said, str):
        found = tokenizer.tokens(said)
        return None if found is None else list(found)
    return list(said)


def _event(writer: asyncio.StreamWriter, value: dict[str, Any]) -> None:
    _chunk(writer, b"data: " + json.dumps(value).encode() + b"\n\n")


def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%s\r\n" % (len(data), data))


EVENT = b'data: {"choices": [{"text": " w1", "finish_reason": null}]}\n\n'
CHEAP = b"%x\r\n%s\r\n" % (len(EVENT), EVENT)


async def _whole(writer: asyncio.StreamWriter, status: int, value: Any) -> bool:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    head = f"HTTP/1.1 {status} .\r\nServer: mocked\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    return True


def main() -> None:
    """A mock in a process of its own: its manners as JSON on the command line, its address out."""
    mock = Mock(Manners(**json.loads(sys.argv[1])))
    with mock.running() as url:
        print(url, flush=True)
        sys.stdin.read()  # until whoever started it closes the pipe
        print(json.dumps(mock.truths), flush=True)


if __name__ == "__main__":
    main()
