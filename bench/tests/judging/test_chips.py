"""The published peaks: each with a source, none standing in for another, and what follows."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest

from bench import cli
from bench.errors import SuiteError
from bench.judging import chips
from bench.judging.chips import Chip
from bench.judging.chips import chips as all_chips
from bench.judging.row import Row
from bench.judging.summary import summarize
from bench.precision import PRECISIONS
from bench.records.run import RunFile
from bench.reports.wording.rows import of_peaks
from bench.tests.values import make_case, make_file, make_launches, make_measured

SHIPPED = all_chips()
OWN = """
[[chip]]
name = "Mine"
match = ["Fake CPU"]
peaks = {{ bf16_tflops = {peak}, fp32_tflops = 0.5 }}
source = "my own notes"
trust = "{trust}"
"""


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where a file of the user's own may be written."""
    path = tmp_path / "mine.toml"
    monkeypatch.setenv(chips.USER_FILE, str(path))
    return path


TRUST = ("low", "medium", "high")


@pytest.mark.parametrize("chip", SHIPPED, ids=lambda chip: chip.name)
def test_every_entry_has_a_source_a_trust_and_figures_that_can_be(chip: Chip) -> None:
    assert chip.source.strip() and chip.trust in ("high", "medium", "low")
    known = {f"{precision.arithmetic}_tflops" for precision in PRECISIONS.values()}
    assert {*chip.peaks, *chip.sparse} <= known
    for tflops in chip.peaks.values():
        assert 10 < tflops < 20_000, "10^12 FLOP/s"
    for name, tflops in chip.sparse.items():
        assert tflops == pytest.approx(2 * chip.peaks[name], rel=0.02), "2:4, and no other"
    for name, trust in chip.peak_trust.items():
        assert TRUST.index(trust) < TRUST.index(chip.trust), f"{name} is trusted less"
    assert chip.memory_gb is not None or not chip.peaks
    if chip.memory_tbps is not None:
        assert 0.5 < chip.memory_tbps < 20 and chip.bytes_per_second == chip.memory_tbps * 1e12
    assert chip.watts is None or 100 < chip.watts < 3000


def test_names_are_unique_and_each_is_found_by_every_one_of_its_texts() -> None:
    assert len({chip.name for chip in SHIPPED}) == len(SHIPPED)
    for chip in SHIPPED:
        for text in chip.match:
            assert chips.find(text) is chip
            assert chips.find(f"Vendor {text.upper()}  ") is chip


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H200", "H200 SXM"),
        ("NVIDIA A100-SXM4-80GB", "A100 SXM 80GB"),
        ("NVIDIA B200", "B200"),
        ("AMD Instinct MI300X", "MI300X"),
        ("AMD Instinct MI350X", "MI350X"),
        ("NVIDIA A100 80GB PCIe", "A100 PCIe 80GB"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L40S-24C", None),
        ("NVIDIA L40", None),
        ("HL-225B", "Gaudi2"),
        *((f"Ascend910{sku}", "Ascend 910B") for sku in ("B1", "B2", "B2C", "B3", "B4", "B4-1")),
        *(
            (f"Ascend910_{sku}", "Ascend 910C, one of its two dies (the torch device)")
            for sku in (9381, 9382, 9391, 9392)
        ),
        *((f"Ascend910_{sku}", "Ascend 910C, other dies") for sku in (9362, 9363, 9372)),
        *((f"Ascend950DT_{sku}", "Ascend 950DT") for sku in (9591, 9596, "95A1")),
        *((f"Ascend950DT_{sku}", "Ascend 950, others") for sku in ("950x", 9571, 9582)),
        ("Ascend950PR_9589", "Ascend 950, others"),
        ("Ascend310P3", "Ascend 310P"),
        ("Ascend910", None),
        ("Ascend910ProB", None),
        # Chips with names that are near and with peaks that are not.
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA H200 NVL", None),
        ("NVIDIA H20", None),
        ("NVIDIA GH200 480GB", None),
        ("NVIDIA GB200", None),
        ("NVIDIA A100-PCIE-40GB", None),
        ("NVIDIA A100-SXM4-40GB", None),
        ("AMD Instinct MI300A", None),
        ("AMD Instinct MI210", None),
        # A slice of a chip.
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA A100-SXM4-80GB MIG 3g.40gb", None),
        ("NVIDIA H200 MIG 1g.18gb", None),
        ("NVIDIA H200X-35C", None),
        ("NVIDIA H200X-1-18C", None),
        ("NVIDIA H200X-1-18CME", None),
        ("NVIDIA H200-141C", None),  # an NVL
        ("NVIDIA H200X-141C", "H200 SXM"),
        ("NVIDIA H100XM-80C", "H100 SXM"),
        ("NVIDIA H100XM-40C", None),
        ("GRID A100DX-80C", "A100 SXM 80GB"),
        ("GRID A100DX-4-40C", None),
        ("NVIDIA B200X-90C", None),
        ("Intel(R) Xeon(R) Processor", None),
        ("", None),
    ],
)
def test_a_device_finds_its_chip_and_never_another(device: str, name: str | None) -> None:
    chip = chips.find(device)
    assert (chip and chip.name) == name


