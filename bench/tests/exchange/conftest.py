"""A document that several tests look at."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import catalogue
from bench.records import runfile
from bench.report import Canvas
from bench.tests.scripts.regenerate import RUN


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `accelmark report RUN --format pytest-benchmark` prints, in a file."""
    path = tmp_path_factory.mktemp("document") / "golden.json"
    path.write_text(
        catalogue.load("reports", "pytest-benchmark").render([runfile.read(RUN)], Canvas())
    )
    return path
