"""Which precision is measured on a device that lacks the suite's, or where one is asked for."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from bench import api
from bench.backend import DeviceInfo
from bench.errors import SuiteError, UnknownName
from bench.judging.comparing.compare import compare
from bench.judging.comparing.suites import suite_of
from bench.judging.summary import summarize
from bench.planning import plan
from bench.planning.instead import AS_WRITTEN, Wanted, both, wanted
from bench.planning.suite_file import Suite, find_suite, read_suite
from bench.records.run import RunFile, Settings
from bench.running import probe
from bench.tests.values import make_file, make_launches, make_measured

LAPTOP = DeviceInfo(
    backend="cpu",
    index=0,
    name="CPU",
    memory_bytes=None,
    precisions=("bf16", "bf16-amp", "fp32"),
    slow={"bf16": "by reference code", "bf16-amp": "by reference code"},
)
VOLTA = DeviceInfo(
    backend="cuda", index=0, name="GPU", memory_bytes=None, precisions=("fp16", "fp32")
)
INSTEAD = {"bf16": ("fp16", "fp32"), "bf16-amp": ("fp32",)}
GEMM = {"workload": "gemm", "shape": "64x64x64"}
TRAIN = {"workload": "resnet50", "mode": "train", "precision": "bf16-amp"}
LORA = {"workload": "gpt-oss", "mode": "lora", "precision": "bf16"}


def suite(*entries: dict[str, Any], instead: dict[str, Any] = INSTEAD) -> Suite:
    return Suite(
        name="mine",
        source="mine.toml",
        description="",
        settings=Settings(),
        entries=entries,
        instead=instead,
    )


def measured(taken: Wanted, *entries: dict[str, Any], **given: Any) -> list[str]:
    cases = plan.whole(suite(*entries, **given), wanted=taken).cases
    return [f"{case.name}-{case.precision}" for case in cases]


def test_a_device_that_lacks_it_gets_the_first_that_device_and_case_have() -> None:
    entries = (GEMM, TRAIN, {**GEMM, "precision": "fp32"})
    assert measured(AS_WRITTEN, *entries) == [
        *("gemm-matmul-bf16", "resnet50-train-bf16-amp", "gemm-matmul-fp32")
    ]
    assert measured(wanted(LAPTOP), GEMM, TRAIN) == ["gemm-matmul-fp32", "resnet50-train-fp32"]
    assert measured(wanted(VOLTA), GEMM, TRAIN) == ["gemm-matmul-fp16", "resnet50-train-fp32"]
    # What the case has not, the next: these adapters have no fp16.
    assert measured(wanted(VOLTA), LORA) == ["gpt-oss-lora-fp32"]
    # Two that come to the same are one; nothing to take: as it is written, and then skipped.
    assert measured(wanted(LAPTOP), *entries) == ["gemm-matmul-fp32", "resnet50-train-fp32"]
    assert measured(wanted(LAPTOP), *reversed(entries)) == [
        *("gemm-matmul-fp32", "resnet50-train-fp32")
    ]
    assert measured(wanted(VOLTA), GEMM, instead={}) == ["gemm-matmul-bf16"]
    assert measured(wanted(VOLTA), GEMM, instead={"bf16": ("tf32",)}) == ["gemm-matmul-bf16"]


def test_nothing_is_taken_where_the_device_has_it_or_nobody_asked() -> None:
    able = DeviceInfo(
        backend="cpu", index=0, name="CPU", memory_bytes=None, precisions=("bf16", "fp32")
    )
    unasked = DeviceInfo(backend="cpu", index=0, name="CPU", memory_bytes=None)
    for device in (able, unasked, None):
        found = plan.whole(suite(GEMM), wanted=wanted(device))
        assert [case.precision for case in found.cases] == ["bf16"] and not found.instead


def test_it_is_said_why() -> None:
    whole = plan.whole(suite(GEMM, TRAIN), wanted=wanted(LAPTOP))
    assert list(whole.instead.values()) == [
        "fp32 instead of bf16: by reference code",
        "fp32 instead of bf16-amp: by reference code",
    ]
    assert set(whole.instead) == {case.fingerprint for case in whole.cases} and not whole.left_out
    (why,) = plan.whole(suite(GEMM), wanted=wanted(VOLTA)).instead.values()
    assert why == "fp16 instead of bf16: this device was not found to run bf16"


def test_every_case_in_one_precision() -> None:
    asked = wanted(LAPTOP, "fp8")
    whole = plan.whole(suite(GEMM, TRAIN), wanted=asked)
    assert [case.precision for case in whole.cases] == ["fp8", "bf16-amp"]
    assert list(whole.instead.values()) == ["fp8 instead of bf16: --precision asks for it"]
    assert list(whole.left_out.values()) == ["it has no fp8, which --precision asks for"]
    as_written = plan.whole(suite(GEMM), wanted=wanted(LAPTOP, "bf16"))
    assert [case.precision for case in as_written.cases] == ["bf16"] and not as_written.instead
    with pytest.raises(UnknownName, match="--precision fp23: unknown precision `fp23`"):
        wanted(None, "fp23")


@pytest.mark.parametrize(
    ("changes", "asked", "said"),
    [
        ({"execution": "compile", "parallelism": "dp2"}, "bf16-amp", "over dp2 `compile` is"),
        ({"parallelism": "fsdp2", "mixed_precision": "policy"}, "fp32", "mixed_precision"),
    ],
)
def test_a_case_that_has_it_says_what_else_is_in_the_way(
    changes: dict[str, Any], asked: str, said: str
) -> None:
    precision = "bf16-amp" if asked == "fp32" else "fp32"
    case = {"workload": "llama", "mode": "train", "batch_size": 4, "precision": precision}
    (why,) = plan.whole(suite({**case, **changes}), wanted=Wanted(always=asked)).left_out.values()
    assert why.startswith(f"--precision {asked}: ") and said in why
    assert "has no" not in why and "mine.toml" not in why


def test_two_devices_measure_the_same() -> None:
    taken = both(wanted(LAPTOP), wanted(VOLTA))
    assert measured(taken, GEMM) == ["gemm-matmul-fp32"]
    assert both(wanted(None), wanted(VOLTA)) == wanted(VOLTA) == both(wanted(VOLTA), wanted(None))


def test_a_case_is_named_by_what_is_written_too() -> None:
    for glob in ("gemm-matmul-bf16", "gemm-matmul-fp32", "gemm"):
        found = plan.whole(suite(GEMM, TRAIN), wanted=wanted(LAPTOP), only=glob)
        assert [case.precision for case in found.cases] == ["fp32"], glob
        assert len(found.instead) == 1
    with pytest.raises(SuiteError, match="--only gemm-fp64: matches no case"):
        plan.whole(suite(GEMM), wanted=wanted(LAPTOP), only="gemm-fp64")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("bf16 = []", "instead: `bf16` must name a precision, or a list of them. For example"),
        ("bf16 = 3", "instead: `bf16` must name a precision, or a list of them. For example"),
        ('bf61 = "fp32"', "instead: unknown precision `bf61`. Did you mean"),
        ('bf16 = ["fp32", "fp61"]', "instead: unknown precision `fp61`. Did you mean"),
    ],
)
def test_a_wrong_table_is_refused(table: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f'[instead]\n{table}\n[[case]]\nworkload = "gemm"\n', encoding="utf-8")
    with pytest.raises(SuiteError, match=message):
        read_suite(path)
    path.write_text('instead = 1\n[[case]]\nworkload = "gemm"\n', encoding="utf-8")
    with pytest.raises(SuiteError, match=r"`instead` must be a table, headed \[instead\]"):
        read_suite(path)


def test_quick_is_of_float32_on_a_laptop() -> None:
    quick = read_suite(find_suite("quick"))
    cases = plan.whole(quick, wanted=wanted(LAPTOP)).cases
    assert len(cases) == len(plan.plan(quick)) and {case.precision for case in cases} == {"fp32"}
    (volta, plain) = (plan.whole(quick, wanted=wanted(one)).cases for one in (VOLTA, None))
    assert {case.precision for case in volta} == {"fp16", "fp32"} and len(volta) == len(plain)
    fingerprints = {case.fingerprint for case in plan.any_way(quick)}
    assert all({case.fingerprint for case in some} <= fingerprints for some in (cases, volta))
    assert {case.fingerprint for case in plain} <= fingerprints


# --- A run, its card and its comparison ----------------------------------------------------------


@pytest.mark.usefixtures("forked_here")
def test_a_run_records_and_shows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "choose_of", lambda *_: probe.Chosen(LAPTOP, [], 1))
    path = tmp_path / "mine.toml"
    path.write_text(
        '[instead]\nbf16 = "fp32"\n[[case]]\nworkload = "gemm"\nshape = "64x64x64"\n',
        encoding="utf-8",
    )
    run = api.run_suite(path, launches=1, out=tmp_path)
    (row,) = summarize(run)
    assert (row.case.precision, row.status) == ("fp32", "measured")
    assert row.instead == "fp32 instead of bf16: by reference code"
    card = " ".join(api.render(run, width=120).split())
    assert "PRECISION fp32 instead of bf16: by reference code: gemm-matmul fp32" in card
    assert row.instead in api.render(run, format="html")
    again = api.run_suite(path, launches=1, out=tmp_path, precision="bf16")
    assert [case.precision for case in again.run.plan] == ["bf16"]
    assert ("--precision", "bf16") in itertools.pairwise(again.run.command)


def of(device: DeviceInfo | None) -> RunFile:
    whole = plan.whole(read_suite(find_suite("quick")), wanted=wanted(device))
    launches = [x for case in whole.cases for x in make_launches(case, [make_measured()])]
    return make_file(
        whole.cases, launches, suite="quick@4", settings=Settings(launches=1), instead=whole.instead
    )


def test_one_cause_is_said_once() -> None:
    run = of(LAPTOP)
    card = " ".join(api.render(run, width=120).split())
    assert card.count("PRECISION") == 1
    assert "PRECISION fp32 instead of bf16 and bf16-amp: by reference code: 15 cases" in card


def test_compare_tells_what_makes_the_runs_meet() -> None:
    server, laptop = of(None), of(LAPTOP)
    assert suite_of(laptop.run) == suite_of(server.run) == "quick@4"
    found = compare(server, laptop)
    assert len(found.ratios) == 4, "what is of float32 in both"
    assert found.command_for_the_rest == "", "which the laptop would measure otherwise again"
    command = found.command_for_the_base
    assert command.startswith("accelmark run quick@4 --precision fp32 --only 'gemm-matmul,")
    assert "memory" not in command
    # Nor in a suite of an older number, which has no other precision and cases of its own.
    older = plan.whole(read_suite(find_suite("quick@2"))).cases
    launches = [x for case in older for x in make_launches(case, [make_measured()])]
    found = compare(make_file(older, launches, suite="quick@2"), laptop)
    assert "bert-train" in {case.case.name for case in found.cases}
    assert (found.command_for_the_rest, found.command_for_the_base) == ("", command)
    card = api.render(found, width=60)
    assert f"  {command}" in card.splitlines(), "in one piece, to be copied"
    assert "the command above on both machines, with --launches 10" in " ".join(card.split())
    back = compare(laptop, server)
    assert (back.command_for_the_rest, back.command_for_the_base) == (command, "")
    assert command in " ".join(api.render(found, width=2000).split())
    assert not compare(laptop, laptop_again(laptop)).command_for_the_rest


def laptop_again(run: RunFile) -> RunFile:
    import msgspec

    again = msgspec.structs.replace(run.run, run_id="again")
    return msgspec.structs.replace(run, run=again)
