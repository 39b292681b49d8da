"""From a suite to its cases: sweeps, defaults, and nonsense refused by name and place."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from bench import catalogue
from bench.errors import SuiteError
from bench.planning import plan, selected
from bench.planning.suite_file import Suite, find_suite, read_suite
from bench.precision import PRECISIONS
from bench.records.case import Case
from bench.records.run import Settings
from bench.workload import Mode, Parameters, Workload, require_within


class ToyParameters(Parameters, frozen=True, kw_only=True):
    batch_size: int = 4
    rate: float = 0.5
    kind: str = "plain"

    def __post_init__(self) -> None:
        require_within("batch_size", self.batch_size, 1, 100)


TOY_MODES = {
    "train": Mode(
        parameters=ToyParameters,
        precisions=("bf16", "bf16-amp", "fp32"),
        executions=("eager", "compile"),
    ),
    "infer": Mode(parameters=ToyParameters),
}
SINGLE_MODE = {"only": Mode(parameters=ToyParameters)}


class Toy(Workload):
    """A workload that plans, and is never built."""

    name = "toy"
    version = 3
    modes = TOY_MODES

    def work(self, *_: Any) -> Any:
        raise NotImplementedError

    def twin(self, *_: Any) -> Any:
        raise NotImplementedError

    def build(self, *_: Any) -> Any:
        raise NotImplementedError


class Single(Toy):
    name = "single"
    modes = SINGLE_MODE


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workloads of our own beside the shipped ones."""
    real_plug_ins, real_workload = catalogue.plug_ins, catalogue.workload
    made: dict[str, Workload] = {"toy": Toy(), "single": Single()}

    def plug_ins(kind: catalogue.Kind) -> dict[str, catalogue.PlugIn]:
        extra = {
            name: catalogue.PlugIn(name=name, module="x", attribute="WORKLOAD", package="toy")
            for name in made
        }
        return {**real_plug_ins(kind), **(extra if kind == "workloads" else {})}

    monkeypatch.setattr(catalogue, "plug_ins", plug_ins)
    monkeypatch.setattr(catalogue, "workload", lambda n: made.get(n) or real_workload(n))


def planned(*entries: dict[str, Any]) -> tuple[Case, ...]:
    return plan.plan(
        Suite(
            name="mine",
            source="configs/mine.toml",
            description="",
            settings=Settings(),
            entries=entries,
        )
    )


# --- What a suite means --------------------------------------------------------------------------


def test_defaults_are_written_out() -> None:
    (case,) = planned({"workload": "toy", "mode": "train"})
    assert case == Case(
        workload="toy",
        version=3,
        mode="train",
        precision="bf16",
        execution="eager",
        parameters={"batch_size": 4, "rate": 0.5, "kind": "plain"},
    )


def test_a_default_that_is_written_is_the_same_work() -> None:
    (plain,) = planned({"workload": "toy", "mode": "train"})
    (written,) = planned(
        {"workload": "toy", "batch_size": 4, "mode": "train", "precision": "bf16", "rate": 0.5}
    )
    assert plain.fingerprint == written.fingerprint


def test_a_whole_number_for_a_real_one_is_the_same_work() -> None:
    (whole,) = planned({"workload": "toy", "mode": "train", "rate": 2})
    (real,) = planned({"workload": "toy", "mode": "train", "rate": 2.0})
    assert whole.fingerprint == real.fingerprint


def test_a_single_mode_needs_no_name() -> None:
    (case,) = planned({"workload": "single"})
    assert case.mode == "only"


def test_lists_are_swept_the_last_key_fastest() -> None:
    cases = planned(
        {"workload": "toy", "mode": ["train", "infer"], "precision": "fp32", "batch_size": [1, 8]},
        {"workload": "toy", "mode": "infer", "kind": "other"},
    )
    found = [(c.mode, c.parameters["batch_size"], c.parameters["kind"]) for c in cases]
    assert found == [
        ("train", 1, "plain"),
        ("train", 8, "plain"),
        ("infer", 1, "plain"),
        ("infer", 8, "plain"),
        ("infer", 4, "other"),
    ]


