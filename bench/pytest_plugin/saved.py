"""Saved files of pytest-benchmark: the whole run goes in, and what is not comparable is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

from bench.pytest_plugin.keys import COMPARED, KEY, RUN

if TYPE_CHECKING:
    from bench.pytest_plugin.options import Plan
    from bench.records.case import Case


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(
    config: pytest.Config, benchmarks: object, output_json: dict[str, Any]
) -> None:
    """Adds to a saved document what its benchmarks do not carry: the whole run is then in it."""
    if RUN not in config.stash:
        return
    from bench.exchange import benchmark_json

    parts = [b["extra_info"].get(KEY) for b in output_json["benchmarks"]]
    elsewhere = {part["launches"][0]["fingerprint"] for part in parts if part is not None}
    output_json[KEY] = benchmark_json.envelope(config.stash[RUN], elsewhere)


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_compare_machine_info(
    config: pytest.Config, compared_benchmark: dict[str, Any]
) -> None:
    """Remembers a run to compare with; judged when it is known what will be run."""
    config.stash.setdefault(COMPARED, []).append(compared_benchmark)


def refuse_incomparable(plan: Plan, cases: Sequence[Case], document: dict[str, Any]) -> None:
    """`pytest.UsageError` for a saved run whose numbers are not of the same work."""
    from bench.errors import RecordError
    from bench.exchange import benchmark_json
    from bench.judging.comparability import unequal

    place = f"--benchmark-compare, run of {document.get('datetime', 'an unknown time')}"
    try:
        saved = benchmark_json.from_document(place, document)
    except RecordError as error:
        raise pytest.UsageError(f"not comparable: {error}") from None
    reasons = []
    if saved.run.settings.timing != plan.settings.timing:
        reasons.append(f"timing mode differs ({saved.run.settings.timing}, {plan.settings.timing})")
    names = {case.fingerprint: name for name, case in plan.names.items()}
    entries = {
        part["launches"][0]["fingerprint"]: benchmark["fullname"]
        for benchmark in document["benchmarks"]
        if (part := benchmark["extra_info"].get(KEY)) is not None
    }
    theirs = {x.fingerprint: x.case for x in saved.launches}
    by_name = {full_name: theirs[fingerprint] for fingerprint, full_name in entries.items()}
    met = False
    for case in cases:
        name = names[case.fingerprint]
        other = by_name.get(benchmark_json.full_name(name))
        met = met or other is not None
        if other is not None and other.fingerprint != case.fingerprint:
            reasons.append(f"{name}: " + "; ".join(unequal(other, case)))
    if not met:
        reasons.append("it measured none of these cases")
    if reasons:
        raise pytest.UsageError(
            f"not comparable: {place}: {'. '.join(reasons)}. Compare with a run of the same suite "
            "and version, or drop --benchmark-compare."
        )
