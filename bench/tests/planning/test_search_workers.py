"""A tuned case by real workers: each measures its choice, and the command finds the best."""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import pytest

from bench.judging.tracks import tuned
from bench.measuring import messages
from bench.measuring.launch import Launch
from bench.planning.tuning import in_words, memory_format, settled
from bench.records.case import Choice
from bench.records.outcome import Measured
from bench.records.run import Settings
from bench.records.runfile import read
from bench.tests.planning.tuned_runs import only_row, tuned_case
from bench.tests.scripts.regenerate import command
from bench.tests.small_workloads import one_thread

pytestmark = pytest.mark.usefixtures("forked")

__all__ = ["one_thread"]  # a fixture, used by being here


@pytest.mark.usefixtures("small_vision")
@pytest.mark.parametrize(
    "choice",
    [
        {"batch_size": 1, "memory_format": "channels_last"},
        {"batch_size": 2, "memory_format": "contiguous"},
    ],
    ids=in_words,
)
def test_a_worker_measures_the_choice_that_it_is_given(choice: Choice) -> None:
    case = tuned_case(batch_size=(1, 2), memory_format=("channels_last", "contiguous"))
    case = msgspec.structs.replace(case, precision="fp32", parameters={"image_size": 32})
    request = messages.Request(
        case=settled(case, choice),
        backend="cpu",
        index=0,
        settings=Settings(
            block_seconds=1e-4,
            warmup_seconds=0.0,
            warmup_limit_seconds=0.1,
            steady_limit_seconds=0.01,
        ),
        samples=10,
        seed=0,
        memory_format=memory_format(choice),
    )
    report = Launch(request, messages.Channel(io.BytesIO())).run()
    assert isinstance(report.outcome, Measured), report.outcome
    assert report.environment["job"]["memory_format"] == choice["memory_format"]
    assert report.outcome.work.items == choice["batch_size"]


SUITE = """
[settings]
launches = 1
warmup_seconds = 0.0
warmup_limit_seconds = 0.2
block_seconds = 0.001
steady_limit_seconds = 0.2

[[case]]
workload = "dlrm"
mode = "infer"
precision = "fp32"
rows = 100
embedding_dim = 16
tuned = { batch_size = [64, 128] }
"""
"""Two choices and no more, of a model that needs no library: every launch of one is a process."""


def test_a_tuned_case_is_measured_by_real_processes(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(SUITE)
    typed = ("run", "mine.toml", "--device", "cpu", "--out", "out")
    done = command(*typed, folder=tmp_path, OMP_NUM_THREADS="1")
    (path,) = (tmp_path / "out").glob("*.jsonl")
    file = read(path)
    trials, (final,) = file.launches[:-1], file.launches[-1:]
    assert all(launch.search for launch in trials)
    assert not final.search
    # On a machine that is at work for others too, a slowed trial is made again.
    assert len({str(launch.choice) for launch in trials}) == 2 <= len(trials) <= 4
    for launch in file.launches:
        assert isinstance(launch.outcome, Measured), launch.outcome
        assert launch.choice is not None
        assert launch.outcome.work.items == launch.choice["batch_size"]
    row = only_row(file)
    assert row.choice == file.launches[-1].choice
    fastest = max(row.trials, key=lambda trial: trial.rate or 0)
    assert row.choice == fastest.choice
    (found,) = tuned([row])
    assert "is the best of 2 choices, of which 2 ran" in found.words
    assert "TUNED the best choice of dlrm-infer" in " ".join(done.stdout.split())
    label = "dlrm-infer fp32 tuned ("
    lines = [line for line in done.stderr.splitlines() if line.startswith(label)]
    assert len(lines) == 1 and ": best, " in lines[0], "one line a case, not one a choice"
