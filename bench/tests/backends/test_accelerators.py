"""Every accelerator's backend: plug-ins, what is not installed, what voids a measurement."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from bench import catalogue
from bench.backends import _torch_device
from bench.backends._torch_device import torch_build
from bench.measuring import surroundings
from bench.records import environment

FALLS_BACK = """
import warnings
warnings.warn("The operator 'aten::x' will fall back to run on the CPU.")
"""
ACCELERATORS = sorted(set(catalogue.plug_ins("backends")) - {"cpu"})


@pytest.mark.parametrize("name", ACCELERATORS)
def test_no_accelerators_backend_lets_torch_load_plug_ins_by_itself(name: str) -> None:
    backend = catalogue.backend(name)
    assert backend.worker_environment()[_torch_device.AUTOLOAD] == "0"
    assert backend.vendor and all(reason for reason in backend.harmful_variables().values())


@pytest.mark.parametrize("name", sorted({*ACCELERATORS} - {"cuda"}))
def test_what_is_not_installed_is_told_without_importing_torch(name: str) -> None:
    """So that asking every backend costs a machine without it next to nothing."""
    if torch_build().get("cuda") or torch_build().get("hip") or torch_build().get("xpu"):
        pytest.skip("torch is built for an accelerator here")
    code = f"""if True:
        import sys
        from bench import catalogue
        from bench.errors import NothingInstalled
        try:
            catalogue.backend({name!r}).devices()
        except NothingInstalled as error:
            print(error)
        assert "torch" not in sys.modules
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if sys.platform != "darwin":
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"{name}: ") and "pass --device cpu" in done.stdout.lower()


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("cuda", "CUDA_LAUNCH_BLOCKING"),
        ("cuda", "CUDA_INJECTION64_PATH"),
        ("rocm", "HIP_LAUNCH_BLOCKING"),
        ("rocm", "AMD_SERIALIZE_COPY"),
        ("rocm", "GPU_FORCE_QUEUE_PROFILING"),
        ("rocm", "HSA_TOOLS_LIB"),
        ("rocm", "ROCP_TOOL_LIBRARIES"),
        ("ascend", "ASCEND_LAUNCH_BLOCKING"),
        ("ascend", "ASCEND_RT_LAUNCH_BLOCKING"),
        ("generic", "CUDA_LAUNCH_BLOCKING"),
        ("generic", "MACA_LAUNCH_BLOCKING"),
        ("generic", "MUSA_LAUNCH_BLOCKING"),
        ("generic", "SUPA_LAUNCH_BLOCKING"),
        ("generic", "TOPS_LAUNCH_BLOCKING"),
        ("ascend", "TORCH_NPU_LAZY_FUSION"),
        ("xpu", "UR_L0_SERIALIZE"),
        ("xpu", "ZE_SERIALIZE"),
        ("xpu", "PYTORCH_ENABLE_XPU_FALLBACK"),
        ("mps", "PYTORCH_ENABLE_MPS_FALLBACK"),
    ],
)
def test_what_voids_a_measurement(
    monkeypatch: pytest.MonkeyPatch, name: str, variable: str
) -> None:
    backend = catalogue.backend(name)
    monkeypatch.delenv(variable, raising=False)
    assert surroundings.harmful(backend) == ""
    monkeypatch.setenv(variable, "1")
    assert surroundings.harmful(backend).startswith(f"{variable}=1: ")


@pytest.mark.parametrize("name", sorted({*ACCELERATORS} - {"cuda"}))
def test_no_warning_of_a_fallback_is_silenced(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    backend = catalogue.backend(name)
    unset = backend.silencing_variables()
    given = environment.worker_variables(backend.worker_environment(), {"FORCED": "1"}, unset)
    assert given["FORCED"] == "1"
    done = subprocess.run(
        [sys.executable, "-S", "-c", FALLS_BACK], env=given, capture_output=True, text=True
    )
    assert backend.fallbacks(done.stderr.splitlines()) == ("aten::x",)


def test_a_tool_in_the_process_is_named_without_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_INJECTION64_PATH", "/planted/folder/libtool.so")
    assert surroundings.harmful(catalogue.backend("cuda")).startswith(
        "CUDA_INJECTION64_PATH=libtool.so: a tool"
    )


def test_other_vendors_plug_ins_are_hidden_where_torch_loads_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    points = [
        EntryPoint("a", "torch_some_vendor:_autoload", "torch.backends"),
        EntryPoint("b", "torch_npu:_autoload", "torch.backends"),
    ]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points)
    surroundings._plug_ins.cache_clear()
    before = set(sys.modules)
    monkeypatch.setenv(_torch_device.AUTOLOAD, "1")
    surroundings.hide_plug_ins(catalogue.backend("ascend"))
    assert set(sys.modules) == before
    monkeypatch.setenv(_torch_device.AUTOLOAD, "0")
    surroundings.hide_plug_ins(catalogue.backend("ascend"))
    try:
        assert set(sys.modules) - before == {"torch_some_vendor"}
        assert importlib.util.find_spec("torch_some_vendor") is None
    finally:
        sys.modules.pop("torch_some_vendor", None)
        surroundings._plug_ins.cache_clear()
