"""What other people's code imports: its names are here, and change only on purpose."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import bench
from bench import former, guide

API = """
AccelmarkError Case CaseComparison Comparison Failed Launch Measured Prices Row RunFile Settings
Skipped Void compare_runs compare_systems explain_run explain_suite read_run render resume_run
run_suite summarize_run
"""
BACKEND = """
Backend Device DeviceInfo DeviceUnavailable FailureKind Memory NotAvailable NotObservable
NothingInstalled Operand PRECISIONS Precision Process Products Queued Reading Ready Reason Recorder
Scope Source TorchBackend TorchDevice host_fallbacks is_out_of_memory said
"""
WORKLOAD = """
BATCHES DECODE_EXECUTIONS EXECUTIONS ALL_EXECUTIONS INFERENCE_PRECISIONS InferenceJob Job
Later Look Mode OneOf
PRECISIONS Parameters Precision QUANTIZED_PRECISIONS Recorder Rows SeededData ServingJob Site
TRAINING_PRECISIONS Training TrainingJob Unsupported Within Work Workload adamw_learning_rate
autocast build_model
checkpoint_layers cross_entropy executed gradient_norm initial_std make_optimizer model_facts
parameter_count place replayed require_one_of require_within train_and_infer twin_name with_cache
with_twins
"""
FRAMEWORK = """
Backend CpuDevice Device DeviceInfo DeviceUnavailable Draws Executed Executing Framework Job Look
Memory Mode Moved NotObservable NothingInstalled Precision Recorder Site Tensors Training
Unsupported Workload
"""
REPORT = """
Canvas Case CaseComparison Comparison End Failed Launch Measured Report Row Run RunFile Settings
Skipped Void compare summarize units
"""
PUBLIC = {
    "bench": API,
    "bench.plugins.backend": BACKEND,
    "bench.plugins.workload": WORKLOAD,
    "bench.plugins.report": REPORT,
    "bench.plugins.framework": FRAMEWORK,
}
FORMER = {
    "bench.accelerator": """
        AUTOLOAD FALLBACK LOST MISSING_LIBRARY NotAvailable SHARED_NAMES TorchBackend TorchDevice
        UNNAMED_FALLBACK ask first_line host_fallbacks missing_library torch_build
    """,
    "bench.models": """
        BATCHES InferenceJob SeededData TrainingJob adamw_learning_rate autocast build_model
        checkpoint_layers cross_entropy executed gradient_norm initial_std make_optimizer
        model_facts parameter_count place with_cache
    """,
    "bench.record": """
        Block Check Cold DOES_NOT_FIT End Failed FailureKind Flag Launch Line MOST_LAUNCHES Measured
        Memory Numerics Outcome Phase Resumed Run RunFile SCHEMA_VERSION Settings Skipped Void Work
    """,
    "bench.telemetry": "NotObservable Process Source TOOL_SECONDS said",
}
"""What third parties could import of version 0.1, from where it no longer is."""
STAYED = {
    "bench.backend": "Backend Device DeviceInfo DeviceUnavailable Queued Recorder",
    "bench.workload": "Job Mode Parameters Recorder Site Unsupported Workload require_within",
    "bench.report": "Canvas Report",
    "bench.precision": "ELEMENT_BYTES PRECISIONS Precision REFERENCE",
}
"""Protocols that are where they were."""


@pytest.mark.parametrize("module", PUBLIC)
def test_the_public_names_are_these(module: str) -> None:
    found = importlib.import_module(module)
    assert sorted(found.__all__) == sorted(PUBLIC[module].split())
    for name in found.__all__:
        assert getattr(found, name) is not None


@pytest.mark.parametrize("module", [m for m in PUBLIC if m != "bench"])
def test_bringing_a_plug_in_loads_no_torch(module: str) -> None:
    code = f"import sys, {module}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_importing_the_package_loads_next_to_nothing() -> None:
    code = (
        "import sys, bench; print([m for m in sys.modules if m.startswith('bench')], "
        "{'torch', 'rich', 'msgspec', 'click', 'pytest'} & set(sys.modules))\n"
        "bench.read_run; print('bench.api' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("['bench'] set()\nTrue False\n", "")


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'bench' has no attribute 'run_suit'"):
        bench.run_suit  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(ImportError):
        exec("from bench.record import Nothing")
    assert set(bench.__all__) <= set(dir(bench))


@pytest.mark.parametrize("module", FORMER)
def test_a_former_home_gives_the_name_and_says_where_it_is_now(module: str) -> None:
    home = importlib.import_module(module)
    for name in FORMER[module].split():
        with pytest.warns(DeprecationWarning) as caught:
            found = getattr(home, name)
        said = re.fullmatch(
            rf"{module}\.{name} is now ([\w.]+)\.{name}: import it from there\. The former name "
            rf"works up to accelmark {former.LAST}\.",
            str(caught[0].message),
        )
        assert said, caught[0].message
        assert found is getattr(importlib.import_module(said[1]), name)
        assert caught[0].filename == __file__, "it names the line that is to be changed"


@pytest.mark.parametrize("module", STAYED)
def test_what_has_not_moved_does_not_warn(module: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in STAYED[module].split():
            assert getattr(importlib.import_module(module), name) is not None


def test_the_former_homes_go_after_the_version_that_they_name() -> None:
    release = tuple(int(part) for part in bench.__version__.split(".")[:2])
    assert release <= tuple(int(part) for part in former.LAST.split(".")), "delete them"


PLUG_INS = [
    *sorted((Path(__file__).parent / "example_vendor" / "examplium").glob("*.py")),
    Path(__file__).parent / "frameworks" / "plain.py",
]


@pytest.mark.parametrize("file", PLUG_INS, ids=lambda file: str(file.name))
def test_a_plug_in_of_another_package_uses_public_names_only(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("bench"):
            assert node.module in PUBLIC
            assert {alias.name for alias in node.names} <= set(PUBLIC[node.module].split())


@pytest.mark.parametrize("page", ["new-backend", "new-workload", "mindspore"])
def test_what_a_page_has_one_import_is_public(page: str) -> None:
    """A class with its module; `bench.plugins` with a module's name alone is one of them, too."""
    text = " ".join(guide.page(page).text.split())
    named = re.findall(r"`(bench[\w.]*)\.([A-Z]\w+)`", text)
    assert named or page == "new-workload"
    assert [f"{m}.{name}" for m, name in named if name not in PUBLIC.get(m, "").split()] == []
    assert set(re.findall(r"`(bench\.plugins\.[a-z]+)`", text)) <= PUBLIC.keys()


def test_the_page_of_what_a_package_imports_names_every_module() -> None:
    text = " ".join(guide.page("new-backend").text.split())
    found = re.search(r"Import from `bench\.plugins` alone \(([^)]+)\)", text)
    assert found
    named = {f"bench.plugins.{name}" for name in re.findall(r"`(\w+)`", found[1])}
    assert named == PUBLIC.keys() - {"bench"}
