"""Every command, program and suite that README and the guide show is one that works."""

from __future__ import annotations

import importlib.util
import inspect
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from bench import catalogue, cli, guide
from bench.judging import chips
from bench.planning import plan, selected, suite_file
from bench.records.run import RunFile
from bench.records.runfile import read
from bench.serving import export
from bench.tests.commands.test_compare import write
from bench.tests.conftest import Accelmark
from bench.tests.guide.documents import CLONE, DOCUMENTS, README, Block, blocks
from bench.tests.judging.two_systems import strong, weak
from bench.tests.scripts.regenerate import BASE, OTHER, RUN
from bench.tests.served_runs import usual_run

EPYC = CLONE / "results" / "quick-cpu-epyc-2core" / "run.jsonl"
MARKS = {
    "the main command": "what .ci/run and its readers look for; it downloads torch",
    "the test command": "the gate is this command",
}
"""Marks of README's own, and why no test runs what follows."""
FILES = {
    "RUN": RUN,
    "BASE": BASE,
    "OTHER": OTHER,
    "THIRD": OTHER,
    "BASE.jsonl": BASE,
    "OTHER.jsonl": OTHER,
    "runs/mine.jsonl": EPYC,
    **{f"results/{run.name}": run for run in (CLONE / "results").iterdir() if run.is_dir()},
}
"""What the names in the documents stand for."""
RUN_HERE = ("list", "schema", "guide", "report", "compare", "publish", "verify")
"""Commands that are quick, and start no process: they are run. The others are read."""
OWN_SUITE = "my-suite.toml"
ENTRY_POINTS = {f"accelmark.{kind}" for kind in catalogue.CONSTANTS}


def all_blocks(language: str) -> list[Block]:
    return [block for document in DOCUMENTS for block in blocks(document, language)]


def lines(block: Block) -> Iterator[list[str]]:
    """The words of each of its commands."""
    for line in block.text.replace("\\\n", "").splitlines():
        for command in line.split(" && "):
            words = shlex.split(command, comments=True)
            if words:
                yield words


def shown(run: bool) -> list[Any]:
    """Commands of accelmark, of blocks and of prose: those that are run here, or the others."""
    found: dict[str, tuple[str, list[str]]] = {}
    for block in all_blocks("sh"):
        for words in lines(block):
            if words[0].endswith("accelmark"):
                here = words[1] in RUN_HERE and not block.not_run and "*" not in "".join(words)
                if here == run:
                    found[shlex.join(words[1:])] = (block.document.name, words[1:])
    for document in DOCUMENTS if not run else ():
        for line in re.findall(r"(?:`|^\$ )accelmark ([^`\n]+)", document.read_text("utf-8"), re.M):
            found.setdefault(line, (document.name, shlex.split(line)))
    return [pytest.param(words, id=f"{name}: {key}") for key, (name, words) in found.items()]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which the files that the documents name are there."""
    for name, file in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(file)
    write(tmp_path / "EIGHT.jsonl", strong())
    write(tmp_path / "SIXTY-FOUR.jsonl", weak())
    write(tmp_path / "SERVED-BASE.jsonl", usual_run())
    write(tmp_path / "SERVED-OTHER.jsonl", usual_run(1.5))
    (block,) = [b for b in all_blocks("toml") if b.document.name == "suites.md"]
    (tmp_path / OWN_SUITE).write_text(block.text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_block_is_of_a_kind_that_is_tried_here() -> None:
    fences = sum(d.read_text(encoding="utf-8").count("```") for d in DOCUMENTS)
    tried = [b for language in ("sh", "toml", "python", "text") for b in all_blocks(language)]
    assert fences == 2 * len(tried) > 40


@pytest.mark.parametrize("words", shown(run=True))
def test_a_quick_command_does_what_it_is_shown_for(
    words: list[str], accelmark: Accelmark, here: Path
) -> None:
    code, out, err = accelmark(*words)
    assert code == (3 if "--fail-if-slower" in words else 0), err
    assert out or "--output" in words


@pytest.mark.parametrize("words", shown(run=False))
def test_a_command_that_takes_long_is_one_that_there_is(words: list[str], here: Path) -> None:
    """Its options are read by the command's own parser; suite, cases and backend are looked up."""
    command = cli.commands.commands[words[0]]
    if len(words) == 1:  # its name, in a sentence
        return
    given = command.make_context(words[0], words[1:]).params
    if isinstance(suite := given.get("suite"), str):
        found = suite_file.read_suite(suite_file.find_suite(suite))
        suite_file.with_launches(found.settings, given["launches"], "--launches")
        assert selected.select(plan.plan(found), given["only"] or "*")
    sides, one = given.get("devices"), given.get("device")  # of one side they may be a number
    devices = sides if isinstance(sides, tuple) else [one] if isinstance(one, str) else []
    backends = {device.partition(":")[0] for device in devices}
    if words[0] == "check-backend" and not given["name"].isupper():
        backends.add(given["name"])
    assert backends <= set(catalogue.plug_ins("backends"))
    if words[0] == "export-model" and not given["model"].isupper():
        assert given["model"] in export.sizes()
    if words[0] == "guide" and given["name"] and not given["name"].isupper():
        assert guide.page(given["name"])


