"""Calls of a tape as rows: those of one operator and class on operands of the same shapes."""

from __future__ import annotations

from collections.abc import Sequence

from bench.measuring.explaining.calls import Call, Key
from bench.measuring.explaining.tape import Tape
from bench.records.explained import Operator


class Rows:
    """The rows of a tape, in the order in which they first come."""

    def __init__(self, tape: Tape, each_ns: Sequence[float]) -> None:
        """each_ns: of each call, what a call costs that does nothing taken off."""
        self.ns: dict[Key, float] = {}
        self._calls: dict[Key, list[Call]] = {}
        self._order: list[Key] = []
        for call, ns in zip(tape.calls, each_ns, strict=True):
            key = call.row
            self._order.append(key)
            self._calls.setdefault(key, []).append(call)
            self.ns[key] = self.ns.get(key, 0.0) + ns

    def first(self, key: Key) -> Call:
        """The first call of a row."""
        return self._calls[key][0]

    def operators(
        self, alone: dict[Key, float], absent: dict[Key, str] | None = None
    ) -> tuple[tuple[Operator, ...], tuple[int, ...]]:
        """The rows as values, and of each call its row's index.

        alone: FLOP/s of a row's shape by itself; absent: rows that could not be measured, and why.
        """
        missing = absent or {}
        place = {key: k for k, key in enumerate(self._calls)}
        found = tuple(
            Operator(
                name=key[0],
                kind=key[2],
                calls=len(calls),
                operands=key[1],
                precision=calls[0].precision,
                ns=None if key in missing else max(0.0, self.ns[key]),
                absent=missing.get(key, ""),
                flop=sum(call.flop for call in calls),
                read_bytes=sum(call.moved.read for call in calls),
                written_bytes=sum(call.moved.written for call in calls),
                alone_flop_per_second=alone.get(key),
            )
            for key, calls in self._calls.items()
        )
        return found, tuple(place[key] for key in self._order)
