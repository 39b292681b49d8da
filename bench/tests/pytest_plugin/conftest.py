"""Two runs that several tests look at."""

from __future__ import annotations

from typing import Any

import pytest

from bench.records.outcome import Measured
from bench.tests.pytest_plugin.inner import COLUMNS, SHAPES, Run, scripted, suite

TRIES = 4


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two launches of one small product on this CPU, by the real engine.

    A launch that something outside slowed is no round. Where the machine does so it is tried again.
    """
    for _ in range(TRIES):
        folder = tmp_path_factory.mktemp("real")
        suite(folder, "32x32x32")
        run = Run(
            folder,
            *("-W", "error", "--pyargs", "bench.suite", "--accelmark-suite=tiny.toml"),
            *("--accelmark-device", "cpu", "--accelmark-out", "out", COLUMNS),
            *("--benchmark-autosave", f"--benchmark-json={folder / 'run.json'}"),
        )
        outcomes = [launch.outcome for launch in run.record.launches]
        if not any(isinstance(outcome, Measured) and outcome.causes for outcome in outcomes):
            break
    return run


@pytest.fixture(scope="session")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two good cases, one that breaks, one that is wrong, one that cannot run; and a stranger."""
    folder = tmp_path_factory.mktemp("mixed")
    (folder / "test_own.py").write_text("def test_own(benchmark): benchmark(len, '')\n")
    times: list[list[Any]] = [
        [0.010, 0.020],
        ["failed", "failed"],
        ["void"],
        ["skipped"],
        [0.5, 0.5],
    ]
    return scripted(
        folder,
        dict(zip(SHAPES, times, strict=True)),
        *("test_own.py", "-W", "error", "--accelmark-out", "out", COLUMNS, "-rfs"),
        *("--benchmark-json=run.json", "--benchmark-max-time=0.01"),
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What looks at a real run wants each of its launches: none slowed by another test."""
    for item in items:
        if "real" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.alone)
