"""When a server that the run started can be asked."""

from __future__ import annotations

import asyncio

import pytest

from bench.errors import ServerError
from bench.serving import server
from bench.serving.framing import Broken, Head
from bench.serving.wire import Endpoint, Pool

NAMED = (200, b'{"data": [{"id": "m"}]}')


@pytest.mark.parametrize(
    ("before", "then", "model"),
    [
        # As a frontend whose workers have not come yet, or a router.
        ([(200, b'{"data": []}'), (404, b""), (503, b"")], NAMED, None),
        ([(200, b'{"data": []}')], NAMED, "m"),
        # Wrong as it is, it will be no other: said at once.
        ([], NAMED, "n"),
        ([(503, b"")], (401, b""), None),
        ([], (404, b""), "m"),
        # Of another form, or none: then the name given is taken.
        ([(503, b"")], (200, b'{"models": [{"name": "m"}]}'), "m"),
        ([], (200, b'{"object": "list", "data": null}'), "m"),
        ([], (200, b"[]"), "m"),
    ],
)
def test_a_server_is_ready_when_it_names_a_model(
    before: list[tuple[int, bytes]],
    then: tuple[int, bytes],
    model: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = iter([*before, then])

    async def get(pool: Pool, path: str) -> tuple[Head, bytes]:
        status, said = next(answers)
        return Head(status=status, headers={}), said

    monkeypatch.setattr(Pool, "get", get)
    monkeypatch.setattr(server, "POLL_SECONDS", 0.001)
    process = server.Process("sleep 60")
    try:
        asyncio.run(process.ready(Pool(Endpoint.of("http://127.0.0.1:9")), model, 60.0))
    finally:
        process.stop()
    assert next(answers, None) is None


NAME_IT = "correct --endpoint, or name its model: --model NAME"


@pytest.mark.parametrize(
    ("status", "said", "model", "hinted"),
    [
        (200, b'{"data": []}', None, True),
        (404, b"{}", None, True),
        (200, b'{"data": []}', "m", False),
        (503, b"", "m", False),
    ],
)
def test_a_server_that_never_names_a_model_is_said_to(
    status: int, said: bytes, model: str | None, hinted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def get(pool: Pool, path: str) -> tuple[Head, bytes]:
        return Head(status=status, headers={}), said

    monkeypatch.setattr(Pool, "get", get)
    why = rf"names no model \(status {status}\) on 127.0.0.1:9 within 0.02 s\. "
    with pytest.raises(server.NoModel, match=why) as caught:
        never_ready(model, monkeypatch)
    assert (NAME_IT in str(caught.value)) is hinted


def test_where_nothing_ever_answers_no_model_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def get(pool: Pool, path: str) -> tuple[Head, bytes]:
        raise Broken("no connection")

    monkeypatch.setattr(Pool, "get", get)
    with pytest.raises(ServerError, match=r"no answer on 127\.0\.0\.1:9") as caught:
        never_ready(None, monkeypatch)
    assert NAME_IT not in str(caught.value) and not isinstance(caught.value, server.NoModel)


def never_ready(model: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "POLL_SECONDS", 0.001)
    process = server.Process("sleep 60")
    try:
        asyncio.run(process.ready(Pool(Endpoint.of("http://127.0.0.1:9")), model, 0.02))
    finally:
        process.stop()
