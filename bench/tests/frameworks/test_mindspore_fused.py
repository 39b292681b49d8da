"""MindSpore's own attention, in whose place is what its reference says: jobs call it rightly.

Skipped, with the reason, where no Python with MindSpore is named.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bench.frameworks.on_mindspore.jobs import fuses
from bench.measuring.messages import Report
from bench.precision import PRECISIONS
from bench.records.outcome import Skipped, Void
from bench.running.elsewhere import Elsewhere
from bench.tests.frameworks import test_mindspore, test_mindspore_llama, test_mindspore_models
from bench.tests.frameworks.mindspore_fused import PASSED
from bench.tests.frameworks.mindspore_launches import Trial, launched
from bench.tests.frameworks.test_mindspore import handed, there
from bench.tests.small_workloads import site

__all__ = ["there"]

CASES = {
    "attention": test_mindspore.case("attention", "fp16"),
    "bert": test_mindspore_models.case("bert", "infer", "eager", "fp16"),
    "llama": test_mindspore_llama.case("prefill", "fp16"),
}
HONEST = [(name, "fused") for name in CASES]
FAULTY = [("bert", "fused, unscaled"), ("llama", "fused, no mask")]


@pytest.mark.parametrize(
    ("precision", "width", "device", "found"),
    [
        ("bf16", 128, "Ascend", True),
        ("fp16", 512, "Ascend", True),
        ("fp16", 128, "CPU", False),
        ("fp32", 128, "Ascend", False),
        ("bf16", 72, "Ascend", False),
        ("bf16", 576, "Ascend", False),
    ],
)
def test_it_is_taken_where_its_reference_says_that_it_works(
    precision: str, width: int, device: Any, found: bool
) -> None:
    at = msgspec.structs.replace(site(PRECISIONS[precision]), device=device)
    assert fuses(at, width) is found


@pytest.fixture(scope="module")
def reports(there: Elsewhere, tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Report]:
    """Of one process."""
    folder = tmp_path_factory.mktemp("handed")
    trials = {
        (name, fault): Trial(request=handed(CASES[name], folder), fault=fault)
        for name, fault in (*HONEST, *FAULTY)
    }
    return dict(zip(trials, launched(there, trials.values(), folder), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_jobs_call_it_rightly(reports: dict[Any, Report], name: str) -> None:
    outcome = reports[name, "fused"].outcome
    assert isinstance(outcome, Skipped) and outcome.reason == PASSED, outcome


@pytest.mark.parametrize(("name", "fault"), FAULTY)
def test_a_call_that_leaves_something_out_is_void(
    reports: dict[Any, Report], name: str, fault: str
) -> None:
    outcome = reports[name, fault].outcome
    assert isinstance(outcome, Void) and outcome.reason.startswith("numerics: "), outcome
