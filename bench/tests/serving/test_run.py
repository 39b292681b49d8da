"""A line of the record, without the token: where a server may have said it, and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.errors import ServerError
from bench.records.encoding import encoded
from bench.records.endpoint import Endpoint, Server
from bench.records.outcome import Failed, Measured, Outcome, Void
from bench.records.run import Launch
from bench.records.served import Served, ServedRequest
from bench.serving import run as serving
from bench.serving.run import without
from bench.serving.session import Ask
from bench.serving.wire import Endpoint as Where
from bench.tests.served_runs import measured, served
from bench.tests.serving.values import CASE, MANIFEST
from bench.tests.values import make_launch, make_measured

HIDDEN = "(not recorded)"


def line(outcome: Outcome | None = None, failed: str = "", **said: Any) -> Launch:
    """Of a load on a server that says so of itself."""
    requests = (
        ServedRequest(prompt_tokens=8, due_ns=512345678, failed=failed or "status 500"),
        ServedRequest(prompt_tokens=8, due_ns=512345679, failed="status 500"),
    )
    load = Served(requests=requests, arrived_ns=(), arrived_tokens=(), ramp=1, load="abc")
    given: dict[str, Any] = {"name": "x", "version": "1", "model": "m", "settings": {}, **said}
    server = Server(started="by the run", same_host=True, **given)
    seen = Endpoint(server=server, weights="0", prompts="token ids", warm_up_requests=1, load=load)
    return make_launch(outcome or make_measured(unit="token"), endpoint=seen)


@pytest.mark.parametrize("token", ["token", "1234", "run", "null", "e", ":", None, ""])
def test_a_short_token_leaves_keys_numbers_and_our_own_words_alone(token: str | None) -> None:
    """It would be found in each; and a line that is none any more would lose the launch."""
    given = line()
    found = without(token, given)
    again = msgspec.json.decode(encoded(found), type=Launch)
    assert again == found
    if token in ("token", "1234", "run", "null", None, ""):
        assert found == given
    assert again.fingerprint == given.fingerprint and again.endpoint is not None
    assert again.endpoint.load is not None
    assert again.endpoint.load.requests[0].due_ns == 512345678


@pytest.mark.parametrize(
    "said",
    [
        {"name": "a sk-1 b"},
        {"version": "a sk-1 b"},
        {"model": "a sk-1 b"},
        {"settings": {"key": "a sk-1 b"}},
        {"command": ("serve", "a sk-1 b")},
        {"failed": "a sk-1 b"},
        {"outcome": Void(reason="a sk-1 b")},
        {"outcome": Failed(kind="error", phase="measure", message="a sk-1 b")},
    ],
)
def test_what_a_server_says_has_no_token_in_it(said: dict[str, Any]) -> None:
    given = line(**said)
    assert encoded(given).count(b"a sk-1 b") == 1
    expected = encoded(given).replace(b"sk-1", HIDDEN.encode())
    assert encoded(without("sk-1", given)) == expected


def test_a_load_that_was_measured_has_requests_too() -> None:
    load = served()
    first = msgspec.structs.replace(load.requests[0], failed="no sk-1 here")
    load = msgspec.structs.replace(load, requests=(first, *load.requests[1:]))
    found = without("sk-1", line(measured(load))).outcome
    assert isinstance(found, Measured) and found.served is not None
    assert found.served.requests[0].failed == f"no {HIDDEN} here"


def test_a_load_for_which_this_system_has_no_room_leaves_no_record(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def none(surely: int, perhaps: int) -> None:
        assert (surely, perhaps) == (4, 4)
        raise ServerError("no room")

    monkeypatch.setattr(serving, "make_room", none)
    ask = Ask(
        endpoint=Where.of("http://127.0.0.1:9"),
        folder=tmp_path,
        manifest=MANIFEST,
        cases=(CASE,),
        seed=1,
        fresh_seed=True,
    )
    with pytest.raises(ServerError, match="no room"):
        serving.run(ask, 1, out=tmp_path)
    assert not list(tmp_path.iterdir())
