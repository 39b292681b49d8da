"""When a server that the run started can be asked."""

from __future__ import annotations

import asyncio

import pytest

from bench.errors import ServerError
from bench.serving import server
from bench.serving.framing import Head
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


def test_a_server_that_never_names_a_model_is_said_to(monkeypatch: pytest.MonkeyPatch) -> None:
    async def get(pool: Pool, path: str) -> tuple[Head, bytes]:
        return Head(status=200, headers={}), b'{"data": []}'

    monkeypatch.setattr(Pool, "get", get)
    monkeypatch.setattr(server, "POLL_SECONDS", 0.001)
    process = server.Process("sleep 60")
    try:
        with pytest.raises(ServerError, match=r"names no model \(status 200\) on 127.0.0.1:9 with"):
            asyncio.run(process.ready(Pool(Endpoint.of("http://127.0.0.1:9")), None, 0.02))
    finally:
        process.stop()
