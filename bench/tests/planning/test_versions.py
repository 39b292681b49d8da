"""Versions that do not break the past: equal work keeps its fingerprint, other work its name."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest

import bench
from bench import catalogue
from bench.errors import RecordError, SuiteError
from bench.judging.comparing.comparability import unequal
from bench.judging.comparing.pairing import pairs
from bench.judging.comparing.side import by_work
from bench.judging.row import Row
from bench.measuring import messages
from bench.measuring.launch import Launch
from bench.planning import plan, versions
from bench.planning.suite_file import Suite, find_suite, read_suite
from bench.planning.versions import today, unknown
from bench.records.case import Case
from bench.records.outcome import Failed
from bench.records.run import Settings
from bench.running.resume import resume
from bench.tests.values import make_file
from bench.workload import BatchSize, Later, Mode, Parameters, Workload

RESULTS = Path(bench.__file__).parents[1] / "results"


class Old(Parameters, frozen=True, kw_only=True):
    batch_size: BatchSize = 4


class New(Old, frozen=True, kw_only=True):
    """The same with two parameters more, which came later."""

    dropped: Annotated[bool, Later()] = False
    groups: Annotated[int, Later()] = 1
    earlier = {1: {"seen": 2}, 2: {}}  # noqa: RUF012 - a declaration
    seen: int = 2


class Growing(Workload):
    """A workload whose modes have versions of their own."""

    name = "growing"
    version = 1
    modes = {  # noqa: RUF012 - a declaration
        "old": Mode(parameters=Old),
        "new": Mode(parameters=New, version=3),
    }

    def work(self, *_: Any) -> Any:
        raise NotImplementedError

    def twin(self, *_: Any) -> Any:
        raise NotImplementedError

    def build(self, *_: Any) -> Any:
        raise NotImplementedError


@pytest.fixture(autouse=True)
def growing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    real = catalogue.workload
    monkeypatch.setattr(catalogue, "workload", lambda n: Growing() if n == "growing" else real(n))
    versions._today.cache_clear()
    yield
    versions._today.cache_clear()


def planned(mode: str, **given: Any) -> Case:
    entry = {"workload": "growing", "mode": mode, **given}
    suite = Suite(name="x", source="x", description="", settings=Settings(), entries=(entry,))
    (case,) = plan.plan(suite)
    return case


def case_of(**changes: Any) -> Case:
    return msgspec.structs.replace(planned("new"), **changes)


# --- Of one release -------------------------------------------------------------------------------


def test_a_mode_has_a_version_of_its_own() -> None:
    assert (planned("old").version, planned("new").version) == (1, 3)


def test_a_later_parameter_is_in_a_case_only_where_it_is_not_its_default() -> None:
    assert planned("new").parameters == {"batch_size": 4, "seen": 2}
    assert planned("new", dropped=False, groups=1) == planned("new")
    assert planned("new", dropped=True).parameters == {"batch_size": 4, "dropped": True, "seen": 2}
    given = plan.parameters_of(planned("new", groups=2), Growing())
    assert given == New(groups=2)
    assert plan.parameters_of(planned("new"), Growing()) == New()
    written = case_of(parameters={"batch_size": 4, "seen": 2, "groups": 1})
    assert today(written) == planned("new"), "by whomever it was written"
    as_a_flag = case_of(parameters={"batch_size": 4, "seen": 2, "groups": True})
    assert today(as_a_flag) == as_a_flag, "1 == True for Python, and not for a fingerprint"


def test_one_device_and_no_parallelism_stay_written() -> None:
    written = json.loads(msgspec.json.encode(planned("new")))
    assert (written["devices"], written["parallelism"]) == (1, "none")
    assert {"dropped", "groups"}.isdisjoint(written["parameters"])


# --- Of another -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "parameters"),
    [(1, {"batch_size": 4}), (2, {"batch_size": 4, "seen": 2}), (1, {"seen": 2, "batch_size": 4})],
)
def test_an_earlier_version_that_is_the_same_work_is_that_of_today(
    version: int, parameters: dict[str, Any]
) -> None:
    old = case_of(version=version, parameters=parameters)
    before = old.fingerprint
    assert today(old) == planned("new") and unknown(old) == ""
    assert today(old).fingerprint == planned("new").fingerprint
    assert old.fingerprint == before != planned("new").fingerprint, "the record keeps its own"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (
            {"version": 9},
            "this release runs version 3 of growing-new, and does not know version 9 to be",
        ),
        ({"mode": "other"}, "this release knows no mode `other` of growing"),
        ({"workload": "gone"}, "unknown workload `gone`"),
        ({"parameters": {"strange": 1}}, "this release knows no `strange` of growing-new"),
    ],
)
def test_what_this_release_does_not_run_is_refused_by_name(
    changes: dict[str, Any], why: str
) -> None:
    case = case_of(**changes)
    assert why in unknown(case) and today(case) == case
    with pytest.raises(SuiteError, match=case.name) as refusal:
        plan.parameters_of(case, Growing())
    assert why in str(refusal.value) and "Run it with the accelmark" in str(refusal.value)


def test_no_worker_runs_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    request = messages.Request(
        case=case_of(version=9), backend="cpu", index=0, settings=Settings(), samples=1, seed=0
    )
    outcome = Launch(request, messages.Channel(io.BytesIO())).run().outcome
    assert isinstance(outcome, Failed)
    assert "does not know version 9 to be the same work" in outcome.message


def test_a_run_that_planned_another_version_does_not_go_on() -> None:
    file = make_file([case_of(version=9), case_of()], [], command=("accelmark", "run", "x"))
    with pytest.raises(RecordError, match="does not run all that was planned") as refusal:
        resume(file, None, [])  # type: ignore[arg-type]  # refused before the device is looked at
    assert str(refusal.value).count("\n  - ") == 1


# --- What has been released -----------------------------------------------------------------------


def declared() -> Iterator[tuple[Workload, str]]:
    for name in catalogue.plug_ins("workloads"):
        workload = catalogue.workload(name)
        yield from ((workload, mode) for mode in workload.modes)


def test_what_is_declared_of_earlier_versions_can_be() -> None:
    found = [(w, m, w.modes[m].parameters) for w, m in declared()]
    earlier = [(w, m, kind) for w, m, kind in found if kind.earlier]
    assert {w.name for w, _, _ in earlier} >= {"bert", "deepseek", "llama"}
    for workload, mode, kind in earlier:
        for version, lacking in kind.earlier.items():
            assert 1 <= version < workload.version_of(mode)
            assert set(lacking) <= set(kind.__struct_fields__)


def published(folder: str) -> tuple[Case, ...]:
    """What a run planned; its launches are not read."""
    with (RESULTS / folder / "run.jsonl").open(encoding="utf-8") as file:
        return msgspec.convert(json.loads(file.readline())["plan"], tuple[Case, ...])


EPYC, XEON = "quick-cpu-epyc-2core", "quick-cpu-xeon-amx-2core"


@pytest.mark.parametrize("folder", [EPYC, XEON])
def test_this_release_runs_all_that_was_published(folder: str) -> None:
    for case in published(folder):
        assert unknown(case) == "", case.label
        assert plan.parameters_of(case, catalogue.workload(case.workload))


def test_published_fingerprints_are_those_of_today() -> None:
    """Of equal work, though one was called version 1, and lacked two parameters."""
    folders = (EPYC, XEON)
    lora = {f: case for f in folders for case in published(f) if case.mode == "lora"}
    assert [lora[folder].version for folder in folders] == [1, 2]
    assert lora[EPYC].fingerprint != lora[XEON].fingerprint
    now = {case.fingerprint for case in plan.plan(read_suite(find_suite("quick@2")))}
    assert {today(case).fingerprint for case in lora.values()} == {lora[XEON].fingerprint} <= now


def test_published_runs_differ_in_their_work_alone() -> None:
    """Nine of their cases were none of the other's for a number that was raised."""
    sides = [
        by_work([Row(case=c, status="skipped", reason="") for c in published(f)])
        for f in (EPYC, XEON)
    ]
    found = {}
    for base, other in pairs(*sides):
        assert base is not None and other is not None
        if words := [reason.words for reason in unequal(base.work, other.work)]:
            found[base.case.name] = words
    assert found == {
        "bert-train": ["sequence_length differs (128, 32)"],
        "bert-infer": ["batch_size differs (4, 1)"],
        "llama-train": ["sequence_length differs (64, 32)"],
        "llama-prefill": ["prompt_length differs (256, 128)"],
        "vit-b16-train": ["image_size differs (224, 112)"],
    }


def test_a_run_that_measured_one_work_by_two_names_loses_neither() -> None:
    names = [case_of(version=version) for version in (1, 2, 3)]
    for order in (names, names[::-1]):
        rows = [Row(case=case, status="skipped", reason=str(case.version)) for case in order]
        assert sorted(row.reason for row in by_work(rows).values()) == ["1", "2", "3"]
