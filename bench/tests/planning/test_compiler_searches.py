"""A compiler that searches for its kernels: tried once, where it may win most."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.judging.summary import summarize
from bench.judging.tracks import tuned
from bench.records.case import PLAIN, SEARCHED, Choice
from bench.records.outcome import Outcome, Skipped
from bench.tests.planning.tuned_runs import NO_COMPILER, only_row, play, rated, tuned_case

COMPILED = ("compile", "compile-graph")
CASE = tuned_case(
    batch_size=(1, 2), compiler=(PLAIN, SEARCHED), execution=("compile", "compile-graph", "eager")
)
SCRIPT = {
    **{(batch, "eager"): rated(9 + batch, batch) for batch in (1, 2)},
    **{(batch, "compile"): rated(5 + batch, batch) for batch in (1, 2)},
    **{(batch, "compile-graph"): Skipped(reason="no graphs") for batch in (1, 2)},
}


@pytest.mark.parametrize(
    ("searched", "how"),
    [(rated(20, 2), "compile"), (rated(8, 2), "eager"), (NO_COMPILER, "eager")],
)
def test_a_compiler_searches_once_at_the_best_of_what_it_compiled(
    searched: Outcome, how: str, tmp_path: Path
) -> None:
    """Neither beside what is not compiled, nor at each batch; and not again, where it lost."""
    stage, file = play(tmp_path, {**SCRIPT, (2, SEARCHED): searched}, CASE)
    assert [one.searches for one in stage.requests[:7]] == [False] * 6 + [True]
    case = stage.requests[6].case
    assert (case.parameters["batch_size"], case.execution) == (2, "compile")
    won = how == "compile"
    assert [one.searches for one in stage.requests[7:]] == [won] * 3
    row = only_row(file)
    best: Choice = {"batch_size": 2, "execution": how, "compiler": SEARCHED if won else PLAIN}
    assert (row.choice, len(row.trials), row.untried) == (best, 7, 0)
    (found,) = tuned(summarize(file))
    assert ("batch 2, compile, max-autotune is the best of 7 choices" in found.words) is won
    assert PLAIN not in found.words


def test_what_never_compiled_is_not_searched(tmp_path: Path) -> None:
    lost = {(batch, how): NO_COMPILER for batch in (1, 2) for how in COMPILED}
    stage, _ = play(tmp_path, {**SCRIPT, **lost}, CASE)
    assert len(stage.requests) == 6 + 3 and not any(one.searches for one in stage.requests)
