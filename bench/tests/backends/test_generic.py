"""What generic does for vendors' plug-ins: switches of their own, and no work on the host."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from bench.backends import _torch_device, generic
from bench.measuring import surroundings
from bench.precision import PRECISIONS
from bench.running import child

OWN = {"musa": ("mudnn",), "mlu": ("cnnl", "mlu.matmul", "mlu.custom")}
"""By type, what of torch.backends its plug-in adds."""


@pytest.fixture(params=OWN)
def switches(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> dict[str, SimpleNamespace]:
    """Those of one plug-in, on, as some are by themselves."""
    import torch

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", torch.backends.cudnn.allow_tf32)
    before = torch.get_float32_matmul_precision()
    request.addfinalizer(lambda: torch.set_float32_matmul_precision(before))
    found = {name: SimpleNamespace(allow_tf32=True) for name in OWN[request.param]}
    for name, switch in found.items():
        module, _, last = name.partition(".")
        if last:
            held = getattr(torch.backends, module, None) or SimpleNamespace()
            monkeypatch.setattr(torch.backends, module, held, raising=False)
            setattr(held, last, switch)
        else:
            monkeypatch.setattr(torch.backends, module, switch, raising=False)
    return found


def test_a_vendors_own_switch_for_tf32_is_set_read_and_recorded(
    switches: dict[str, SimpleNamespace],
) -> None:
    device = object.__new__(generic.GenericDevice)
    for shortened in (False, True, False):
        generic.BACKEND.shorten_float32(shortened)
        assert {switch.allow_tf32 for switch in switches.values()} == {shortened}
        assert device.float32_reduced() is shortened
        facts = {name: value for name, value in device.facts().items() if name.startswith("tf32")}
        named = {"tf32_cudnn", *(f"tf32_{name}" for name in switches)}
        assert facts == dict.fromkeys(named, str(shortened))


def test_one_switch_that_was_left_on_is_seen(switches: dict[str, SimpleNamespace]) -> None:
    device = object.__new__(generic.GenericDevice)
    for switch in switches.values():
        generic.BACKEND.shorten_float32(False)
        switch.allow_tf32 = True
        assert device.float32_reduced()


def test_without_a_plug_in_no_other_switch_is_made_up() -> None:
    device = object.__new__(generic.GenericDevice)
    assert set(device.facts()) == {"float32_matmul_precision", "tf32_cudnn"}


@pytest.mark.parametrize("kind", ["gcu", "mlu", "musa", "supa"])
def test_a_plug_ins_own_graphs_are_found(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before torch 2.13, which has some for every type, there were no others."""
    import torch

    of_all = ("Stream", "stream", "current_stream", "graph", f"{kind.upper()}Graph")
    module = ModuleType(f"torch.{kind}")
    module.__dict__.update(dict.fromkeys(("is_available", "device_count"), lambda: 1))
    module.__dict__.update(dict.fromkeys(("set_device", *of_all), lambda _: None))
    monkeypatch.setattr(torch, kind, module, raising=False)
    monkeypatch.setattr(torch, "get_device_module", lambda _: module)
    monkeypatch.delattr(torch.accelerator, "Graph", raising=False)
    monkeypatch.setattr(generic.GenericBackend, "_load_all", lambda _: [])
    monkeypatch.setattr(generic.GenericDevice, "torch_device", torch.device("cpu"))
    assert generic.BACKEND.open(0, PRECISIONS["fp32"]).recorder() is not None


