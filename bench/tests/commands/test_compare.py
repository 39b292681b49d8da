"""`accelmark compare`: exit codes, output, and what it says of bad files and options."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import msgspec
import pytest

from bench.records.run import RunFile
from bench.records.runfile import read
from bench.tests.conftest import Accelmark
from bench.tests.judging.two_runs import CASE, FAST, GEMM, REFUSED, SLOW, run, runs, steps, ten
from bench.tests.judging.two_systems import batch, on, runs_on, strong, weak
from bench.tests.scripts.regenerate import BASE, OTHER, OUTPUTS
from bench.tests.values import another, failed, make_case


def write(path: Path, file: RunFile) -> Path:
    """The file as `accelmark run` would have written it."""
    lines = [file.run, *file.launches, *([file.end] if file.end else [])]
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    return path


@pytest.mark.parametrize(
    ("other", "code", "said"),
    [
        (run(SLOW), 3, "slower by 9.1%: bert-train bf16 (batch 8, length 128)"),
        (run(ten(0.0101, 0.03)), 0, ""),
        (run(ten(0.0104, 0.01)), 0, ""),  # slower, and by less than 5 %
        (run(ten(0.009, 0.01)), 0, ""),
        (
            run(SLOW[:4]),
            1,
            "not judged (NO_INTERVAL, few-launches): bert-train bf16 (batch 8",
        ),
        (REFUSED["batch"][0], 1, "not judged (INCOMPARABLE, other-parameter): bert-train"),
    ],
)
def test_fail_if_slower(
    accelmark: Accelmark, tmp_path: Path, other: RunFile, code: int, said: str
) -> None:
    write(tmp_path / "a.jsonl", run(FAST))
    write(tmp_path / "b.jsonl", other)
    found, out, err = accelmark("compare", "a.jsonl", "b.jsonl", "--fail-if-slower", "5")
    assert found == code and err.startswith(said) and bool(err) == bool(said)
    assert out.startswith("base   Fake CPU (cpu): fake, 10 launches")


def test_of_several_others_each_message_names_its_run(accelmark: Accelmark, tmp_path: Path) -> None:
    for name, file in (("a", run(FAST)), ("b", run(SLOW)), ("c", run(SLOW[:4])), ("d", run(FAST))):
        write(tmp_path / f"{name}.jsonl", another(file) if name == "d" else file)
    names = [f"{letter}.jsonl" for letter in "abd"]
    code, _, err = accelmark("compare", *names, "--fail-if-slower", "5")
    assert code == 3 and err.startswith("b.jsonl: slower by 9.1%: ")
    names = [f"{letter}.jsonl" for letter in "acd"]
    code, _, err = accelmark("compare", *names, "--fail-if-slower", "5")
    assert code == 1 and err.startswith("c.jsonl: not judged (NO_INTERVAL")


def test_one_slower_case_outweighs_one_that_cannot_be_judged(
    accelmark: Accelmark, tmp_path: Path
) -> None:
    write(tmp_path / "a.jsonl", runs((CASE, steps(FAST)), (GEMM, steps(FAST))))
    write(tmp_path / "b.jsonl", runs((CASE, steps(SLOW)), (GEMM, [failed()])))
    assert accelmark("compare", "a.jsonl", "b.jsonl", "--fail-if-slower", "5")[0] == 3
    assert accelmark("compare", "a.jsonl", "b.jsonl")[0] == 0
    assert accelmark("compare", "b.jsonl", "a.jsonl", "--fail-if-slower", "5")[0] == 1


def test_nothing_that_could_be_compared_is_exit_code_1(
    accelmark: Accelmark, tmp_path: Path
) -> None:
    write(tmp_path / "a.jsonl", run(FAST))
    write(tmp_path / "b.jsonl", REFUSED["precision"][0])
    code, out, err = accelmark("compare", "a.jsonl", "b.jsonl")
    assert (code, err) == (1, "")
    assert "INCOMPARABLE precision differs (bf16, fp16): bert-train bf16\n" in out
    assert "Geometric mean" not in out and "ratio" not in out


def test_nothing_of_anothers_record_moves_the_screen_from_stderr_either(
    accelmark: Accelmark, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A name that climbs two lines up and writes over the figures that stand there."""
    bad = make_case(workload="bert", mode="train", parameters={"name": "x\x1b[2A\x1b[2Ky"})
    for name, seconds in (("a.jsonl", FAST), ("b.jsonl", SLOW)):
        write(tmp_path / name, run(seconds, bad))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)  # else click leaves it out
    code, out, err = accelmark("compare", "a.jsonl", "b.jsonl", "--fail-if-slower", "1")
    assert code == 3 and "slower by 9.1%" in err and "x [2A [2Ky" in err
    assert "\x1b" not in out + err


