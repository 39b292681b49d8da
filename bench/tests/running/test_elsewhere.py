"""Another framework in another interpreter: which, and what it finds there."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from bench import catalogue
from bench.backend import DeviceInfo
from bench.backends.cpu import CpuBackend
from bench.errors import DeviceUnavailable, RecordError, SuiteError, UnknownName
from bench.records import environment
from bench.records.run import Settings
from bench.records.runfile import read
from bench.running import probe, reached
from bench.running.elsewhere import HERE, Elsewhere, elsewhere, named_after, require_alone
from bench.running.header import begin
from bench.running.resume import resume
from bench.tests.values import make_case, make_launch, make_measured

HIDDEN = ["torch", "transformers", "diffusers", "peft", "rich", "click", "plotly", "jinja2"]
"""What an interpreter elsewhere need not have."""
OLD = """\
echo "Unknown option: -P" >&2
echo "usage: python [option] ... [-c cmd | -m mod | file | -] [arg] ..." >&2
exit 2
"""
"""As a Python before 3.11 ends, started as it is here."""


def test_torch_runs_here_and_nowhere_else() -> None:
    assert elsewhere(None, None) == elsewhere("torch", None) == HERE
    with pytest.raises(DeviceUnavailable, match="--framework mindspore"):
        elsewhere(None, sys.executable)
    with pytest.raises(UnknownName, match=r"unknown framework `mindspor`.* Did you mean"):
        elsewhere("mindspor", None)


def test_an_interpreter_is_named_by_option_or_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    variable = named_after("mindspore")
    assert variable == "ACCELMARK_MINDSPORE_PYTHON"
    monkeypatch.setenv(variable, "/bin/sh")
    assert elsewhere("mindspore", None) == Elsewhere("mindspore", "/bin/sh")
    assert elsewhere("mindspore", sys.executable).python == sys.executable
    monkeypatch.setenv(variable, "/no/such")
    with pytest.raises(DeviceUnavailable, match=f"{variable}=/no/such: there is no such program"):
        elsewhere("mindspore", None)
    with pytest.raises(DeviceUnavailable, match="--python /nor/this"):
        elsewhere("mindspore", "/nor/this")
    monkeypatch.delenv(variable)
    assert elsewhere("mindspore", None).python == sys.executable


def test_what_only_torch_does_is_refused() -> None:
    require_alone(HERE, object(), explain=True)
    with pytest.raises(SuiteError, match="--explain"):
        require_alone(Elsewhere("other"), None, explain=True)
    with pytest.raises(SuiteError, match="on one host"):
        require_alone(Elsewhere("other"), object(), explain=False)


def test_an_interpreter_that_fails_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/bin/false is no Python; it says nothing and ends. Another lacks a package."""
    monkeypatch.setenv(named_after("mindspore"), "/bin/false")
    (found,) = reached.by_frameworks()
    assert found.reason == "mindspore: its runtime fails (exit 1). Repair or uninstall it."
    lacking = tmp_path / "python"
    last = "ModuleNotFoundError: No module named 'msgspec'"
    lacking.write_text(f'#!/bin/sh\necho "{last}" >&2\nexit 1\n')
    lacking.chmod(0o755)
    monkeypatch.setenv(named_after("mindspore"), str(lacking))
    (found,) = reached.by_frameworks()
    assert found.reason == (
        f"mindspore: {lacking} has no msgspec. Install it there: {lacking} -m pip install msgspec"
    )
    lacking.write_text('#!/bin/sh\n[ "$1" = -V ] && exec echo "Python 3.9.2"\n' + OLD)
    (found,) = reached.by_frameworks()
    assert found.reason == (
        f"mindspore: {lacking} is Python 3.9.2, and accelmark takes 3.11 or later. Name one with "
        "mindspore that is: --python PATH."
    )
    monkeypatch.setenv(named_after("mindspore"), "/no/such")
    (found,) = reached.by_frameworks()
    assert found.reason.startswith("mindspore: ACCELMARK_MINDSPORE_PYTHON=/no/such: there is no ")
    assert not found.devices and found.framework == "mindspore"


