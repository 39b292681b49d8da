"""The conformance kit: green on the CPU and the simulated device, red for each fault of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bench import catalogue
from bench.conformance import examine
from bench.conformance.checks import narrow
from bench.tests.conftest import Accelmark
from bench.tests.simulated import FOLDER, environment
from bench.tests.simulated.processes import Processes

pytestmark = pytest.mark.usefixtures("forked")

SECONDS = 300
SMALL = {"slow": "mm=20", "memory_bytes": 2**30}
"""Kernels of 20 ms, so that a busy host is still faster; a device that 4 GiB overflow."""


class Ended(NamedTuple):
    """What the command left behind."""

    code: int
    out: str
    err: str

    @property
    def findings(self) -> list[dict[str, Any]]:
        """Of all checks."""
        assert self.out, self.err
        return [
            finding for check in json.loads(self.out)["checks"] for finding in check["findings"]
        ]

    @property
    def failed(self) -> dict[str, str]:
        """Reasons by title."""
        return {f["title"]: f["reason"] for f in self.findings if f["verdict"] == "fail"}

    def finding(self, title: str) -> dict[str, Any]:
        """The one of that title."""
        (found,) = (f for f in self.findings if f["title"] == title)
        return found


def command(*arguments: str, real: dict[str, str] | None = None, **faults: Any) -> Ended:
    """The command line in a subprocess, with the simulated device on its path."""
    done = subprocess.run(
        [sys.executable, "-m", "bench", "check-backend", *arguments],
        env=os.environ
        | environment(**{**SMALL, **faults})
        | {"OMP_NUM_THREADS": "1"}
        | (real or {}),
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


FAULTS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "operators": (
        {"slow": "mm=20,cumsum=300", "missing": "topk", "wrong": "_softmax"},
        {
            "no operator is out of line": "cumsum takes",
            "topk": "it raised",
            "softmax": "fp32 differs from float64",
        },
    ),
    "operators, device lost": ({"lost": "cumsum"}, {"cumsum": "the device was lost"}),
    "host fallback": (
        {"fallback": "cumsum,topk"},
        {"no standard operator is said to fall back": "host fallback: aten::cumsum"},
    ),
    "host fallback, quiet": (
        {"fallback": "_softmax", "broken": "quiet-fallback"},
        {"no standard operator makes the host wait": "softmax waited for the device"},
    ),
    "failures": (
        {"lost": "_assert_async", "broken": "lost-words"},
        {"a lost device is said to be lost": "unusable, and failure_kind says error"},
    ),
    "synchronize": (
        {"broken": "early-synchronize"},
        {"synchronize waits for the work": "was still to be done"},
    ),
    "synchronize, device lost": (
        {"lost": "synchronize"},
        {"synchronize: to its end": "the device was lost"},
    ),
    "streams": (
        {"broken": "one-stream"},
        {"synchronize waits for side streams": "behind the timer"},
    ),
    "events": ({"events": 2}, {"events agree with the clock": "outside 0.9 to 1.02"}),
    "events, above the peak": (
        {"events": 1e-8, "device_name": "Ascend910_9382"},
        {"the rate is below the chip's peak": "no chip does that"},
    ),
    "memory": (
        {"broken": "fixed-peaks,kept-cache"},
        {
            "the peak grows with what is allocated": "allowed is what was allocated",
            "released memory is handed back": "75% of it",
        },
    ),
    "memory, reset": ({"broken": "kept-peaks"}, {"a reset forgets the peak": "did not fall"}),
    "out of memory": (
        {"broken": "spoilt-by-oom,oom-words"},
        {
            "out of memory is said to be that": "failure_kind says error",
            "work goes on after the first time": "it raised",
        },
    ),
    "formats": (
        {"broken": "hf32,bfloat-for-half"},
        {
            "fp32 matmul keeps 23 bits": "ran as HF32",
            "fp32 conv2d keeps 23 bits": "ran as HF32",
            "fp16 matmul keeps 10 bits": "ran as bfloat16, not as fp16",
            "fp16 conv2d keeps 10 bits": "ran as bfloat16, not as fp16",
        },
    ),
    "declared": (
        {"broken": "hf32", "memory_bytes": 2**20},
        {
            "its memory is plausible": "allowed is 256 MiB",
            "float32_reduced says what is computed": "would say that float32 was float32",
        },
    ),
    "declared, a precision": ({"missing": "mm"}, {"bf16 runs, as declared": "it raised"}),
    "transfers": (
        {"broken": "lost-copies"},
        {"copies to and fro change no bit": "other bits came back: float32 not waiting"},
    ),
    "optimizers": (
        {"broken": "lost-updates"},
        {
            f"{name}, weights in bfloat16": "moves the weights as its formula says"
            for name in ("adamw", "sgd", "plain-sgd")
        },
    ),
    "narrow formats": (
        {"broken": "wrong-experts"},
        {"bf16: grouped products": "off by more than 0.005 from float64"},
    ),
    "executions": (
        {"broken": "wrong-compiler,still-replays"},
        {
            "npu compiles": "what it compiles computes wrongly",
            "a recording is replayed": "2 must give 4, and 3 give 84",
        },
    ),
    "executions, none": (
        {"broken": "no-compiler,no-graphs"},
        {"executions: to its end": "it raised"},
    ),
    "telemetry": (
        {"smi": "HOT"},
        {"its telemetry is plausible": "temperature 410 C is outside"},
    ),
}
"""By the check that must turn red: faults, and of each line that must, a part of the reason."""


BROKEN = ("one-stream", "fixed-peaks", "oom-words", "hf32", "lost-copies", "lost-words")
COMMANDS: dict[str, Callable[[], Ended]] = {
    "test_a_device_without_a_fault_passes": lambda: command("ascend", "--json"),
    "test_many_faults_at_once_and_no_check_ends_another": lambda: command(
        *("ascend", "--json"),
        broken=",".join(BROKEN),
        events=2,
        missing="topk",
        lost="_assert_async",
        smi="HOT",
    ),
    "test_the_command_on_the_cpu": lambda: command("cpu", "--width", "80"),
}
"""Every check, one after the other: by the test that looks at what they found."""


@pytest.fixture(scope="module")
def commands(forked: None, request: pytest.FixtureRequest) -> Iterator[dict[str, Future[Ended]]]:
    """Those that are asked for, at once: most of the time they wait for a simulated device."""
    asked = {item.name for item in request.session.items}
    with ThreadPoolExecutor(len(COMMANDS)) as pool:
        yield {name: pool.submit(run) for name, run in COMMANDS.items() if name in asked}


@pytest.fixture
def done(commands: dict[str, Future[Ended]], request: pytest.FixtureRequest) -> Ended:
    """What the command of this test left behind."""
    return commands[request.node.name].result()


IN_A_FORK = """
import os, tempfile
with tempfile.TemporaryFile() as file:
    os.dup2(file.fileno(), 2)  # as a worker's: a file that can be read back
