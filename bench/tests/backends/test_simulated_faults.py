"""The simulated Ascend device fails as it is told to; its npu-smi prints what it is told to."""

from __future__ import annotations

import os
import subprocess
import tomllib

import pytest

from bench.tests.simulated import FOLDER, environment
from bench.tests.simulated.processes import TIMED, Processes, autoloaded

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="each test is a forked process")


CUMSUM = "x = torch.ones(3, device='npu').cumsum(0)\nprint(json.dumps(x.tolist()))"
FALLBACK = (
    "Warning: CAUTION: The operator 'aten::cumsum.out' is not currently supported on the NPU "
    "backend and will fall back to run on the CPU."
)


def test_host_fallback_is_said_once_for_each_operator(processes: Processes) -> None:
    code = "torch.ones(3, device='npu').cumsum(0), torch.ones(3, device='npu').cumprod(0)\n"
    ended = processes.run(code + CUMSUM, fallback="cumsum,cumprod")
    assert ended.said == [1.0, 2.0, 3.0]
    first, second = ended.err.splitlines()
    assert FALLBACK in first
    assert "'aten::cumprod.out'" in second


def test_host_fallback_waits_for_the_device(processes: Processes) -> None:
    code = TIMED + "print(json.dumps(timed(lambda: x.cumsum(0))))"
    ended = processes.run(code, slow="erfinv=30", fallback="cumsum")
    assert ended.said >= 0.3


def test_host_fallback_is_refused_where_it_is_turned_off(processes: Processes) -> None:
    ended = processes.run(CUMSUM, {"TORCH_NPU_FALLBACK_CPU_DISABLE": "1"}, fallback="cumsum")
    assert ended.code == 1
    assert "RuntimeError: The operator 'aten::cumsum.out' would execute its main com" in ended.err
    assert FALLBACK not in ended.err


def test_a_missing_operator(processes: Processes) -> None:
    ended = processes.run(CUMSUM, missing="cumsum")
    assert ended.code == 1
    assert "NotImplementedError: Could not run 'aten::cumsum.out' with arguments from" in ended.err


def test_a_wrong_operator_is_off_by_a_hundredth(processes: Processes) -> None:
    assert processes.run(CUMSUM, wrong="cumsum").said == pytest.approx([1.01, 2.02, 3.03])


LOSE = """
event = torch.npu.Event()
event.record()
x, told = torch.ones(3, device="npu"), []
for act in (x.cumsum, x.cumsum, x.sum, lambda *_: torch.npu.synchronize(), lambda *_: x.cpu(),
            lambda *_: event.synchronize(), lambda *_: torch.npu.current_stream().synchronize()):
    try:
        act(0)
        told.append("fine")
    except RuntimeError as error:
        told.append(str(error))
print(json.dumps(told))
"""


def test_a_device_lost_in_an_operator_stays_lost(processes: Processes) -> None:
    fine, *lost = processes.run(LOSE, lost="cumsum", lost_after=1).said
    assert fine == "fine"
    assert len(lost) == 6
    assert all("error code is 507018" in text for text in lost)


def test_a_device_lost_in_a_synchronization(processes: Processes) -> None:
    told = processes.run(LOSE, lost="synchronize").said
    assert [text == "fine" for text in told] == [True] * 3 + [False] * 4
    assert "error code is 507018" in told[3]


def test_a_missing_runtime_fails_the_import_of_torch() -> None:
    ended = autoloaded("import torch", runtime="missing")
    assert ended.code == 1
    assert (
        "ImportError: libhccl.so: cannot open shared object file: No such file or directory"
        in ended.err
    )
    assert (
        "RuntimeError: Failed to load the backend extension: torch_npu. You can disable extension "
        "auto-loading with TORCH_DEVICE_BACKEND_AUTOLOAD=0." in ended.err
    )


def test_a_plug_in_without_a_device(processes: Processes) -> None:
    said = processes.run(
        """
try:
    torch.ones(1, device="npu")
except RuntimeError as error:
    text = str(error)
acc = torch.accelerator
print(json.dumps([torch.npu.is_available(), acc.is_available(), acc.device_count(),
    str(acc.current_accelerator()), acc.current_accelerator(check_available=True), text]))
""",
        devices=0,
    ).said
    assert said[:5] == [False, False, 0, "npu", None]
    assert said[5].startswith("Invalid device ID.")


