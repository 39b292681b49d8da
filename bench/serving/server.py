"""What a server says of itself, and its process where the run starts it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from bench.errors import ServerError
from bench.records import environment
from bench.records.endpoint import Server
from bench.records.private import cleaned, cleaned_facts, own_names
from bench.records.runfile import UNREADABLE
from bench.running import scratch
from bench.running.child import reap
from bench.running.hosts.wire import interface_of, is_loopback
from bench.serving.framing import Broken, Head
from bench.serving.stream import plain
from bench.serving.wire import Endpoint, Pool

MODELS = "/v1/models"
VERSIONS = ("/version", "/info", "/get_server_info", "/server_info")
"""Where servers tell their version, each in its own way; what is not there is no matter."""
UNNAMED = (
    " If it is a server of OpenAI's protocol, correct --endpoint, or name its model: --model NAME."
)
METRICS = "/metrics"
MOST_SETTINGS, MOST_CHARACTERS, MOST_READ = 2000, 200, 4000
HITS = re.compile(r"prefix_cache_hits(_total)?$|(^|[:_])cached_(prompt_)?tokens(_total)?$")
"""Counters of prompt tokens that came out of a cache, an external one too."""
DRAFTS = re.compile(r"spec_decode_num_draft_tokens(_total)?$|(^|[:_])draft_tokens(_total)?$")
"""And of tokens that were guessed."""
ACCEPTS = re.compile(r"(^|[:_])spec_accept_(length|rate)$")
"""Gauges of how right such guesses are: above 0 only where there are some."""
SPECULATES = re.compile(r"(^|\.)speculative_(algorithm|config|model)$")
"""Settings by which a server guesses tokens, or does not."""
OFF = "none"
_SAMPLE = re.compile(r"([A-Za-z_:][\w:]*)(\{.*\})?\s+([-+.\deE]+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_NAME = (
    r"(?<![a-z0-9])(?:[a-z0-9]*token|(?:[a-z0-9]*(?:keys?|secrets?|passw[a-z0-9]*)|passphrase|pwd"
    r"|credentials?|auth[a-z0-9]*|bearer|basic)(?:[-_.][\w.-]*+)?+)(?![\w.-])"
)
"""Of a secret, by whole parts: `tokens`, and what follows a `token`, are counts and modes."""
_SECRET = re.compile(rf"({_NAME}[\"']?\s*[=:\s]\s*).+", re.IGNORECASE | re.DOTALL)
"""All that stands behind such a name in the same word: a value, a header's, settings."""
_QUOTED = r"""\\*(?:"(?:\\.|[^"\\\n])*+"?+|'(?:\\.|[^'\\\n])*+'?+)"""
_PLAIN = r"""(?:[^\s,)}\]]|[,)}\]](?=[^\s"',)}\]]))"""
_VALUE = (
    rf"(?:(?:[bru]?{_QUOTED})+{_PLAIN}*"
    rf"""|[\w.]*[\[({{](?:(?:{_QUOTED}|[^"'\[({{\])}}])*+[\])}}]|.*)|<[^>\n]*>|{_PLAIN}+)"""
)
"""Quoted, in brackets, or as far as white space or what ends a part."""
_SECRETS = re.compile(
    r"((?<![\w-])(?:passphrase|passw[a-z]*)\s*[=:]\s*)[^\s\"'][^\"'\n]*|"  # of several words
    # Behind an option, as far as the next: it may take several.
    rf"((?<![\w-])--?[\w.-]*?{_NAME}[\\\"'`]*(?:\s*[=:]\s*|(?:[\"'],|[ \t])[ \t]*(?![\"']?-)))"
    rf"{_VALUE}(?:(?:[ \t]+|,\s*(?=[\"']))(?![\"']?-){_VALUE})*"
    rf"|((?:{_NAME}[\\\"'`\]]*\s*(?:[=:]+>?|(?<=[\"']),)\s*"
    r"|(?<![\w-])(?:bearer|basic(?=[ \t]+\S*(?-i:[A-Z\d=])))[ \t]+)"
    rf"(?:{_NAME}[\\\"']*\s*[=:\s]\s*){{0,3}}+){_VALUE}"
    # What looks like one soon after such a name.
    rf"|({_NAME}[ \t]+(?:[a-z]+:?[ \t]+){{0,2}}[\"'`]?)(?=[\w-]*\d)[\w-]{{8,}}[\w.-]*",
    re.IGNORECASE,
)
"""In a text, where white space alone separates words: `a token having permission` is none."""
_USER = re.compile(r"(?<=://)\S*@")
POLL_SECONDS, STOP_SECONDS, TAIL_BYTES = 0.5, 30.0, 4000


