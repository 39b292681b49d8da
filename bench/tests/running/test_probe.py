"""Probing, with runtimes that break in every way; and which device is chosen."""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from bench import catalogue
from bench.backend import Backend, DeviceInfo, DeviceUnavailable
from bench.errors import UnknownName
from bench.precision import Precision
from bench.records import cpu_limits, environment
from bench.running import probe
from bench.running.elsewhere import HERE
from bench.running.probe import Found, choose_of

pytestmark = pytest.mark.usefixtures("forked")


def broken_child(code: str) -> Found:
    """What is found of a backend whose runtime is this code."""
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    return probe.finish("fake", child)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (
            "raise ImportError('libhccl.so: cannot open shared object file')",
            "fake: its runtime fails (exit 1: ImportError: libhccl.so: cannot open shared object "
            "file)",
        ),
        ("import os; os._exit(3)", "fake: its runtime fails (exit 3)"),
        ("import os; os.kill(os.getpid(), 11)", "fake: its runtime fails (exit -11)"),
        ("print('hello')", "fake: its runtime fails (exit 0)"),
        ("import sys; sys.stdout.buffer.write(b'\"\\xff\"')", "fake: its runtime fails (exit 0)"),
    ],
    ids=["import error", "exit", "signal", "chatter", "not UTF-8"],
)
def test_a_broken_runtime_is_one_line_with_its_cause(code: str, reason: str) -> None:
    assert broken_child(code) == Found(backend="fake", reason=f"{reason}. {probe.REPAIR}")


def test_a_runtime_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "LIMIT_SECONDS", 1.0)
    found = broken_child("import time; time.sleep(600)")
    assert found == Found(
        backend="fake", reason=f"fake: its runtime did not load in 1 s. {probe.REPAIR}"
    )


def test_a_runtime_that_prints_is_understood_all_the_same() -> None:
    line = '{"backend": "fake", "reason": "fake: none here"}'
    found = broken_child(f"print('Vendor runtime 1.2'); print({line!r})")
    assert found == Found(backend="fake", reason="fake: none here")


FIRST = '{"backend":"fake","devices":[{"backend":"fake","index":0,"name":"x","memory_bytes":1}]}'


@pytest.mark.parametrize(
    ("end", "why"),
    [
        ("import os; os.kill(os.getpid(), 4)", "exit -4"),
        ("import time; time.sleep(600)", "5 s were over"),
    ],
    ids=["crash", "hang"],
)
def test_a_job_that_ends_the_probe_costs_no_device(
    monkeypatch: pytest.MonkeyPatch, end: str, why: str
) -> None:
    monkeypatch.setattr(probe, "LIMIT_SECONDS", 5.0)
    (device,) = broken_child(f"print({FIRST!r}, flush=True); {end}").devices
    assert device.facts["read_back"] == (
        f"not observable: a small job on it ended its process ({why})"
    )


def test_what_the_libraries_did_is_a_fact_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a worker's environment, by a real child; once, and not where a worker measures."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    device, *_ = choose_of("cpu")
    assert device.facts["instructions_used"] and device.facts["threads_used"] == "1"
    forced, *_ = choose_of("cpu", forced={"OMP_NUM_THREADS": "2"})
    if cpu_limits.affinity_cores() > 1:
        assert forced.facts["threads_used"] == "2", "other loops had made the pool before"


def test_what_is_computed_by_reference_code_is_said_with_the_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def slow(_: object, info: DeviceInfo, precision: Precision) -> str | None:
        asked.append(precision.name)
        if precision.quantized is not None:
            raise RuntimeError("no such product")
        return f"{info.name} has none" if precision.arithmetic == "bf16" else None

    backend, framework = catalogue.backend("cpu"), catalogue.framework("torch")
    runs = ("bf16", "bf16-amp", "fp32", "int4-weights", "int8")
    monkeypatch.setattr(type(backend), "slow", slow)
    monkeypatch.setattr(probe, "supported_precisions", lambda *_: dict.fromkeys(runs))
    info = DeviceInfo(backend="cpu", index=0, name="CPU", memory_bytes=None)
    (found,) = probe._labelled(framework, backend, [info])
    assert found.precisions == runs
    assert found.slow == {"bf16": "CPU has none", "bf16-amp": "CPU has none"}
    assert asked == ["bf16", "fp32", "int4-weights", "int8"], "alike once"


