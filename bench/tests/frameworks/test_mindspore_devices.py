"""Devices as MindSpore says them, by a module in its place: what is called, and what is read."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench import catalogue
from bench.backends import ascend
from bench.errors import DeviceUnavailable, NothingInstalled
from bench.framework import Framework, Moved
from bench.frameworks.on_mindspore import devices as mindspore_devices
from bench.measuring.asked import complaint
from bench.measuring.surroundings import harmful
from bench.precision import PRECISIONS
from bench.records import environment
from bench.running.resume import mixed_launches
from bench.tests.values import make_launch, make_measured


class Held:
    """What the module is told, and gives back."""

    def __init__(self) -> None:
        self.available, self.count = True, 2
        self.device: tuple[Any, ...] | None = None
        self.set: set[str] = set()
        self.unloaded = ""
        self.calls: list[tuple[Any, ...]] = []
        self.hf32 = {"matmul_allow_hf32": "", "conv_allow_hf32": "1"}
        self.deaf: set[str] = set()
        self.stats = {"max_allocated_memory": 3 * 2**20}
        self.settings: dict[str, Any] = {"runtime_num_threads": 64, "deterministic": "OFF"}
        self.settings |= {"pynative_synchronize": False}
        self.mode, self.waits = "", False

    def switched(self, name: str, on: bool) -> None:
        """As the real one: a value that is set stays."""
        self.calls.append((name, on))
        value = "1" if on else "0"
        if name in self.deaf or self.hf32[name] == value:
            return
        if name in self.set:
            raise RuntimeError(f"The '{name}' can not be set repeatedly.")
        self.set.add(name)
        self.hf32[name] = value

    def counted(self) -> int:
        if self.count < 0:
            raise RuntimeError("Device Ascend not exist.")
        return self.count

    def noted(self, name: str) -> Any:
        return lambda *args, **kwargs: self.calls.append((name, *args, *kwargs.items()))


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    held = Held()
    module: Any = ModuleType("mindspore")
    module.__version__ = "2.10.0"
    module.PYNATIVE_MODE = 1
    module.set_context = lambda **settings: held.settings.update(settings)

    def set_device(target: str, *index: int) -> None:
        if held.device not in (None, (target, *index)):
            raise RuntimeError("The 'mindspore.set_device' can not be modified.")
        held.device = (target, *index)
        held.settings["device_target"] = target
        held.calls.append(("set_device", target, *index))

    def get_context(name: str) -> Any:
        if name not in held.settings:
            raise ValueError(name)
        return held.settings[name]

    module.set_device, module.get_context = set_device, get_context

    def switch(name: str) -> Any:
        return lambda on: held.switched(name, on)

    def precision_mode(mode: str) -> None:
        held.calls.append(("precision_mode", mode))
        if "precision_mode" not in held.deaf:
            held.mode = mode

    precision = SimpleNamespace(
        precision_mode=precision_mode, **{name: switch(name) for name in held.hf32}
    )
    module.device_context = SimpleNamespace(
        ascend=SimpleNamespace(
            is_available=lambda: held.available,
            device_count=held.counted,
            op_precision=precision,
        )
    )
    module.hal = SimpleNamespace(get_device_name=lambda index, target: f"{target}910B4")

    class Event:
        def __init__(self, enable_timing: bool = False) -> None:
            assert enable_timing

        def elapsed_time(self, end: Any) -> float:
            return 1.5

    module.runtime = SimpleNamespace(
        synchronize=held.noted("synchronize"),
        empty_cache=held.noted("empty_cache"),
        reset_peak_memory_stats=held.noted("reset_peak_memory_stats"),
        memory_stats=lambda: held.stats,
        Event=Event,
    )

    class Conf:
        get_instance = staticmethod(
            lambda: SimpleNamespace(
                precision_mode=lambda: held.mode,
                **{name: lambda name=name: held.hf32[name] for name in held.hf32},
            )
        )

    class Context:
        get_instance = staticmethod(
            lambda: SimpleNamespace(load_plugin_error=lambda: held.unloaded)
        )

    runtime = SimpleNamespace(is_launch_blocking=lambda: held.waits)
    module._c_expression = SimpleNamespace(
        AscendOpPrecisionConf=Conf,
        MSContext=Context,
        RuntimeConf=SimpleNamespace(get_instance=lambda: runtime),
    )
    monkeypatch.setattr(ascend, "npu_smi", lambda *_: None)
    monkeypatch.setattr(ascend, "DRIVER", Path("/no/driver"))
    monkeypatch.setenv(mindspore_devices.BACKOFF, "1")
    monkeypatch.setitem(sys.modules, "mindspore", module)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    return held


@pytest.fixture
def framework() -> Framework:
    return catalogue.framework("mindspore")


def test_accelerators_are_those_that_it_sees(held: Held, framework: Framework) -> None:
    backend = catalogue.backend("ascend")
    found = framework.devices(backend)
    assert [(info.address, info.name) for info in found] == [
        ("ascend:0", "Ascend910B4"),
        ("ascend:1", "Ascend910B4"),
    ]
    with pytest.raises(NothingInstalled, match="has no such devices"):
        framework.devices(catalogue.backend("cuda"))


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_its_switches_are_set_and_read_back(
    held: Held, framework: Framework, precision: str
) -> None:
    backend, on = catalogue.backend("ascend"), precision == "tf32"
    device = framework.open(backend, 1, PRECISIONS[precision])
    assert ("set_device", "Ascend", 1) in held.calls
    assert (("precision_mode", "must_keep_origin_dtype") in held.calls) is not on
    assert held.hf32 == dict.fromkeys(held.hf32, "1" if on else "0")
    assert device.float32_reduced() is on
    kept = {"precision_mode": "not set" if on else "must_keep_origin_dtype"}
    assert {**held.hf32, **kept}.items() <= device.facts().items() and device.place == "Ascend"
    assert complaint(framework.switches(device, PRECISIONS[precision])) == ""
    with pytest.raises(TypeError, match="none of torch's"):
        _ = device.torch_device


def test_a_switch_that_stands_otherwise_is_told(held: Held, framework: Framework) -> None:
    held.deaf.add("conv_allow_hf32")
    device = framework.open(catalogue.backend("ascend"), 0, PRECISIONS["fp32"])
    said = complaint(framework.switches(device, PRECISIONS["fp32"]))
    assert "products of fp32: asked for a full mantissa, got a short mantissa" in said


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"mode": "allow_mix_precision"}, "precision_mode: asked for must_keep_origin_dtype, got "),
        ({"mode": ""}, "precision_mode: asked for must_keep_origin_dtype, got not set"),
        ({"waits": True}, "launch_blocking: asked for False, got True"),
    ],
)
def test_what_is_switched_later_is_told(
    held: Held, framework: Framework, changed: dict[str, Any], said: str
) -> None:
    device = framework.open(catalogue.backend("ascend"), 0, PRECISIONS["fp32"])
    for name, value in changed.items():
        setattr(held, name, value)
    assert said in complaint(framework.switches(device, PRECISIONS["fp32"]))


@pytest.mark.parametrize(
    ("where", "shape", "on"),
    [("Ascend:1", 2, True), ("Ascend:1", 0, False), ("CPU", 2, False), ("CPU:0", 2, False)],
)
def test_a_tensor_lies_where_it_says(
    held: Held, framework: Framework, where: str, shape: int, on: bool
) -> None:
    device = framework.open(catalogue.backend("ascend"), 1, PRECISIONS["fp32"])
    tensor: Any = SimpleNamespace(device=where, ndim=shape)
    assert framework.tensors.is_on(tensor, device) is on


def test_gradients_are_copies(framework: Framework) -> None:
    moved = [Moved(None, g, {}, 1.0) for g in (None, np.ones(3), np.zeros(2))]
    found = framework.tensors.gradients(SimpleNamespace(moved=lambda: moved), [2, 0, 1])
    assert found is not None and found[1] is None
    assert found[0].tolist() == [0, 0] and found[2].tolist() == [1, 1, 1]
    assert found[2] is not moved[1].gradient


@pytest.mark.parametrize(
    "name", ["MS_DEV_LAUNCH_BLOCKING", "MS_DEV_HOST_BLOCKING_RUN", "MS_DEV_JIT_SYNTAX_LEVEL"]
)
def test_its_own_variables_are_recorded_and_judged(
    framework: Framework, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    backend, torchs = catalogue.backend("cpu"), catalogue.framework("torch")
    monkeypatch.setenv(name, "1")
    assert harmful(backend, framework).startswith(f"{name}=1: ")
    assert harmful(backend, torchs) == ""
    monkeypatch.setenv(name, "0")
    assert harmful(backend, framework) == ""
    monkeypatch.setenv("GLOG_v", "1")
    words = environment.looked_for(framework.recorded_variables())
    found = environment.variables(words)
    assert found[name] == "0" and found["GLOG_v"] == "1"
    then = make_launch(make_measured(0.01), environment={"variables": {**found, name: "3"}})
    changed = mixed_launches([then], {}, "cpu", "mindspore")
    assert f"variable {name} was 3, is 0" in changed


def test_time_and_memory_are_its_own(held: Held, framework: Framework) -> None:
    device = framework.open(catalogue.backend("ascend"), 0, PRECISIONS["fp32"])
    assert device.elapsed_ns(device.event(), device.event()) == 1_500_000
    device.synchronize()
    device.release_memory()
    device.reset_peak_memory()
    names = [name for name, *_ in held.calls[-3:]]
    assert names == ["synchronize", "empty_cache", "reset_peak_memory_stats"]
    assert (device.memory().peak_bytes, device.memory().scope) == (3 * 2**20, "device allocator")
    held.stats.clear()
    assert device.memory().scope.startswith("process RSS (peak device memory: not available")


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """A host of eight of which nobody knows which share a core; on which of them it was kept."""
    kept: list[list[int]] = []
    monkeypatch.setattr("os.sched_getaffinity", lambda task: set(range(1000, 1008)), raising=False)
    monkeypatch.setattr(
        "os.sched_setaffinity", lambda task, cores: kept.append(cores), raising=False
    )
    return kept


@pytest.mark.parametrize(("threads", "kept"), [(3, [1000, 1001, 1002]), (8, None)])
def test_a_host_computes_with_as_many_threads_as_torch(
    held: Held,
    framework: Framework,
    cores: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
    threads: int,
    kept: list[int] | None,
) -> None:
    """Where its own pool has more at least, on as many cores."""
    monkeypatch.setattr(framework, "_threads", None)
    framework.compute_with(threads)
    device = framework.open(catalogue.backend("cpu"), 0, PRECISIONS["fp32"])
    assert held.settings["runtime_num_threads"] == threads
    assert [one for one in cores if one != kept] == [] and bool(cores) is (kept is not None)
    assert complaint(framework.switches(device, PRECISIONS["fp32"])) == ""
    held.settings["runtime_num_threads"] = 64
    said = complaint(framework.switches(device, PRECISIONS["fp32"]))
    assert f"threads: asked for {threads}, got 64" in said


def test_a_host_that_torch_says_nothing_of_takes_what_is_asked(
    held: Held, framework: Framework, cores: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(framework, "_threads", None)
    monkeypatch.setenv("OMP_NUM_THREADS", "5,2")
    others = dict.fromkeys(("numpy", "msgspec", "psutil"), "1")
    monkeypatch.setattr("importlib.metadata.version", others.__getitem__)
    framework.open(catalogue.backend("cpu"), 0, PRECISIONS["fp32"])
    assert held.settings["runtime_num_threads"] == 5
    # The first synchronization of a host waits for nothing: it is used up here.
    assert held.calls[-1] == ("synchronize",)
    assert framework.stack()["packages"] == {**others, "mindspore": "2.10.0"}
    assert framework.stack()["context"]["deterministic"] == "OFF"
    assert framework.stack()["context"]["exec_order"] == "not observable"


@pytest.mark.parametrize(
    ("siblings", "order"),
    [
        ({0: "0,4", 1: "1,5", 4: "0,4", 5: "1,5"}, [0, 1, 9, 4, 5]),
        ({0: "0-1", 1: "0-1"}, [0, 9, 1]),
    ],
)
def test_one_thread_of_each_core_comes_first(
    monkeypatch: pytest.MonkeyPatch, siblings: dict[int, str], order: list[int]
) -> None:
    def read_text(path: Any, encoding: str) -> str:
        core = int(path.parts[-3].removeprefix("cpu"))
        if core not in siblings:
            raise FileNotFoundError(path)
        return siblings[core]

    monkeypatch.setattr("pathlib.Path.read_text", read_text)
    assert sorted({*order}, key=mindspore_devices._turn) == order


def test_there_is_no_device_of_another_number(held: Held, framework: Framework) -> None:
    with pytest.raises(DeviceUnavailable, match="Here: ascend:0, ascend:1"):
        framework.open(catalogue.backend("ascend"), 2, PRECISIONS["fp32"])
