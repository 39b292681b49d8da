"""What is installed while a run goes on is not mixed into its figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.errors import RecordError
from bench.measuring.messages import Report
from bench.records.outcome import Cold
from bench.records.run import Launch, Settings
from bench.records.runfile import Writer, read
from bench.running.explanations import NOTHING, Explaining
from bench.running.launcher import Finished
from bench.running.session import Session
from bench.tests.fakes import FakeBackend
from bench.tests.running.test_session import FINE, A, B, Stage
from bench.tests.values import failed, make_launch, make_run

OLD: dict[str, Any] = {"packages": {"torch": "1", "numpy": "2"}, "python": "3.11.9"}
NEW: dict[str, Any] = {**OLD, "packages": {"torch": "2", "numpy": "2"}}
PLUGGED: dict[str, Any] = {**OLD, "plug_ins": {"theirs": "1"}}
"""Of the second case alone: its workload is a package's."""
SILENT: dict[str, Any] = {}
"""Of a worker that came to nothing."""


class Installing(Stage):
    """A stage on which each launch says of itself what is next."""

    said: list[dict[str, Any]]

    def launch_one(self, *given: Any) -> Finished:
        finished = super().launch_one(*given)
        told = self.said.pop(0)
        outcome = finished.report.outcome if told else failed()
        report = Report(outcome=outcome, cold=Cold(), environment=told)
        return msgspec.structs.replace(finished, report=report)


def play(
    folder: Path,
    said: list[dict[str, Any]],
    done: list[Launch],
    explaining: Explaining = NOTHING,
) -> Path:
    """Runs two cases twice; the record."""
    each, only = explaining[:2]
    (writer := Writer(folder / "run.jsonl")).append(
        make_run(
            [A, B],
            command=("accelmark", "run", "quick"),
            explanations=each,
            only_explained=only,
        )
    )
    for launch in done:
        writer.append(launch)
    for explanation in explaining.done:
        writer.append(explanation)
    stage, backend = Installing({"A": [FINE], "B": [FINE]}), FakeBackend()
    stage.said = list(said)
    device = backend.devices()[0]
    session = Session(
        *([A, B], Settings(launches=2), device, backend, writer, stage, stage.launch),
        clock=stage.clock,
        done=done,
        explaining=explaining,
    )
    try:
        session.run()
    finally:
        writer.close()
    return folder / "run.jsonl"


@pytest.mark.parametrize(
    ("said", "change"),
    [
        ([OLD, NEW], "packages was {'torch': '1', 'numpy': '2'}, is {'torch': '2', 'numpy': '2'}"),
        ([OLD, SILENT, NEW], "is {'torch': '2', 'numpy': '2'}"),
        ([SILENT, OLD, OLD, {**OLD, "python": "3.12.1"}], "python was 3.11.9, is 3.12.1"),
        ([OLD, {**OLD, "plug_ins": ["theirs"]}, NEW], "is {'torch': '2', 'numpy': '2'}"),
        ([OLD, PLUGGED, OLD, {**OLD, "plug_ins": {"theirs": "2"}}], "theirs was 1, is 2"),
    ],
)
def test_a_launch_of_other_software_is_not_in_the_record(
    tmp_path: Path, said: list[dict[str, Any]], change: str
) -> None:
    with pytest.raises(RecordError) as caught:
        play(tmp_path, said, [])
    assert change in str(caught.value)
    assert str(caught.value).endswith(f"accelmark run --resume {tmp_path / 'run.jsonl'}")
    file = read(tmp_path / "run.jsonl")
    assert [launch.environment for launch in file.launches] == said[:-1]
    assert file.end is None and file.damage is None, "it can go on"


def test_nor_is_one_that_differs_from_what_an_earlier_session_measured(tmp_path: Path) -> None:
    done = [make_launch(FINE, A, environment=OLD)]
    with pytest.raises(RecordError, match="software changed"):
        play(tmp_path, [NEW], done)
    assert len(read(tmp_path / "run.jsonl").launches) == 1


def test_what_stays_is_measured_to_the_end(tmp_path: Path) -> None:
    file = read(play(tmp_path, [OLD, SILENT, OLD, OLD, OLD], []))
    assert file.end is not None and file.end.reason == "complete"


def test_nor_is_an_explanation(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="software changed"):
        play(tmp_path, [OLD, NEW], [], Explaining(2, only=True))
    first = read(tmp_path / "run.jsonl").explanations
    assert [one.environment for one in first] == [OLD]
    again = tmp_path / "again"
    with pytest.raises(RecordError, match="software changed"):
        play(again, [NEW], [], Explaining(2, only=True, done=first))
    assert read(again / "run.jsonl").explanations == first


def test_nor_is_one_that_differs_from_the_launches(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="software changed"):
        play(tmp_path, [OLD, OLD, OLD, OLD, NEW], [], Explaining(1))
    file = read(tmp_path / "run.jsonl")
    assert len(file.launches) == 4 and not file.explanations