def test_threads_beyond_the_quota_are_said_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cpu_limits, "quota_cores", lambda *_: 1.5)
    many = msgspec.structs.replace(info("cpu", 0), facts={"threads_used": "4"})
    assert probe.held_back(many) == (
        "4 threads on a CPU quota of 1.5 cores: every launch will be held back. To avoid that, "
        "set OMP_NUM_THREADS=1, or raise the quota to 4 or more."
    )
    one = msgspec.structs.replace(many, facts={"threads_used": "1"})
    assert probe.held_back(one) == "" == probe.held_back(info("cuda", 0))


def test_the_probe_finds_the_cpu_and_says_what_is_missing() -> None:
    """Two real children, at once."""
    found = {one.backend: one for one in probe.probe(["cpu", "cuda"])}
    (cpu,) = found["cpu"].devices
    assert cpu.address == "cpu" and cpu.facts["torch"]
    assert found["cuda"].devices or found["cuda"].reason.startswith("cuda: ")


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> dict[str, Found]:
    """What each backend finds, by script; nothing is installed for the others."""
    found = {
        "cpu": Found(backend="cpu", devices=(info("cpu", 0),)),
        "cuda": Found(backend="cuda", devices=(info("cuda", 0), info("cuda", 1))),
    }
    nothing = "nothing is installed for it"
    monkeypatch.setattr(
        probe,
        "probe",
        lambda names, *_: [
            found.get(name, Found(backend=name, reason=nothing, installed=False)) for name in names
        ],
    )
    return found


def info(backend: str, index: int) -> DeviceInfo:
    return DeviceInfo(backend=backend, index=index, name="x", memory_bytes=1)


def test_the_default_is_an_accelerator_and_else_the_cpu(scripted: dict[str, Found]) -> None:
    device, remarks, _ = choose_of(None)
    assert (device.address, remarks) == ("cuda:0", [])
    scripted["cuda"] = Found(backend="cuda", reason="cuda: no driver")
    device, remarks, _ = choose_of(None)
    assert (device.address, remarks) == ("cpu", ["cuda: no driver"])
    scripted["cpu"] = Found(backend="cpu", reason="cpu: torch does not load")
    with pytest.raises(
        DeviceUnavailable,
        match=r"no device can be used:\n  - .*cuda: no driver\n  - cpu: torch does",
    ):
        choose_of(None)


def test_a_backend_made_for_a_device_goes_before_the_generic_one_and_the_host_comes_last() -> None:
    order = probe.in_order(["cpu", "cuda", "generic", "xpu", "a-packages-own"])
    assert order == ["cuda", "xpu", "a-packages-own", "generic", "cpu"]


def test_what_is_installed_and_broken_is_said_and_what_is_not_installed_is_not(
    scripted: dict[str, Found],
) -> None:
    scripted["cuda"] = Found(backend="cuda", reason="cuda: nothing", installed=False)
    scripted["ascend"] = Found(backend="ascend", reason="ascend: CANN is missing")
    device, remarks, _ = choose_of(None)
    assert (device.address, remarks) == ("cpu", ["ascend: CANN is missing"])


