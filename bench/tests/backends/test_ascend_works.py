"""Every work on the simulated Ascend device: measured on its second die, as on the CPU."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from bench import catalogue
from bench.backends._host_fallback import host_fallbacks
from bench.planning.suite_file import find_suite
from bench.records.execution import RESERVED, is_recorded
from bench.records.outcome import Measured, Skipped
from bench.records.run import Launch, RunFile
from bench.records.tolerances import TOLERANCES
from bench.tests.backends import one_process
from bench.tests.backends.simulated_commands import (
    DIES,
    Command,
    Commands,
    Done,
    name_of,
    under_way,
)
from bench.tests.conftest import Accelmark
from bench.tests.released import workloads

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="workers need POSIX process groups"),
    pytest.mark.usefixtures("forked"),
]

SMOKE = "[[case]]" + find_suite("smoke").read_text(encoding="utf-8").partition("[[case]]")[2]
SMOKE = re.sub(r"size_bytes = \d+", "size_bytes = 65536", SMOKE)
"""The cases of the shipped suite; of memory as little as stays in a cache: where a kernel waits for
it, what else runs decides how long it takes to read what a step gave."""
LONGEST = re.compile(
    r'workload = "(whisper|serve|dlrm)"|mode = ("prefill"|\["embed")|"resnet50"\nmode = "train"\n'
)
SMOKE = "[[case]]".join(
    re.sub('"bf16(-amp)?"', '"fp32"', entry) if LONGEST.search(entry) else entry
    for entry in SMOKE.split("[[case]]")
)
"""In float32 what calculates longest: bfloat16, which the others have, is a hundred times slower on
a host without arithmetic of it."""
TRAINED = "".join(
    f"[[case]]{entry}"
    for entry in SMOKE.split("[[case]]")
    if re.search(r'mode = .*"(train|lora)', entry)
)
"""Those of them that have a loss."""
EXECUTED = """
[[case]]
workload = "dlrm"
mode = "infer"
precision = "fp32"
execution = ["graph", "compile-graph"]
batch_size = 64
rows = 100
"""
NARROW = {**DIES, "SIMNPU_FLOAT64": "refused"}
"""What is read of the device is widened on the host: see `test_without_float64.py`."""
EVERY_WORK = Command(
    "run --device ascend:1", SMOKE + EXECUTED, NARROW, "bench.tests.backends.one_process"
)
HOST = Command("run --device cpu --only *-train,*-train-pipeline,*-lora", TRAINED)


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """Every work on the device, in a process that has one; meanwhile here, what trains."""
    with under_way({"every work": EVERY_WORK}, tmp_path_factory) as found:
        host: Future[Done] = Future()
        host.set_result(HOST.here(one_process.main, tmp_path_factory.mktemp("host")))
        yield {**found, "the host": host}


def measured(run: RunFile) -> list[Launch]:
    """The launches that make up figures."""
    return [launch for launch in run.launches if not launch.search]


def test_every_work_is_measured_on_the_second_die(commands: Commands) -> None:
    done = commands["every work"].result()
    assert done.code == 0, done.err
    assert host_fallbacks(done.err.splitlines()) == ()
    (run,) = done.runs
    assert len(measured(run)) == len(run.run.plan)
    every = {
        (name, mode)
        for name in workloads()
        for mode, declared in catalogue.workload(name).modes.items()
        if not declared.together and declared.burst is None  # of several dies; of 40 s of rest
    }
    assert {(case.workload, case.mode) for case in run.run.plan} == every
    for launch in measured(run):
        assert isinstance(launch.outcome, Measured), (name_of(launch.case), launch.outcome)
        # A token's time is its arrival on the host.
        assert launch.outcome.step_clock == ("host" if launch.outcome.served else "device event")
        assert launch.outcome.memory.scope.startswith("device allocator")
        assert (RESERVED in launch.outcome.memory.scope) is is_recorded(launch.case.execution)
        assert launch.environment["float32_reduced"] is False
        assert launch.environment["variables"]["TORCH_NPU_FALLBACK_CPU_DISABLE"] == "1"
        assert launch.environment["job"].get("memory_format", "contiguous") == "contiguous"
    described = run.launches[0].environment["device"]
    assert described["index"] == 1 and described["simulated"] is True
    facts = described["facts"]
    assert facts["torch_npu"].endswith("+sim") and facts["cann"] and facts["driver"]
    assert (facts["card"], facts["die"], facts["dies_per_package"]) == ("0", "1", "2")
    assert facts["multiprocessors"] == "24", "its Cubes"
    state = run.launches[0].environment["device_state"]
    assert state["hf32_matmul"] == state["hf32_conv"] == "False"
    assert state["card_power_watts"] == "178.5" and state["aicore_mhz"] == "900"


def test_what_is_compiled_and_recorded_says_so(commands: Commands) -> None:
    """Each a row of its own, by the plug-in's compiler and the device's graphs."""
    done = commands["every work"].result()
    recorded, both = (
        done.launches[f"dlrm-infer fp32 {how}"][0] for how in ("graph", "compile-graph")
    )
    assert recorded.fingerprint != both.fingerprint
    for launch in (recorded, both):
        assert isinstance(launch.outcome, Measured), launch.outcome
        assert launch.outcome.proof is not None and not launch.outcome.proof.absent
        assert launch.environment["job"]["replayed"] == "one graph a step"
    compiler = both.environment["compiler"]
    assert (compiler["name"], compiler["graph_breaks"]) == ("npu", 0)
    assert compiler["graphs"] >= 1 and "compiler" not in recorded.environment


def test_a_tuned_case_does_without_what_the_device_cannot_do(commands: Commands) -> None:
    (run,) = commands["every work"].result().runs
    last, first, again = (launch for launch in run.launches if launch.case.space)
    assert last.choice == {"memory_format": "channels_last"}
    assert last.outcome == Skipped(reason="channels_last: the backend ascend does not have it")
    assert first.choice == again.choice == {"memory_format": "contiguous"}
    assert isinstance(again.outcome, Measured)
    assert not again.search


def test_losses_are_those_of_the_cpu(commands: Commands) -> None:
    """From the same seeds: after the first step, to the tolerance of the gate."""
    (there,), (here,) = (commands[name].result().runs for name in ("every work", "the host"))
    losses = [
        {
            x.fingerprint: x.outcome.witness[0]
            for x in run.launches
            if isinstance(x.outcome, Measured)
        }
        for run in (there, here)
    ]
    trained = [case for case in here.run.plan if case.mode in ("train", "train-pipeline", "lora")]
    assert len(trained) >= 8
    for case in trained:
        of_device, of_host = (found[case.fingerprint] for found in losses)
        tolerance = TOLERANCES[case.precision]["loss"]
        assert of_device == pytest.approx(of_host, rel=tolerance), case.label


def test_a_run_of_the_device_and_one_of_the_cpu_are_set_side_by_side(
    commands: Commands, accelmark: Accelmark, tmp_path: Path
) -> None:
    """Refused, because it is simulated, and for that alone: as if it were not, it is compared."""
    (there,), (here,) = (commands[name].result().runs for name in ("every work", "the host"))
    common = {case.fingerprint for case in here.run.plan}
    assert common < {case.fingerprint for case in there.run.plan}
    text = Path(there.path).read_text(encoding="utf-8")
    as_if = tmp_path / "as-if.jsonl"
    as_if.write_text(text.replace('"simulated":true', '"simulated":false'), encoding="utf-8")
    for other, code, compared in ((Path(there.path), 1, 0), (as_if, 0, len(common))):
        ended, out, err = accelmark("compare", here.path, str(other), "--json")
        assert ended == code, err
        (comparison,) = json.loads(out)
        assert comparison["cases_compared"] == compared
        found = {one["fingerprint"]: one for one in comparison["cases"]}
        for name in common:
            refused = found[name]["verdict"] == "INCOMPARABLE"
            assert refused is (found[name]["reasons"] == ["other: a simulated device"])
            assert refused is (compared == 0)
