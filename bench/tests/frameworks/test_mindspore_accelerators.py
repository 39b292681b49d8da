"""What MindSpore's accelerators are asked for, and what is said where they break: by a module in
MindSpore's place."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench import catalogue
from bench.backend import DeviceInfo
from bench.backends import ascend
from bench.errors import DeviceUnavailable, NothingInstalled
from bench.framework import Framework
from bench.frameworks.on_mindspore import devices
from bench.measuring.asked import complaint
from bench.precision import PRECISIONS
from bench.telemetry.source import NotObservable
from bench.tests.backends.test_npu_smi import A2, COMMON
from bench.tests.frameworks.plain import FRAMEWORK
from bench.tests.frameworks.test_mindspore_devices import Held, framework, held

__all__ = ["framework", "held"]  # fixtures, used by being here


@pytest.mark.parametrize(
    ("count", "said"),
    [(-1, r"cannot count its Ascends \(Device Ascend not exist"), (0, "sees none")],
)
def test_a_runtime_that_cannot_say_what_is_here_is_one_line(
    held: Held, framework: Framework, count: int, said: str
) -> None:
    held.count = count
    with pytest.raises(DeviceUnavailable, match=said) as caught:
        framework.devices(catalogue.backend("ascend"))
    assert not isinstance(caught.value, NothingInstalled)


@pytest.mark.parametrize("bare", [True, False])
def test_what_kept_it_from_an_accelerator_is_said(
    held: Held, framework: Framework, monkeypatch: pytest.MonkeyPatch, bare: bool
) -> None:
    """News where there is such a device, by its vendor's own tool."""

    def telemetry(index: int) -> Any:
        if bare:
            raise NotObservable("npu-smi is not there")

    backend = catalogue.backend("ascend")
    monkeypatch.setattr(backend, "telemetry", telemetry)
    held.available, held.unloaded = False, "libascendcl.so:\n cannot open"
    said = (
        r"ascend: this MindSpore sees no Ascend \(libascendcl.so: cannot open\)\. Install and set"
    )
    with pytest.raises(DeviceUnavailable, match=said) as caught:
        framework.devices(backend)
    assert isinstance(caught.value, NothingInstalled) is bare


def test_a_process_keeps_to_one_device_and_one_precision(held: Held, framework: Framework) -> None:
    backend = catalogue.backend("ascend")
    for precision in ("fp32", "bf16", "fp32"):
        framework.open(backend, 0, PRECISIONS[precision])
    with pytest.raises(DeviceUnavailable, match=r"can not be set repeatedly.* than tf32"):
        framework.open(backend, 0, PRECISIONS["tf32"])
    with pytest.raises(DeviceUnavailable, match="keeps to one device in a process"):
        framework.open(backend, 1, PRECISIONS["fp32"])


@pytest.mark.parametrize(("value", "seen"), [("1", ""), ("0", "got 0"), (None, "got not set")])
def test_what_lets_the_host_compute_is_looked_at(
    held: Held,
    framework: Framework,
    monkeypatch: pytest.MonkeyPatch,
    value: str | None,
    seen: str,
) -> None:
    """Of a graph; a backend's workers start with 1."""
    name = devices.BACKOFF
    monkeypatch.delenv(name, raising=False)
    if value is not None:
        monkeypatch.setenv(name, value)
    backend = catalogue.backend("ascend")
    assert backend.worker_environment()[name] == "1"
    device = framework.open(backend, 0, PRECISIONS["fp32"])
    said = complaint(framework.switches(device, PRECISIONS["fp32"]))
    assert (seen in said and name in said) if seen else said == ""


