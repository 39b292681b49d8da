"""What the CPU's libraries did: read from what they say, not assumed from the machine."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys

import pytest

from bench.backends import _read_back
from bench.backends._read_back import instructions
from bench.records.cpu_limits import affinity_cores
from bench.tests import forked

pytestmark = pytest.mark.usefixtures("forked")

DONE = "onednn_verbose,v1,primitive,exec,cpu,"
SAID_BY_3 = [
    "onednn_verbose,v1,info,oneDNN v3.12.0 (commit 80afa71049cd69a3df32adcccb623b12cd7baa22)",
    "onednn_verbose,v1,info,cpu,runtime:OpenMP,nthr:2",
    "onednn_verbose,v1,info,cpu,isa:Intel AVX-512 with Intel DL Boost and bfloat16 support",
    f"{DONE}matmul,brg_matmul:avx512_core_bf16,undef,src:bf16::blocked:ab::f0 wei:bf16::b,21",
    f"{DONE}reorder,jit:uni,undef,src:bf16::blocked:abcd::f0 dst:bf16:p:blocked:AcdB16a2b,0.01",
    f"{DONE}convolution,jit:avx512_core,forward_training,src:f32::blocked:abcd::f0 wei:f32:a,3",
    f"{DONE}matmul,ref:any,undef,src:f16::blocked:ab::f0 wei:f16::blocked:ab::f0,64x64:64x64,9",
]
SAID_BY_2 = [
    "onednn_verbose,info,cpu,isa:Intel AVX2",
    "onednn_verbose,exec,cpu,matmul,gemm:jit,undef,src_f32::blocked:ab:f0 wei_f32::b,64x64,1.2",
]


def test_the_instructions_of_each_precision() -> None:
    assert instructions(SAID_BY_3) == {
        "instructions_used": "fp32 avx512_core, bf16 avx512_core_bf16, fp16 ref:any",
        "onednn_isa": "Intel AVX-512 with Intel DL Boost and bfloat16 support",
    }
    assert instructions(SAID_BY_2) == {
        "instructions_used": "fp32 jit, bf16 not by oneDNN, fp16 not by oneDNN",
        "onednn_isa": "Intel AVX2",
    }


@pytest.mark.parametrize("lines", [[], ["chatter", "onednn_verbose", "onednn_verbose,,,,"]])
def test_what_says_nothing_is_not_observable(lines: list[str]) -> None:
    assert instructions(lines)["instructions_used"].startswith("not observable: ")


@functools.cache
def read_back(**variables: str) -> dict[str, str]:
    """Of a process with these variables, which starts once; a real one, where a library reads one
    when it is loaded."""
    code = (
        "import json, sys; from bench.backends._read_back import libraries;"
        "found = libraries(); print('kept'); json.dump(found, sys.stdout)"
    )
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DNNL_", "ONEDNN_", "OMP_"))}
    with (forked.Real if "OMP_THREAD_LIMIT" in variables else subprocess.Popen)(
        [sys.executable, "-c", code],
        env={**kept, **variables},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        out, _ = process.communicate()
    assert process.returncode == 0
    first, found = out.split("\n", 1)
    assert first == "kept", "its own stdout has nothing else"
    facts: dict[str, str] = json.loads(found)
    return facts


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="its instruction sets are x86's")
def test_a_variable_that_forbids_instructions_is_seen_in_what_ran() -> None:
    """The machine's flags stay what they were: they are what could be."""
    free = read_back(OMP_NUM_THREADS="1")["instructions_used"]
    if "avx2" not in free and "avx512" not in free:
        pytest.skip(f"this machine has nothing to forbid: {free}")
    forbidden = read_back(OMP_NUM_THREADS="2", DNNL_MAX_CPU_ISA="SSE41")
    assert "sse41" in forbidden["instructions_used"] and "avx" not in forbidden["instructions_used"]
    assert forbidden["onednn_isa"] == "Intel SSE4.1"


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads are counted in /proc")  # noqa: PTH112
def test_the_threads_that_ran_are_counted_and_not_believed() -> None:
    """OMP_THREAD_LIMIT keeps one from running of which torch counts two."""
    assert read_back(OMP_NUM_THREADS="1")["threads_used"] == "1"
    if affinity_cores() > 1:
        two = read_back(OMP_NUM_THREADS="2", DNNL_MAX_CPU_ISA="SSE41")
        assert two["threads_used"] == "2"
        limited = read_back(OMP_NUM_THREADS="2", OMP_THREAD_LIMIT="1")
        assert limited["threads_used"] == "1"


def test_a_library_that_fails_is_not_observable_with_its_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails() -> list[str]:
        raise RuntimeError("no oneDNN\nin two lines")

    monkeypatch.setattr(_read_back, "_said_of_a_small_job", fails)
    found = _read_back.libraries()
    assert found["instructions_used"] == "not observable: RuntimeError: no oneDNN"