def test_torchs_interpreter_that_cannot_run_this_package_is_told_from_its_runtime(
    tmp_path: Path,
) -> None:
    """By `ab --python`: the CPU's runtime needs no repair."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\n[ "$1" = -V ] && exec echo "Python 3.10.4"\n' + OLD)
    python.chmod(0o755)
    (found,) = probe.probe(["cpu"], str(python))
    assert found.reason == (
        f"cpu: {python} is Python 3.10.4, and accelmark takes 3.11 or later. Name one with torch "
        "that is: --python PATH."
    )
    python.write_text("#!/bin/sh\n" + OLD)
    (found,) = probe.probe(["cpu"], str(python))
    assert f"cpu: {python} is an older Python, and" in found.reason
    python.write_text(f"#!/bin/sh\n{sys.executable} -c 'import not_there'\n")
    (found,) = probe.probe(["cpu"], str(python))
    assert found.reason.startswith(f"cpu: {python} has no not_there. Install it there: {python}")


def test_a_device_that_is_not_reached_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never another in its place."""
    host = DeviceInfo(backend="cpu", index=0, name="X", memory_bytes=None)
    found = [probe.Found(backend="cpu", devices=(host,), framework="other")]
    monkeypatch.setattr(reached, "ask", lambda where, names=(): found)
    where = Elsewhere("other")
    assert reached.choose_by(where, None).device == reached.choose_by(where, "cpu").device == host
    with pytest.raises(DeviceUnavailable, match=r"other reaches no mps here\. Reached: cpu\."):
        reached.choose_by(where, "mps:0")
    found = [probe.Found(backend="cpu", reason="other: it does not load.", installed=False)]
    for address in (None, "cpu", "mps"):
        with pytest.raises(DeviceUnavailable, match="other: it does not load"):
            reached.choose_by(where, address)


ASKED = """#!/bin/sh
for last; do :; done
echo "$last" >> {0}
case "$last" in
other@gpu) kill -11 $$ ;;
*) echo '{{"backend":"cpu","framework":"other","devices":[{{"backend":"cpu","index":0,"name":"X",\
"memory_bytes":1}}]}}' ;;
esac
"""
"""A Python whose framework breaks as it looks for an accelerator."""


def test_each_backend_is_asked_in_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, python = tmp_path / "asked", tmp_path / "python"
    python.write_text(ASKED.format(log))
    python.chmod(0o755)
    known = {"cpu": True, "gpu": True, "mps": False}
    monkeypatch.setattr(catalogue, "plug_ins", lambda kind: known)
    monkeypatch.setattr(reached, "_may_reach", lambda framework, backend: known[backend])
    monkeypatch.setattr(catalogue, "backend", lambda name: CpuBackend())
    where = Elsewhere("other", str(python))

    def asked(address: str | None) -> tuple[set[str], probe.Chosen]:
        log.write_text("")
        chosen = reached.choose_by(where, address)
        return {*log.read_text().split()} - {"-V"}, chosen  # its version, as it fails

    names, chosen = asked(None)
    assert names == {"other@cpu", "other@gpu"}
    assert chosen.device.address == "cpu"
    (said,) = chosen.remarks
    assert said.startswith("other on gpu: its runtime fails (exit -11). Repair or uninstall it")
    names, chosen = asked("cpu")
    assert names == {"other@cpu"} and not chosen.remarks
    with pytest.raises(DeviceUnavailable, match="--device gpu: other on gpu: its runtime fails"):
        reached.choose_by(where, "gpu")
    with pytest.raises(DeviceUnavailable, match=r"other reaches no mps here\. Reached: cpu"):
        reached.choose_by(where, "mps")


def test_a_run_elsewhere_goes_on_whatever_is_installed_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its versions are facts of the device, which are held to what they were."""
    monkeypatch.setattr(environment, "host", lambda: {"packages": {"torch": "2.13.0"}})
    host = DeviceInfo(backend="cpu", index=0, name="X", memory_bytes=1, facts={"other": "1.0"})
    case, path = make_case(), tmp_path / "run.jsonl"
    header = ("id", "fake", [case], Settings(), host, ["accelmark", "run"])
    with contextlib.closing(begin(path, *header, framework="other")) as writer:
        said = {"packages": {"other": "1.0"}, "python": "3.1.0"}
        writer.append(make_launch(make_measured(), case, environment=said))
    file = read(path)
    assert file.run.framework == "other"
    resume(file, host, []).close()
    newer = msgspec.structs.replace(host, facts={"other": "1.1"})
    with pytest.raises(RecordError, match="device facts was"):
        resume(read(path), newer, [])


def test_a_worker_needs_no_torch() -> None:
    """With torch and the rest hidden, all that a worker loads can be imported."""
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({HIDDEN}))\n"
        "import bench.measuring.worker, bench.running.probe\n"
        "from bench import catalogue\n"
        "for kind in ('workloads', 'frameworks', 'backends'):\n"
        "    for name in catalogue.plug_ins(kind): catalogue.load(kind, name)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