@pytest.mark.parametrize(
    ("package", "own"),
    [
        ("torch_mlu", {"ENABLE_FALLBACK_TO_CPU": "0"}),
        ("habana_frameworks", {"PT_HPU_LAZY_MODE": "0", "PT_HPU_PLACE_ON_CPU": "none"}),
        ("torch_xmlir", {"XMLIR_ENABLE_FALLBACK_TO_CPU_BOOL": "False"}),
        (
            "torch_gcu",
            {
                "ENFLAME_LOG_DEBUG_LEVEL": "DEBUG",
                "ENFLAME_LOG_DEBUG_MOD": "TORCH_GCU/FALLBACK",
            },
        ),
        ("torch_musa", {}),
        (
            "torch_neuronx",
            {
                "NEURON_LAUNCH_BLOCKING": "0",
                "TORCH_NEURONX_DISABLE_FALLBACK_EXECUTION": "1",
                "TORCH_NEURONX_FALLBACK_ONLY_FOR_UNIMPLEMENTED_OPS": "1",
            },
        ),
        ("torch_rbln", {"TORCH_RBLN_DISABLE_FALLBACK": "compile_error,unsupported_op"}),
        ("torch_tpu", {"TORCH_TPU_ALLOW_LEGACY_DEVICE_APIS": "1"}),
    ],
)
def test_operators_of_a_worker_do_not_run_on_the_host_unsaid(
    package: str, own: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By the package's own variable alone: those of others made its older runs another setting."""
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    given = dict(generic.BACKEND.worker_environment())
    assert given == {_torch_device.AUTOLOAD: "0", **own}
    for name, value in own.items():
        if name in generic.ANNOUNCED:  # a user's own would hide it
            monkeypatch.setenv(name, "TORCH_GCU/OP")
            assert child.variables(generic.BACKEND)[name] == value
        monkeypatch.setenv(name, value)
    assert surroundings.harmful(generic.BACKEND) == "", "what it sets itself is no harm"


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("ENABLE_FALLBACK_TO_CPU", "1", "operators may run on the host"),
        ("ENABLE_MLU_FAIL_FALLBACK", "on", "operators may run on the host"),
        ("PT_HPU_PLACE_ON_CPU", "add,mul", "operators may run on the host"),
        ("XMLIR_ENABLE_FALLBACK_TO_CPU_BOOL", "true", "operators may run on the host"),
        ("BRTB_ENABLE_SUPA_FALLBACK", "1", "operators may run on the host"),
        (
            "ENFLAME_PT_OP_DEBUG_CONFIG",
            "op_sync_mode=true fallback_cpu=all_ops",
            "operators may run on the host, or be waited for",
        ),
        ("BRTB_ENABLE_MMA_BF16_ACC", "1", "products are summed in bfloat16"),
        ("PT_HPU_LAZY_MODE", "1", "operators wait until they are fused"),
        ("TORCH_TPU_DEFER_AND_FUSE", "1", "operators wait until they are fused"),
        ("TPU_DEFER_AND_FUSE", "1", "operators wait until they are fused"),
        ("NEURON_LAUNCH_BLOCKING", "1", "the host waits for every kernel"),
        ("TORCH_TPU_LAUNCH_BLOCKING", "1", "the host waits for every kernel"),
        ("TPU_LAUNCH_BLOCKING", "1", "the host waits for every kernel"),
    ],
)
def test_what_lets_operators_run_elsewhere_or_shorter_voids(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, reason: str
) -> None:
    monkeypatch.setenv(name, value)
    assert surroundings.harmful(generic.BACKEND).startswith(f"{name}={value}: {reason}")
    for off in ("False", "OFF", "0"):
        monkeypatch.setenv(name, off)
        assert surroundings.harmful(generic.BACKEND) == ""


@pytest.mark.parametrize("package", [None, *generic.COMPILERS.values()])
def test_a_vendors_compiler_is_tried_where_it_is_installed(
    package: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After torch's own, which has no trial where it is the only one."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == package or None)
    own = [name for name, of in generic.COMPILERS.items() if of == package]
    assert generic.BACKEND.compilers == ("inductor", *own)


@pytest.mark.parametrize(
    ("kind", "vendor"),
    [("neuron", "AWS"), ("rbln", "Rebellions"), ("spyre", "IBM"), ("tpu", "Google")],
)
def test_a_type_of_one_vendor_names_it(
    kind: str, vendor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where torch says nothing of an accelerator of its own."""
    import torch

    module = ModuleType(f"torch.{kind}")
    module.__dict__.update(dict.fromkeys(("is_available", "device_count"), lambda: 1))
    monkeypatch.setattr(torch, kind, module, raising=False)
    monkeypatch.setattr(torch, "get_device_module", lambda _: module)
    monkeypatch.setattr(generic.GenericBackend, "_load_all", lambda _: [])
    (found,) = generic.BACKEND.devices()
    assert (found.vendor, found.facts["torch_device"]) == (vendor, kind)
