"""The figures of single chips: by which units and clock, whose they are, and in one line."""

from __future__ import annotations

import pytest

from bench.judging import chips
from bench.judging.chips import Chip


@pytest.mark.parametrize(("name", "megahertz"), [("MI355X", 2400), ("MI350X", 2200)])
def test_the_peaks_of_an_mi350_are_its_units(name: str, megahertz: int) -> None:
    """256 of them, 4096 FLOP of bf16 each; those of narrower formats are twice those of wider."""
    chip = chips.find(f"AMD Instinct {name}")
    assert chip is not None and chip.units == 256
    for arithmetic, factor in (("bf16", 1), ("fp16", 1), ("fp8", 2), ("int8", 2), ("mxfp4", 4)):
        peak = factor * 256 * 4096 * megahertz * 1e6
        assert chip.peak_flop_per_second(arithmetic) == pytest.approx(peak, rel=1e-4)


def test_a_part_of_a_b200_is_none() -> None:
    assert chips.find("NVIDIA B200", 74) is None
    whole = chips.find("NVIDIA B200", 148)
    assert whole is not None and whole.bytes_per_second == 7.7e12


def test_a_share_says_whose_peak_it_is_of_and_how_far_that_one_is_trusted() -> None:
    """Of a B200's peaks in 8 bits and less other sources are trusted, and less."""
    peaks = chips.whose("NVIDIA B200", 148, "fp8", 0.5, 0.9)
    assert peaks == {"mfu_of": "B200 (trust medium)", "mbu_of": "B200 (trust high)"}
    assert chips.whose("NVIDIA B200", 148, "bf16", None, 0.9)["mfu_of"] == ""
    assert chips.whose("Fake CPU", None, "bf16", None, None) == {}


def test_a_chip_in_one_line() -> None:
    chip = chips.find("NVIDIA H100 80GB HBM3")
    assert chip is not None and chip.summary == (
        "989 TFLOP/s bf16, 80 GB, 3.35 TB/s (NVIDIA H100 datasheet, "
        "nvidia.com/en-us/data-center/h100, specifications; architecture white paper; trust high)"
    )
    bare = Chip(name="X", match=("X",), source="a talk", trust="low")
    assert bare.summary == "no peak (a talk; trust low)"
    small = Chip(name="X", match=("X",), peaks={"fp32_tflops": 0.4}, source="a talk", trust="low")
    assert small.summary == "0.400 TFLOP/s fp32 (a talk; trust low)"
