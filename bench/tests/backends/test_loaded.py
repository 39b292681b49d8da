"""Versions of matrix libraries that a process has loaded, and what two of them are."""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.backends import _loaded
from bench.judging.comparing.compare import compare
from bench.judging.comparing.reasons import Code
from bench.tests.judging.comparing.test_configured import CPU, ran

MAPS = """7f0 r-xp 00 08:02 1  /opt/some where/libcublasLt.so.13
7f1 r-xp 00 08:02 2                /opt/rocm/lib/librocblas.so.5.0.70000
7f2 r-xp 00 08:02 3  /opt/lib/libcublas.so.13
7f3 r-xp 00 08:02 4  /opt/lib/libother.so.1
"""


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What each library that is opened has, by its path; others cannot be opened."""
    (tmp_path / "maps").write_text(MAPS)
    monkeypatch.setattr(_loaded, "MAPS", tmp_path / "maps")
    held: dict[str, Any] = {}
    monkeypatch.setattr(ctypes, "CDLL", held.__getitem__)
    return held


def properties(*numbers: int) -> Any:
    def ask(which: int, value: Any) -> int:
        value._obj.value = numbers[which]
        return 0

    return ask


def test_libraries_that_are_loaded_say_their_versions(loaded: dict[str, Any]) -> None:
    def said(text: Any, size: Any) -> int:
        text.value = b"5.0.0.70000-abc"
        return 0

    loaded["/opt/some where/libcublasLt.so.13"] = SimpleNamespace(
        cublasLtGetProperty=properties(13, 4, 1)
    )
    loaded["/opt/lib/libcublas.so.13"] = SimpleNamespace(cublasGetProperty=properties(13, 4, 0))
    loaded["/opt/rocm/lib/librocblas.so.5.0.70000"] = SimpleNamespace(
        rocblas_get_version_string=said
    )
    assert _loaded.versions(cublas="cublasGetProperty", cublasLt="cublasLtGetProperty") == {
        "cublas": "13.4.0",
        "cublasLt": "13.4.1",
    }
    assert _loaded.versions(rocblas="rocblas_get_version_string") == {"rocblas": "5.0.0.70000-abc"}


def test_one_that_says_nothing_is_left_out_and_fails_nothing(loaded: dict[str, Any]) -> None:
    loaded["/opt/lib/libcublas.so.13"] = SimpleNamespace(cublasGetProperty=lambda *_: 1)
    calls = ("cublas", "cublasLt", "other", "absent")
    assert _loaded.versions(**dict.fromkeys(calls, "cublasGetProperty")) == {}


def test_the_same_torch_with_another_library_is_no_other_chip() -> None:
    """32 % between two of cuBLAS (TensorRT-LLM 16623)."""

    def with_library(version: str, seconds: float) -> Any:
        return ran(seconds, device={**CPU, "facts": {"torch": "2.13.0", "cublasLt": version}})

    found = compare(with_library("13.4.0", 0.01), with_library("13.5.1", 0.0132))
    assert found.configured.doubt_code == Code.VERSIONS_DIFFER
    assert "cublasLt (13.4.0, 13.5.1)" in found.configured.chip_doubt
