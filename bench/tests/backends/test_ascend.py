"""Ascend: its logic on samples of the real thing, and the command on the simulated device."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import msgspec
import pytest

from bench import catalogue
from bench.backend import DeviceInfo
from bench.backends import ascend
from bench.backends._npu_smi import chip_of, parse_common, parse_info, power_of_card
from bench.backends._torch_device import host_fallbacks, missing_library
from bench.backends.ascend import AscendBackend
from bench.measuring import worker
from bench.measuring.numerics import TOLERANCES
from bench.measuring.worker import ALLOW_SIMULATED, Report, Request
from bench.planning.suite_file import find_suite
from bench.precision import PRECISIONS
from bench.records.case import Case
from bench.records.outcome import Cold, Failed, Measured, Outcome, Skipped, Void
from bench.records.run import Launch, RunFile, Settings
from bench.records.runfile import read
from bench.running import launcher
from bench.tests import simulated
from bench.tests.conftest import Accelmark
from bench.tests.values import make_case, make_measured

pytestmark = pytest.mark.skipif(os.name != "posix", reason="workers need POSIX process groups")

# --- npu-smi, as real ones print -----------------------------------------------------------------

A3 = """\
| NPU   Name       | Health       | Power(W)  Temp(C)          Hugepages-Usage(page)|
| Chip  Phy-ID     | Bus-Id       | AICore(%) Memory-Usage(MB) HBM-Usage(MB)        |
+==================+==============+=================================================+
| 0     Ascend910  | OK           | 178.5     36               0    / 0             |
| 0     0          | 0000:9D:00.0 | 0         0    / 0         3416 / 65536         |
+------------------+--------------+-------------------------------------------------+
| 0     Ascend910  | OK           | -         36               0    / 0             |
| 1     1          | 0000:9F:00.0 | 0         0    / 0         3195 / 65536         |
+==================+==============+=================================================+
| 1     Ascend910  | OK           | 181.0     37               0    / 0             |
| 0     2          | 0000:A0:00.0 | 0         0    / 0         3416 / 65536         |
| 1     Ascend910  | Warning      | -         38               0    / 0             |
| 1     3          | 0000:A2:00.0 | 0         0    / 0         3195 / 65536         |
+---------------------------+---------------+-------------------------------------------+
| NPU     Chip              | Process id    | Process name             | Process memory(MB)      |
| No running processes found in NPU 0                                                              |
"""
A2 = """\
| npu-smi 24.1.rc2                 Version: 24.1.rc2                                 |
| NPU   Name       | Health       | Power(W)  Temp(C)          Hugepages-Usage(page)|
| Chip             | Bus-Id       | AICore(%) Memory-Usage(MB) HBM-Usage(MB)        |
+==================+==============+=================================================+
| 0     910B4-1    | OK           | 91.3      33               0    / 0             |
| 0                | 0000:C1:00.0 | 12        0    / 0         2836 / 65536         |
"""
P310 = """\
| NPU   Name       | Health       | Power(W)  Temp(C)          Hugepages-Usage(page)|
| Chip  Device     | Bus-Id       | AICore(%) Memory-Usage(MB)                      |
+==================+==============+=================================================+
| 2     310P3      | OK           | NA        47               0    / 0             |
| 0     0          | 0000:02:00.0 | 0         1603 / 44216                          |
| 2     310P3      | OK           | NA        46               0    / 0             |
| 1     1          | 0000:02:00.0 | 0         1604 / 43757                          |
"""
COMMON = """\
\tNPU ID : 0
\tChip Count : 1

