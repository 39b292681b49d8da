"""A run on a server, as a record: launch by launch, each on disk before the next begins."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from bench.backend import DeviceInfo
from bench.errors import AccelmarkError
from bench.records import environment
from bench.records.outcome import Cold, Failed, Measured
from bench.records.run import End, Launch, Settings
from bench.running.header import begin, run_id, utc_now
from bench.serving.cases import in_flight
from bench.serving.reference import Reference, in_a_process
from bench.serving.session import Ask, Came, Interrupted, launch
from bench.serving.wire import make_room

SUITE = "serve-bench"
NO_DEVICE = DeviceInfo(
    backend="endpoint", index=0, name="a server, device not observed", memory_bytes=None
)
"""Where nobody said which device the server has."""
SAID = ("message", "reason", "failed", "name", "version", "model", "settings", "command")
"""What of an outcome, or of an endpoint, may be a server's own words."""


def run(
    ask: Ask,
    launches: int,
    *,
    device: DeviceInfo = NO_DEVICE,
    out: Path = Path("runs"),
    command: Sequence[str] = (),
    say: Callable[[str], None] = lambda text: None,
    reference: Reference = in_a_process,
    trust: ssl.SSLContext | None = None,
) -> Path:
    """Measures every case in every launch; gives the record.

    launches: restarts of the server, where the run starts it; else 1, for launches that share one
    process are one. Raises `ServerError` where there is no server to measure, and then leaves no
    record; `OutputError` where none can be written. At Ctrl-C the record ends with the loads that
    were made, and KeyboardInterrupt goes on.
    """
    identity = run_id()
    surely, perhaps = (max(each) for each in zip(*map(in_flight, ask.cases), strict=True))
    make_room(surely, perhaps)
    path = out / f"{SUITE}-{device.backend}-{identity}.jsonl"
    settings = Settings(launches=launches, seed=ask.seed)
    header = (identity, SUITE, ask.cases, settings, device, command)
    made = 0
    try:
        with contextlib.closing(begin(path, *header)) as writer:
            ended: Literal["complete", "interrupted"] = "interrupted"
            try:
                for number in range(launches):
                    started_at = utc_now()
                    cut = None
                    try:
                        came = launch(ask, number, reference, trust, say)
                    except Interrupted as interrupt:
                        came, cut = interrupt.came, interrupt
                    except AccelmarkError as error:
                        if not made:
                            raise
                        came = not_made(ask, error)
                    lines = []
                    for one in came:
                        line = _line(one, ask, device, number, made, started_at)
                        lines.append(without(ask.token, line))
                        writer.append(lines[-1])
                        made += 1
                    for words in whys(lines):
                        say(f"launch {number}: {words}")
                    if cut is not None:
                        say(f"record: {writer.path}")
                        raise cut
                ended = "complete"
            finally:
                writer.append(End(reason=ended, finished_at=utc_now()))
                path = writer.path
    except AccelmarkError:
        if not made:  # nothing was measured: there is nothing to keep
            path.unlink(missing_ok=True)
        raise
    finally:
        if ask.monitor is not None:
            ask.monitor.close()
    return path


def not_made(ask: Ask, error: AccelmarkError) -> list[Came]:
    """Of a launch that could not begin, where others before it were measured."""
    failed = Failed(kind="error", phase="start", message=str(error))
    return [Came(case, failed, None, 0.0) for case in ask.cases]


def whys(lines: Sequence[Launch]) -> list[str]:
    """Why there is no figure, each reason once and whole: a card shows its beginning."""
    outcomes = [line.outcome for line in lines]
    reasons = [one.reason for one in outcomes if not isinstance(one, Measured)]
    return list(dict.fromkeys(reasons))


def without(token: str | None, line: Launch) -> Launch:
    """A line in which the token does not stand, wherever a server may have repeated it. Elsewhere a
    short one would be found in a number, or in a word of ours."""

    def bare(value: Any, said: bool) -> Any:
        if isinstance(value, dict):
            return {name: bare(inner, said or name in SAID) for name, inner in value.items()}
        if isinstance(value, list | tuple):
            return [bare(inner, said) for inner in value]
        told = said and isinstance(value, str)
        return value.replace(token, environment.NOT_RECORDED) if told else value

    if not token:
        return line
    facts = msgspec.to_builtins(line)
    facts |= {name: bare(facts.get(name), said=False) for name in ("outcome", "endpoint")}
    return msgspec.convert(facts, Launch)


def _line(
    came: Came, ask: Ask, device: DeviceInfo, number: int, order: int, started_at: str
) -> Launch:
    seen = came.telemetry
    return Launch(
        case=came.case,
        fingerprint=came.case.fingerprint,
        launch=number,
        order=order,
        seed=ask.seed + number,
        started_at=started_at,
        seconds=max(came.seconds, 1e-6),
        cold=Cold(),
        environment={"device": msgspec.to_builtins(device)},
        outcome=came.outcome,
        telemetry=None if isinstance(seen, str) else seen,
        telemetry_absent=seen if isinstance(seen, str) else None,
        endpoint=came.seen,
    )
