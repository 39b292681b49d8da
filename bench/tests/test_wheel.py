"""The wheel: what is in it, what is not, how large it is, and that it works without a clone."""

from __future__ import annotations

import email
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import bench

PACKAGE = Path(bench.__file__).parent
CLONE = PACKAGE.parent
LARGEST_BYTES = 1_212_000
"""Of all but the guide: a fifth of it is work over several devices, a tenth a step taken apart,
another tenth serving, a fiftieth another framework, and a thirtieth what holds timed values to
float64."""
LARGEST_GUIDE_BYTES = 76_000
"""Of the guide's pages, compressed."""
pytestmark = pytest.mark.skipif(
    not (CLONE / "pyproject.toml").exists(), reason="an installed package is not built again"
)
BUILD = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(folder)], cwd=CLONE, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as file:
        return set(file.namelist())


def test_it_holds_every_module_and_the_files_that_they_read(names: set[str]) -> None:
    ours = {
        file.relative_to(CLONE).as_posix()
        for file in PACKAGE.rglob("*")
        if file.suffix in (".py", ".j2", ".css", ".js", ".typed", ".md")
        and "tests" not in file.relative_to(PACKAGE).parts
    }
    assert "bench/py.typed" in ours and "bench/reports/page/html.j2" in ours
    assert ours <= names
    configs = {f"bench/configs/{file.name}" for file in (CLONE / "configs").glob("*.toml")}
    assert len(configs) > 5 and configs <= names


def test_it_holds_nothing_else(names: set[str]) -> None:
    """No test, no fake vendor, no fixture, no cache: they are for a clone."""
    folders = {name.partition("/")[0] for name in names}
    assert folders == {"bench", f"accelmark-{bench.__version__}.dist-info"}
    assert [name for name in names if "/tests/" in name or "__pycache__" in name] == []
    kinds = {Path(name).suffix for name in names if name.startswith("bench/")}
    assert kinds <= {".py", ".j2", ".css", ".js", ".json", ".typed", ".toml", ".md"}


def test_it_is_small(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        pages = [info for info in file.infolist() if info.filename.endswith(".md")]
    guide = sum(page.compress_size for page in pages)
    assert {Path(page.filename).parent.as_posix() for page in pages} == {"bench/guide"}
    assert 0 < guide < LARGEST_GUIDE_BYTES
    assert wheel.stat().st_size - guide < LARGEST_BYTES


def test_it_names_its_entry_points_and_needs(wheel: Path) -> None:
    info = f"accelmark-{bench.__version__}.dist-info"
    with zipfile.ZipFile(wheel) as file:
        points = file.read(f"{info}/entry_points.txt").decode()
        metadata = email.message_from_bytes(file.read(f"{info}/METADATA"))
    assert "accelmark = bench.__main__:main" in points
    assert "[pytest11]\naccelmark = bench.pytest_plugin" in points
    assert "torch>=2.6" in metadata.get_all("Requires-Dist", [])


def test_it_works_from_the_archive_laid_out(wheel: Path, tmp_path: Path) -> None:
    """As pip lays it out: suites, chips, plug-ins and templates are found, without a clone."""
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / "site")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "PYTHONSAFEPATH": "1"}

    def accelmark(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "bench", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            encoding="utf-8",
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    listed = json.loads(accelmark("list", "--json"))
    assert "quick@2" in listed["suites"] and "cuda" in listed["backends"]
    assert "llama" in listed["workloads"] and "html" in listed["reports"]
    record = PACKAGE / "tests" / "golden" / "run.jsonl"
    assert accelmark("report", str(record), "--format", "html").startswith("<!doctype html>")
    assert accelmark("guide", "trouble").startswith("# When something goes wrong")
    where = "import bench; print(bench.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", where], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert Path(done.stdout.strip()).is_relative_to(tmp_path), "it is the wheel that was tried"
