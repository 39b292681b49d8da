"""What a record says of the host and the stack, and what it leaves out."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.records import environment


def test_the_host_is_described_without_naming_anyone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELMARK_SECRET", "s3cret-value")
    host = environment.host()
    assert host["logical_cores"] >= host["usable_cores"] >= 1
    assert host["memory_bytes"] > 0 and host["cpu"] and host["accelmark"]
    import getpass
    import platform

    text = repr(host)
    names = {"s3cret-value", platform.node(), str(Path.home())}
    if getpass.getuser() != "root":
        names.add(getpass.getuser())
    for name in names - {"", "/"}:
        assert name not in text


def test_the_stack_says_what_changes_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("MY_SWITCH", "on")
    monkeypatch.setenv("OTHER_SECRET", "no")
    monkeypatch.setenv("LD_PRELOAD_", "no")
    stack = environment.stack()
    assert stack["torch"] == torch.__version__
    assert stack["threads"] == torch.get_num_threads()
    assert stack["packages"]["torch"]
    found = environment.variables(["OMP_NUM_THREADS", "MY_SWITCH", "NOT_SET"])
    assert found == {"OMP_NUM_THREADS": "2", "MY_SWITCH": "on"}


def test_preloaded_libraries_are_named_without_their_folders(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LD_PRELOAD", "/somewhere/private/libjemalloc.so.2 libx.so")
    found = environment.variables(["LD_PRELOAD"])
    assert found == {"LD_PRELOAD": "libjemalloc.so.2 libx.so"}