@pytest.mark.parametrize(
    ("address", "chosen"),
    [("cpu", "cpu"), ("cpu:0", "cpu"), ("cuda", "cuda:0"), ("cuda:1", "cuda:1")],
)
@pytest.mark.usefixtures("scripted")
def test_a_device_by_its_address(address: str, chosen: str) -> None:
    assert choose_of(address)[0].address == chosen


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        ("cud", UnknownName, "--device cud: unknown backend `cud`. Did you mean `cuda`? Allowed: "),
        ("", UnknownName, "--device : unknown backend ``."),
        ("cuda:x", DeviceUnavailable, "--device cuda:x: `x` is not a device index. Write cuda:0."),
        ("cuda:-1", DeviceUnavailable, "--device cuda:-1: `-1` is not a device index."),
        (
            "cuda:2",
            DeviceUnavailable,
            "--device cuda:2: there is no such device. Here: cuda:0, cuda:1.",
        ),
        ("cpu:1", DeviceUnavailable, "--device cpu:1: there is no such device. Here: cpu."),
    ],
)
@pytest.mark.usefixtures("scripted")
def test_a_device_that_is_not_there(address: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        choose_of(address)
    assert str(caught.value).startswith(message)


def test_a_backend_without_a_device_says_why(scripted: dict[str, Found]) -> None:
    scripted["cuda"] = Found(backend="cuda", reason="cuda: no driver. Install it.")
    with pytest.raises(DeviceUnavailable) as caught:
        choose_of("cuda:0")
    assert str(caught.value) == "--device cuda:0: cuda: no driver. Install it."


def test_a_third_partys_backend_that_does_not_load_spoils_no_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`accelmark devices` names it and goes on."""
    (tmp_path / "broken_backend.py").write_text("raise RuntimeError('old version')")
    monkeypatch.syspath_prepend(str(tmp_path))
    real = catalogue.plug_ins
    extra = catalogue.PlugIn(
        name="broken", module="broken_backend", attribute="BACKEND", package="x"
    )
    monkeypatch.setattr(
        catalogue,
        "plug_ins",
        lambda kind: {**real(kind), **({"broken": extra} if kind == "backends" else {})},
    )
    (found,) = probe.probe(["broken"])
    assert not found.devices
    assert found.reason.startswith("backend `broken` (from the package x) does not load: ")
    assert "old version" in found.reason


def test_a_third_partys_backend_that_fails_when_asked_spoils_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def raising(name: str) -> Backend:
        raise TypeError("no licence file")

    monkeypatch.setattr(catalogue, "backend", raising)
    (found,) = probe.probe(["theirs"])
    assert found.reason == f"theirs: its backend fails (no licence file). {probe.REPAIR}"


def test_the_environment_of_a_probe_is_the_backends() -> None:
    """So that no vendor's plug-in is loaded where another's device is looked for."""
    child = probe.start("cpu", HERE, {}, contextlib.ExitStack())
    assert isinstance(child, subprocess.Popen)
    try:
        environ = Path(f"/proc/{child.pid}/environ")
        if not environ.exists():
            pytest.skip("no /proc")
        while not (text := environ.read_bytes()) and child.poll() is None:
            pass  # it has not become the new program yet
        if "TORCH_DEVICE_BACKEND_AUTOLOAD" not in os.environ:
            assert b"TORCH_DEVICE_BACKEND_AUTOLOAD=0" in text
    finally:
        child.kill()
        child.communicate()


# --- Where the CPU is what failed ----------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="what is in /proc")
def test_a_machine_without_proc_is_not_sent_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor by any other backend, whose advice is the CPU where that is there."""
    import psutil

    from bench.backends.cpu import BACKEND

    def missing() -> object:
        raise FileNotFoundError(2, "No such file or directory", "/proc/meminfo")

    monkeypatch.setattr(psutil, "virtual_memory", missing)
    with pytest.raises(DeviceUnavailable, match=r"cpu: .*/proc/meminfo.* Mount it \(mount -t proc"):
        BACKEND.devices()
    assert environment.host()["memory_bytes"] is None, "a device's run goes on without"


BROKEN = Found(backend="cpu", reason=f"cpu: its runtime fails (exit 1). {probe.REPAIR}")


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("x: none here. Check it, or pass --device cpu.", "x: none here. Check it."),
        ("x: none here. Install it, or use --device cpu.", "x: none here. Install it."),
        ("x: this is no Mac. Pass --device cpu.", "x: this is no Mac."),
        ("x: none here. Install it.", "x: none here. Install it."),
    ],
)
def test_nobody_is_sent_to_a_cpu_that_failed(
    monkeypatch: pytest.MonkeyPatch, said: str, left: str
) -> None:
    host = DeviceInfo(backend="cpu", index=0, name="x", memory_bytes=1)
    answers = {"x": Found(backend="x", reason=said), "cpu": BROKEN}
    monkeypatch.setattr(probe, "start", lambda name, *_: answers[name])
    other, cpu = probe.probe(["x", "cpu"])
    assert (other.reason, cpu.reason) == (
        left,
        "cpu: its runtime fails (exit 1). Repair or uninstall it.",
    )
    answers["cpu"] = Found(backend="cpu", devices=(host,))
    assert probe.probe(["x", "cpu"])[0].reason == said


@pytest.mark.parametrize("name", [n for n in catalogue.plug_ins("backends") if n != "cpu"])
def test_no_backend_words_that_advice_otherwise(name: str) -> None:
    """What it says here, and what its file may say elsewhere."""
    (found,) = probe.probe([name])
    assert "--device cpu" not in probe.not_to_the_host(found).reason
    backend = Path(inspect.getfile(type(catalogue.backend(name))))
    advice = re.findall(r"(\w+) --device cpu", backend.read_text(encoding="utf-8"))
    assert set(advice) <= {"pass", "use", "Pass", "Use"}
