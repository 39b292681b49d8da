"""A pytest run that is none of ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench import pytest_plugin, suite
from bench.tests.pytest_plugin.inner import Run

MODULES = sorted(file.stem for file in Path(pytest_plugin.__file__).parent.glob("[!_]*.py"))
OURS = ["bench.pytest_plugin", *(f"bench.pytest_plugin.{name}" for name in MODULES)]
"""The plug-in's own modules: all of accelmark that is imported."""

PLAIN = """
import sys

def pytest_unconfigure():
    heavy = [m for m in sys.modules if m.split(".")[0] in ("torch", "transformers", "bench")]
    with open("modules.txt", "w") as file:
        file.write(" ".join(sorted(heavy)))
"""


@pytest.mark.parametrize("off", [(), ("-p", "no:benchmark")], ids=["with", "without"])
def test_a_run_of_something_else_is_left_alone(tmp_path: Path, off: tuple[str, ...]) -> None:
    """No import, no word, nothing in saved files; and no need of pytest-benchmark."""
    (tmp_path / "conftest.py").write_text(PLAIN)
    use = "benchmark" if not off else ""
    (tmp_path / "test_own.py").write_text(
        f"def test_own({use}): {use or 'len'}({'len, ' * (not off)}'')\n"
    )
    options = () if off else ("--benchmark-json=own.json", "--benchmark-max-time=0.01")
    run = Run(tmp_path, "-W", "error", *off, *options)
    assert run.code == 0 and run.outcomes == {"passed": 1}, run.out
    assert (tmp_path / "modules.txt").read_text().split() == OURS
    words = [line for line in run.out.splitlines() if "accelmark" in line]
    assert all(line.startswith("plugins: ") for line in words)
    if not off:
        assert "accelmark" not in (tmp_path / "own.json").read_text()
        again = Run(tmp_path, "--benchmark-compare=own.json", "--benchmark-max-time=0.01")
        assert again.code == 0, again.out + again.err
        assert (tmp_path / "modules.txt").read_text().split() == OURS


@pytest.mark.parametrize("place", ["bench", "tests/bench"])
def test_a_project_keeps_a_package_of_our_name(tmp_path: Path, place: str) -> None:
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / "__init__.py").touch()
    (tmp_path / place / "own.py").write_text("VALUE = 7")
    (tmp_path / "pytest.ini").touch()
    (tmp_path / place / "conftest.py").write_text("from bench.own import VALUE")
    (tmp_path / place / "test_own.py").write_text("def test_own():\n    from bench import own")
    done = subprocess.run(
        [sys.executable, "-P", "-c", "import pytest; pytest.main()", "-q"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert "1 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("place", ["microbench/suite", "bench/suite"])
def test_a_folder_of_a_like_name_is_not_ours(tmp_path: Path, place: str) -> None:
    """Its tests may run side by side."""
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / "test_own.py").write_text("def test_own(): pass\n")
    run = Run(tmp_path, f"{place}/test_own.py::test_own", PYTEST_XDIST_WORKER="gw0")
    assert run.code == 0 and run.outcomes == {"passed": 1}, run.out + run.err


FOLDER = Path(suite.__file__).parent


@pytest.mark.parametrize(
    "named",
    [
        ("--pyargs", "bench.suite"),
        ("--pyargs", "bench.suite.test_workloads::gemm[8x8x8]"),
        (str(FOLDER),),
        (f"{FOLDER / 'test_workloads.py'}::gemm[8x8x8]",),
        ("here/test_workloads.py",),
    ],
    ids=["package", "item", "folder", "item of a file", "link"],
)
def test_the_suite_is_known_by_every_name_it_has(tmp_path: Path, named: tuple[str, ...]) -> None:
    (tmp_path / "here").symlink_to(FOLDER)
    run = Run(tmp_path, *named, PYTEST_XDIST_WORKER="gw0")
    assert run.code == pytest.ExitCode.USAGE_ERROR and "under pytest-xdist" in run.err, run.err
