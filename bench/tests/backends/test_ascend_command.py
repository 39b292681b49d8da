"""The command on the simulated Ascend device: its faults, its refusals, what npu-smi saw."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from bench.precision import PRECISIONS
from bench.records.outcome import Failed, Measured, Skipped, Void
from bench.tests.backends.simulated_commands import (
    DIES,
    GEMM,
    SCALE,
    Command,
    Commands,
    device,
    under_way,
)

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="workers need POSIX process groups"),
    pytest.mark.usefixtures("forked"),
]

TRIAD = SCALE.replace("scale", "triad")
PREFILL = """
[[case]]
workload = "llama"
mode = "prefill"
precision = "bf16"
model = "tiny"
prompt_length = 16
"""
COMMANDS = {
    "missing runtime": Command("run", GEMM + PREFILL, device(runtime="missing")),
    "faults": Command(
        "run --device ascend",
        SCALE
        + TRIAD
        + GEMM.replace("64x64x64", "2048x2048x2048")  # 288 MiB: little more than there is
        + GEMM.replace("64x64x64", "4096x4096x4096")
        + GEMM,
        device(
            fallback="mul",
            missing="add",
            memory_bytes=240 * 2**20,
        ),
    ),
    # Long enough that who else is there, which is asked every two seconds, is asked once at least.
    "watched": Command("run --device ascend:1", GEMM, DIES, block_seconds="0.3"),
    "announced": Command(
        "run --device ascend",
        SCALE + TRIAD,
        {
            **device(fallback="mul,add"),
            "TORCH_NPU_FALLBACK_CPU_DISABLE": "0",
            "TORCH_NPU_WARNING_DISABLE": "1",
        },
    ),
    "lost in synchronize": Command(
        "run --device ascend",
        GEMM + SCALE,
        device(lost="synchronize", lost_after=2),
    ),
    "lost in an operator": Command("run --device ascend", GEMM + SCALE, device(lost="mm")),
    "precisions": Command(
        "run --device ascend",
        GEMM.replace('"fp32"', '["tf32", "fp8", "int8"]'),
        device(),
    ),
    "not allowed": Command("run --device ascend", GEMM, device(allowed=False)),
    "blocking": Command("run --device ascend", GEMM, {**device(), "ASCEND_LAUNCH_BLOCKING": "1"}),
    "devices": Command("devices --json", "", DIES),
    "devices, broken": Command("devices", "", device(runtime="missing")),
    "none": Command("run --device ascend", GEMM, device(devices=0)),
}
"""What is run, its suite, its environment: two at a time, longest first, shared by the tests."""


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """Every command, under way."""
    with under_way(COMMANDS, tmp_path_factory) as found:
        yield found


def test_each_fault_has_its_own_outcome_and_the_run_goes_on(commands: Commands) -> None:
    done = commands["faults"].result()
    assert done.code == 1, done.err
    fallback = done.last("memory-scale fp32")
    assert isinstance(fallback, Void) and fallback.reason == "host fallback: aten::mul.out"
    missing = done.last("memory-triad fp32")
    assert isinstance(missing, Failed) and missing.kind == "error" and missing.phase == "numerics"
    assert "Could not run 'aten::add.out'" in missing.message
    large, larger, small = (x.outcome for x in done.launches["gemm-matmul fp32"])
    assert isinstance(large, Failed) and large.kind == "oom" and large.phase == "build"
    assert "NPU out of memory" in large.message
    too_large = "does not fit: needs about 384 MiB, the device has 240 MiB"
    assert larger == Skipped(reason=too_large)
    assert isinstance(small, Measured), "the run went on"
    for words in ("host fallback: aten::mul.out", "out of memory", "aten::add.out"):
        assert words in done.out.replace("\n", " "), words


def test_a_lost_device_is_told_apart_wherever_it_is_lost(commands: Commands) -> None:
    done = commands["lost in synchronize"].result()
    assert done.code == 1
    for name in ("gemm-matmul fp32", "memory-scale fp32"):
        outcome = done.last(name)
        assert isinstance(outcome, Failed) and outcome.kind == "device_lost", outcome
        assert "error code is 507018" in outcome.message
    done = commands["lost in an operator"].result()
    assert done.code == 1 and "device_lost in numerics" in done.out, done.out
    outcome = done.last("gemm-matmul fp32")
    assert isinstance(outcome, Failed) and outcome.kind == "device_lost", outcome
    assert isinstance(done.last("memory-scale fp32"), Measured), "the run went on"


def test_a_fallback_that_was_allowed_voids_and_names_every_operator(commands: Commands) -> None:
    """Though the user asked torch_npu to keep silent."""
    done = commands["announced"].result()
    assert done.code == 1
    for name, operator in (("memory-scale fp32", "mul"), ("memory-triad fp32", "add")):
        launch = done.launches[name][-1]
        assert isinstance(launch.outcome, Void), launch.outcome
        assert launch.outcome.reason == f"host fallback: aten::{operator}.out"
        variables = launch.environment["variables"]
        assert variables["TORCH_NPU_FALLBACK_CPU_DISABLE"] == "0", "the user's word is kept"
        assert "CAUTION" in launch.stderr_tail and f"aten::{operator}.out" in launch.stderr_tail


def test_what_is_simulated_is_void(commands: Commands) -> None:
    done = commands["not allowed"].result()
    outcome = done.last("gemm-matmul fp32")
    assert done.code == 1 and isinstance(outcome, Void)
    assert outcome.reason == "simulated device: its times are those of a program"


def test_a_harmful_variable_voids(commands: Commands) -> None:
    outcome = commands["blocking"].result().last("gemm-matmul fp32")
    assert isinstance(outcome, Void)
    assert outcome.reason == (
        "ASCEND_LAUNCH_BLOCKING=1: the host waits for every operator. Unset it and run again"
    )


BROKEN = (
    "ascend: torch_npu is installed but CANN is not (libhccl.so missing). Source CANN's "
    "set_env.sh, or pass --device cpu."
)


def test_devices_on_a_machine_with_a_broken_plug_in(commands: Commands) -> None:
    done = commands["devices, broken"].result()
    assert done.code == 0 and done.err == ""
    lines = done.out.splitlines()
    assert f"no {BROKEN}" in lines
    assert any(line.startswith("cpu: ") for line in lines), "the CPU works"
    assert len(lines) == len(set(lines)) == 8


def test_the_cpu_works_beside_a_broken_plug_in(commands: Commands) -> None:
    """transformers imports torch_npu wherever it is installed: it is hidden from it."""
    done = commands["missing runtime"].result()
    assert done.code == 0, done.err
    assert f"passed over {BROKEN}" in done.err
    assert done.err.count("passed over") == 2, "CUDA, as ever, and no word of what nobody installed"
    assert isinstance(done.last("gemm-matmul fp32"), Measured)
    assert isinstance(done.last("llama-prefill bf16"), Measured)


def test_no_device_is_one_message(commands: Commands) -> None:
    done = commands["none"].result()
    assert done.code == 2 and done.runs == ()
    assert (
        "--device ascend: ascend: torch sees no device of type npu. Check the driver and which "
        "devices this process may see, or pass --device cpu."
    ) in done.err


def test_hf32_is_on_for_tf32_and_8_bit_products_are_its_own_or_skipped(
    commands: Commands,
) -> None:
    done = commands["precisions"].result()
    assert done.code == 0, done.err
    (launch,) = done.launches["gemm-matmul tf32"]
    assert isinstance(launch.outcome, Measured), launch.outcome
    (check,) = launch.outcome.numerics.checks
    assert check.error is not None and 1e-4 < check.error < 1e-3, "11 bits, neither 23 nor 7"
    assert launch.environment["float32_reduced"] is True
    state = launch.environment["device_state"]
    assert state["hf32_matmul"] == state["hf32_conv"] == "True"
    outcome = done.last("gemm-matmul fp8")
    assert isinstance(outcome, Skipped), outcome
    assert outcome.reason.startswith(
        "fp8: torch has no such product here (The operator 'aten::_scaled_mm"
    )
    outcome = done.last("gemm-matmul int8")
    assert isinstance(outcome, Measured), outcome
    assert [check.error for check in outcome.numerics.checks] == [0.0], "by npu_quant_matmul"


def test_two_dies_are_two_devices_of_one_card(commands: Commands) -> None:
    found = {one["backend"]: one for one in json.loads(commands["devices"].result().out)}
    first, second = found["ascend"]["devices"]
    assert (first["index"], second["index"]) == (0, 1)
    for info in (first, second):
        assert info["name"] == "Ascend910_9391" and info["vendor"] == "Huawei"
        assert info["simulated"] is True and info["facts"]["dies_per_package"] == "2"
        narrow = {name for name, how in PRECISIONS.items() if how.quantized is not None}
        assert set(info["precisions"]) == set(PRECISIONS) - (narrow - {"int8"})
    assert found["generic"]["installed"] is False, "it leaves the NPU to its own backend"


def test_npu_smi_watches_from_a_side_process(commands: Commands) -> None:
    """The power is that of the card's two dies, and no second is needed to say so."""
    (run,) = commands["watched"].result().runs
    watched = [launch.telemetry for launch in run.launches if launch.telemetry is not None]
    assert watched, [launch.telemetry_absent for launch in run.launches]
    for telemetry in watched:
        assert (telemetry.source, telemetry.scope) == ("npu-smi", "package")
        assert {r.power_watts for r in telemetry.readings} == {71.7}
        assert {r.clock_mhz for r in telemetry.readings} == {900}
        assert telemetry.first_step_seconds is not None
        assert "why a clock is low" in telemetry.absent["reasons"]
    for launch in run.launches:
        assert (launch.telemetry is None) == (launch.telemetry_absent is not None)
        assert isinstance(launch.outcome, Measured)
        assert "THROTTLED" not in launch.outcome.flags, "not observable is no verdict"
        joules, why = launch.outcome.energy_joules, launch.outcome.energy_absent
        if joules is None:  # on a busy machine a launch may be long enough
            assert why is not None and why.startswith(("too short: ", "not observable: "))
        else:
            assert joules == pytest.approx(71.7 * launch.outcome.steady_seconds)
    shared = [x for x in run.launches if x.telemetry is not None and x.telemetry.others]
    assert shared, "another process has the second die, and a third the first"
    for launch in shared:
        assert isinstance(launch.outcome, Measured) and "SHARED_DEVICE" in launch.outcome.flags
        assert launch.outcome.causes["SHARED_DEVICE"] == (
            "other processes on the device: 1 with 512 MiB"
        )
