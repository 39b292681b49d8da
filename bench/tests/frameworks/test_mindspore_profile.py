"""What MindSpore's profiler leaves, by one in its place: where kernels ran, and when it tells."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from bench.frameworks.on_mindspore import profile as mindspore_profile
from bench.measuring.asked import complaint, places
from bench.records.executed import CONVERSIONS, Executed

CONTROL = "Default/Atanh-op0"
GRAPH = "Gradients/Default/layer-Block/gradMatMul-expand/"


class Profiler:
    """Writes what ran while it was on; `made` says how it was asked for."""

    def __init__(self) -> None:
        self.host: list[str] = []
        self.cores: list[tuple[str, str]] = []
        self.control: list[Any] = self.host
        self.on, self.ready = False, True
        self.made: dict[str, Any] = {}

    def handler(self, folder: str, analyse_flag: bool) -> Any:
        self.made = {"folder": Path(folder), "analyses": analyse_flag}
        return object() if self.ready else None

    def profile(
        self, start_profile: bool, on_trace_ready: Any, activities: tuple[str, ...] = ("cpu", "npu")
    ) -> Any:
        assert not start_profile and self.made["folder"].is_dir()
        self.made["activities"] = [*activities]
        return self

    def start(self) -> None:
        self.on = True

    def stop(self) -> None:
        self.on = False
        folder = self.made["folder"] / "host_1_2026_ascend_ms"
        for name in ("FRAMEWORK", "ASCEND_PROFILER_OUTPUT"):
            (folder / name).mkdir(parents=True)
        if self.host:
            lines = "".join(
                f"{name};HostCpuOps;1795926422710129772,0.070224,0 \n" for name in self.host
            )
            (folder / "FRAMEWORK/cpu_op_execute_timestamp_0.txt").write_text(lines)
        if self.cores and self.made["analyses"]:
            rows = "".join(f"x,{kind},{core},7\n" for kind, core in self.cores)
            table = "Name,Type,Accelerator Core,Duration(us)\n" + rows
            (folder / "ASCEND_PROFILER_OUTPUT/kernel_details.csv").write_text(table)

    def run(self, into: list[Any], *kernels: Any) -> None:
        if self.on:
            into += kernels


@pytest.fixture
def profiler(monkeypatch: pytest.MonkeyPatch) -> Profiler:
    found = Profiler()
    module: Any = ModuleType("mindspore")
    module.float32, module.Tensor = "float32", lambda values, dtype: values
    control = {id(found.host): CONTROL}
    module.ops = SimpleNamespace(
        atanh=lambda _: found.run(
            found.control, control.get(id(found.control), ("Atanh", "AI_VECTOR_CORE"))
        )
    )
    profilers: Any = ModuleType("mindspore.profiler")
    profilers.profile, profilers.tensorboard_trace_handler = found.profile, found.handler
    profilers.ProfilerActivity = SimpleNamespace(CPU="cpu", NPU="npu")
    for one in (module, profilers):
        monkeypatch.setitem(sys.modules, one.__name__, one)
    return found


def device(place: str) -> Any:
    return SimpleNamespace(place=place, synchronize=lambda: None)


def test_kernels_of_a_host_are_named_without_their_places(profiler: Profiler) -> None:
    names = (f"{GRAPH}MatMul-op12", "MatMul", "MatMul", "Conv2D", f"{GRAPH}Conv2DBackpropInput-op3")
    found = mindspore_profile.executed(lambda: profiler.run(profiler.host, *names), device("CPU"))
    assert found == Executed(
        operators={"convolution": ("Conv2D",)},
        kernels={"host": ("Conv2D", "Conv2DBackpropInput", "MatMul")},
    )
    assert profiler.made["activities"] == ["cpu"] and not profiler.made["analyses"]
    assert not profiler.made["folder"].exists() and places(found, on_host=True) == []


def test_a_step_that_ran_none_of_its_kernels_is_told(profiler: Profiler) -> None:
    found = mindspore_profile.executed(lambda: None, device("CPU"))
    assert found.kernels == {}
    assert "kernels of a step: asked for some, got none" in complaint(places(found, on_host=True))
    step = lambda: profiler.run(profiler.host, CONTROL)  # noqa: E731
    assert mindspore_profile.executed(step, device("CPU")).kernels == {"host": ("Atanh",)}


def test_an_accelerators_kernels_stand_by_its_cores_and_a_fallback_is_told(
    profiler: Profiler,
) -> None:
    profiler.control = profiler.cores
    on_device = [("MatMulV3", "AI_CORE"), ("SoftmaxV2", "AI_VECTOR_CORE"), ("MatMulV3", "AI_CORE")]

    def step(*on_host: str) -> None:
        profiler.run(profiler.cores, *on_device)
        profiler.run(profiler.host, *on_host)

    found = mindspore_profile.executed(lambda: step("TensorToScalar"), device("Ascend"))
    seen = {"AI_CORE": ("MatMulV3",), "AI_VECTOR_CORE": ("SoftmaxV2",)}
    assert found.kernels == {**seen, CONVERSIONS: ("TensorToScalar",)}
    assert found.operators == {"attention": ("no operator of its own (SoftmaxV2)",)}
    assert profiler.made["activities"] == ["cpu", "npu"] and places(found, on_host=False) == []
    profiler.host.clear()
    profiler.cores.clear()
    found = mindspore_profile.executed(lambda: step("Default/Cumsum-op4"), device("Ascend"))
    said = complaint(places(found, on_host=False))
    assert said.startswith("host fallback: asked for none, got Cumsum.")


@pytest.mark.parametrize("broken", ["no handler", "nothing written"])
def test_what_the_profiler_does_not_show_is_not_observable(profiler: Profiler, broken: str) -> None:
    profiler.ready = broken != "no handler"
    profiler.control = []
    taken: list[str] = []

    def step() -> None:
        taken.append("step")
        profiler.run(profiler.host, "MatMul")

    found = mindspore_profile.executed(step, device("CPU"))
    assert found == Executed(absent=mindspore_profile.NOT_SEEN) and taken == ["step"]
    assert places(found, on_host=True) == []


def test_a_step_that_fails_leaves_no_profiler_on(profiler: Profiler) -> None:
    def step() -> None:
        raise RuntimeError("no kernel")

    with pytest.raises(RuntimeError, match="no kernel"):
        mindspore_profile.executed(step, device("CPU"))
    assert not profiler.on