import msgspec
from bench.conformance.worker import Task, findings
found = findings(Task(check={check!r}, backend="ascend", index=0))
print(json.dumps([msgspec.to_builtins(finding) for finding in found]))
"""


def test_a_device_without_a_fault_passes(done: Ended) -> None:
    assert done.failed == {}
    assert (done.code, json.loads(done.out)["counts"]["fail"]) == (0, 0)
    assert json.loads(done.out)["device"]["simulated"] is True
    unseen = {f["title"] for f in done.findings if f["verdict"] == "not observable"}
    assert unseen == {
        "the rate is below the chip's peak",
        "float64 is float64",
        "a fallback would be seen",
        "what it does not say",
        "other users of the device can be seen",
        *(f"{name} is {name}" for name in narrow.FORMATS),
        *(f"{name}: grouped products" for name in narrow.GROUPED if name != "bf16"),
        "mxfp4: rows of bfloat16 by experts",
    }
    assert "Traceback" not in done.err


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_turns_its_own_check_red(processes: Processes, name: str) -> None:
    faults, red = FAULTS[name]
    code = IN_A_FORK.format(check=name.partition(",")[0])
    real = dict(catalogue.backend("ascend").worker_environment())
    found = processes.run(code, real, **{**SMALL, **faults}).said
    failed = {finding["title"]: finding for finding in found if finding["verdict"] == "fail"}
    for title, reason in red.items():
        assert reason in failed[title]["reason"]
        assert failed[title]["next"]


def test_every_defect_of_the_simulated_device_is_tried() -> None:
    text = (FOLDER / "path" / "torch_npu" / "__init__.py").read_text(encoding="utf-8")
    table = text.partition("| defect |")[2].partition("\n\n")[0]
    tried = {d for faults, _ in FAULTS.values() for d in faults.get("broken", "").split(",") if d}
    assert set(re.findall(r"^\| `([a-z0-9-]+)` \|", table, re.MULTILINE)) == tried


def test_many_faults_at_once_and_no_check_ends_another(done: Ended) -> None:
    """The command line, each check red for its own reason."""
    assert done.code == 1
    assert {
        "float32_reduced says what is computed",
        "events agree with the clock",
        "synchronize waits for side streams",
        "the peak grows with what is allocated",
        "out of memory is said to be that",
        "fp32 matmul keeps 23 bits",
        "copies to and fro change no bit",
        "topk",
        "a lost device is said to be lost",
        "its telemetry is plausible",
    } <= set(done.failed)
    assert done.finding("softmax")["verdict"] == "pass"
    assert done.finding("synchronize waits for the work")["verdict"] == "pass"


def test_a_lost_device_ends_its_check_alone() -> None:
    done = command("ascend", "--only", "operators", "--json", lost="cumsum")
    assert done.failed == {"cumsum": "the device was lost"}
    assert done.finding("the operators after it")["reason"] == "the device was lost"


def test_every_check_can_turn_red() -> None:
    """By the simulated device: what no fault reaches would not be known to work."""
    assert {name.partition(",")[0] for name in FAULTS} == {c.name for c in examine.all_checks()}


def test_a_host_that_waits_for_every_kernel_is_seen(processes: Processes) -> None:
    blocking = {"ASCEND_LAUNCH_BLOCKING": "1"}
    found = processes.run(IN_A_FORK.format(check="synchronize"), blocking, **SMALL).said
    (line,) = (finding for finding in found if finding["title"] == "the host runs ahead")
    assert "the host waited for kernels that it queued" in line["reason"]


def test_a_fallback_that_is_provoked_is_seen(processes: Processes) -> None:
    code = IN_A_FORK.format(check="host fallback")
    for real in ({}, {"TORCH_NPU_FALLBACK_CPU_DISABLE": "1"}):
        found = processes.run(code, real, **SMALL, fallback="special_airy_ai").said
        (line,) = (f for f in found if f["title"] == "a fallback would be seen")
        assert line["verdict"] == "pass"
        assert "aten::special_airy_ai" in line["observed"]


def test_a_fallback_that_is_only_announced_is_seen(processes: Processes) -> None:
    code = IN_A_FORK.format(check="host fallback")
    found = processes.run(code, {}, **SMALL, fallback="cumsum").said
    failed = {finding["title"]: finding["reason"] for finding in found if finding["reason"]}
    assert "aten::cumsum" in failed["no standard operator is said to fall back"]
    assert "cumsum waited" in failed["no standard operator makes the host wait"]


@pytest.mark.parametrize("said", [False, True])
def test_a_device_that_always_says_the_same_of_float32_is_seen(
    processes: Processes, said: bool
) -> None:
    code = f"""