\tChip ID : 0
\tMemory Usage Rate(%) : 6
\tHBM Usage Rate(%) : 0
\tAicore Usage Rate(%) : 0
\tAicore Freq(MHZ) : 900
\tAicore curFreq(MHZ) : 900
\tAicore Count : 30
\tTemperature(C) : 41
\tNPU Real-time Power(W) : 71.7
"""


def test_a_910c_is_two_dies_and_its_power_is_the_cards() -> None:
    chips = parse_info(A3)
    assert [(c.npu, c.chip, c.physical) for c in chips] == [
        (0, 0, 0),
        (0, 1, 1),
        (1, 0, 2),
        (1, 1, 3),
    ]
    assert [c.power_watts for c in chips] == [178.5, None, 181.0, None]
    assert power_of_card(chips, 0) == 178.5, "never halved, and the `-` never added"
    assert power_of_card(chips, 1) == 181.0
    assert chips[1].hbm_used_mb == 3195 and chips[1].hbm_total_mb == 65536
    assert chips[1].memory_total_mb == 0 and chips[3].health == "Warning"
    assert chips[3].temperature_celsius == 38 and chips[0].name == "Ascend910"


def test_a_910b_has_no_physical_number_and_a_310p_no_power_and_no_hbm() -> None:
    (one,) = parse_info(A2)
    assert (one.npu, one.chip, one.physical, one.name) == (0, 0, None, "910B4-1")
    assert (one.power_watts, one.hbm_used_mb, one.hbm_total_mb) == (91.3, 2836, 65536)
    first, second = parse_info(P310)
    assert (first.npu, first.physical, second.chip, second.physical) == (2, 0, 1, 1)
    assert first.power_watts is None and first.hbm_total_mb is None
    assert (first.memory_used_mb, first.memory_total_mb) == (1603, 44216)
    assert power_of_card((first, second), 2) is None


@pytest.mark.parametrize("text", ["", "dcmi module initialize failed", "| 0 | 1 | 2 |"])
def test_what_is_no_table_has_no_chips(text: str) -> None:
    assert parse_info(text) == () and parse_common(text) == ()


def test_the_common_page_is_one_dictionary_a_chip() -> None:
    (chip,) = parse_common(COMMON)
    assert chip["NPU Real-time Power(W)"] == "71.7" and chip["Aicore curFreq(MHZ)"] == "900"
    assert chip["NPU ID"] == "0" and chip["Chip Count"] == "1"
    two = parse_common(COMMON + "\tChip ID : 1\n\tNPU Real-time Power(W) : -\n")
    assert [c["Chip ID"] for c in two] == ["0", "1"] and two[1]["NPU ID"] == "0"
    assert two[0]["NPU Real-time Power(W)"] == "71.7" and two[1]["NPU Real-time Power(W)"] == "-"


@pytest.mark.parametrize(
    ("index", "visible", "physical"),
    [(0, None, 0), (3, None, 3), (0, "2,3", 2), (1, "2, 3", 3), (2, "2,3", None), (0, "x", None)],
)
def test_the_die_that_torch_counts(index: int, visible: str | None, physical: int | None) -> None:
    chip = chip_of(parse_info(A3), index, visible)
    assert (chip and chip.physical) == physical
    assert chip_of((), 0, None) is None


def test_what_the_record_says_of_a_die(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASCEND_RT_VISIBLE_DEVICES", raising=False)
    pages: dict[tuple[str, ...], str] = {("info",): A3}
    monkeypatch.setattr(ascend, "npu_smi", lambda *arguments: pages.get(arguments))
    info = DeviceInfo(backend="ascend", index=1, name="Ascend910_9391", memory_bytes=1)
    facts = ascend.smi_facts(info)
    assert facts == {
        "health": "OK",
        "card_power_watts": "178.5",
        "temperature_celsius": "36",
        "aicore_mhz": "not observable",
    }
    placed = ascend._placed(info, parse_info(A3)).facts
    assert placed == {"card": "0", "die": "1", "dies_per_package": "2"}
    pages = {("info",): A2, ("info", "-t", "common", "-i", "0"): COMMON}
    one = DeviceInfo(backend="ascend", index=0, name="Ascend910B4", memory_bytes=1)
    assert ascend.smi_facts(one)["aicore_mhz"] == "900"
    assert ascend._placed(one, parse_info(A2)).facts["dies_per_package"] == "1"
    pages = {}
    assert set(ascend.smi_facts(one).values()) == {"not observable"}
    assert ascend._placed(one, ()).facts == {"dies_per_package": "not observable"}


# --- What is sorted by its words -----------------------------------------------------------------

CAUTION = (
    "[W1122 01:02:03.000000001 VariableFallbackKernel.cpp:250] Warning: CAUTION: The operator "
    "'aten::{0}' is not currently supported on the NPU backend and will fall back to run on the "
    "CPU. This may have performance implications. (function npu_cpu_fallback)"
)
UNNAMED = "an operator that the runtime does not name"
REFUSED = (
    "The operator 'aten::nonzero' would execute its main computation on CPU through dispatcher "
    "backend fallback, but CPU fallback is disabled by TORCH_NPU_FALLBACK_CPU_DISABLE=1."
)


def test_fallback_is_found_however_it_is_said() -> None:
    lines = [
        CAUTION.format("cumsum"),
        "noise",
        CAUTION.format("sort.stable"),
        CAUTION.format("cumsum"),
    ]
    assert host_fallbacks(lines) == ("aten::cumsum", "aten::sort.stable"), "each once, in order"
    said = {
        REFUSED: ("aten::nonzero",),
        "UserWarning: The operator 'aten::x' is not currently supported on the MPS backend and "
        "will fall back to run on the CPU.": ("aten::x",),
        "The operator 'aten::y on the XPU backend is falling back to run on the CPU.": ("aten::y",),
        # As in the libraries of torch_npu 2.13.0.
        "CAUTION: The operator aten::_masked_softmax is currently not supported on the NPU "
        "backend.Now this operator will fallback to run on the CPU and may have performance "
        "implications. ": ("aten::_masked_softmax",),
        "CAUTION: The operator aten::logit, aten::logit_ and aten::logit.out is currently not "
        "supported on the NPU backend. Now this operator will fallback to run on the CPU and may "
        "have performance implications.": ("aten::logit",),
        "CPU fallback is allowed because TORCH_NPU_FALLBACK_CPU_DISABLE=0. Since the NPU interface "
        "does not support operator 'aten::_sparse_csr_sum.dim_dtype', the operator will fall back "
        "to CPU.": ("aten::_sparse_csr_sum.dim_dtype",),
        "W1 operator 'aten::z' is not implemented for TPU. Falling back to CPU": ("aten::z",),
        "Aten Op fallback from XPU to CPU happends.": (
            "an operator that the runtime does not name",
        ),
    }
    for text, found in said.items():
        assert host_fallbacks([text]) == found


@pytest.mark.parametrize(
    "text",
    [
        "Could not run 'aten::add.out' with arguments from the 'PrivateUse1' backend.",
        "The operator 'aten::x' is not currently implemented for the MPS device. As a temporary "
        "fix, you can set `PYTORCH_ENABLE_MPS_FALLBACK=1` to use the CPU as a fallback.",
        "NPU out of memory. Tried to allocate 2.00 GiB",
    ],
)
def test_what_did_not_run_did_not_fall_back(text: str) -> None:
    assert host_fallbacks([text]) == ()


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("NPU out of memory. Tried to allocate 2.00 GiB (NPU 0; ...)", "oom"),
        (
            "synchronize: NPU function error: aclrtSync, error code is 507018",
            "device_lost",
        ),
        ("device is lost", "device_lost"),
        ("HBM MULTI BIT ECC ERROR.", "device_lost"),
        ("FORCE STOP.", "device_lost"),
        ("call aclnnAdd failed, error code is 161002", "error"),
        ("error code is 207001", "error"),
    ],
)
def test_failures_are_sorted(message: str, kind: str) -> None:
    assert AscendBackend().failure_kind(RuntimeError(message)) == kind


def test_a_missing_library_is_found_under_what_it_caused() -> None:
    cause = ImportError("libhccl.so: cannot open shared object file: No such file or directory")
    error = RuntimeError("Failed to load the backend extension: torch_npu.")
    error.__cause__ = cause
    assert missing_library(error) == "libhccl.so"
    assert missing_library(RuntimeError("else")) is None
    said = AscendBackend()._broken("torch_npu", RuntimeError("wrong version\nof it"))
    assert said == (
        "ascend: torch_npu is installed but does not load (wrong version). Source CANN's "
        "set_env.sh, or pass --device cpu."
    )


def test_hf32_is_read_from_both_switches() -> None:
    import torch

    def device(matmul: Any, conv: Any) -> ascend.AscendDevice:
        made = ascend.AscendDevice.__new__(ascend.AscendDevice)
        made._module = SimpleNamespace(
            matmul=SimpleNamespace(allow_hf32=matmul), conv=SimpleNamespace(allow_hf32=conv)
        )
        return made

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        assert not device(False, False).float32_reduced()
        assert device(True, False).float32_reduced() and device(False, True).float32_reduced()
        torch.set_float32_matmul_precision("high")
        assert device(False, False).float32_reduced()
    finally:
        torch.set_float32_matmul_precision(before)


def test_only_contiguous_memory_and_every_variable_is_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HCCL_BUFFSIZE", "200")
    backend = AscendBackend()
    assert backend.memory_format("channels_last") == "contiguous"
    assert {"HCCL_BUFFSIZE", "TASK_QUEUE_ENABLE", "ASCEND_LAUNCH_BLOCKING"} <= set(
        backend.recorded_variables()
    )


@pytest.mark.parametrize(("value", "harm"), [("1", True), ("0", False), ("", False), (None, False)])
def test_a_variable_that_makes_the_host_wait_is_harm(
    monkeypatch: pytest.MonkeyPatch, value: str | None, harm: bool
) -> None:
    name = "ASCEND_LAUNCH_BLOCKING"
    monkeypatch.delenv(name, raising=False)
    if value is not None:
        monkeypatch.setenv(name, value)
    said = worker.harmful(AscendBackend())
    assert bool(said) is harm
    if harm:
        assert said == (f"{name}=1: the host waits for every operator. Unset it and run again")


def test_bfloat16_is_what_its_runtime_says() -> None:
    info = DeviceInfo(
        backend="ascend", index=0, name="Ascend310P3", memory_bytes=1, facts={"bfloat16": "no"}
    )
    backend = AscendBackend()
    assert backend.unsupported(info, PRECISIONS["bf16"]) == (
        "Ascend310P3 has no bfloat16, says its runtime"
    )
    assert backend.unsupported(info, PRECISIONS["fp16"]) is None


def test_a_fallback_at_the_start_of_a_long_stderr_voids_what_was_measured() -> None:
    report = Report(outcome=make_measured(), cold=Cold(), environment={})
    lines = [CAUTION.format("cumsum"), *["x" * 1000] * 100]
    outcome = launcher._voided_by_fallback(report, "ascend", lines).outcome
    assert isinstance(outcome, Void) and outcome.reason == "host fallback: aten::cumsum"
    assert outcome.numerics is not None
    assert launcher._voided_by_fallback(report, "ascend", lines[1:]) is report
    assert launcher._voided_by_fallback(report, "cpu", lines) is report
    failed = Failed(kind="oom", phase="measure", message="out of memory")
    other = Report(outcome=failed, cold=Cold(), environment={})
    assert launcher._voided_by_fallback(other, "ascend", lines) is other


def test_all_of_stderr_is_looked_at() -> None:
    """With a worker that says it first and then much else."""
    report = msgspec.json.encode(Report(outcome=make_measured(), cold=Cold(), environment={}))
    said = CAUTION.format("cumsum")
    code = f"""if True:
        import sys
        print({said!r}, "x" * 100_000, *["noise"] * 50_000, sep="\\n", file=sys.stderr, flush=True)
        sys.stdout.buffer.write({report!r} + bytes([10]))
    """
    request = Request(
        case=make_case(), backend="ascend", index=0, settings=Settings(), samples=1, seed=0
    )
    outcome = launcher.launch(request, {}, command=(sys.executable, "-c", code)).report.outcome
    assert isinstance(outcome, Void) and outcome.reason == "host fallback: aten::cumsum"


# --- The command on the simulated device ---------------------------------------------------------

SETTINGS = """
[settings]
launches = 1
warmup_seconds = 0.0
warmup_limit_seconds = 0.3
block_seconds = 0.001
steady_limit_seconds = 0.3
launch_limit_seconds = 200.0
"""
GEMM = '[[case]]\nworkload = "gemm"\nprecision = "fp32"\nshape = "64x64x64"\n'
SCALE = '[[case]]\nworkload = "memory"\nmode = "scale"\nprecision = "fp32"\nsize_bytes = 4096\n'
TRIAD = SCALE.replace("scale", "triad")
PREFILL = """
[[case]]
workload = "llama"
mode = "prefill"
precision = "bf16"
model = "tiny"
prompt_length = 16
"""
SMOKE = "[[case]]" + find_suite("smoke").read_text(encoding="utf-8").partition("[[case]]")[2]
"""The cases of the shipped suite."""
TRAINED = "".join(
    f"[[case]]{entry}"
    for entry in SMOKE.split("[[case]]")
    if re.search(r'mode = .*"(train|lora)', entry)
)
"""Those of them that have a loss."""


class Done(NamedTuple):
    """A command that has ended."""

    code: int
    out: str
    err: str
    runs: tuple[RunFile, ...]

    @property
    def launches(self) -> dict[str, list[Launch]]:
        """Of the one run, by the case's name."""
        (run,) = self.runs
        found: dict[str, list[Launch]] = {}
        for launch in run.launches:
            found.setdefault(name_of(launch.case), []).append(launch)
        return found

    def last(self, name: str) -> Outcome:
        """How the last launch of a case ended."""
        return self.launches[name][-1].outcome


