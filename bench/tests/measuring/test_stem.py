"""What a stem may hold: nothing that a launch would not have had of its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from bench.measuring import stem, surroundings
from bench.measuring.stem import Order
from bench.records import environment

pytestmark = pytest.mark.skipif(not stem.AVAILABLE, reason="Linux")


@pytest.mark.parametrize(
    ("libraries", "shared"),
    [
        ((), ()),
        (("torch",), ("torch",)),
        (
            ("torch", "transformers.models.bert.modeling_bert"),
            ("torch", "torch._dynamo", "transformers.modeling_utils"),
        ),
        (("torch", "numpy.linalg"), ("torch",)),
        (("torch", "torch._dynamo"), ("torch", "torch._dynamo")),
        (("transformers_of_another", "torch"), ("torch",)),
    ],
)
def test_it_imports_what_a_launch_would_and_no_more(
    libraries: tuple[str, ...], shared: tuple[str, ...]
) -> None:
    assert stem.common(libraries) == shared


@pytest.mark.parametrize(
    ("code", "refused"),
    [
        ("", False),
        ("import os; os.environ['SET_BY_A_LIBRARY'] = '1'", True),
        ("import os; os.environ.pop('THERE_BEFORE')", True),
        ("import os; held = os.dup(2)", True),
        ("raise ValueError", True),
        ("import nowhere_to_be_found", True),
    ],
)
def test_what_a_fork_would_share_is_refused(
    code: str, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_library.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("THERE_BEFORE", "1")
    monkeypatch.setattr(os, "environ", os.environ.copy())
    try:
        seconds = stem.imported(Order(backend="cpu", libraries=("a_library",)))
    finally:
        held = getattr(sys.modules.pop("a_library", None), "held", None)
        if held is not None:
            os.close(held)
    assert (seconds is None) is refused


@pytest.mark.parametrize(("value", "said"), [("none", ""), ("0", ""), ("/a/tool.so", "tool.so")])
def test_no_tool_is_none(value: str, said: str) -> None:
    """`none` is how images say that they put no tool in."""
    source: Any = SimpleNamespace(harmful_variables=lambda: {"A_TOOL": "it slows"})
    with mock.patch.dict(os.environ, {"A_TOOL": value}):
        assert bool(surroundings.harmful(source)) == bool(said)
        assert said in surroundings.harmful(source)


def test_what_makes_up_the_time_is_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `faketime` has it."""
    monkeypatch.setenv("LD_PRELOAD", "/usr/lib/other.so:/usr/lib/faketime/libfaketime.so.1")
    assert "libfaketime.so.1: it has the clock say another time" in surroundings.harmful()
    monkeypatch.setenv("LD_PRELOAD", "/usr/lib/libjemalloc.so.2")
    assert surroundings.harmful() == ""


def test_what_each_launch_would_look_up_is_looked_up_before_it_is_forked() -> None:
    environment._package_versions.cache_clear()
    surroundings._plug_ins.cache_clear()
    with mock.patch.dict(os.environ, {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}):
        assert stem.imported(Order(backend="cpu", libraries=("wave",))) is not None
    kept = (environment._package_versions, surroundings._plug_ins)
    assert [one.cache_info().currsize for one in kept] == [1, 1]
    held = environment.package_versions()
    held["torch"] = "of nobody else's"
    assert environment.package_versions() != held


def test_the_pages_of_files_that_were_touched_are_those_that_the_system_counts() -> None:
    counted = next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("RssFile:")
    )
    assert len(stem.file_pages()) * stem.PAGE == pytest.approx(counted, rel=0.2)
