"""What single sentences of the guide say of the code."""

from __future__ import annotations

import json
import re
import tomllib

from bench import catalogue, cli, guide
from bench.backend import Backend, DeviceInfo
from bench.commands import check_backend
from bench.conformance.check import passed, unseen
from bench.conformance.checks._operators import OPERATORS
from bench.conformance.examine import Examined
from bench.records.run import Settings
from bench.running import sampler
from bench.serving import export
from bench.tests.guide.documents import CLONE, PACKAGE
from bench.tests.released import workloads


def test_kernels_that_are_compiled_are_named_beside_the_models() -> None:
    (row,) = re.findall(r"^\| `compile` .*", guide.page("catalogue").text, re.MULTILINE)
    for name in workloads():
        modes = catalogue.workload(name).modes
        if any("graph" in mode.executions for mode in modes.values()):
            continue  # a model
        compiled = {mode for mode, how in modes.items() if "compile" in how.executions}
        said = re.findall(rf"`{name}` ?(\w*)", row)
        assert bool(said) == bool(compiled), name
        assert not said or said == [""] or set(said) == compiled, name


def test_what_a_backend_says_of_settings_is_told_to_who_writes_one() -> None:
    """What it leaves out there, no record has, and no comparison knows of."""
    page = guide.page("new-backend").text
    for said in (Backend.recorded_variables, Backend.heeded, Backend.harmful_variables):
        assert f"\n| `{said.__name__}` | " in page


def test_the_operators_of_the_kit_are_counted() -> None:
    (row,) = re.findall(r"^\| `operators` \| (.*) \|$", guide.page("new-backend").text, re.M)
    assert row.startswith(f"{len(OPERATORS)} operators ")
    assert re.findall(r"`(\w+)`", row) == [one.name for one in OPERATORS if not one.gradients]


def test_how_often_a_device_is_looked_at_is_said() -> None:
    for text in (guide.page("telemetry").text, sampler.__doc__ or ""):
        said = " ".join(text.split())
        assert "at most five times a second" in said and sampler.LEAST_INTERVAL_SECONDS == 0.2
        assert "half a percent of the host" in said and sampler.HOST_SHARE == 0.005
        assert "at least every five seconds" in said and sampler.MOST_INTERVAL_SECONDS == 5.0


def test_the_end_of_the_conformance_kit_is_what_it_prints() -> None:
    page = guide.page("new-backend").text
    shown, width = re.search(
        r"^\$ accelmark check-backend cpu --only formats --width (?=(\d+))(.*?)^```",
        page,
        re.M | re.S,
    ).group(2, 1)  # type: ignore[union-attr]
    ok, unknown = (int(n) for n in re.findall(r"(\d+) (?:passed|not seen)", shown))
    findings = (passed("is so", "1 of 1"),) * ok + (unseen("is so", "not told"),) * unknown
    done = [Examined(check="formats", summary="as asked", findings=findings, seconds=1)]
    info = DeviceInfo(backend="cpu", index=0, name="AMD EPYC", memory_bytes=1)
    printed = check_backend._text(info, done, int(width)).strip()
    assert shown.strip().rpartition("\n\n")[2] == printed.rpartition("\n\n")[2]


def test_the_models_that_are_exported_are_on_the_page_that_the_help_names() -> None:
    said = " ".join((cli.commands.commands["export-model"].help or "").split())
    (page,) = re.findall(r"`accelmark guide (\S+)`", said)
    examples = re.findall(r"\w+-\S+\d[bm](?:-untied)?", said)
    assert len(examples) > 1 and set(examples) <= set(export.sizes())
    sizes = re.findall(r"^\| `(\w+-[\w.-]+)` \|", guide.page(page).text, re.MULTILINE)
    assert {name.removesuffix("-untied") for name in examples} <= set(sizes)
    assert {*sizes} <= {name.removesuffix("-untied") for name in export.sizes()}


def test_what_is_measured_instead_is_said_of_each_suite() -> None:
    text = guide.page("suites").text
    section = text[text.index("## A device without the precision") :]
    (usual,) = re.findall(r"`bf16 = (\[.*?\])`", section)
    for file in (CLONE / "configs").glob("*.toml"):
        instead = tomllib.loads(file.read_text(encoding="utf-8")).get("instead", {}).get("bf16")
        if instead is not None:
            assert f"`{file.stem}`" in section
            if json.dumps(instead) != usual:
                assert f"`{file.stem}`: {instead}" in section


def test_the_time_under_load_first_is_the_most_of_a_suite() -> None:
    said = " ".join(guide.page("statistics").text.split())
    (most,) = re.findall(r"An accelerator has up to (\d+) s of load first", said)
    files = [file.read_text(encoding="utf-8") for file in (CLONE / "configs").glob("*.toml")]
    given = {float(s) for text in files for s in re.findall(r"^warmup_seconds = (.+)$", text, re.M)}
    assert {Settings().warmup_seconds, *given} > {1.0, float(most)}, "some have less"
    assert max(given) == float(most)


def test_examples_that_are_said_to_be_short_are() -> None:
    for page, folder in (("new-backend", "backends"), ("new-workload", "workloads")):
        said = " ".join(guide.page(page).text.split())
        (named,) = re.findall(rf"`bench/({folder}/\w+\.py)` is (?:the shortest|a short)", said)
        assert len((PACKAGE / named).read_text(encoding="utf-8").splitlines()) < 115