class Models(msgspec.Struct):
    """The answer of `/v1/models`."""

    data: list[dict[str, Any]]


class NoModel(ServerError):
    """Something answers where the server is to be, and names no model."""


async def identify(
    pool: Pool, asked_model: str | None, started: Sequence[str], *, by_the_run: bool
) -> tuple[Server, str]:
    """What it is, and its model as it must be asked for, which may be somebody's path.

    Raises `ServerError` where it does not answer, or does not serve the model asked for."""
    try:
        head, said = await pool.get(MODELS)
    except Broken as error:
        words = f"{_where(pool)}: {error}. Start the server, or correct --endpoint."
        raise ServerError(words + _other_scheme(pool, str(error))) from error
    if head.status in (401, 403):
        wants = "it does not take the token" if pool.token else "it wants a token"
        put = "Put a right one" if pool.token else "Put one"
        raise ServerError(
            f"{_where(pool)}: {wants} (status {head.status}). {put} into the environment variable "
            "that --token-variable names."
        )
    models = _models(head, said) or []
    names = [str(model["id"]) for model in models if model.get("id")]
    if not names and asked_model is None:
        raise ServerError(
            f"{_where(pool)}: {MODELS} names no model (status {head.status}).{UNNAMED}"
        )
    if asked_model is not None and names and asked_model not in names:
        raise ServerError(
            f"--model {asked_model}: the server has {', '.join(map(plain, names))}. Name one."
        )
    chosen = asked_model or names[0]
    of_model = next((model for model in models if model.get("id") == chosen), {})
    found = await _told(pool)
    name, version = _who(head, of_model, found)
    told = Server(
        name=name,
        version=version,
        model=plain(chosen),
        settings=settings({f"model.{k}": v for k, v in of_model.items()} | found, pool.token),
        started="by the run" if by_the_run else "before the run",
        command=tuple(started),
        same_host=on_this_host(pool.endpoint),
    )
    return told, chosen


def _models(head: Head, said: bytes) -> list[dict[str, Any]] | None:
    """Those that it names; None where it has no list of them."""
    with contextlib.suppress(*UNREADABLE):
        return msgspec.json.decode(said, type=Models).data if head.status == 200 else None
    return None


def _other_scheme(pool: Pool, error: str) -> str:
    """What else may be wrong, where something listens; with a space in front."""
    if pool.endpoint.tls:
        return " If it speaks plain HTTP, give http://."
    return "" if error.startswith("no connection") else " If it wants TLS, give https://."


async def _told(pool: Pool) -> dict[str, Any]:
    """All that it shows to whoever asks."""
    found: dict[str, Any] = {}
    for path in VERSIONS:
        with contextlib.suppress(Broken, *UNREADABLE):
            head, said = await pool.get(path)
            if head.status == 200:
                found |= msgspec.json.decode(said, type=dict[str, Any])
    with contextlib.suppress(Broken):
        for name, labels, _ in _samples(await _metrics(pool)):
            if name.endswith(("_config_info", "_build_info")):
                found |= labels
    return found


def _who(head: Head, model: Mapping[str, Any], found: Mapping[str, Any]) -> tuple[str, str]:
    """Name and version: of a model's owner, else of the header that every server sets."""
    owner = str(model.get("owned_by") or "")
    name = owner if owner and owner not in ("organization_owner", "user", "openai") else ""
    return name or head.headers.get("server", ""), str(found.get("version") or "")