def name_of(case: Case) -> str:
    return f"{case.name} {case.precision}{case.variant}"


def accelmark(folder: Path, arguments: tuple[str, ...], variables: Mapping[str, str]) -> Done:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ACCELMARK", "TORCH_"))}
    done = subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=folder,
        env={**kept, **variables, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    runs = tuple(read(path) for path in sorted((folder / "out").glob("*.jsonl")))
    return Done(done.returncode, done.stdout, done.stderr, runs)


def device(allowed: bool = True, **faults: object) -> dict[str, str]:
    """The environment of a user with the simulated device; as theirs, without TORCH_ variables."""
    variables = simulated.environment(**faults)
    del variables["TORCH_DEVICE_BACKEND_AUTOLOAD"]
    return {**variables, **({ALLOW_SIMULATED: "1"} if allowed else {})}


DIES = device(device_name="Ascend910_9391", devices=2, smi="A3", smi_users="0:7:9 1:4242:512")
COMMANDS: dict[str, tuple[str, str, dict[str, str]]] = {
    "every work": ("run --device ascend:1", SMOKE, DIES),
    "the host": ("run --device cpu", TRAINED, {}),
    "missing runtime": ("run", GEMM + PREFILL, device(runtime="missing")),
    "faults": (
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
    "announced": (
        "run --device ascend",
        SCALE + TRIAD,
        {
            **device(fallback="mul,add"),
            "TORCH_NPU_FALLBACK_CPU_DISABLE": "0",
            "TORCH_NPU_WARNING_DISABLE": "1",
        },
    ),
    "lost in synchronize": (
        "run --device ascend",
        GEMM + SCALE,
        {**device(lost="synchronize", lost_after=2)},
    ),
    "lost in an operator": ("run --device ascend", GEMM + SCALE, device(lost="mm")),
    "precisions": (
        "run --device ascend",
        GEMM.replace('"fp32"', '["tf32", "fp8", "int8"]'),
        device(),
    ),
    "not allowed": ("run --device ascend", GEMM, device(allowed=False)),
    "blocking": ("run --device ascend", GEMM, {**device(), "ASCEND_LAUNCH_BLOCKING": "1"}),
    "devices": ("devices --json", "", DIES),
    "devices, broken": ("devices", "", device(runtime="missing")),
    "none": ("run --device ascend", GEMM, device(devices=0)),
}
"""What is run, its suite, its environment: two at a time, longest first, shared by the tests."""


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Done]]]:
    """Every command, under way."""

    def start(folder: Path, command: str, suite: str, variables: dict[str, str]) -> Done:
        (folder / "suite.toml").write_text(SETTINGS + suite, encoding="utf-8")
        verb, *rest = command.split()
        if verb == "run":
            rest = ["suite.toml", "--out", "out", *rest]
        return accelmark(folder, (verb, *rest), variables)

    folders = {name: tmp_path_factory.mktemp("command") for name in COMMANDS}  # not thread-safe
    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(start, folders[name], *what) for name, what in COMMANDS.items()}
        pool.shutdown(cancel_futures=True)


