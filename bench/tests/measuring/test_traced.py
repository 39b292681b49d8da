"""Who is called at each line of a worker, and is seen to be."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from bench.measuring import asked


@pytest.mark.parametrize(("tools", "traced"), [({}, False), ({1: "cover"}, True), ({5: ""}, True)])
def test_a_tool_of_sys_monitoring_traces(
    tools: dict[int, str], traced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python has it since 3.12, and says of it neither by `gettrace` nor by `getprofile`."""
    monkeypatch.setattr(sys, "monitoring", SimpleNamespace(get_tool=tools.get), raising=False)
    monkeypatch.setattr(sys, "gettrace", lambda: None)
    monkeypatch.setattr(sys, "getprofile", lambda: None)
    said = asked.complaint(asked.process("cpu"))
    assert said.startswith("Python tracing: asked for off, got on") if traced else not said