def settings(found: Mapping[str, Any], token: str | None = None) -> dict[str, str]:
    """For the record: what is one word or number, and names nobody, no place and no secret.

    token: of the client's own, which a server may repeat.
    """
    told: dict[str, str] = {}
    guessing = {name: value for name, value in found.items() if SPECULATES.search(name)}
    for name, value in guessing.items():  # first: there may be more settings than are kept
        word = value if isinstance(value, str) else "given" if value else OFF
        told[name] = OFF if word.lower() in ("", "null", OFF) else word
    for name, value in sorted(found.items()):
        secret = _SECRET.search(f"{name} x") or environment.WHERE.search(name.upper())
        if secret or not isinstance(value, str | int | float | bool) or value == "":
            continue
        if not name.endswith("created"):  # a time of day, which says nothing of a server
            told.setdefault(name, str(value))
    own = token if token and len(token) >= environment.SECRET_CHARACTERS else "\0"
    hidden = environment.NOT_RECORDED
    bare = {k: _without_secrets(v[:MOST_READ].replace(own, hidden)) for k, v in told.items()}
    clean: dict[str, str] = cleaned_facts(bare, own_names())
    kept = {name: clean[name][:MOST_CHARACTERS] for name in list(clean)[:MOST_SETTINGS]}
    return kept | ({"left out": str(len(clean) - len(kept))} if len(clean) > len(kept) else {})


def _without_secrets(said: str) -> str:
    """A text of a server's, perhaps its command."""
    return _SECRETS.sub(rf"\1\2\3\4{environment.NOT_RECORDED}", _USER.sub("", said))


class Counters(NamedTuple):
    """Since the server's start; None of what it does not count."""

    cached: float | None = None
    """Tokens of prompts that came out of its caches."""
    drafted: float | None = None
    """Tokens that it guessed, and then had its model look at."""
    accepted: float | None = None
    """How many of them are right, or their share: a gauge, which may rest where it was."""
    shown: bool = False
    """Whether it has metrics, of whatever."""

    def since(self, before: Counters) -> Counters:
        """What was counted between two looks; a counter may be shown only once it has counted."""

        def counted(now: float | None, then: float | None) -> float | None:
            then = 0.0 if then is None and before.shown else then
            return None if now is None or then is None else now - then

        return self._replace(
            cached=counted(self.cached, before.cached),
            drafted=counted(self.drafted, before.drafted),
        )


async def counters(pool: Pool) -> Counters:
    """As its metrics say, where it has some."""
    with contextlib.suppress(Broken):
        text = await _metrics(pool)
        samples = list(_samples(text))
        kinds = (HITS, DRAFTS, ACCEPTS)
        hits, drafts, accepts = (
            [v for name, _, v in samples if kind.search(name)] for kind in kinds
        )
        if any(name.startswith("vllm:") for name, *_ in samples):
            drafts = drafts or [0.0]  # it has this counter only where it guesses
        return Counters(
            sum(hits) if hits else None,
            sum(drafts) if drafts else None,
            max(accepts, default=None),
            shown=bool(text),
        )
    return Counters()


def guesses(who: Server, counted: Counters) -> bool | None:
    """Whether it guesses tokens, by any sign of it; None where nothing says that it does not."""
    said = [value for name, value in who.settings.items() if SPECULATES.search(name)]
    asked = any(word.startswith("--speculat") for word in who.command)
    if counted.drafted or counted.accepted or asked or any(value != OFF for value in said):
        return True
    return False if said or counted.drafted is not None else None


async def _metrics(pool: Pool) -> str:
    head, said = await pool.get(METRICS)
    return said.decode("utf-8", "replace") if head.status == 200 else ""


