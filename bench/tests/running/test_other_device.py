"""A case over several devices takes the first ones: it is not run where another one is named."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import msgspec
import pytest

import bench
from bench import api
from bench.backend import DeviceInfo
from bench.errors import DeviceUnavailable
from bench.records.case import Case
from bench.records.run import Settings
from bench.records.runfile import read
from bench.running import probe, turns
from bench.running.header import begin
from bench.running.hosts import seating
from bench.running.resume import resume
from bench.tests.conftest import Accelmark
from bench.tests.values import make_case, make_launches, make_measured

FIRST = DeviceInfo(backend="cuda", index=0, name="x", memory_bytes=None)
THIRD = msgspec.structs.replace(FIRST, index=2)
RUN = ["accelmark", "run"]
PAIR = make_case(devices=2, parallelism="dp2")
SUITE = """
[[case]]
workload = "gemm"
precision = "fp32"
shape = "32x32x32"

[[case]]
workload = "llama"
mode = "train"
parallelism = "dp2"
batch_size = 2
sequence_length = 16
"""
REFUSED = "--device cuda:2: llama-train over 2 devices takes the first ones"


class Planned(Exception):
    """As far as these tests go."""


def begins(*arguments: Any) -> Any:
    raise Planned


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "pair.toml"
    path.write_text(SUITE, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("cases", "device", "left_out"),
    [
        ([PAIR], FIRST, []),
        ([make_case()], THIRD, []),
        ([PAIR], msgspec.structs.replace(THIRD, backend="cpu"), []),
        ([make_case(), PAIR], THIRD, [PAIR.fingerprint]),
    ],
)
def test_what_goes_where_it_is_sent_is_run(
    cases: list[Case], device: DeviceInfo, left_out: list[str]
) -> None:
    seating.require_first(cases, device, left_out)


def test_a_run_on_another_device_is_refused_before_it_begins(
    suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It went over the first two, and its record named the third."""
    monkeypatch.setattr(api, "choose", lambda *_: probe.Chosen(THIRD, [], 4))
    with pytest.raises(DeviceUnavailable, match=REFUSED):
        bench.run_suite(suite, device="cuda:2", watch=begins)
    with pytest.raises(Planned):
        bench.run_suite(suite, device="cuda:2", only="gemm*", watch=begins)


def test_two_sides_of_a_pair_are_no_pair_with_itself(
    suite: Path, accelmark: Accelmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = {f"cuda:{one.index}": probe.Chosen(one, [], 4) for one in (FIRST, THIRD)}
    monkeypatch.setattr(probe, "choose_of", lambda address, *_: devices[address])
    monkeypatch.setattr(turns, "alternate", begins)
    sides = ("--device", "cuda:0", "--device", "cuda:2")
    code, out, err = accelmark("ab", str(suite), *sides)
    assert (code, out) == (2, "") and REFUSED in err
    assert not (suite.parent / "runs").exists()


def test_nor_does_such_a_run_go_on(tmp_path: Path) -> None:
    begin(tmp_path / "r.jsonl", "id", "pair", [PAIR], Settings(), THIRD, RUN).close()
    with pytest.raises(DeviceUnavailable, match="--device cuda:2: "):
        resume(read(tmp_path / "r.jsonl"), THIRD, RUN)


def test_but_for_one_whose_pairs_are_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an older version had measured them."""
    plan, asked = [PAIR, make_case()], list[Any]()
    writer = begin(tmp_path / "r.jsonl", "id", "pair", plan, Settings(launches=1), THIRD, RUN)
    with contextlib.closing(writer):
        writer.append(*make_launches(PAIR, [make_measured()]))

    def first(cases: Any, *_: Any) -> Any:
        asked.extend(cases)
        raise Planned

    monkeypatch.setattr(seating, "require_first", first)
    with pytest.raises(Planned):
        resume(read(tmp_path / "r.jsonl"), THIRD, RUN)
    assert asked == plan[1:]
