"""A run's first launch of a case is cold; those that found what it left are warm."""

from __future__ import annotations

from typing import Any

import msgspec

from bench.judging.cold import of_first, of_others
from bench.judging.summary import summarize
from bench.records.outcome import Cold
from bench.records.run import Launch
from bench.tests.values import make_case, make_file, make_launch, make_measured

OPEN = {"execution": ("compile", "eager")}
MADE, HALF, KEPT = ({"kept": k, "compiled": 4 - k} for k in (0, 2, 4))


def launch(seconds: float, **environment: Any) -> Launch:
    cold = Cold(first_step_seconds=seconds)
    return msgspec.structs.replace(
        make_launch(make_measured(0.01)), cold=cold, environment=environment
    )


def found(*launches: Launch) -> tuple[float | None, float | None]:
    return of_first(launches).first_step_seconds, of_others(launches).first_step_seconds


def test_compiled_graphs_that_were_found_make_a_launch_warm() -> None:
    first = launch(57.0, compiler=MADE, reference_kept=False)
    assert found(first, launch(12.0, compiler=KEPT)) == (57.0, 12.0)
    again = launch(50.0, compiler=HALF, reference_kept=True)
    assert found(first, again, launch(9.0, compiler=KEPT)) == (53.5, 9.0), "it compiled the rest"


def test_in_eager_execution_it_is_the_reference() -> None:
    first = launch(3.0, reference_kept=False)
    assert found(first, launch(2.0, reference_kept=True)) == (3.0, 2.0)
    assert found(launch(3.0, reference_kept=True)) == (3.0, 3.0), "none was cold"


def test_of_a_vendors_compiler_which_counts_nothing_it_is_the_reference() -> None:
    """By name, where it is not torch's own: what it found of its own making is not known."""
    theirs = {"name": "npu", "graphs": 2, "kept": 0, "compiled": 0}
    first = launch(30.0, compiler=theirs, reference_kept=False)
    assert found(first, launch(6.0, compiler=theirs, reference_kept=True)) == (30.0, 6.0)


def test_where_torchs_cache_is_off_and_counts_nothing_it_is_the_reference() -> None:
    """Each compiles again, which none is spared."""
    none = {"graphs": 2, "kept": 0, "compiled": 0}
    first = launch(30.0, compiler=none, reference_kept=False)
    again = [launch(seconds, compiler=none, reference_kept=True) for seconds in (8.0, 9.0, 10.0)]
    assert found(first, *again) == (30.0, 9.0)


def test_old_records_have_one_figure_over_all() -> None:
    assert found(launch(3.0), launch(2.0)) == (2.5, None)
    assert found(launch(3.0, compiler={"graphs": 1})) == (3.0, None)


def test_of_a_tuned_case_the_launch_that_tried_the_choice_was_cold() -> None:
    case = make_case(workload="resnet50", mode="infer", execution="tuned", tuned=OPEN)

    def made(number: int, seconds: float, how: str, **environment: Any) -> Launch:
        of_it = {"case": case, "fingerprint": case.fingerprint, "launch": number}
        of_it |= {"choice": {"execution": how}, "search": number < 2}
        return msgspec.structs.replace(launch(seconds, **environment), **of_it)

    tried = made(0, 57.0, "compile", compiler=MADE), made(1, 1.0, "eager", reference_kept=False)
    again = [made(number, 12.0, "compile", compiler=KEPT) for number in (2, 3, 4)]
    (row,) = summarize(make_file([case], [*tried, *again]))
    assert (row.cold.first_step_seconds, row.warm.first_step_seconds) == (57.0, 12.0)
