"""What a card says of a server that was measured from outside."""

from __future__ import annotations

import pytest

from bench.judging.summary import summarize
from bench.records.endpoint import Endpoint, Server
from bench.reports.wording.endpoint import notes
from bench.tests.served_runs import measured, serve_case, served
from bench.tests.values import make_file, make_launch

SERVER = Server(
    name="x", version="1", model="m", settings={}, started="before the run", same_host=True
)


@pytest.mark.parametrize(("cached", "said"), [(0, False), (7, False), (16 * 6, True)])
def test_a_server_whose_prompts_another_process_read_is_said_to_be_one(
    cached: int, said: bool
) -> None:
    """16 prompts of 7 tokens."""
    seen = Endpoint(
        server=SERVER,
        weights="0",
        prompts="text",
        warm_up_requests=1,
        cached_tokens=cached,
    )
    case = serve_case()
    rows = summarize(make_file([case], [make_launch(measured(served()), case, endpoint=seen)]))
    assert any("another process had read them" in note.text for note in notes(rows)) is said
