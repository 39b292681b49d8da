"""What `accelmark explain` is given, and how long it may take."""

from __future__ import annotations

import pytest

from bench.errors import SuiteError, UnknownName
from bench.planning.explainable import suite_of


@pytest.mark.parametrize(
    ("given", "only", "suite", "pattern"),
    [
        ("quick", None, "quick", None),
        ("quick", "llama-*", "quick", "llama-*"),
        ("resnet50-train", None, "quick", "resnet50-train"),
        ("llama-*", None, "quick", "llama-*"),
        ("llama-*", "*-decode", "quick", "llama-decode-bf16"),
        ("llama-*", "*-decode-fp32", "quick", "llama-decode-fp32"),
    ],
)
def test_a_suite_or_a_case_of_a_shipped_one(
    given: str, only: str | None, suite: str, pattern: str | None
) -> None:
    found, which = suite_of(given, only)
    assert found.name == suite and which == pattern


def test_what_is_neither_is_refused() -> None:
    with pytest.raises(UnknownName, match=r"no case of one\. See"):
        suite_of("nothing like it", None)
    for given, near in (("resnet50-trai", "resnet50-train"), ("quik", "quick")):
        with pytest.raises(UnknownName, match=rf"of one\. Did you mean `{near}`\? See"):
            suite_of(given, None)
    with pytest.raises(SuiteError, match=r"--only \*-train: matches no case"):
        suite_of("llama-decode", "*-train")
    with pytest.raises(SuiteError, match="no such file"):
        suite_of("mine.toml", None)
