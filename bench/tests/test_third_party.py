"""Another's package: installed into an environment of its own, it is listed, found and run."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import bench
from bench import catalogue
from bench.errors import UnknownName
from bench.measuring.launch import ALLOW_SIMULATED
from bench.records.outcome import Measured
from bench.records.runfile import read

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="workers need POSIX process groups"),
    pytest.mark.usefixtures("forked"),
]

EXAMPLE = Path(__file__).parent / "example_vendor"
MOST_LINES = 60
SUITE = """
[settings]
launches = 1
warmup_seconds = 0.0
warmup_limit_seconds = 0.2
block_seconds = 0.001
steady_limit_seconds = 0.2

[[case]]
workload = "vector-add"
precision = ["fp32", "bf16"]
length = 4096

[[case]]
workload = "gemm"
precision = "bf16"
shape = "64x64x64"
"""
BROKEN = {
    "raising": "raise RuntimeError('made for version 9\\nand more')",
    "leaving": "raise SystemExit('no licence')",
    "untyped": "BACKEND = WORKLOAD = 42",
    "misnamed": (
        "from examplium.backend import BACKEND\nfrom examplium.vector_add import WORKLOAD"
    ),
}
"""Modules of a package that is no good, by the name of its entry points."""
FLAWS = {
    "raising": "does not load: made for version 9",
    "leaving": "does not load: no licence",
    "untyped": "is 42, no bench.{module}",
    "misnamed": "calls itself `{own}`",
}


def flaw(name: str, kind: str) -> str:
    """What is said of a broken plug-in, whole."""
    own = {"backend": "examplium", "workload": "vector-add"}[kind]
    how = FLAWS[name].format(module=f"{kind}.{kind.title()}", own=own)
    return f"{kind} `{name}` (from the package broken) {how}. Repair or uninstall that package."


class Environment:
    """A virtual environment that sees the packages of this one, and what is installed in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        venv.create(folder, with_pip=False)
        self.python = folder / "bin" / "python"
        self.packages = Path(
            sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
        )
        ours = [p for p in sys.path if Path(p).name in ("site-packages", "dist-packages")]
        lines = [str(Path(bench.__file__).parents[1]), *ours]
        (self.packages / "ours.pth").write_text("\n".join(lines))

    def install(self, source: Path) -> None:
        """By pip, from nothing but that folder."""
        copy = self.folder / "source"
        shutil.copytree(source, copy)  # a build leaves files behind
        options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet")
        done = subprocess.run(
            [sys.executable, "-m", "pip", "--python", str(self.python), "install", *options, copy],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def add_broken(self) -> None:
        """A package with an entry point of each kind for each way of being broken."""
        for name, code in BROKEN.items():
            (self.packages / f"broken_{name}.py").write_text(code)
        lines = [
            line
            for kind in ("backends", "workloads")
            for line in (f"[accelmark.{kind}]", *(f"{n} = broken_{n}" for n in BROKEN))
        ]
        info = self.packages / "broken-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
        (info / "entry_points.txt").write_text("\n".join(lines))

    def accelmark(
        self, *arguments: str, python: str = sys.executable, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """The command, by its own interpreter or by this one, with what is installed there."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("ACCELMARK", "TORCH_"))}
        if python == sys.executable:
            kept["PYTHONPATH"] = str(self.packages)
        return subprocess.run(
            [python, "-m", "bench", *arguments],
            cwd=self.folder,
            env={
                **kept,
                "OMP_NUM_THREADS": "1",
                "ACCELMARK_CHIPS": str(EXAMPLE / "chips.toml"),
                ALLOW_SIMULATED: "1",
                **variables,
            },
            capture_output=True,
            text=True,
            timeout=400,
        )


Done = Future[subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    version = importlib.metadata.version("setuptools").split(".")[0]
    if importlib.util.find_spec("pip") is None or int(version) < 77:
        pytest.skip("needs pip, and setuptools 77 or later, which torch 2.13 brings")
    found = Environment(tmp_path_factory.mktemp("environment"))
    found.install(EXAMPLE)
    found.add_broken()
    (found.folder / "suite.toml").write_text(SUITE)
    return found


SLOWED, TRIES = "not every step of a block was done", 3


def measured(environment: Environment) -> subprocess.CompletedProcess[str]:
    """The run on its device, whose queue is a thread: tried again where the host is at work for
    others, and a step that is waited for waits for a core."""
    for _ in range(TRIES):
        shutil.rmtree(environment.folder / "chip", ignore_errors=True)
        done = environment.accelmark("run", "suite.toml", "--out", "chip", "--device", "examplium")
        if SLOWED not in done.stderr:
            break
    return done


@pytest.fixture(scope="module")
def commands(environment: Environment) -> Iterator[dict[str, Done]]:
    """Every command, under way, two at a time."""
    host = ("run", "suite.toml", "--out", "host", "--only", "vector-add")
    with ThreadPoolExecutor(2) as pool:
        yield {
            "run": pool.submit(measured, environment),
            "devices": pool.submit(environment.accelmark, "devices"),
            "default": pool.submit(environment.accelmark, *host, SIMNPU_DEVICES="0"),
            "list": pool.submit(
                environment.accelmark, "list", "--json", python=str(environment.python)
            ),
            "check": pool.submit(
                environment.accelmark, "check-backend", "examplium", "--only", "formats"
            ),
        }


def test_the_conformance_kit_passes(commands: dict[str, Done]) -> None:
    """It has found a switch of the example's that was left on: float32 convolutions were HF32."""
    done = commands["check"].result()
    assert (done.returncode, ", 0 failed, " in done.stdout) == (0, True), done.stdout
    assert "PASS        fp32 conv2d keeps 23 bits" in done.stdout


def test_a_vendors_backend_is_one_short_file() -> None:
    lines = (EXAMPLE / "examplium" / "backend.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MOST_LINES


def test_what_a_package_brings_is_listed(commands: dict[str, Done]) -> None:
    done = commands["list"].result()
    assert done.returncode == 0 and done.stderr == ""
    listed = json.loads(done.stdout)
    assert listed["backends"]["examplium"] == "from the package accelmark-examplium"
    assert listed["workloads"]["vector-add"] == "from the package accelmark-examplium"
    assert "Examplium EX1" in listed["chips"], "by ACCELMARK_CHIPS"
    assert set(BROKEN) < set(listed["backends"]), "listing imports nothing"


def test_its_device_is_found_and_each_broken_package_is_one_line(
    commands: dict[str, Done],
) -> None:
    done = commands["devices"].result()
    assert done.returncode == 0 and done.stderr == ""
    lines = done.stdout.splitlines()
    (chip,) = (line for line in lines if line.startswith("examplium:0: "))
    assert chip.startswith("examplium:0: EX1, Examplium Ltd, 64.0 GiB, ")
    assert "driver 2.13.0" in chip
    for name in BROKEN:
        assert f"no {flaw(name, 'backend')}" in lines
    assert any(line.startswith("cpu: ") for line in lines), "the CPU works"
    others = len(catalogue.plug_ins("frameworks")) - 1
    assert len(lines) == len(catalogue.plug_ins("backends")) + 1 + len(BROKEN) + others


def test_its_workload_and_ours_are_measured_on_its_device(
    commands: dict[str, Done], environment: Environment
) -> None:
    done = commands["run"].result()
    assert done.returncode == 0, done.stderr
    run = read(environment.folder / "chip")
    assert run.run.device["backend"] == "examplium"
    assert [launch.case.workload for launch in run.launches] == ["vector-add"] * 2 + ["gemm"]
    for launch in run.launches:
        assert isinstance(launch.outcome, Measured), launch.outcome
        assert launch.outcome.step_clock == "device event"
        assert launch.environment["device"]["facts"]["driver"] == "2.13.0"
        assert launch.environment["plug_ins"] == {"accelmark-examplium": "1.0"}


def test_the_cpu_works_beside_broken_packages(
    commands: dict[str, Done], environment: Environment
) -> None:
    """And a device that is not there is passed over like any."""
    done = commands["default"].result()
    assert done.returncode == 0, done.stderr
    for name in BROKEN:
        assert f"passed over {flaw(name, 'backend')}" in done.stderr
    assert "passed over examplium: torch sees no device of type examplium." in done.stderr
    run = read(environment.folder / "host")
    assert run.run.device["backend"] == "cpu"
    assert [type(launch.outcome) for launch in run.launches] == [Measured] * 2


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_workload_is_refused_before_anything_runs(
    environment: Environment, name: str
) -> None:
    (environment.folder / f"{name}.toml").write_text(f'[[case]]\nworkload = "{name}"\n')
    done = environment.accelmark("run", f"{name}.toml", "--device", "cpu")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {name}.toml, case 1: {flaw(name, 'workload')}\n"


def test_what_is_installed_is_read_once_for_each_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A record of a thousand cases of nobody's would read all packages' metadata as often."""
    asked: list[str] = []
    real = importlib.metadata.entry_points

    def points(group: str) -> Any:
        asked.append(group)
        return real(group=group)

    monkeypatch.setattr(importlib.metadata, "entry_points", points)
    for folder in (tmp_path / "one", tmp_path / "another"):
        monkeypatch.syspath_prepend(folder)
        for name in ("nobody's", "nor that one's"):
            with pytest.raises(UnknownName, match="unknown workload"):
                catalogue.workload(name)
    assert asked == ["accelmark.workloads"] * 2


@pytest.mark.parametrize("kind", catalogue.CONSTANTS)
def test_a_constant_of_the_wrong_type_is_no_plug_in(
    kind: catalogue.Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one's own file too: a class where an instance belongs is the common slip."""
    protocol = catalogue.PROTOCOLS[kind]
    wrong = catalogue.PlugIn(
        name="x", module=protocol.__module__, attribute=protocol.__name__, package="here"
    )
    monkeypatch.setattr(catalogue, "plug_ins", lambda kind: {"x": wrong})
    with pytest.raises(UnknownName, match=rf"is <class .*, no {protocol.__module__}\."):
        catalogue.load(kind, "x")
