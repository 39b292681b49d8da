"""Under what the hooks leave things for each other: in pytest's stash, and in saved files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from bench.judging.comparing.side import Side
    from bench.pytest_plugin.options import Plan
    from bench.pytest_plugin.replay import ItemClock
    from bench.records.case import Case
    from bench.records.run import RunFile

KEY = "accelmark"
"""As in `bench.exchange.benchmark_json`, which is not imported before it is needed."""

CASE: pytest.StashKey[Case] = pytest.StashKey()
CLOCK: pytest.StashKey[ItemClock] = pytest.StashKey()
PLAN: pytest.StashKey[Plan] = pytest.StashKey()
RUN: pytest.StashKey[RunFile] = pytest.StashKey()
COMPARED: pytest.StashKey[list[dict[str, Any]]] = pytest.StashKey()
"""The saved runs that `--benchmark-compare` names."""
SAVED: pytest.StashKey[list[Side]] = pytest.StashKey()
"""Those of them that were not refused, read."""
RECORD: pytest.StashKey[Path] = pytest.StashKey()
"""The run's record, until it is named."""
TEMPORARY: pytest.StashKey[Path] = pytest.StashKey()
"""The folder that it lies in, where it is not kept beyond its card."""
