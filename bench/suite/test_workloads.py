"""Every case of the suite that `--accelmark-suite` names, one item each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench.pytest_plugin.replay import replay

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture


def accelmark_workload(request: pytest.FixtureRequest, benchmark: BenchmarkFixture) -> None:
    """One case, its launches as rounds. The plugin makes an item of this for every case."""
    replay(request.node, benchmark)
