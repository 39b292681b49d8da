"""What a card says of a server that was measured from outside, and of the client that did it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from bench import units
from bench.judging.endpoint import EndpointSummary, worst_checks
from bench.judging.row import Row
from bench.reports.wording.notes import Note, grouped


def notes(rows: Sequence[Row]) -> Iterator[Note]:
    """Which server, whether it is the model, what the client added; nothing without a server."""
    some = [row.endpoint for row in rows if row.endpoint is not None]
    for said, _ in grouped(some, _server):
        yield Note("server", said, dim=True)
    if checks := worst_checks(check for one in some for check in one.checks if check.passed):
        yield Note("checked", "; ".join(check.finding for check in checks), dim=True)
    told = [one for one in some if one.overlooked]
    if told:
        names = dict.fromkeys(name for one in told for name in one.overlooked)
        yield Note("not told apart", f"{', '.join(names)}: too near to rounding", dim=True)
    if any(one.read_elsewhere for one in some):
        said = "new prompts, all counted as cached: another process had read them for the server"
        yield Note("prefill", said, dim=True)
    if any(
        row.endpoint is not None
        and (row.endpoint.guessed, row.endpoint.busy is None) == (None, False)
        and not row.case.parameters.get("speculation")
        for row in rows
    ):
        said = "not observable: nothing shown or recorded says whether the server guesses tokens"
        yield Note("speculation", said, dim=True)
    busy = [one.busy for one in some if one.busy is not None]
    late = [one.late_seconds for one in some if one.late_seconds is not None]
    if busy:
        said = f"took up to {max(busy):.0%} of its core"
        if late:
            most = units.duration(max(late))
            said += f"; requests were late by {most} at most, but for one in a hundred"
        yield Note("client", said, dim=True)


def _server(one: EndpointSummary) -> str:
    name = ", ".join(one.servers) or "it does not say which"
    launches = "each launch a start of its own" if one.restarted else "one launch: no interval"
    return f"{name}, serving {', '.join(one.models)}; {launches}"


def flat(one: EndpointSummary | None) -> dict[str, Any]:
    """Columns of a served row; none of other work."""
    if one is None:
        return {}
    return {
        "server": ", ".join(one.servers) or None,
        "server_restarted": one.restarted,
        "server_checks": {check.quantity: check.error for check in one.checks},
        "server_tolerances": {check.quantity: check.tolerance for check in one.checks},
        "server_not_told_apart": list(one.overlooked),
        "client_busy_fraction": one.busy,
        "client_late_p99_seconds": one.late_seconds,
        "cached_prompt_tokens": one.cached_tokens,
        "server_guessed_tokens": one.guessed,
    }
