"""What installed packages bring: whose version it is, and whose name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import api, catalogue
from bench.commands import check_backend
from bench.commands.listing import _listing
from bench.errors import AccelmarkError, MissingPackage, UnknownName
from bench.planning import plan
from bench.running import probe
from bench.running.elsewhere import HERE
from bench.tests.values import make_file

CODE = """
from bench.backends.cpu import BACKEND
from bench.errors import MissingPackage
from bench.report import Report
from bench.workloads.gemm import WORKLOAD

class TheirReport(Report):
    def render(self, runs, canvas):
        raise {"wide": KeyError("rows"), "plain": MissingPackage("pip install it")}[
            "wide" if canvas.wide else "plain"
        ]

REPORT = TheirReport()
"""
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a package of plug-ins, each `kind=name`."""

    def installed(package: str, version: str, **plug_ins: str) -> None:
        folder = tmp_path / f"{package}-{version}"
        info = folder / f"{package}-{version}.dist-info"
        info.mkdir(parents=True)
        head = f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
        (info / "METADATA").write_text(head)
        points = [f"[accelmark.{kind}]\n{name} = {package}" for kind, name in plug_ins.items()]
        (info / "entry_points.txt").write_text("\n".join(points))
        (folder / f"{package}.py").write_text(CODE)
        monkeypatch.syspath_prepend(folder)
        monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)

    return installed


def test_a_package_is_named_with_its_version_where_it_is_used(install: Install) -> None:
    install("theirs", "1.2", workloads="their-work", backends="their-chip")
    install("unused", "3", workloads="other-work", reports="their-report")
    used = catalogue.versions
    assert used("gemm", "cpu", "torch") == {}
    assert used("their-work", "cpu", "torch") == used("gemm", "their-chip", "torch")
    assert used("their-work", "their-chip", "torch") == {"plug_ins": {"theirs": "1.2"}}
    assert used("nobody's", "cpu", "torch") == {}


def test_a_name_that_is_taken_is_said(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever installs it would look for it in vain, and measure with another one."""
    install("second", "1", workloads="their-work")
    install("first", "1", backends="cpu", workloads="their-work")
    assert catalogue.plug_ins("workloads")["their-work"].package == "first"
    whys = {
        "backends": ("cpu (first)", "from the package first, not used: accelmark has one of"),
        "workloads": ("their-work (second)", "from the package second, not used: first has one of"),
    }
    for kind, (name, why) in whys.items():
        assert _listing(kind)[name] == f"{why} that name"
    with pytest.raises(UnknownName, match=r"is not used: first has one of that name\. Repair or "):
        catalogue.workload("their-work (second)")
    assert "their-work" in catalogue.usable("workloads")
    told = (
        lambda: catalogue.workload("their-work (secnd)"),
        lambda: probe.chosen("cpu (frst)", probe.probe),
        lambda: check_backend._device("cpu (frst)", 0, HERE),
        lambda: plan._workload("case 1", {}),
    )
    for asked in told:
        with pytest.raises(AccelmarkError, match=r"Allowed: [^(]*$"):
            asked()
    (found,) = probe.probe(["cpu (first)"])
    assert found.reason == (
        "backend `cpu (first)` (from the package first) is not used: accelmark has one of that "
        "name. Repair or uninstall that package."
    )
    assert catalogue.backend("cpu").name == "cpu" and not catalogue.plug_ins("backends")["cpu"].flaw
    said: list[str] = []
    monkeypatch.setattr(check_backend, "say", said.append)
    monkeypatch.setattr(probe, "probe", lambda names: [probe.Found(backend="cpu", reason="none")])
    with pytest.raises(Exception, match="none"):
        check_backend._device("cpu", 0, HERE)
    assert said == ["cpu (first): not used: accelmark has one of that name"]


def test_a_report_that_fails_is_its_packages(install: Install) -> None:
    install("theirs", "1.2", reports="their-report")
    run = make_file([], [])
    with pytest.raises(UnknownName) as caught:
        api.render(run, "their-report", wide=True)
    assert str(caught.value) == (
        "report `their-report` (from the package theirs) fails: 'rows'. Repair or uninstall that "
        "package."
    )
    with pytest.raises(MissingPackage, match="pip install it"):
        api.render(run, "their-report")


def test_what_lies_in_the_current_folder_is_not_installed(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`python -m` looks there, and no worker does."""
    install("theirs", "1.2", backends="their-chip")
    for safe in ("", "1"):
        monkeypatch.setenv("PYTHONSAFEPATH", safe)
        monkeypatch.setenv("PYTHONPATH", str(Path(catalogue.__file__).parent.parent))
        words = [sys.executable, "-m", "bench", "list", "backends"]
        done = subprocess.run(words, cwd=tmp_path / "theirs-1.2", capture_output=True, text=True)
        assert "cpu" in done.stdout and "their-chip" not in done.stdout, done.stderr


def test_what_no_launch_sees_is_said_before_one_is_started(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As beside a script, or in the current folder of pytest. A report needs no launch, and what
    the site knows is seen."""
    names = {"workloads": "their-work", "reports": "their-report"}
    install("theirs", "1.2", **names)
    monkeypatch.delenv("PYTHONPATH")
    folder = tmp_path / "theirs-1.2"
    said = f"(from the package theirs) is not used: it lies in {folder}, where no launch looks. "
    suite = tmp_path / "suite.toml"
    suite.write_text('[[case]]\nworkload = "their-work"\n')
    with pytest.raises(AccelmarkError) as caught:
        api.run_suite(suite, device="cpu", out=tmp_path)
    assert str(caught.value).endswith(f"workload `their-work` {said}Install that package.")
    assert catalogue.usable("workloads") == list(catalogue._ours("workloads"))
    assert not catalogue.plug_ins("reports")["their-report"].flaw
    install("also", "1", workloads="their-work")
    monkeypatch.syspath_prepend(folder)
    assert catalogue.plug_ins("workloads")["their-work"].package == "also"
    monkeypatch.setattr(catalogue, "_looked_in", lambda given: {str(folder)})
    catalogue._installed.cache_clear()
    assert catalogue.plug_ins("workloads")["their-work"].package == "theirs"


def test_what_is_installed_from_its_own_folder_is_seen_from_there(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """setuptools leaves what it built beside the source, and that is found first there."""
    install("theirs", "1.2", workloads="their-work")
    monkeypatch.delenv("PYTHONPATH")
    assert catalogue.plug_ins("workloads")["their-work"].flaw
    site = tmp_path / "site"
    shutil.copytree(tmp_path / "theirs-1.2", site)
    monkeypatch.setattr(catalogue, "_looked_in", lambda given: frozenset({str(site)}))
    catalogue._installed.cache_clear()
    assert not catalogue.plug_ins("workloads")["their-work"].flaw