def test_an_option_that_is_not_there_is_noticed() -> None:
    with pytest.raises(click.UsageError, match="No such option"):
        cli.commands.commands["run"].make_context("run", ["quick", "--lanches", "10"])


class Options:
    """Notes the options that plug-ins of pytest add."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def getgroup(self, *_: Any) -> Options:
        return self

    def addoption(self, *names: str, **_: Any) -> None:
        self.names.update(names)

    _addoption = addoption

    def addini(self, *_: Any, **__: Any) -> None:
        """None is shown."""


@pytest.fixture(scope="module")
def pytest_options() -> set[str]:
    import pytest_benchmark.plugin

    from bench.pytest_plugin import options

    noted: Any = Options()
    for plug_in in (pytest_benchmark.plugin, options):
        plug_in.pytest_addoption(noted)
    return {*noted.names, "--pyargs", "-k"}


def test_every_other_command_is_one_that_there_is(pytest_options: set[str]) -> None:
    """And a block without a test says why: a comment before it that begins with `not run: `."""
    tried = 0
    for block in all_blocks("sh"):
        if block.not_run or block.mark in MARKS:
            assert len(block.not_run or MARKS[block.mark]) > 10
            continue
        for words in lines(block):
            tried += 1
            place = f"{block.document.name}: {shlex.join(words)}"
            match words:
                case ["accelmark", *_]:
                    pass
                case ["pytest", *given]:
                    options = {word.partition("=")[0] for word in given if word.startswith("-")}
                    assert options <= pytest_options, place
                    if "--benchmark-compare-fail" in options:
                        assert "--benchmark-compare" in options, place
                    files = [word for word in given if word.endswith(".py")]
                    assert all((CLONE / file).exists() for file in files), place
                case ["pytest-benchmark", *given]:
                    from pytest_benchmark.cli import make_parser

                    assert make_parser().parse_args(given), place
                case ["python", "-m", module, *_]:
                    assert importlib.util.find_spec(module), place
                case ["ruff" | "mypy", *_]:
                    assert words[0] in README.read_text(encoding="utf-8"), place
                case _:
                    pytest.fail(f"{place}: no test knows it; mark the block `not run: ...`")
    assert tried > 30


def test_a_module_that_is_named_is_there() -> None:
    names = {
        name
        for document in DOCUMENTS
        for name in re.findall(r"python -m (bench[\w.]*)", document.read_text(encoding="utf-8"))
    }
    assert len(names) > 5
    assert [name for name in names if importlib.util.find_spec(name) is None] == []


@pytest.mark.parametrize("block", all_blocks("toml"), ids=lambda b: b.document.name)
def test_a_toml_block_is_what_it_says(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = tomllib.loads(block.text)
    file = tmp_path / "shown.toml"
    file.write_text(block.text, encoding="utf-8")
    if "case" in content:
        assert plan.plan(suite_file.read_suite(file))
    elif "chip" in content:
        monkeypatch.setenv("ACCELMARK_CHIPS", str(file))
        assert chips.chips()[0].name == content["chip"][0]["name"]
    else:
        assert set(content["project"]["entry-points"]) <= ENTRY_POINTS


@pytest.mark.parametrize("block", all_blocks("python"), ids=lambda b: b.text.split()[2])
def test_a_program_that_is_shown_runs(
    block: Block,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All but the measurement, for which a published run stands: the call fits the function."""
    from bench import api

    signature = inspect.signature(api.run_suite)

    def run_suite(*arguments: Any, **named: Any) -> RunFile:
        bound = signature.bind(*arguments, **named).arguments
        assert suite_file.find_suite(bound["suite"])
        return read(EPYC)

    monkeypatch.setattr(api, "run_suite", run_suite)
    exec(compile(block.text, block.document.name, "exec"), {})
    assert capsys.readouterr().out
