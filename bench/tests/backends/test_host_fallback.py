"""Operators that ran on the host: found however it is said, and what was measured is void."""

from __future__ import annotations

import os
import sys

import msgspec
import pytest

from bench.backends._host_fallback import host_fallbacks
from bench.measuring.messages import Report, Request
from bench.records.outcome import Cold, Failed, Void
from bench.records.run import Settings
from bench.running import launcher
from bench.tests import launching
from bench.tests.values import make_case, make_measured

CAUTION = (
    "[W1122 01:02:03.000000001 VariableFallbackKernel.cpp:250] Warning: CAUTION: The operator "
    "'aten::{0}' is not currently supported on the NPU backend and will fall back to run on the "
    "CPU. This may have performance implications. (function npu_cpu_fallback)"
)
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
        "D 12:03 aten::conv_tbc.out not supported in torch_gcu, and fallback to torch cpu.": (
            "aten::conv_tbc.out",
        ),
        "Warning: kernel [polar] is not supported by NPU currently. Now this kernel is running on "
        "CPU (function operator())": ("polar",),
        "Warning: kernel [gcd] is not supported by NPU currently.Now this kernel is running on "
        "CPU": ("gcd",),
        "Warning: adaptive_max_pool3d is not supported by NPU currently. Now this kernel is "
        "running on CPU.": ("adaptive_max_pool3d",),
        "/a/b.py:3: FallbackWarning: aten.sin.default is falling back to cpu": (
            "aten.sin.default",
        ),
        "/a/b.py:3: FallbackWarning: aten::arange.out is falling back to cpu": (
            "aten::arange.out",
        ),
        "[WARNING] Operator 'aten::topk' executed via CPU fallback": ("aten::topk",),
        "[WARNING] Operator 'aten::sort' fell back to CPU": ("aten::sort",),
        "Fallback to CPU execution due to RBLN compilation failure. The operation will now proceed "
        "on the CPU using PyTorch. Performance may be impacted.": (
            "an operator that the runtime does not name",
        ),
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
        "UserWarning: onnxruntime is falling back to CPU",
        # Of our own looks, too: all operators run so under a mode that sees them.
        "[TORCH-RBLN][INFO] `aten::mul` op ran on CPU instead of RBLN",
    ],
)
def test_what_did_not_run_did_not_fall_back(text: str) -> None:
    assert host_fallbacks([text]) == ()


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


@pytest.mark.skipif(os.name != "posix", reason="workers need POSIX process groups")
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
    outcome = launching.launch(request, {}, command=(sys.executable, "-c", code)).report.outcome
    assert isinstance(outcome, Void) and outcome.reason == "host fallback: aten::cumsum"
