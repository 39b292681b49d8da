"""How a suite spreads training and inference over devices, and what it may not ask for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench import catalogue
from bench.planning.plan import plan
from bench.planning.suite_file import read_suite
from bench.records.case import Case
from bench.records.parallelism import SCHEMES
from bench.tests.planning.test_bad_cases import MODES, refusal


def case_of(folder: Path, devices: int, text: str) -> Case:
    path = folder / "mine.toml"
    path.write_text(f"[[case]]\n{text}\n")
    (found,) = plan(read_suite(path), devices)
    return found


@pytest.mark.parametrize(
    ("text", "spread"),
    [
        ('workload = "llama"\nmode = "train"\nparallelism = "fsdp"\nbatch_size = 8', "fsdp4"),
        ('workload = "llama"\nmode = "train"\nparallelism = "hsdp"\nbatch_size = 8', "hsdp2x2"),
        ('workload = "resnet50"\nmode = "train"\nparallelism = "dp"', "dp4"),
        (
            'workload = "llama"\nmode = "train"\nparallelism = "fsdp"\nprecision = "bf16-amp"\n'
            'mixed_precision = "policy"\nbatch_size = 8',
            "fsdp4",
        ),
        ('workload = "dlrm"\nmode = "train"\nparallelism = "dlrm-hybrid"', "dlrm-hybrid4"),
        ('workload = "whisper"\nparallelism = "replicas"\nbatch_size = 8', "replicas4"),
    ],
)
def test_a_case_takes_the_devices_of_the_run(tmp_path: Path, text: str, spread: str) -> None:
    case = case_of(tmp_path, 4, text)
    assert (case.devices, case.parallelism) == (4, spread)


POLICY = {"workload": "llama", "mode": "train", "mixed_precision": "policy"}
RESNET = {"workload": "resnet50", "mode": "train", "batch_statistics": "synchronized"}
BAD: list[tuple[dict[str, Any], str]] = [
    ({"workload": "resnet50", "mode": "train", "parallelism": "fsdp2"}, "no parallelism `fsdp2`"),
    ({"workload": "dlrm", "mode": "train", "parallelism": "dp2"}, "no parallelism `dp2`"),
    ({"workload": "llama", "mode": "decode", "parallelism": "dp2"}, "no parallelism `dp2`"),
    ({"workload": "gemm", "parallelism": "dp2"}, "cannot be spread over devices"),
    *(
        (
            {"workload": "bert", "mode": "train", "parallelism": "dp2", "execution": how},
            "over dp2 a step is not recorded: what devices send each other is in no recording",
        )
        for how in ("graph", "compile-graph")
    ),
    (
        {"workload": "bert", "mode": "train", "parallelism": "fsdp2", "execution": "compile"},
        "over fsdp2 `compile` is measured in float32 only, not in bf16",
    ),
    ({**RESNET, "parallelism": "dp2", "execution": "compile"}, "in eager execution only"),
    ({**POLICY, "parallelism": "dp2"}, "it out."),
    ({**POLICY, "precision": "bf16-amp"}, 'parallelism = "fsdp" or "hsdp". Give both'),
    ({**POLICY, "precision": "bf16", "parallelism": "fsdp2"}, 'of precision "bf16-amp"'),
    ({"workload": "bert", "mode": "train", "parallelism": "dp3"}, "does not divide over 3 devices"),
]


@pytest.mark.parametrize(("case", "words"), BAD)
def test_what_cannot_be_spread_so_says_why(
    tmp_path: Path, case: dict[str, Any], words: str
) -> None:
    assert words in refusal(tmp_path, **case)


def test_a_case_names_its_batch_statistics_only_where_they_are_not_each_devices_own(
    tmp_path: Path,
) -> None:
    text = 'workload = "resnet50"\nmode = "train"\nparallelism = "dp"\nbatch_statistics = '
    own, all_of = (case_of(tmp_path, 2, f'{text}"{name}"') for name in ("own", "synchronized"))
    assert "batch_statistics" not in own.parameters
    assert all_of.parameters["batch_statistics"] == "synchronized"


@pytest.mark.parametrize(
    "what", ['"infer"\nparallelism = "replicas2"', '"train"\nparallelism = "dp"', '"train"']
)
def test_what_is_spread_may_be_compiled(tmp_path: Path, what: str) -> None:
    text = f'workload = "resnet50"\nprecision = "fp32"\nexecution = "compile"\nmode = {what}'
    if what == '"train"':
        text += '\nbatch_statistics = "synchronized"'
    assert case_of(tmp_path, 2, text).execution == "compile"


@pytest.mark.parametrize(("name", "mode"), MODES)
def test_every_mode_names_schemes_that_there_are(name: str, mode: str) -> None:
    schemes = catalogue.workload(name).modes[mode].schemes
    assert schemes[0] == "none" and set(schemes) <= set(SCHEMES)
    forwards = ("infer", "prefill", "decode", "embed", "rerank")
    whole = mode in forwards and name != "attention"  # which is a kernel
    assert ("replicas" in schemes) == whole
