"""Suites with numbers: what was released never changes, and stays runnable."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench import api, catalogue, guide
from bench.errors import SuiteError, UnknownName
from bench.judging.comparing.compare import compare
from bench.judging.comparing.suites import suite_of
from bench.planning import expected, plan, selected
from bench.planning.suite_file import find_suite, read_suite
from bench.planning.versions import today
from bench.records.case import Case
from bench.records.run import RunFile, Settings
from bench.tests.planning.test_versions import EPYC, XEON, published
from bench.tests.released import workloads
from bench.tests.values import make_file, make_launches, make_measured, make_run

RELEASED: dict[str, list[str]] = json.loads(
    (Path(__file__).parent / "released_suites.json").read_text(encoding="utf-8")
)
"""By name and number: the fingerprints of a suite's cases, and of those that it has instead. Only
added to
(`python -m bench.tests.scripts.regenerate` adds what is new)."""
REST = "bert-train,bert-infer,llama-train,llama-prefill,vit-b16-train"
"""What `quick@1` has and `quick@2` has otherwise."""


def cases(title: str) -> tuple[Case, ...]:
    return plan.plan(read_suite(find_suite(title)))


def prints(given: Sequence[Case]) -> list[str]:
    return [today(case).fingerprint for case in given]


@pytest.mark.parametrize("title", RELEASED)
def test_a_released_suite_is_what_it_was(title: str) -> None:
    """Give the new idea the next number: `git mv configs/NAME.toml configs/NAME@NUMBER.toml`."""
    found = plan.any_way(read_suite(find_suite(title)))
    assert [case.fingerprint for case in found] == RELEASED[title]


def test_every_suite_is_released_with_a_number() -> None:
    assert list(catalogue.releases()) == list(RELEASED)
    assert {"quick@1", "quick@2", "smoke@1"} <= set(RELEASED)


def test_no_suite_says_that_it_has_every_workload_and_has_not() -> None:
    """Of those that any has; what several devices do together is none of one device."""
    loaded = [catalogue.load("workloads", name) for name in workloads()]
    alone = {w.name for w in loaded if not all(mode.together for mode in w.modes.values())}
    said = {title: read_suite(find_suite(title)).description.lower() for title in RELEASED}
    promising = [title for title, text in said.items() if re.search(r"every (workload|kind)", text)]
    assert promising == ["smoke@4"]
    assert {case.workload for case in cases("smoke@4")} == alone
    rows = dict(re.findall(r"^\| `(smoke|quick)` \| (.+) \|$", guide.page("suites").text, re.M))
    assert rows["quick"].startswith("most workloads") and "every workload" not in rows["smoke"]


def test_how_long_quick_takes_is_said_alike() -> None:
    assert "3 to 6 minutes on 2 CPU cores" in read_suite(find_suite("quick")).description
    for name in ("suites", "first-steps"):
        assert "three to six minutes" in " ".join(guide.page(name).text.split())


@pytest.mark.parametrize("title", [title for title in RELEASED if title.startswith("quick")])
def test_what_it_takes_on_a_gpu_is_what_its_shapes_say_beside(title: str) -> None:
    """`accelmark list suites` had "seconds a case" and "about 16 min" on one line."""
    suite = read_suite(find_suite(title))
    assert suite.description.endswith(", a minute a case on a GPU")
    found = expected.expected(suite, expected.ACCELERATOR)
    assert found.seconds / len(cases(title)) == pytest.approx(60, rel=0.3)


@pytest.mark.parametrize("name", catalogue.suites())
def test_a_suite_that_leaves_devices_open_goes_over_any_number(name: str) -> None:
    """`smoke-many@1` was refused on all that does not divide a batch of 8."""
    suite = read_suite(find_suite(name))
    for devices in (3, 8, 16, 1000) if plan.leaves_devices_open(suite) else ():
        assert plan.whole(suite, devices).cases


def test_the_newest_quick_has_less_of_the_same() -> None:
    """What was published pairs with it; every workload that it had is there."""
    newest, before = set(RELEASED["quick@3"]), set(RELEASED["quick@2"])
    assert newest < before
    assert len(cases("quick")) == len(newest) == 19
    assert {c.workload for c in cases("quick")} == {c.workload for c in cases("quick@2")}


def test_what_was_published_is_of_a_released_suite() -> None:
    assert prints(published(EPYC)) == RELEASED["quick@1"]
    assert prints(published(XEON)) == RELEASED["quick@2"]


# --- By name -------------------------------------------------------------------------------------


def test_a_name_alone_is_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in (
        "mine.toml",
        "mine@2.toml",
        "mine@10.toml",
        "other.toml",
        "chips.toml",
        "gone@1.toml",
    ):
        (tmp_path / file).write_text('[[case]]\nworkload = "gemm"\n', encoding="utf-8")
    monkeypatch.setattr(catalogue, "configs_folder", lambda: tmp_path)
    found = {title: file.name for title, file in catalogue.releases().items()}
    assert found == {
        "mine@2": "mine@2.toml",
        "mine@10": "mine@10.toml",
        "mine@11": "mine.toml",
        "other@1": "other.toml",
    }
    assert list(found) == ["mine@2", "mine@10", "mine@11", "other@1"]
    assert find_suite("mine") == find_suite("mine@11") == tmp_path / "mine.toml"
    assert read_suite(find_suite("mine@2")).title == "mine@2"
    assert read_suite(find_suite("mine")).title == "mine@11"
    assert read_suite(find_suite("mine")).name == "mine", "as the record's file is called"
    with pytest.raises(UnknownName, match=r"unknown suite `mine@3`.*mine@10"):
        find_suite("mine@3")


def test_a_file_of_ones_own_has_no_number(tmp_path: Path) -> None:
    own = tmp_path / "quick.toml"
    own.write_text('[[case]]\nworkload = "gemm"\n', encoding="utf-8")
    assert (read_suite(own).title, read_suite(own).number) == ("quick", None)
    with pytest.raises(SuiteError, match="only suites that are shipped have a number"):
        read_suite(own.rename(tmp_path / "quick@7.toml"))


@pytest.mark.usefixtures("forked_here")
def test_the_record_names_the_number(tmp_path: Path) -> None:
    run = api.run_suite("smoke@1", device="cpu", only="memory-copy", launches=1, out=tmp_path)
    assert run.run.suite == "smoke@1"
    assert Path(run.path).name.startswith("smoke-cpu-")


# --- Across numbers ------------------------------------------------------------------------------


def of(given: Sequence[Case], suite: str) -> RunFile:
    launches = [x for case in given for x in make_launches(case, [make_measured()])]
    return make_file(given, launches, suite=suite, settings=Settings(launches=1))


def test_a_run_is_of_the_suite_whose_cases_it_has() -> None:
    assert suite_of(make_run(published(EPYC), suite="quick")) == "quick@1", "by its cases"
    assert suite_of(make_run(published(XEON), suite="quick")) == "quick@2"
    part = [case for case in published(EPYC) if case.workload == "gemm"]
    assert suite_of(make_run(part, suite="quick")) == "quick@4", "the newest that has them"
    assert suite_of(make_run(part, suite="quick@1")) == "quick@1", "but for what it says"
    assert suite_of(make_run(published(EPYC), suite="quick@2")) == "quick@1", "and not so"
    other = msgspec.structs.replace(part[0], precision="fp8")
    assert suite_of(make_run([other], suite="quick")) is None
    assert suite_of(make_run(part, suite="mine")) is None


def test_across_numbers_the_rest_is_told_with_its_command() -> None:
    older, newer = of(published(EPYC), "quick"), of(cases("quick@2"), "quick@2")
    found = compare(older, newer)
    assert len(found.ratios) == 19
    told = {one.name: (one.base, one.other) for one in found.differences}
    same = "version (declared to be the same work)"
    assert [told[f"{name} {same}"] for name in ("llama", "deepseek")] == [("1", "2")] * 2
    assert f"attention {same}" not in told
    command = f"accelmark run quick@1 --only '{REST}'"
    assert (found.suite, found.command_for_the_rest) == ("quick@1", command)
    back = compare(newer, of(published(EPYC), "quick"))
    assert back.command_for_the_rest == command.replace("@1", "@2")
    measured = of([*cases("quick@2"), *selected.select(cases("quick@1"), REST)], "quick@2")
    done = compare(older, measured)
    assert len(done.ratios) == 24 and done.command_for_the_rest == ""
    assert compare(older, of(cases("quick@1"), "quick@1")).command_for_the_rest == ""


def test_the_rest_is_what_was_not_asked_for_and_no_more() -> None:
    """What the other could not measure, and what the base has not, is not asked for again."""
    (case, void) = selected.select(cases("quick"), "resnet50")
    base = of((case, void), "quick")
    other = make_file([case], make_launches(case, [make_measured()]))
    assert (
        compare(base, other).command_for_the_rest == "accelmark run quick@4 --only 'resnet50-infer'"
    )
    many = msgspec.structs.replace(base.run, settings=Settings(launches=10))
    found = compare(msgspec.structs.replace(base, run=many), other)
    assert "quick@4 --launches 10 --only" in found.command_for_the_rest, "or there is no verdict"
    unmeasured = make_file([case, void], make_launches(case, [make_measured()]))
    assert "resnet50-infer" in compare(base, unmeasured).command_for_the_rest, "never reached"
    assert compare(unmeasured, base).command_for_the_rest == ""
    own = make_file([case, void], base.launches, suite="mine")
    assert compare(own, other).command_for_the_rest == ""


@pytest.mark.parametrize(
    ("name", "title"), [("smoke-many", "smoke-many@2"), ("collectives", "collectives@1")]
)
def test_a_run_on_many_devices_is_of_its_suite_and_the_rest_is_on_as_many(
    name: str, title: str
) -> None:
    found = plan.plan(read_suite(find_suite(name)), 16)
    base, other = of(found, name), of(found[:-1], name)
    told = compare(base, other)
    command = f"accelmark run {title} --devices 16 --only '{found[-1].name}"
    assert told.suite == title and told.command_for_the_rest.startswith(command)


def test_of_a_sweep_the_devices_are_those_that_the_rest_takes() -> None:
    """The other host may have no more."""
    planned = plan.whole(read_suite(find_suite("scaling")), 8)
    base, other = (
        make_file(
            planned.cases,
            of(some, "scaling").launches,
            suite="scaling",
            left_out=planned.left_out,
        )
        for some in (planned.cases[:2], planned.cases[:1])
    )
    assert f" --devices {planned.cases[1].devices} " in compare(base, other).command_for_the_rest


def test_only_takes_several_globs() -> None:
    found = selected.select(cases("quick@1"), REST)
    assert [case.name for case in found] == [
        *("bert-train", "bert-infer", "llama-train", "llama-prefill", "vit-b16-train")
    ]
    with pytest.raises(SuiteError, match="--only lama-train: matches no case"):
        selected.select(cases("quick"), "bert-*,lama-train")


def test_new_tokens_of_decode_lie_within_one_256_of_places() -> None:
    """As `accelmark guide decode` says: one graph for each 256 of them would be one graph."""
    texts: set[tuple[Any, Any]] = {
        (case.parameters["prompt_length"], case.parameters["new_tokens"])
        for title in catalogue.suites()
        for case in cases(title)
        if case.mode == "decode" and "new_tokens" in case.parameters
    }
    assert len(texts) > 5
    assert all(prompt // 256 == (prompt + tokens - 1) // 256 for prompt, tokens in texts)