def test_a_refusal_of_the_whole_is_in_json_too(accelmark: Accelmark, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", run(FAST))
    write(tmp_path / "b.jsonl", runs((GEMM, steps(FAST))))
    for other, refusal in (("a.jsonl", "same-run"), ("b.jsonl", "nothing-in-common")):
        code, out, err = accelmark("compare", "a.jsonl", other, "--json")
        (found,) = json.loads(out)
        assert code == 2 and found["refused"]["code"] == refusal
        assert err == f"error: {found['refused']['reason']}\n" and f"[{refusal}]" in err
    code, out, _ = accelmark("compare", "a.jsonl", "b.jsonl", "--json", "--price", "1")
    assert (code, out) == (2, ""), "of the options, not of the runs"


def test_several_others_have_a_card_each(accelmark: Accelmark, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", run(FAST))
    write(tmp_path / "b.jsonl", run(SLOW))
    write(tmp_path / "c.jsonl", run(FAST))
    prices = [x for p in ("1", "2", "4") for x in ("--price", p)]
    code, out, _ = accelmark("compare", "a.jsonl", "b.jsonl", "c.jsonl", "--json", *prices)
    found = json.loads(out)
    assert code == 0 and [x["cases"][0]["verdict"] for x in found] == ["SLOWER", "EQUIVALENT"]
    ratios = [x["cases"][0]["per_currency_unit_ratio"] for x in found]
    assert ratios == pytest.approx([1 / 2.2, 1 / 4], rel=1e-6)


def bad_files(folder: Path) -> None:
    good = write(folder / "good.jsonl", run(FAST)).read_bytes()
    lines = good.splitlines(keepends=True)
    (folder / "text.jsonl").write_text("no record\n")
    (folder / "cut.jsonl").write_bytes(good[: len(good) // 2])
    newer = json.loads(lines[0]) | {"schema": 99}
    (folder / "newer.jsonl").write_bytes(json.dumps(newer).encode() + b"\n")
    twice = json.loads(lines[0])
    twice["plan"] *= 2
    (folder / "planned.jsonl").write_bytes(
        b"".join([json.dumps(twice).encode(), b"\n", *lines[1:]])
    )
    (folder / "again.jsonl").write_bytes(b"".join([*lines[:3], lines[1]]))
    write(folder / "foreign.jsonl", run(FAST, make_case(workload="memory", mode="copy")))


BAD = {
    "text.jsonl": ["text.jsonl", "line 1", "Give a record"],
    "cut.jsonl": ["cut.jsonl, line 6: cut short", "not compared", "accelmark report"],
    "newer.jsonl": [
        "newer.jsonl, line 1: schema 99",
        "reads schema 1",
        "Read it with the version that",
    ],
    "planned.jsonl": ["planned.jsonl, line 1: bert-train bf16", "is planned twice"],
    "again.jsonl": ["again.jsonl, line 4: launch 1 of bert-train", "again", "not compared"],
    "foreign.jsonl": ["nothing in common", "bert-train", "memory-copy", "same suite"],
    "nowhere.jsonl": ["nowhere.jsonl", "there is no such file"],
}


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_message(
    accelmark: Accelmark, tmp_path: Path, name: str, first: bool
) -> None:
    bad_files(tmp_path)
    code, out, err = accelmark(
        "compare", *((name, "good.jsonl") if first else ("good.jsonl", name))
    )
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in err
    for part in BAD[name]:
        assert part in err


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--price", "1"], "--price is given 1 time for 2 runs"),
        (["--price", "1"] * 3, "--price is given 3 times for 2 runs"),
        (["--price", "0", "--price", "1"], "--price"),
        (["--price", "nan", "--price", "1"], "give a number above 0"),
        (["--price", "1", "--price", "inf"], "give a number above 0"),
        (["--fail-if-slower", "nan"], "--fail-if-slower nan"),
        (["--fail-if-slower", "101"], "--fail-if-slower"),
        (["--fail-if-slower", "-1"], "--fail-if-slower"),
    ],
)
def test_bad_options(accelmark: Accelmark, tmp_path: Path, options: list[str], part: str) -> None:
    write(tmp_path / "a.jsonl", run(FAST))
    write(tmp_path / "b.jsonl", run(FAST))
    code, _, err = accelmark("compare", "a.jsonl", "b.jsonl", *options)
    assert code == 2 and part in err and "Traceback" not in err


def test_both_files_are_needed(accelmark: Accelmark) -> None:
    code, out, err = accelmark("compare", str(BASE))
    assert (code, out) == (2, "") and "missing argument 'OTHER...'" in err


def test_a_run_is_not_compared_with_itself_or_a_copy(accelmark: Accelmark, tmp_path: Path) -> None:
    """It would be EQUIVALENT to itself, whatever it measured."""
    copied = tmp_path / "copy.jsonl"
    copied.write_bytes(OTHER.read_bytes())
    for path in (str(OTHER), "copy.jsonl"):
        for option in ([], ["--json"], ["--fail-if-slower", "5"]):
            code, out, err = accelmark("compare", str(OTHER), path, *option)
            assert code == 2 and bool(out) == (option == ["--json"])
            assert f"{path} are the same run, or a copy of it" in err and "Give two runs" in err
    for name in ("html", "markdown"):
        _, out, _ = accelmark("report", str(OTHER), "copy.jsonl", "--format", name)
        assert "are the same run, or a copy of it" in out


def test_a_golden_run_and_its_like_are_told_from_a_pair(
    accelmark: Accelmark, tmp_path: Path
) -> None:
    write(tmp_path / "like.jsonl", another(read(OTHER)))
    code, out, _ = accelmark("compare", str(OTHER), "like.jsonl")
    assert code == 0 and "FASTER\n" not in out and "SLOWER\n" not in out
    assert {"compare-80.txt", "compare-120.txt", "compare-json.txt"} <= set(OUTPUTS)


def test_systems_by_the_devices_that_are_chosen(accelmark: Accelmark, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", strong())
    write(tmp_path / "b.jsonl", weak())
    write(tmp_path / "c.jsonl", strong())
    both = ("compare", "a.jsonl", "b.jsonl", "c.jsonl", "--systems", "--json")
    prices = [x for p in ("1", "2", "4") for x in ("--price", p)]
    chosen = [x for d in ("1", "fsdp8", "2") for x in ("--devices", d)]
    for options, devices, price in (
        ([], [(8, 64), (8, 8)], [1.2444 * 8 / 128, 8 / 32]),
        (chosen, [(1, 8), (1, 2)], [1.5 / 16, 1.95 / 8]),
    ):
        code, out, err = accelmark(*both, *prices, *options)
        cases = [one["cases"][0] for one in json.loads(out)]
        assert (code, err) == (0, "")
        found = [tuple(c["system"][who]["devices"] for who in ("base", "other")) for c in cases]
        assert found == devices
        told = [case["per_currency_unit_ratio"] for case in cases]
        assert told == pytest.approx(price, rel=1e-3)


def test_systems_have_the_exit_codes_of_cases(accelmark: Accelmark, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", strong())
    write(tmp_path / "b.jsonl", weak())
    write(tmp_path / "shared.jsonl", weak(shared=True))
    write(tmp_path / "batch.jsonl", runs_on((on("dp64", batch(512)), 900.0)))

    def systems(base: str, other: str, *options: str) -> tuple[int, str, str]:
        return accelmark("compare", base, other, "--systems", *options)

    code, out, err = systems("b.jsonl", "a.jsonl", "--fail-if-slower", "5")
    said = "slower by 19.6%: gpt-train bf16 (batch 256, sequence 128), fsdp64 | dp8\n"
    assert (code, err) == (3, said)
    assert "as whole systems" in out
    code, _, err = systems("a.jsonl", "shared.jsonl", "--fail-if-slower", "5")
    assert code == 1 and "not judged (INCOMPARABLE, shared-host): gpt-train" in err
    assert systems("a.jsonl", "shared.jsonl")[0] == 1
    code, out, err = systems("a.jsonl", "batch.jsonl", "--json")
    (found,) = json.loads(out)
    assert code == 2 and found["refused"]["code"] == "nothing-in-common"
    assert "256 on 8 devices, 512 on 64 devices" in err and "accelmark run scaling" in err


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--systems", "--devices", "8"], "--devices is given 1 time for 2 runs"),
        (["--csv", "--json"], "--json and --csv: give one of them"),
        (["--devices", "8", "--devices", "8"], "--devices chooses among whole systems: give"),
        (["--systems", "--devices", "8", "--devices", "16"], "It has 1, dp2, dp8"),
    ],
)
def test_devices_and_forms_that_cannot_be_chosen(
    accelmark: Accelmark, tmp_path: Path, options: list[str], part: str
) -> None:
    write(tmp_path / "a.jsonl", strong())
    write(tmp_path / "b.jsonl", strong())
    code, out, err = accelmark("compare", "a.jsonl", "b.jsonl", *options)
    assert (code, out) == (2, "") and part in err and err.count("\n") == 1