Commands = dict[str, Future[Done]]


def measured(run: RunFile) -> list[Launch]:
    """The launches that make up figures."""
    return [launch for launch in run.launches if not launch.search]


def test_a_tuned_case_does_without_what_the_device_cannot_do(commands: Commands) -> None:
    (run,) = commands["every work"].result().runs
    last, first, again = (launch for launch in run.launches if launch.case.space)
    assert last.choice == {"memory_format": "channels_last"}
    assert last.outcome == Skipped(reason="channels_last: the backend ascend does not have it")
    assert first.choice == again.choice == {"memory_format": "contiguous"}
    assert isinstance(again.outcome, Measured)
    assert not again.search


def test_every_work_is_measured_on_the_second_die(commands: Commands) -> None:
    done = commands["every work"].result()
    assert done.code == 0, done.err
    (run,) = done.runs
    assert len(measured(run)) == len(run.run.plan)
    workloads = {name: catalogue.workload(name) for name in catalogue.plug_ins("workloads")}
    every = {(name, mode) for name, workload in workloads.items() for mode in workload.modes}
    assert {(case.workload, case.mode) for case in run.run.plan} == every
    for launch in measured(run):
        assert isinstance(launch.outcome, Measured), (name_of(launch.case), launch.outcome)
        assert launch.outcome.step_clock == "device event"
        assert launch.outcome.memory.scope.startswith("device allocator")
        assert launch.environment["float32_reduced"] is False
        assert launch.environment["variables"]["TORCH_NPU_FALLBACK_CPU_DISABLE"] == "1"
        assert launch.environment["job"].get("memory_format", "contiguous") == "contiguous"
    described = run.launches[0].environment["device"]
    assert described["index"] == 1 and described["simulated"] is True
    facts = described["facts"]
    assert facts["torch_npu"].endswith("+sim") and facts["cann"] and facts["driver"]
    assert (facts["card"], facts["die"], facts["dies_per_package"]) == ("0", "1", "2")
    state = run.launches[0].environment["device_state"]
    assert state["hf32_matmul"] == state["hf32_conv"] == "False"
    assert state["card_power_watts"] == "178.5" and state["aicore_mhz"] == "900"


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


