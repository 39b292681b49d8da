"""Whether the client of `serve-bench` is fast enough, and says what the server did.

    python -m bench.tests.scripts.client_check

Against a mock in a process of its own, whose every moment is known: 256 streams of 50 chunks a
second, for what a chunk costs the client; 64 streams, for how far its TTFT is from the mock's own.
Wants two idle cores. Exit code 1 if a bound is missed.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
from typing import Any, NamedTuple

from bench.planning.arrivals import Lengths, closed
from bench.records.served import ServedRequest
from bench.serving.load import Driven, drive
from bench.serving.stream import Dialect
from bench.serving.wire import Endpoint, Pool
from bench.tests.serving.test_load import drawn

MOST_MICROSECONDS = 60.0
"""Of the client's core, a chunk, at `MANY` streams."""
MOST_MILLISECONDS = 5.0
"""By which the TTFT may be off, at `SOME` streams."""
MANY, SOME = 256, 64
MANNERS = {"ttft": 0.05, "gap": 0.02, "cheap": True}
SPREAD = 0.5
"""Of the answers' lengths: streams in step with each other would be one burst after another, in
which the mock itself is late."""


class Figures(NamedTuple):
    """Of one load."""

    streams: int
    chunks: int
    microseconds: float
    """Of the client's core, a chunk."""
    busy: float
    late_milliseconds: float
    """Of 99 of 100 requests."""
    ttft: tuple[float, float]
    """Median and 99th percentile, ms, by the client, of requests after the first round."""
    truth: tuple[float, float]
    """Likewise by the mock, from the request's arrival to the first token's writing."""


def complaints(many: Figures, some: Figures) -> list[str]:
    """Bounds that were missed."""
    found = []
    if many.microseconds > MOST_MICROSECONDS:
        found.append(f"{many.microseconds:.1f} us a chunk at {many.streams} streams")
    for name, mine, true in zip(("median", "p99"), some.ttft, some.truth, strict=True):
        if abs(mine - true) > MOST_MILLISECONDS:
            found.append(
                f"{name} TTFT {mine:.1f} ms at {some.streams} streams, in truth {true:.1f}"
            )
    return found


def measured(streams: int, tokens: int) -> Figures:
    """Two requests a stream, one after the other."""
    load = closed(
        2 * streams, Lengths(input_tokens=8, output_tokens=tokens, sigma=SPREAD), streams, seed=1
    )

    async def one(url: str) -> Driven:
        pool = Pool(Endpoint.of(url))
        try:
            return await drive(pool, Dialect(model="m"), drawn(load), 120.0)
        finally:
            pool.close()

    command = [sys.executable, "-m", "bench.tests.serving.mock", json.dumps(MANNERS)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as mock:
        assert mock.stdout is not None
        driven = asyncio.run(one(mock.stdout.readline().strip()))
        said, _ = mock.communicate()
    served = driven.served(streams)
    failed = [request.failed for request in served.requests if request.failed]
    assert not failed, failed[0]
    client = driven.client
    # The first round is one burst.
    truths = [(first - asked) / 1e6 for asked, first, _ in json.loads(said)[streams:]]
    mine = [milliseconds(request) for request in served.requests[streams:]]
    late = sorted(client.late_ns)
    return Figures(
        streams=streams,
        chunks=client.chunks,
        microseconds=client.cpu_seconds / client.chunks * 1e6,
        busy=client.busy,
        late_milliseconds=late[99 * len(late) // 100] / 1e6,
        ttft=(statistics.median(mine), sorted(mine)[99 * len(mine) // 100]),
        truth=(statistics.median(truths), sorted(truths)[99 * len(truths) // 100]),
    )


def milliseconds(request: ServedRequest) -> float:
    """TTFT."""
    assert request.first_ns is not None
    return (request.first_ns - request.due_ns) / 1e6


def main() -> int:
    """Prints the figures; 1 if a bound is missed."""
    many, some = measured(MANY, 100), measured(SOME, 50)
    for one in (many, some):
        print(
            f"{one.streams} streams: {one.chunks} chunks, {one.microseconds:.1f} us a chunk; "
            f"client busy {one.busy:.0%}, late p99 {one.late_milliseconds:.2f} ms"
        )
        for name, mine, true in zip(("median", "p99"), one.ttft, one.truth, strict=True):
            print(f"  TTFT {name} {mine:.2f} ms, in truth {true:.2f}")
    missed = complaints(many, some)
    print("missed: " + "; ".join(missed) if missed else "every bound is kept")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