# --- What is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {"workload": "toy", "mode": "train", "batchsize": 1},
            "unknown key `batchsize` for toy-train. Did you mean `batch_size`? Allowed: "
            "batch_size, batch_size_per_device, devices, execution, kind, mode, parallelism, "
            "precision, rate, tuned, workload.",
        ),
        (
            {"workload": "toy", "mode": "train", "launches": 3},
            "unknown key `launches` for toy-train. It belongs in the table [settings].",
        ),
        (
            {"workload": "toy", "mode": "train", "budget_minutes": 3},
            "unknown key `budget_minutes` for toy-train. It belongs above every table, at the top.",
        ),
        ({"mode": "train"}, "it has no `workload`. Allowed: "),
        ({"workload": "tony", "mode": "train"}, "unknown workload `tony`. Did you mean `toy`?"),
        ({"workload": 7}, "unknown workload `7`. Allowed: "),
        ({"workload": "toy"}, "toy needs a `mode`. Allowed: train, infer."),
        (
            {"workload": "toy", "mode": "trian"},
            "unknown mode `trian` of toy. Did you mean `train`? Allowed: infer, train.",
        ),
        ({"workload": "single", "mode": "x"}, "unknown mode `x` of single. Allowed: only."),
        ({"workload": "toy", "mode": 3}, "unknown mode `3` of toy."),
        (
            {"workload": "toy", "mode": "train", "precision": "bf61"},
            "unknown precision `bf61` for toy-train. Did you mean `bf16`? Allowed: ",
        ),
        (
            {"workload": "toy", "mode": "train", "precision": "fp16"},
            "toy-train has no precision `fp16`. Allowed: bf16, bf16-amp, fp32.",
        ),
        (
            {"workload": "toy", "mode": "train", "precision": "fp64"},
            "unknown precision `fp64` for toy-train.",
        ),
        (
            {"workload": "toy", "mode": "infer", "execution": "compile"},
            "toy-infer has no execution `compile`: compiled are models and a few kernels, and "
            "recorded is only what takes nothing from the host but which input is next. "
            "Allowed: eager.",
        ),
        (
            {"workload": "toy", "mode": "train", "execution": "compiled"},
            "unknown execution `compiled` for toy-train. Did you mean `compile`?",
        ),
        (
            {"workload": "toy", "mode": "train", "batch_size": "8"},
            'toy-train: `batch_size` must be a whole number, not "8".',
        ),
        (
            {"workload": "toy", "mode": "train", "batch_size": 2.5},
            "toy-train: `batch_size` must be a whole number, not 2.5.",
        ),
        (
            {"workload": "toy", "mode": "train", "batch_size": True},
            "toy-train: `batch_size` must be a whole number, not true.",
        ),
        (
            {"workload": "toy", "mode": "train", "batch_size": {"a": 1}},
            "unknown key `a` of `batch_size`. Allowed: doubling_to, from.",
        ),
        (
            {"workload": "toy", "mode": "train", "batch_size": 0},
            "toy-train: batch_size must be from 1 to 100, not 0.",
        ),
        (
            {"workload": "toy", "mode": "train", "batch_size": []},
            "`batch_size` is an empty list. Give at least one value.",
        ),
        (
            {"workload": "toy", "mode": "train", "batch_size": [1, 1]},
            "toy-train bf16 (batch 1, rate 0.5, plain) is planned twice: a list in this table "
            "names a value twice. Remove one of them.",
        ),
        (
            {"workload": "single", "batch_size": 9},
            "single-only bf16 (batch 9, rate 0.5, plain) is already in configs/mine.toml, case 1.",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name_and_place(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(SuiteError) as caught:
        planned({"workload": "single", "batch_size": 9}, entry)
    assert str(caught.value).startswith(f"configs/mine.toml, case 2: {message}")


# --- --only --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("toy", ["toy-train-bf16", "toy-train-fp32", "toy-infer-bf16"]),
        ("toy-*", ["toy-train-bf16", "toy-train-fp32", "toy-infer-bf16"]),
        ("*-train", ["toy-train-bf16", "toy-train-fp32"]),
        ("toy-train", ["toy-train-bf16", "toy-train-fp32"]),
        ("*-fp32", ["toy-train-fp32"]),
        ("*", ["toy-train-bf16", "toy-train-fp32", "toy-infer-bf16", "single-only-bf16"]),
    ],
)
def test_only(pattern: str, names: list[str]) -> None:
    cases = planned(
        {"workload": "toy", "mode": "train", "precision": ["bf16", "fp32"]},
        {"workload": "toy", "mode": "infer"},
        {"workload": "single"},
    )
    assert [f"{c.name}-{c.precision}" for c in selected.select(cases, pattern)] == names


def test_only_that_matches_nothing_is_refused() -> None:
    with pytest.raises(SuiteError) as caught:
        selected.select(planned({"workload": "toy", "mode": "train"}), "toy-trian")
    assert str(caught.value) == (
        "--only toy-trian: matches no case. Did you mean `toy-train`? Allowed: toy-train."
    )


# --- The shipped suites --------------------------------------------------------------------------


@pytest.mark.parametrize("name", catalogue.suites())
def test_every_shipped_suite_plans(name: str) -> None:
    suite = read_suite(find_suite(name))
    assert suite.description, "`accelmark list suites` shows it"
    cases = plan.plan(suite)
    for case in cases:
        workload = catalogue.workload(case.workload)
        parameters = plan.parameters_of(case, workload)
        work = workload.work(case.mode, parameters, PRECISIONS[case.precision])
        assert work.items > 0


@pytest.mark.parametrize("name", ["smoke", "quick"])
def test_the_suites_for_every_machine_hold_every_workload(name: str) -> None:
    cases = plan.plan(read_suite(find_suite(name)))
    shipped = {"gemm", "memory", "resnet50", "bert", "llama"}
    assert {case.workload for case in cases} >= shipped


def test_planning_imports_no_torch() -> None:
    """A vendor's broken runtime makes `import torch` itself raise; the parent must still work."""
    code = """if True:
        import sys
        import bench.judging.summary, bench.running.launcher
        import bench.running.probe, bench.running.session
        from bench import catalogue
        from bench.planning import plan, suite_file
        from bench.precision import PRECISIONS
        for path in catalogue.suites().values():
            for case in plan.plan(suite_file.read_suite(path)):
                workload = catalogue.workload(case.workload)
                parameters = plan.parameters_of(case, workload)
                workload.work(case.mode, parameters, PRECISIONS[case.precision])
        for kind in catalogue.CONSTANTS:
            for name in catalogue.plug_ins(kind):
                catalogue.load(kind, name)
        print(sorted({name.split(".")[0] for name in sys.modules} & {"torch", "transformers"}))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
