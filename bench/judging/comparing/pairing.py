"""Which row of one run stands beside which of the other: of the same case, or of the nearest."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping

import msgspec

from bench.judging.row import Row
from bench.records.case import Case

Rows = Mapping[str, Row]
"""By the fingerprint of its work (`Row.work`)."""


def pairs(base: Rows, other: Rows) -> Iterator[tuple[Row | None, Row | None]]:
    """Equal work; then, of the same workload and mode, the nearest; then what is left."""
    left = dict(other)
    alone: list[Row] = []
    for fingerprint, row in base.items():
        if fingerprint in left:
            yield row, left.pop(fingerprint)
        else:
            alone.append(row)
    near: dict[str, dict[str, set[Hashable]]] = {}
    for fingerprint, row in left.items():
        near.setdefault(row.case.name, {})[fingerprint] = _fields(row.work)
    for row in alone:
        candidates = near.get(row.case.name)
        if candidates:
            mine = _fields(row.work)
            chosen = min(candidates, key=lambda f: len(mine ^ candidates[f]))
            del candidates[chosen]
            yield row, left.pop(chosen)
        else:
            yield row, None
    for row in left.values():
        yield None, row


def _fields(case: Case) -> set[Hashable]:
    """What a case says, as a set: the fewer elements two do not share, the nearer they are."""
    fields = {**msgspec.structs.asdict(case), **case.parameters, **case.space}
    del fields["parameters"], fields["tuned"]
    return {(name, type(value), value) for name, value in fields.items()}
