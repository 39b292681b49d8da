"""Rows of work over several devices: shares are one device's, and a shared host has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.judging import chips
from bench.judging.row import Row
from bench.judging.summary import summarize
from bench.reports.flat.row import flat
from bench.reports.terminal.details import details
from bench.reports.wording.card_notes import notes
from bench.reports.wording.labels import labels
from bench.tests.judging.test_chips import OWN
from bench.tests.values import make_case, make_file, make_launch, make_launches, make_measured

FOUR: dict[str, Any] = {"devices": 4, "parallelism": "fsdp4"}


@pytest.fixture(autouse=True)
def two_tflops(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A trusted peak of 2 TFLOP/s in bf16."""
    path = tmp_path / "mine.toml"
    path.write_text(OWN.format(peak=2, trust="high"), encoding="utf-8")
    monkeypatch.setenv(chips.USER_FILE, str(path))


def row_of(gflop: int, shared: bool = False, job: Any = None, **changes: Any) -> Row:
    """Steps of 10 ms of so much work, beside a matmul of 1 TFLOP/s on one device."""
    matmul = make_case(workload="gemm", mode="matmul")
    case = make_case(workload="llama", mode="train", **{**FOUR, **changes})
    world = {"world": {"devices": case.devices, "shared_host": shared}, "job": job}
    launches = make_launches(matmul, [make_measured(0.01, flop=10**10)] * 3)
    launches += [
        make_launch(
            make_measured(0.01, flop=gflop * 10**9, items=8),
            case,
            launch=k,
            order=3 + k,
            environment=world,
        )
        for k in range(3)
    ]
    return summarize(make_file([matmul, case], launches))[1]


def test_shares_of_peaks_and_ceilings_are_each_devices() -> None:
    """24 GFLOP in 10 ms are 2.4 TFLOP/s, 0.6 on each of four: 30 % of 2, and 60 % of 1."""
    found = row_of(24)
    assert found.flop_per_second == pytest.approx(2.4e12)
    assert found.mfu == pytest.approx(0.3)
    assert found.ceiling_fraction == pytest.approx(0.6)
    assert found.throughput == pytest.approx(800) and found.throughput_per_device == pytest.approx(
        200
    )


def test_the_card_names_what_decides_the_work_of_a_device() -> None:
    facts = {
        "optimizer": "AdamW(fused=True)",
        "accumulation": "none",
        "mixed precision": "autocast to bfloat16",
        "parallelism": "fsdp4: FSDP2, root and 2 LlamaDecoderLayer",
        "gradient checkpointing": "off",
        "gradients reduced as": "float32",
    }
    said = (
        "fsdp4: FSDP2, root and 2 LlamaDecoderLayer; accumulation none; gradient checkpointing "
        "off; mixed precision autocast to bfloat16; gradients reduced as float32"
    )
    found = row_of(24, job=facts)
    assert found.spread == said
    names = labels("s", [found.case])
    (note,) = (one for one in notes([found], names, wide=False) if one.word == "spread")
    assert note.text == f"{said}: llama-train bf16 fsdp4"
    assert row_of(24, job={"accumulation": "none"}).spread == ""


def test_more_than_all_devices_can_is_void() -> None:
    assert row_of(80).status == "measured"
    found = row_of(84)
    assert found.status == "void" and found.reason.startswith("105% of the bf16 peak")


def test_a_shared_host_has_no_share_of_anything() -> None:
    found = row_of(84, shared=True)
    assert found.status == "measured" and found.shared_host
    assert (found.mfu, found.ceiling_fraction, found.limit) == (None, None, None)
    assert found.mfu_absent == "its ranks share the cores of one host"
    assert found.throughput_per_device is None
    assert "4 devices, shared host" in " ".join(details(found))


def test_one_device_is_no_shared_host_whatever_a_record_says() -> None:
    found = row_of(6, shared=True, devices=1, parallelism="none")
    assert not found.shared_host and found.mfu == pytest.approx(0.3)


def test_details_and_rows_name_devices_and_what_each_does() -> None:
    found = row_of(24)
    assert "4 devices, 200 image each" in " ".join(details(found)).replace("/s", "")
    run = make_file([found.case], [])
    told = flat(run, found)
    assert (told["devices"], told["parallelism"]) == (4, "fsdp4")
    assert told["throughput_per_device"] == pytest.approx(200) and told["shared_host"] is False


@pytest.mark.parametrize(
    ("changes", "label"),
    [
        ({}, "gemm-matmul bf16 (64x64x64)"),
        ({"devices": 8, "parallelism": "dp8"}, "gemm-matmul bf16 dp8 (64x64x64)"),
        ({"devices": 8}, "gemm-matmul bf16 8 devices (64x64x64)"),
        (
            {"devices": 8, "parallelism": "replicas8", "execution": "compile"},
            "gemm-matmul bf16 compile replicas8 (64x64x64)",
        ),
    ],
)
def test_a_label_names_how_work_is_spread(changes: dict[str, Any], label: str) -> None:
    assert make_case(**changes).label == label


def test_cases_spread_otherwise_are_not_the_same_work() -> None:
    cases = [make_case(devices=8, parallelism=p) for p in ("dp8", "fsdp8", "hsdp2x4")]
    assert len({case.fingerprint for case in [*cases, make_case()]}) == 4
    assert msgspec.structs.replace(cases[0], devices=1, parallelism="none") == make_case()
