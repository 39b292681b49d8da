"""A new vendor: a backend of a few lines, or none, on the simulated device."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from bench.backends import _torch_device
from bench.tests import simulated

pytestmark = pytest.mark.usefixtures("forked")

VENDORS_FILE = '''\
"""The NPU of Somebody's, through torch_npu."""

from bench.backends._torch_device import TorchBackend


class SomeBackend(TorchBackend):
    """One class, a few words."""

    name = "some"
    vendor = "Somebody"
    device_type = "npu"
    plug_ins = ("torch_npu",)
    install = "Install torch_npu"
    compilers = ("npu",)
    graph_type = "NPUGraph"


BACKEND = SomeBackend()
'''
CONTRACT = """
import json, sys, torch
from bench.precision import PRECISIONS
def contract(backend):
    first = backend.devices()[0]
    device = backend.open(0, PRECISIONS["fp32"])
    start, end = device.event(), device.event()
    device.reset_peak_memory()
    start.record()
    twos, one = torch.full((64, 64), 2.0), torch.eye(64)
    product = twos.to(device.torch_device) @ one.to(device.torch_device)
    end.record()
    device.synchronize()
    try:
        torch.empty(2**50, dtype=torch.float32, device=device.torch_device)
    except Exception as error:
        kind = backend.failure_kind(error)
    try:
        backend.open(7, PRECISIONS["fp32"])
    except Exception as error:
        refused = str(error)
    device.release_memory()
    return [first.address, first.name, first.vendor, float(product[0, 0]), str(product.device),
            device.elapsed_ns(start, end) > 0, device.memory().scope, kind, refused,
            backend.memory_format("channels_last"), first.facts.get("torch_device")]
"""


def in_process(code: str, **faults: object) -> Any:
    """What a process with the simulated device prints last, as JSON."""
    import os

    kept = {k: v for k, v in os.environ.items() if not k.startswith("TORCH_")}
    variables = {**simulated.environment(**faults), _torch_device.AUTOLOAD: "0"}
    done = subprocess.run(
        [sys.executable, "-c", CONTRACT + textwrap.dedent(code)],
        env={**kept, **variables, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


WORKS = [2.0, "npu:0", True, "device allocator", "oom"]


def test_a_new_vendor_is_one_small_file(tmp_path: Any) -> None:
    file = tmp_path / "some_backend.py"
    file.write_text(VENDORS_FILE, encoding="utf-8")
    assert len(VENDORS_FILE.splitlines()) <= 60
    found = in_process(
        f"""
        sys.path.insert(0, {str(tmp_path)!r})
        from some_backend import BACKEND
        from bench.measuring import compilers
        found = contract(BACKEND)
        device = BACKEND.open(0, PRECISIONS["fp32"])
        x = torch.ones(2, device=device.torch_device)
        replay = device.recorder()(lambda: x.add_(1), lambda: x.fill_(1))
        x.fill_(5)
        replay()
        compilers.noted(compilers.chosen(BACKEND.compilers, device.torch_device))
        print(json.dumps([*found, x.tolist(), *torch._dynamo.list_backends()]))
        """
    )
    assert found[:2] == ["some:0", "Ascend910B2"] and found[3:8] == WORKS
    assert found[8] == "some:7: there is no such device. Here: some:0."
    assert found[9] == "contiguous"
    assert found[11] == [6.0, 6.0], "its graphs are found"
    assert {"npu", "accelmark-npu"} <= {*found[12:]}, "and its compiler"


def test_an_unknown_accelerator_runs_under_torchs_name_for_it() -> None:
    """The simulated device, of which nobody has told the generic backend."""
    found = in_process(
        """
        from bench.backends import generic
        generic.ELSEWHERE, generic.TAKEN = (), ("cpu", "cuda")
        print(json.dumps(contract(generic.BACKEND)))
        """
    )
    assert found[:3] == ["generic:0", "Ascend910B2", "unknown vendor of torch's npu"]
    assert found[3:8] == WORKS and found[10] == "npu"
    assert found[8] == "generic:7: there is no such device. Here: generic:0."