def test_two_dies_are_two_devices(processes: Processes) -> None:
    said = processes.run(
        """
npu = torch.npu
here, there = (torch.ones(1000, device=f"npu:{i}") for i in range(2))
try:
    here.masked_select(there > 0)            # torch itself sees to `here + there`
except RuntimeError as error:
    text = str(error)
npu.set_device(1)
layer = torch.nn.Linear(4, 4).to("npu")
layer(torch.ones(2, 4, device="npu")).sum().backward()
there.erfinv()
start = time.perf_counter()
npu.synchronize(0)
idle = time.perf_counter() - start
npu.synchronize(1)
busy = time.perf_counter() - start
print(json.dumps([npu.device_count(), torch.accelerator.device_count(), npu.get_device_name(1),
    torch.accelerator.current_device_index(), str(layer.weight.grad.device),
    npu.memory_allocated(0), npu.memory_allocated(1) > 4096, there.to("npu:0").device.index, text,
    idle < busy / 2]))
""",
        device_name="Ascend910_9382",
        slow="erfinv=300",
    ).said
    assert said == [
        *(2, 2, "Ascend910_9382", 1, "npu:1", 4096, True, 0),
        "Expected all tensors to be on the same device, but found at least two devices, npu:0 and "
        "npu:1!",
        True,
    ]


def test_a_misspelt_variable_is_no_fault(processes: Processes) -> None:
    ended = processes.run("", falback="cumsum")
    assert ended.code == 1
    assert "ValueError: unknown variable SIMNPU_FALBACK. Known: SIMNPU_DEVICE_NAME, " in ended.err


def test_every_variable_is_in_the_table(processes: Processes) -> None:
    said = processes.run("""
from torch_npu import _settings
print(json.dumps([torch_npu.__doc__, list(_settings.Settings.__annotations__)]))
""").said
    text, fields = said
    for field in (*fields, "smi"):
        assert f"| `SIMNPU_{field.upper()}` |" in text


@pytest.mark.parametrize(
    ("model", "rows"),
    [
        ("A2", ["| 0     910B4-1             | OK            | 91.3        33 "]),
        (
            "A3",
            [
                "| 0     Ascend910           | OK            | 178.5       36 ",
                "| 0     Ascend910           | OK            | -           36 ",
                "| 1     1                   | 0000:9F:00.0  | 0           0    / 0          3195 ",
            ],
        ),
        ("310P", ["| 0       310P3                 | OK              | NA "]),
    ],
)
def test_npu_smi_prints_the_samples(model: str, rows: list[str]) -> None:
    table = npu_smi("info", smi=model)
    assert all(row in table for row in rows)
    assert ("HBM" in table) == (model != "310P")


def test_npu_smi_has_a_line_for_each_figure() -> None:
    pairs = [line.split(" : ") for line in npu_smi("info", "-t", "common", "-i", "0").splitlines()]
    figures = {pair[0].strip(): pair[1] for pair in pairs if len(pair) == 2}
    assert figures["NPU Real-time Power(W)"] == "71.7"
    assert figures["Aicore curFreq(MHZ)"] == "900"


def npu_smi(*arguments: str, **faults: object) -> str:
    variables = os.environ | environment(**faults)
    return subprocess.run(
        ["npu-smi", *arguments], env=variables, capture_output=True, text=True, check=True
    ).stdout


def test_no_wheel_has_a_torch_npu_of_ours() -> None:
    """It lies below `bench/`, which is all that a wheel holds: no path of its own leads there."""
    project = FOLDER.parents[2] / "pyproject.toml"
    if not project.exists():
        pytest.skip("an installed package has no pyproject.toml beside it")
    content = tomllib.loads(project.read_text(encoding="utf-8"))
    assert content["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["bench"]
    assert not list(FOLDER.parents[2].glob("torch_npu*"))
