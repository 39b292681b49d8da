"""Fixtures of several test files of backends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.tests.simulated.processes import Processes


@pytest.fixture(scope="package")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Where code runs with the simulated device; the imports of torch are shared."""
    found = Processes(tmp_path_factory.mktemp("simulated"))
    with found.zygote:
        yield found