def test_its_vendors_tools_tell_of_it(
    held: Held, framework: Framework, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its card, its memory and its health; and versions, by the files that they bring."""
    pages = {("info",): A2, ("info", "-t", "common", "-i", "0"): COMMON}
    monkeypatch.setattr(ascend, "npu_smi", lambda *arguments: pages.get(arguments))
    cann, driver = tmp_path / "compiler" / "version.info", tmp_path / "version.info"
    cann.parent.mkdir()
    cann.write_text("timestamp=1\nVersion=8.3.RC1\n")
    driver.write_text("Version=25.2.0\nascendhal_version=7\n")
    monkeypatch.setenv("ASCEND_HOME_PATH", str(tmp_path))
    monkeypatch.setattr(ascend, "DRIVER", driver)
    device = framework.open(catalogue.backend("ascend"), 0, PRECISIONS["fp32"])
    facts = device.info.facts
    assert (facts["cann"], facts["driver"], facts["card"]) == ("8.3.RC1", "25.2.0", "0")
    assert facts["dies_per_package"] == "1" and device.info.memory_bytes == 65536 * 2**20
    assert device.facts()["aicore_mhz"] == "900"
    driver.unlink()
    (info, _) = framework.devices(catalogue.backend("ascend"))
    assert info.facts["driver"] == "not available"


class Tensor:
    """One of the module's."""

    def __init__(self, values: Any) -> None:
        self.values = values

    def astype(self, dtype: Any) -> Tensor:
        return self

    def asnumpy(self) -> Any:
        return self.values


@pytest.mark.parametrize(
    ("precision", "works", "said"),
    [
        ("fp32", "short", ""),
        ("tf32", "short", ""),
        ("tf32", "float16", "makes another arithmetic: 262657 by 1 gives"),
        ("tf32", "", "keep their whole mantissa here although the switch is on"),
        ("fp8", "short", "accelmark has no MindSpore job for it"),
    ],
)
def test_a_product_on_that_device_says_what_it_computes_in(
    held: Held, framework: Framework, precision: str, works: str, said: str
) -> None:
    """Not on the one that MindSpore would take; a short float32, if its switch is on."""
    module: Any = sys.modules["mindspore"]

    def matmul(a: Tensor, b: Tensor) -> Tensor:
        held.calls.append(("matmul",))
        wide = a.values
        if works and held.hf32["matmul_allow_hf32"] == "1" and not held.mode:
            wide = (a.values.view(np.uint32) & 0xFFFFF000).view(np.float32)
        if works == "float16" and wide is not a.values:
            with np.errstate(over="ignore"):
                wide = a.values.astype(np.float16).astype(np.float32)
        with np.errstate(invalid="ignore"):
            return Tensor(wide @ b.values)

    module.Tensor, module.ops = Tensor, SimpleNamespace(matmul=matmul)
    module.float32 = module.float16 = "a dtype"
    backend = catalogue.backend("ascend")
    info = DeviceInfo(backend="ascend", index=1, name="X", memory_bytes=None)
    assert (framework.unsupported(backend, info, PRECISIONS[precision]) or "") == (
        said if precision == "fp8" else ""
    )
    if precision != "fp8":
        assert held.calls[:2] == [("set_device", "Ascend", 1), ("matmul",)]
    framework.open(backend, 1, PRECISIONS[precision])
    assert said in (framework.unsupported(backend, info, PRECISIONS[precision]) or "")
    assert bool(framework.unsupported(backend, info, PRECISIONS[precision])) is bool(said)


@pytest.mark.parametrize(("failures", "refused"), [(0, False), (1, False), (2, True)])
def test_a_failure_of_what_was_tried_before_refuses_nothing(
    held: Held, framework: Framework, failures: int, refused: bool
) -> None:
    """MindSpore tells the next product of it; what is refused for itself fails again."""
    module: Any = sys.modules["mindspore"]
    left = iter(range(failures))

    def matmul(a: Tensor, b: Tensor) -> Tensor:
        if next(left, None) is not None:
            raise RuntimeError("Unsupported op [MatMul] on CPU")
        return Tensor(a.values @ b.values)

    module.Tensor, module.ops = Tensor, SimpleNamespace(matmul=matmul)
    module.float32 = module.float16 = "a dtype"
    info = DeviceInfo(backend="ascend", index=1, name="X", memory_bytes=None)
    found = framework.unsupported(catalogue.backend("ascend"), info, PRECISIONS["fp16"])
    assert (found or "").startswith("MindSpore has no such product here (Unsup") is refused
    assert bool(found) is refused


def test_no_process_asks_for_devices_that_it_does_not_know(framework: Framework) -> None:
    known = [name for name in catalogue.plug_ins("backends") if name != "generic"]
    assert {n for n in known if framework.reaches(catalogue.backend(n))} == {"ascend", "cpu"}
    assert {n for n in known if FRAMEWORK.reaches(catalogue.backend(n))} == {*known}