def test_npu_smi_watches_from_a_side_process(commands: Commands) -> None:
    """The power is that of the card's two dies, and no second is needed to say so."""
    (run,) = commands["every work"].result().runs
    watched = [launch.telemetry for launch in run.launches if launch.telemetry is not None]
    assert watched, [launch.telemetry_absent for launch in run.launches]
    for telemetry in watched:
        assert (telemetry.source, telemetry.scope) == ("npu-smi", "package")
        assert {r.power_watts for r in telemetry.readings} == {71.7}
        assert {r.clock_mhz for r in telemetry.readings} == {900}
        assert telemetry.first_step_seconds is not None
        assert "why a clock is low" in telemetry.absent["reasons"]
    for launch in measured(run):
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
    assert len(lines) == len(set(lines)) == 7


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


def test_hf32_is_on_for_tf32_and_8_bit_products_that_would_fall_back_are_skipped(
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
    for precision, operator in (("fp8", "_scaled_mm"), ("int8", "_int_mm")):
        outcome = done.last(f"gemm-matmul {precision}")
        assert isinstance(outcome, Skipped), outcome
        assert outcome.reason.startswith(
            f"{precision}: torch has no such product here (The operator 'aten::{operator}"
        )


def test_two_dies_are_two_devices_of_one_card(commands: Commands) -> None:
    found = {one["backend"]: one for one in json.loads(commands["devices"].result().out)}
    first, second = found["ascend"]["devices"]
    assert (first["index"], second["index"]) == (0, 1)
    for info in (first, second):
        assert info["name"] == "Ascend910_9391" and info["vendor"] == "Huawei"
        assert info["simulated"] is True and info["facts"]["dies_per_package"] == "2"
        assert set(info["precisions"]) == set(PRECISIONS) - {"fp8", "int8"}
    assert found["generic"]["installed"] is False, "it leaves the NPU to its own backend"


def test_nothing_simulated_is_kept_without_being_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outcome = make_measured()
    monkeypatch.delenv(ALLOW_SIMULATED, raising=False)
    void = worker.simulated(outcome)
    assert isinstance(void, Void) and void.numerics == outcome.numerics
    monkeypatch.setenv(ALLOW_SIMULATED, "1")
    assert worker.simulated(outcome) is outcome
    assert make_case().fingerprint, "a case is a case wherever it runs"
