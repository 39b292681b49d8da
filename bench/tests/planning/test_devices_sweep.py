"""A sweep over devices: its points, those that a run does not try, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench import api
from bench.backend import DeviceInfo
from bench.errors import SuiteError
from bench.judging.comparing.compare import compare
from bench.judging.comparing.systems import compare_systems
from bench.judging.summary import summarize
from bench.planning import plan
from bench.planning.suite_file import Suite
from bench.records.case import Case
from bench.records.run import Settings
from bench.running import probe
from bench.tests import scaled
from bench.tests.conftest import Accelmark
from bench.tests.values import make_case, make_file, make_launches, make_measured

POWERS = {"from": 1, "doubling_to": 1024}
TRAIN: dict[str, Any] = {"workload": "llama", "mode": "train", "precision": "bf16-amp"}
BEYOND = "it takes more devices than this run, which takes 4"


def suite(*entries: dict[str, Any]) -> Suite:
    return Suite(name="s", source="s.toml", description="", settings=Settings(), entries=entries)


def points(*entries: dict[str, Any], devices: int = 4) -> list[tuple[int, str, Any, str]]:
    """Of each case its devices, parallelism and batch, and why it is not tried."""
    given = suite(*entries)
    why = plan.whole(given, devices if plan.leaves_devices_open(given) else None).left_out
    return [
        (c.devices, c.parallelism, c.parameters.get("batch_size"), why.get(c.fingerprint, ""))
        for c in plan.plan(given, devices)
    ]


def test_powers_of_two_at_equal_global_batch() -> None:
    found = points({**TRAIN, "parallelism": "dp", "devices": POWERS, "batch_size": 1024})
    assert [one[0] for one in found] == [2**k for k in range(11)]
    assert [one[1] for one in found] == ["none", *(f"dp{2**k}" for k in range(1, 11))]
    assert {one[2] for one in found} == {1024}
    assert [one[3] for one in found] == [""] * 3 + [BEYOND] * 8


def test_at_one_device_it_is_the_ordinary_case() -> None:
    alone = plan.plan(suite({**TRAIN, "batch_size": 8}))
    swept = plan.plan(suite({**TRAIN, "parallelism": "fsdp", "devices": [1, 2], "batch_size": 8}))
    assert swept[0] == alone[0] and swept[0].fingerprint == alone[0].fingerprint
    exact = plan.plan(suite({**TRAIN, "parallelism": "fsdp2", "batch_size": 8}))
    assert swept[1] == exact[0]


def test_weak_scaling_multiplies_out_and_leaves_no_trace() -> None:
    entry = {**TRAIN, "parallelism": "dp", "devices": [1, 2, 4], "batch_size_per_device": 8}
    assert [one[:3] for one in points(entry)] == [(1, "none", 8), (2, "dp2", 16), (4, "dp4", 32)]
    (plain,) = plan.plan(suite({**TRAIN, "parallelism": "dp4", "batch_size": 32}))
    assert plan.plan(suite(entry))[2] == plain
    open_one = {**TRAIN, "parallelism": "dp", "batch_size_per_device": 8}
    assert points(open_one) == [(4, "dp4", 32, "")]


def test_sweeps_that_meet_share_the_point() -> None:
    schemes = {**TRAIN, "parallelism": ["dp", "fsdp"], "devices": [1, 2], "batch_size": 16}
    weak = {**TRAIN, "parallelism": "dp", "devices": [1, 2], "batch_size_per_device": 8}
    found = [one[:3] for one in points(schemes, weak)]
    assert found == [(1, "none", 16), (2, "dp2", 16), (2, "fsdp2", 16), (1, "none", 8)]


def test_copies_and_collectives_sweep_too() -> None:
    copies = {"workload": "llama", "mode": "decode", "parallelism": "replicas", "batch_size": 8}
    assert [one[1:] for one in points({**copies, "devices": [1, 2, 8]})] == [
        ("none", 8, ""),
        ("replicas2", 8, ""),
        ("replicas8", 8, BEYOND),
    ]
    reduced = {"workload": "collective", "mode": "all-reduce", "devices": [2, 4, 8]}
    assert [(one[0], one[3]) for one in points(reduced)] == [(2, ""), (4, ""), (8, BEYOND)]
    assert [one[3] for one in points({**reduced, "devices": 8})] == [""], (
        "no sweep: it is asked for"
    )


def test_a_batch_that_does_not_divide_at_a_point_is_left_out_with_the_nearest() -> None:
    found = points({**TRAIN, "parallelism": "dp", "devices": [1, 2, 3, 8], "batch_size": 2})
    assert [one[3] for one in found] == [
        "",
        "",
        "a batch of 2 does not divide over 3 devices (dp3). Nearest that do: a batch of 3 or 2 "
        "over 2 devices",
        BEYOND,
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"devices": [1, 3], "batch_size": 4}, "does not divide over 3 devices (dp3)"),
        ({"devices": [2, 2]}, "llama-train bf16-amp dp2 "),
        ({"devices": [0, 1]}, "takes 4 devices, not 0"),
        ({"devices": ["two"]}, "takes 4 devices, not two"),
        ({"devices": {"from": 0, "doubling_to": 8}}, "whole numbers from 1 up"),
        ({"devices": [1, 2], "parallelism": "none"}, "without a `parallelism`, not on 2"),
        ({"devices": [1, 2], "parallelism": "replicas"}, "has no parallelism `replicas`"),
        ({"devices": [1], "parallelism": "replicas"}, "has no parallelism `replicas`"),
        ({"devices": [1, 2], "parallelism": "hsdp"}, "hsdp2x2"),
        ({"devices": [1, 2], "batch_size": 8, "batch_size_per_device": 8}, "Give one of them."),
        ({"devices": [1, 2], "batch_size_per_device": 0}, "must be a whole number from 1 up"),
        ({"devices": [1, 2], "batch_size_per_device": "8"}, "must be a whole number from 1 up"),
        ({"devices": [1, 2], "batch_size_per_device": 40_000}, "from 1 to 65536, not 80000"),
        ({"devices": [1, 2], "tuned": {"batch_size": [8, 16]}}, "nothing is tuned over several"),
        ({"batch_size_per_devic": 8}, "Did you mean `batch_size_per_device`?"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SuiteError) as caught:
        plan.plan(suite({**TRAIN, "parallelism": "dp", **changes}), 4)
    assert str(caught.value).startswith("s.toml, case 1: ") and said in str(caught.value)


def test_work_without_a_batch_has_none_of_a_device() -> None:
    entry = {"workload": "collective", "mode": "all-reduce", "batch_size_per_device": 8}
    with pytest.raises(SuiteError, match="collective-all-reduce has no `batch_size`"):
        plan.plan(suite(entry))


def test_a_run_may_say_how_many_devices_a_sweep_takes() -> None:
    given = suite({**TRAIN, "parallelism": "dp", "devices": [1, 2], "batch_size": 8})
    assert plan.leaves_devices_open(given) and len(plan.whole(given, 4).cases) == 2
    exact = suite({**TRAIN, "parallelism": "dp", "devices": 2, "batch_size": 8})
    assert not plan.leaves_devices_open(exact)


# --- The run --------------------------------------------------------------------------------------

SWEEP = """
[[case]]
workload = "collective"
mode = "all-reduce"
precision = "fp32"
size_bytes = 65536
devices = [512, 1024]
"""


def test_what_is_beyond_the_run_starts_nothing_and_is_no_fault(
    tmp_path: Path, accelmark: Accelmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = DeviceInfo(backend="cpu", index=0, name="Fake CPU", memory_bytes=2**33)
    monkeypatch.setattr(probe, "choose_of", lambda *_: probe.Chosen(device, [], 1))
    (tmp_path / "mine.toml").write_text(SWEEP, encoding="utf-8")
    code, _, error = accelmark("run", "mine.toml", "--out", ".")
    assert code == 0, error
    (path,) = tmp_path.glob("*.jsonl")
    run = api.read_run(path)
    assert not run.launches and run.complete
    why = "it takes more devices than this run, which takes 2"
    assert [row.reason for row in api.summarize_run(run)] == [why] * 2
    cut = path.read_text(encoding="utf-8").splitlines(keepends=True)[0]
    path.write_text(cut, encoding="utf-8")
    assert accelmark("run", "--resume", str(path))[0] == 0
    assert not api.read_run(path).launches, "what was not to be tried is not, either"


def left_out(*cases: Case) -> dict[str, str]:
    return {case.fingerprint: BEYOND for case in cases}


def test_whole_systems_are_compared_in_what_either_took() -> None:
    """The weak points beyond both runs are works of their own, and nobody meant to measure them."""
    two, far = scaled.training(2), scaled.training(8, batch=64)
    made = [
        make_file((two, far), make_launches(two, [make_measured(s)] * 5), left_out=left_out(far))
        for s in (0.01, 0.02)
    ]
    assert [
        one.case.parameters["batch_size"] for one in compare_systems(made[0], made[1]).cases
    ] == [16]


def test_rows_say_it_and_two_runs_are_compared_in_what_either_took() -> None:
    two, eight, far = (make_case(devices=n, parallelism=f"dp{n}") for n in (2, 8, 64))
    cases = (two, eight, far)
    launches = make_launches(two, [make_measured(0.01)] * 5)
    base = make_file(cases, launches, left_out=left_out(eight, far))
    rows = summarize(base)
    assert [(row.status, row.reached, row.reason) for row in rows[1:]] == [
        ("skipped", True, BEYOND)
    ] * 2
    more = [*launches, *make_launches(eight, [make_measured(0.01)] * 5, 5)]
    found = compare(base, make_file(cases, more, left_out=left_out(far)))
    assert [one.case.devices for one in found.cases] == [2, 8]
    assert BEYOND in found.cases[1].reasons[0]