def test_a_peak_is_of_one_arithmetic() -> None:
    chip = chips.find("NVIDIA H100 80GB HBM3")
    assert chip is not None
    assert chip.peak_flop_per_second("bf16") == pytest.approx(989.4e12)
    assert chip.peak_flop_per_second("fp4") is None


# --- A file of the user's own --------------------------------------------------------------------


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "byte order mark"])
def test_the_users_file_comes_first(own: Path, mark: str) -> None:
    text = mark + OWN.format(peak=2, trust="low").replace("Fake CPU", "H100")
    own.write_text(text, encoding="utf-8")
    chip = chips.find("NVIDIA H100 80GB HBM3")
    assert chip is not None and chip.name == "Mine" and chip.source == "my own notes"
    other = chips.find("AMD Instinct MI300X")
    assert other is not None and other.name == "MI300X", "ours are still there"


BAD = {
    "no such file": (None, "No such file"),
    "no TOML": ("[[chip]\n", "line 1"),
    "no chip": ("", "missing required field `chip`"),
    "unknown key": (OWN.format(peak=1, trust="low") + "flops = 3\n", "unknown field `flops`"),
    "no source": (OWN.format(peak=1, trust="low").replace("source", "# source"), "field `source`"),
    "empty source": (OWN.format(peak=1, trust="low").replace("my own notes", " "), "a source"),
    "no trust": (OWN.format(peak=1, trust="some"), "Invalid enum value 'some'"),
    "no match": (OWN.format(peak=1, trust="low").replace('"Fake CPU"', ""), "`match` needs a text"),
    "empty match": (OWN.format(peak=1, trust="low").replace("Fake CPU", " "), "`match` needs"),
    "empty unless": (OWN.format(peak=1, trust="low") + 'unless = [""]\n', "no text may be empty"),
    "zero": (OWN.format(peak=0, trust="low"), "bf16_tflops = 0"),
    "infinite": (OWN.format(peak="inf", trust="low"), "bf16_tflops = inf"),
    "not a number": (OWN.format(peak="nan", trust="low"), "bf16_tflops = nan"),
    "unit": (OWN.format(peak=1, trust="low").replace("fp32_tflops", "fp32"), "is no peak in TFL"),
    "bandwidth": (OWN.format(peak=1, trust="low") + "memory_tbps = 0\n", "memory_tbps = 0"),
    "sparse for dense": (
        OWN.format(peak=2, trust="low") + "sparse = { bf16_tflops = 2 }\n",
        "bf16_tflops = 2 is dense, and sparse it is 2: the dense one is less",
    ),
    "trust of nothing": (
        OWN.format(peak=1, trust="low") + 'peak_trust = { fp8_tflops = "low" }\n',
        "fp8_tflops has a trust and is no peak",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_of_the_users_is_one_message(
    own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    text, part = BAD[kind]
    if text is not None:
        own.write_text(text, encoding="utf-8")
    with pytest.raises(SuiteError, match="this file of chips cannot be used"):
        chips.find("anything")
    monkeypatch.setattr(sys, "argv", ["accelmark", "list", "chips"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    output = capsys.readouterr()
    assert ended.value.code == 2 and output.out == ""
    assert output.err.startswith(f"error: {own}: this file of chips cannot be used (")
    assert part in output.err and "configs/chips.toml" in output.err
    assert "Traceback" not in output.err


# --- MFU -----------------------------------------------------------------------------------------

CASE = make_case(workload="bert", mode="infer")


def measured(flop: int, **changes: str) -> RunFile:
    """Steps of 10 ms of so much work."""
    case = make_case(workload="bert", mode="infer", **changes)
    return make_file([case], make_launches(case, [make_measured(0.01, flop=flop, items=4)] * 3))


def row(file: RunFile) -> Row:
    (found,) = summarize(file)
    return found


def test_mfu_of_a_worked_example(own: Path) -> None:
    """6 GFLOP in 10 ms are 0.6 TFLOP/s: 30 % of 2 TFLOP/s, and above 100 % of nothing."""
    own.write_text(OWN.format(peak=2, trust="high"), encoding="utf-8")
    found = row(measured(6 * 10**9))
    assert found.mfu == pytest.approx(0.3) and found.mfu_absent == ""
    assert found.status == "measured"
    assert row(measured(6 * 10**9, precision="bf16-amp")).mfu == pytest.approx(0.3)
    assert row(measured(10**9, precision="fp32")).mfu == pytest.approx(0.2)


@pytest.mark.parametrize(("less", "status"), [("high", "void"), ("medium", "measured")])
def test_a_peak_may_be_trusted_less_than_its_entry(own: Path, less: str, status: str) -> None:
    """Above it nothing is void then; and neither share nor verdict refers to a sparse one."""
    text = OWN.format(peak=2, trust="high") + "sparse = { bf16_tflops = 4 }\n"
    own.write_text(f'{text}peak_trust = {{ bf16_tflops = "{less}" }}\n', encoding="utf-8")
    found = row(measured(30 * 10**9))
    assert found.status == status
    assert found.mfu == (pytest.approx(1.5) if status == "measured" else None)


def test_a_format_with_shared_scales_has_no_peak_of_another() -> None:
    """What is published for "FP8" or "FP4" says nothing of it."""
    b200, mi355x = (chips.find(name) for name in ("NVIDIA B200", "AMD Instinct MI355X"))
    assert b200 is not None and mi355x is not None
    assert b200.peak_flop_per_second("fp8") == 4.5e15
    assert b200.peak_flop_per_second("mxfp8") is None
    assert b200.trust_of("nvfp4") == "low" and b200.trust_of("bf16") == "high"
    assert mi355x.peak_flop_per_second("mxfp4") == 1.00663e16
    assert mi355x.peak_flop_per_second("nvfp4") is None


@pytest.mark.parametrize("sku", ["9382", "9392"])
def test_the_peak_of_a_910c_is_its_cubes(sku: str) -> None:
    """24 of them, 8192 FLOP each, at 1.8 GHz; 376 counts the vector units too, which multiply no
    matrices."""
    chip = chips.find(f"Ascend910_{sku}")
    assert chip is not None and chip.trust == "medium"
    for arithmetic in ("bf16", "fp16"):
        peak = chip.peak_flop_per_second(arithmetic)
        assert chip.units and peak == pytest.approx(chip.units * 8192 * 1.8e9, rel=1e-4)


def test_no_mfu_without_a_peak_and_the_reason(own: Path) -> None:
    own.write_text(OWN.format(peak=2, trust="high"), encoding="utf-8")
    absent = row(measured(10**9, precision="fp16"))
    assert absent.mfu is None and absent.mfu_absent == "no fp16 peak of Mine"


def test_no_mfu_of_an_unknown_chip() -> None:
    found = row(measured(10**9))
    assert found.mfu is None
    assert found.mfu_absent == "no published peak: Fake CPU is not in configs/chips.toml"


def test_no_mfu_of_work_that_is_not_arithmetic(own: Path) -> None:
    own.write_text(OWN.format(peak=2, trust="high"), encoding="utf-8")
    found = row(make_file([CASE], make_launches(CASE, [make_measured(0.01, moved_bytes=10)])))
    assert (found.mfu, found.mfu_absent) == (None, "")


def test_more_than_all_of_a_trusted_peak_is_void(own: Path) -> None:
    """21 GFLOP in 10 ms: 2.1 TFLOP/s, 105 % of 2."""
    own.write_text(OWN.format(peak=2, trust="high"), encoding="utf-8")
    found = row(measured(21 * 10**9))
    assert (found.status, found.throughput, found.verdict) == ("void", None, None)
    assert found.reason == "105% of the bf16 peak of Mine (my own notes): impossible"
    assert row(measured(20 * 10**9)).status == "measured", "100 % is possible"


def test_what_is_void_by_a_peak_says_which_precision_it_stands_in_for(own: Path) -> None:
    own.write_text(OWN.format(peak=2, trust="high"), encoding="utf-8")
    file = measured(21 * 10**9)
    whys = {case.fingerprint: "bf16 instead of fp8: no such unit" for case in file.run.plan}
    file = msgspec.structs.replace(file, run=msgspec.structs.replace(file.run, instead=whys))
    found = row(file)
    assert (found.status, found.instead) == ("void", "bf16 instead of fp8: no such unit")


@pytest.mark.parametrize("trust", ["medium", "low"])
def test_more_than_all_of_a_doubtful_peak_is_shown(own: Path, trust: str) -> None:
    own.write_text(OWN.format(peak=2, trust=trust), encoding="utf-8")
    found = row(measured(21 * 10**9))
    assert found.status == "measured" and found.mfu == pytest.approx(1.05)
    why = f"Mine (by ACCELMARK_CHIPS; trust {trust}, so not void: it may be too low)"
    assert found.mfu_of == why and list(of_peaks(found)) == [f"MFU 105% of {why}"]
    found = row(measured(20 * 10**9))
    assert found.mfu_of == f"Mine (by ACCELMARK_CHIPS; trust {trust})"


def test_an_impossible_matmul_is_no_ceiling(own: Path) -> None:
    own.write_text(OWN.format(peak=2, trust="high"), encoding="utf-8")
    gemm = make_case()
    launches = [
        *make_launches(gemm, [make_measured(0.01, flop=21 * 10**9)]),
        *make_launches(CASE, [make_measured(0.01, flop=10**9)]),
    ]
    assert summarize(make_file([gemm, CASE], launches))[1].ceiling_fraction is None


# --- MBU -----------------------------------------------------------------------------------------


def moved(
    bytes_a_step: int, trust: str, workload: str, mode: str, own: Path, size: int = 2**32
) -> Row:
    """Steps of 10 ms on a chip of 2 TB/s, of arrays of so many bytes."""
    text = OWN.format(peak=2, trust=trust) + "memory_tbps = 2\n"
    own.write_text(text, encoding="utf-8")
    case = make_case(workload=workload, mode=mode, parameters={"size_bytes": size})
    outcome = make_measured(0.01, moved_bytes=bytes_a_step, items=4)
    return row(make_file([case], make_launches(case, [outcome] * 3)))


def test_mbu_of_a_worked_example(own: Path) -> None:
    """6 GB in 10 ms are 0.6 TB/s: 30 % of 2 TB/s."""
    found = moved(6 * 10**9, "high", "llama", "decode", own)
    assert found.mbu == pytest.approx(0.3) and found.mbu_absent == ""
    assert (found.mfu, found.mfu_absent) == (None, ""), "no FLOP are counted"


STREAM = make_file([CASE], make_launches(CASE, [make_measured(0.01, moved_bytes=10)] * 3))


def test_no_mbu_without_a_published_bandwidth(own: Path) -> None:
    own.write_text(OWN.format(peak=2, trust="high"), encoding="utf-8")
    assert row(STREAM).mbu_absent == "no memory bandwidth of Mine"
    assert (row(measured(10**9)).mbu, row(measured(10**9)).mbu_absent) == (None, "")


def test_no_mbu_of_an_unknown_chip() -> None:
    assert row(STREAM).mbu is None
    assert row(STREAM).mbu_absent == "no published peak: Fake CPU is not in configs/chips.toml"


@pytest.mark.parametrize(
    ("workload", "mode", "trust", "status"),
    [
        ("memory", "triad", "high", "void"),
        ("memory", "triad", "medium", "measured"),
        ("llama", "decode", "high", "measured"),  # a cache may hold what it must move
        ("gemm", "matmul", "high", "measured"),
    ],
)
def test_only_a_stream_above_a_trusted_bandwidth_is_void(
    own: Path, workload: str, mode: str, trust: str, status: str
) -> None:
    """21 GB in 10 ms: 2.1 TB/s, 105 % of 2."""
    found = moved(21 * 10**9, trust, workload, mode, own)
    assert found.status == status
    if status == "void":
        assert found.throughput is None
        assert found.reason == (
            "105% of the memory bandwidth of Mine (my own notes): impossible, even if its caches "
            "held what they can"
        )
    else:
        assert found.mbu == pytest.approx(1.05) and found.in_cache == ""

    assert moved(20 * 10**9, trust, workload, mode, own).status == "measured", "100 % is possible"


def test_an_impossible_stream_is_no_ceiling(own: Path) -> None:
    own.write_text(OWN.format(peak=2, trust="high") + "memory_tbps = 2\n", encoding="utf-8")
    triad = make_case(workload="memory", mode="triad")
    launches = [
        *make_launches(triad, [make_measured(0.01, moved_bytes=21 * 10**9)]),
        *make_launches(CASE, [make_measured(0.01, moved_bytes=10**9)]),
    ]
    assert summarize(make_file([triad, CASE], launches))[1].bandwidth_fraction is None
