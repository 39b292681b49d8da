"""Fixtures of several test files of measuring."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def little_to_collect() -> Iterator[None]:
    """A launch collects garbage: here it need not look through what all tests have imported."""
    gc.freeze()
    yield
    gc.unfreeze()
