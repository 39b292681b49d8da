"""A session with a budget: what is still launched, and for how long."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from bench.records.run import Settings
from bench.tests.launching import launch
from bench.tests.running.scripted_workers import failure, request, scripted
from bench.tests.running.test_session import FINE, Script, Stage, play
from bench.tests.values import make_case


@pytest.mark.parametrize("together", [1, 2])
def test_what_imports_beside_a_launch_that_outlasts_the_budget_is_not_launched(
    tmp_path: Path, together: int
) -> None:
    """Of 60 s A's second launch takes 300: B's second would measure when all is over."""
    outcomes = {"A": [FINE], "B": [FINE]}
    stage, reason, _ = play(
        *(tmp_path, outcomes, Settings(launches=9), 60), {"A2": 300.0}, together=together
    )
    assert (stage.order, reason) == ("ABA", "budget")


def test_a_budget_that_is_spent_by_the_first_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B is expected to take as long as A. A is launched though the way there took longer yet."""
    monkeypatch.setattr(Stage, "begins", lambda stage, *_: setattr(stage, "now", 1e3))
    script: Script = {"A": [FINE], "B": [FINE], "C": [FINE]}
    stage, reason, _ = play(tmp_path, script, budget_seconds=15)
    assert (stage.order, reason) == ("A", "budget")


def test_what_hangs_late_does_not_outlast_the_budget_by_another(tmp_path: Path) -> None:
    """The very first launch has the whole budget; each has three times what it is expected to take,
    and two minutes at least. Of its phases none has less for it."""
    stage, reason, _ = play(tmp_path, {"A": [FINE]}, Settings(launches=9), 600, {"A": 60.0})
    assert (stage.order, reason) == ("A" * 9, "complete")
    assert [r.most_seconds for r in stage.requests] == [
        *[None, 540.0, 480.0, 420.0, 360.0, 300.0, 240.0, 180.0, 180.0]
    ]
    assert {r.settings.launch_limit_seconds for r in stage.requests} == {600.0}
    stage, _, _ = play(tmp_path / "short", {"A": [FINE]}, Settings(launches=3), 40)
    assert [r.most_seconds for r in stage.requests] == [None, 120.0, 120.0]
    stage, _, _ = play(tmp_path / "free", {"A": [FINE]}, Settings(launches=3))
    assert [r.most_seconds for r in stage.requests] == [None] * 3


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals and process groups")
@pytest.mark.parametrize("devices", [1, 2])
def test_a_launch_ends_when_the_time_that_is_left_for_it_is_over(devices: int) -> None:
    """Whatever its limit and those of its phases are."""
    case = make_case(devices=devices, parallelism="none" if devices == 1 else "dp2")
    asked = msgspec.structs.replace(request(limit_seconds=100.0), case=case, most_seconds=1.0)
    finished = launch(asked, {}, command=scripted("time.sleep(600)"))
    assert failure(finished).message.startswith("no report within 1 s")