def _samples(text: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """Name, labels and value of each line, as Prometheus writes them."""
    for line in text.splitlines():
        found = _SAMPLE.match(line)
        if found:
            with contextlib.suppress(ValueError):
                yield found[1], dict(_LABEL.findall(found[2] or "")), float(found[3])


def on_this_host(endpoint: Endpoint) -> bool:
    """Whether all addresses of the endpoint are this host's."""
    import socket

    try:
        found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    except OSError:
        return False
    addresses = {str(info[4][0]) for info in found}
    return bool(addresses) and all(is_loopback(a) or interface_of(a) for a in addresses)


def shown(command: str) -> tuple[str, ...]:
    """A server's command for the record: without secrets, folders and names.

    Raises `ServerError` where a shell could not read it.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ServerError(f"--server-command: {error}. Quote it as for a shell.") from error
    if not words:
        raise ServerError("--server-command: it is empty. Give the command that starts the server.")
    kept, hidden = [], False
    for word in words:
        if word.startswith("-"):  # never the value of the option before
            hidden = "=" not in word and _SECRET.search(f"{word} x") is not None
        elif hidden:
            kept.append(environment.NOT_RECORDED)
            continue
        bare = _SECRET.sub(rf"\1{environment.NOT_RECORDED}", _USER.sub("", word))
        kept.append(cleaned(environment.redacted(bare), None, own_names()))
    return tuple(kept)


class Process:
    """A server that the run starts, and ends with all that it started."""

    def __init__(self, command: str) -> None:
        """Raises `ServerError` where it cannot be started."""
        self._folder = scratch.new()
        self._output = self._folder / "output"
        try:
            with self._output.open("wb") as output:
                self._child = subprocess.Popen(
                    shlex.split(command),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            scratch.gone(self._folder)
            raise ServerError(
                f"--server-command: it does not start ({error.strerror}). No shell reads it: give "
                "whole paths, and `env` before variables."
            ) from error

    async def ready(self, pool: Pool, model: str | None, seconds: float) -> None:
        """Returns when it names a model, which a frontend does not before its workers are there, or
        wants another token, or has no list where the user names the `model`; raises `ServerError`
        where it ends before, or does not within `seconds`: `NoModel` where it answered."""
        end, error = time.monotonic() + seconds, ServerError
        lacking, hint = "no answer", ""
        while time.monotonic() < end:
            with contextlib.suppress(Broken):
                head, said = await pool.get(MODELS)
                models = _models(head, said)
                listless = model and models is None and head.status < 500
                if models or listless or head.status in (401, 403):
                    return
                error, hint = NoModel, "" if model else UNNAMED
                lacking = f"{MODELS} names no model (status {head.status})"
            if self._child.poll() is not None:
                code = self._child.returncode
                raise ServerError(f"--server-command: it ended with exit code {code}. {self.tail}")
            await asyncio.sleep(POLL_SECONDS)
        raise error(
            f"--server-command: {lacking} on {pool.endpoint.authority} within {seconds:g} s.{hint} "
            f"{self.tail}"
        )

    @property
    def tail(self) -> str:
        """The end of what it wrote."""
        # Twice as much: the name of a secret must not be cut off.
        written = self._output.read_bytes()[-2 * TAIL_BYTES :].decode("utf-8", "replace")
        text = plain(_without_secrets(environment.without_secrets(written)))[-TAIL_BYTES:]
        return f"It wrote: {text.strip()}" if text.strip() else "It wrote nothing."

    def stop(self) -> None:
        """Ends its whole group, gently first."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._child.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(STOP_SECONDS)
        if self._child.returncode is not None:
            with contextlib.suppress(ChildProcessError):
                reap(self._child.pid)
        scratch.gone(self._folder)


async def nobody_there(pool: Pool) -> None:
    """Raises `ServerError` if something answers already where the run is to start a server."""
    with contextlib.suppress(Broken):
        await pool.get(MODELS)
        raise ServerError(
            f"{_where(pool)}: a server answers there already, and --server-command would start "
            "another. End it, or leave out --server-command: then it is one launch."
        )


def _where(pool: Pool) -> str:
    return f"--endpoint {pool.endpoint.authority}"