from bench.backends.ascend import AscendDevice
AscendDevice.float32_reduced = lambda self: {said}
"""
    found = processes.run(code + IN_A_FORK.format(check="declared"), {}, **SMALL).said
    failed = {finding["title"] for finding in found if finding["verdict"] == "fail"}
    title = "float32_reduced says what is computed"
    assert failed == {title if said else f"{title} in tf32"}


def test_a_missing_runtime_and_no_device_are_bad_input() -> None:
    done = command("ascend", runtime="missing")
    assert (done.code, done.out) == (2, "")
    assert "CANN is not (libhccl.so missing). Source CANN's set_env.sh" in done.err
    done = command("ascend", devices=0)
    assert (done.code, done.out) == (2, "")
    assert "ascend: torch sees no device of type npu." in done.err


def test_the_command_on_the_cpu(done: Ended) -> None:
    code, out, err = done
    assert code == 0, out
    assert max(map(len, out.splitlines())) <= 80
    assert "FAIL" not in out and ", 0 failed, " in out
    for word in ("PASS        fp32 matmul keeps 23 bits", "NOT SEEN", "synchronize: done ("):
        assert word in out + err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("cup",), "accelmark check-backend cup: unknown backend. Did you mean `cpu`?"),
        (("cpu", "--device", "7"), "there is no device 7. Allowed: --device 0."),
        (("cpu", "--only", "strems"), "--only strems: unknown check. Did you mean `streams`?"),
    ],
)
def test_bad_input(accelmark: Accelmark, arguments: tuple[str, ...], said: str) -> None:
    code, out, err = accelmark("check-backend", *arguments)
    assert (code, out) == (2, "")
    assert said in err


def test_a_check_leaves_nothing_in_the_folder(accelmark: Accelmark) -> None:
    accelmark("check-backend", "cpu", "--only", "failures")
    assert list(Path.cwd().iterdir()) == []
