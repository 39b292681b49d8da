"""A case that cannot be is refused when the suite is planned: file, case and what is allowed."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

import bench.workloads
from bench import catalogue
from bench.errors import SuiteError
from bench.planning.plan import plan
from bench.planning.suite_file import read_suite
from bench.tests.released import workloads

MODULES = [m.name for m in pkgutil.iter_modules(bench.workloads.__path__) if not m.ispkg]
NAMES = [name.replace("_", "-") for name in MODULES if not name.startswith("_")]
MODES = [(name, mode) for name in NAMES for mode in catalogue.workload(name).modes]


def refusal(folder: Path, **case: Any) -> str:
    """What planning says of a file whose second case is this one."""
    lines = (f"{key} = {msgspec.json.encode(value).decode()}" for key, value in case.items())
    path = folder / "mine.toml"
    good = '[[case]]\nworkload = "gemm"\n'
    path.write_text(good + "[[case]]\n" + "\n".join(lines) + "\n")
    with pytest.raises(SuiteError) as caught:
        plan(read_suite(path))
    message = str(caught.value)
    assert message.startswith(f"{path}, case 2: "), message
    return message.removeprefix(f"{path}, case 2: ")


def with_field(*fields: str) -> list[tuple[str, str, str]]:
    """Every mode that has one of these parameters, and the parameter."""
    return [
        (name, mode, field)
        for name, mode in MODES
        for field in catalogue.workload(name).modes[mode].parameters.__struct_fields__
        if field in fields
    ]


BAD: list[tuple[str, str, dict[str, Any], str]] = [
    ("attention", "forward", {"batch_size": 0}, "from 1"),
    ("attention", "forward-backward", {"sequence_length": 1}, "from 2"),
    ("attention", "forward", {"head_dim": 7}, "from 8"),
    ("launch", "queue", {"kernels": 0}, "from 1"),
    ("serve", "load", {"requests": 8}, "must be 32 or more, not 8"),
    ("transfer", "to-host", {"size_bytes": 6}, "multiple of 4"),
    ("transfer", "to-device", {"memory": "pined"}, "Did you mean `pinned`"),
    ("gemm", "matmul", {"shape": "2048"}, "MxNxK"),
    ("gemm", "matmul", {"shape": "0x1x1"}, "1 to 262144"),
    ("gemm", "matmul", {"shape": "262145x1x1"}, "1 to 262144"),
    ("gemm", "matmul", {"shape": "8x8x8x8"}, "MxNxK"),
    ("collective", "all-reduce", {"size_bytes": 12}, "multiple of 8"),
    ("memory", "copy", {"size_bytes": 0}, "from 8"),
    ("memory", "triad", {"size_bytes": 12}, "multiple of 8"),
    ("resnet50", "infer", {"batch_size": 0}, "from 1"),
    ("resnet50", "train", {"batch_size": 1}, "from 2"),
    ("resnet50", "train", {"image_size": 16}, "from 32"),
    ("resnet50", "train", {"optimizer": "adamw"}, "Allowed: sgd"),
    ("bert", "infer", {"model": "huge"}, "Allowed: base, "),
    ("bert", "infer", {"model": "lage"}, "Did you mean `large`"),
    ("bert", "infer", {"sequence_length": 513}, "to 512"),
    ("bert", "train", {"optimizer": "sgd"}, "Allowed: adamw"),
    ("deepseek", "train", {"model": "v2_lite"}, "Did you mean `v2-lite`"),
    ("deepseek", "prefill", {"batch_size": 0}, "from 1"),
    ("deepseek", "prefill", {"prompt_length": 163_841}, "to 163840"),
    ("deepseek", "decode", {"prompt_length": 163_840}, "to 163840"),
    ("qwen3", "train", {"model": "qwen3_8b"}, "Did you mean `qwen3-8b`"),
    ("gpt-oss", "decode", {"model": "gpt-oss-20B"}, "Did you mean `gpt-oss-20b`"),
    ("gpt-oss", "decode", {"prompt_length": 131_072}, "to 131072"),
    ("llama", "train", {"model": "llama-3.2-1B"}, "Did you mean `llama-3.2-1b`"),
    ("llama", "train", {"optimizer": "lion"}, "Allowed: adamw"),
    ("llama", "train", {"accumulation_steps": 0}, "from 1 to 1024"),
    ("bert", "train", {"accumulation_steps": 1025}, "from 1 to 1024"),
    ("llama", "lora", {"lora_rank": 0}, "from 1 to 576"),
    ("llama", "lora", {"model": "tiny", "lora_rank": 65}, "to 64"),
    ("llama", "lora", {"sequence_length": 8193}, "to 8192"),
    ("llama", "prefill", {"prompt_length": 0}, "from 1"),
    ("llama", "decode", {"prompt_length": 8192}, "to 8192"),
    ("llama", "decode", {"batch_size": -1}, "from 1"),
    ("whisper", "infer", {"model": "large"}, "Did you mean `large-v3`"),
    ("whisper", "infer", {"batch_size": 0}, "from 1"),
    ("whisper", "infer", {"new_tokens": 449}, "to 448"),
    ("diffusion", "infer", {"model": "dit-xl"}, "Did you mean `dit-xl-2`"),
    ("diffusion", "infer", {"batch_size": 0}, "from 1"),
    ("diffusion", "train", {"model": "sdxl-unet"}, "Allowed: dit-s-2, "),
    ("diffusion", "train", {"optimizer": "sgd"}, "Allowed: adamw"),
    ("vit-b16", "infer", {"image_size": 225}, "multiple of 16, not 225"),
    ("vit-b16", "infer", {"image_size": 0}, "from 16"),
    ("vit-b16", "infer", {"layers": 13}, "to 12"),
    ("vit-b16", "train", {"optimizer": "sgd"}, "Allowed: adamw"),
    ("dlrm", "infer", {"rows": 1}, "from 2"),
    ("dlrm", "infer", {"embedding_dim": 0}, "from 4"),
    ("dlrm", "infer", {"lookups": 0}, "from 1"),
    ("dlrm", "train", {"optimizer": "adagrad"}, "Allowed: sgd"),
]


@pytest.mark.parametrize(("name", "mode", "given", "message"), BAD)
def test_values_that_cannot_be_say_what_can(
    name: str, mode: str, given: dict[str, Any], message: str, tmp_path: Path
) -> None:
    precision = catalogue.workload(name).modes[mode].precisions[0]
    said = refusal(tmp_path, workload=name, mode=mode, precision=precision, **given)
    assert said.startswith(f"{name}-{mode}: ") and message in said


def test_every_workload_refuses_something() -> None:
    assert {name for name, *_ in BAD} >= workloads()


COUNTED = ("batch_size", "sequence_length", "prompt_length", "new_tokens", "accumulation_steps")


@pytest.mark.parametrize(("name", "mode", "field"), with_field(*COUNTED))
@pytest.mark.parametrize("value", [0, 2**40])
def test_counts_have_limits_and_name_them(
    name: str, mode: str, field: str, value: int, tmp_path: Path
) -> None:
    precision = catalogue.workload(name).modes[mode].precisions[0]
    said = refusal(tmp_path, workload=name, mode=mode, precision=precision, **{field: value})
    assert said.startswith(f"{name}-{mode}: {field} must be from ") and said.endswith(f"{value}.")


@pytest.mark.parametrize(("name", "mode", "field"), with_field(*COUNTED))
def test_a_count_is_a_whole_number(name: str, mode: str, field: str, tmp_path: Path) -> None:
    precision = catalogue.workload(name).modes[mode].precisions[0]
    for value, shown in (("8", '"8"'), (8.5, "8.5"), (True, "true")):
        said = refusal(tmp_path, workload=name, mode=mode, precision=precision, **{field: value})
        assert said == f"{name}-{mode}: `{field}` must be a whole number, not {shown}."


@pytest.mark.parametrize(("name", "mode", "field"), with_field("model", "optimizer"))
def test_an_unknown_name_gets_the_known_ones(
    name: str, mode: str, field: str, tmp_path: Path
) -> None:
    declared = catalogue.workload(name).modes[mode]
    known = getattr(declared.parameters(), field)
    given = {field: "no-such-name"}
    said = refusal(tmp_path, workload=name, mode=mode, precision=declared.precisions[0], **given)
    assert said.startswith(f"{name}-{mode}: unknown {field} `no-such-name`. Allowed: ")
    assert known in said


MOST_POSITIONS = {"bert": 512, "whisper": 448}
"""Where it is not a field of the size."""


@pytest.mark.parametrize(
    ("name", "mode", "field"), with_field("sequence_length", "prompt_length", "new_tokens")
)
def test_no_sequence_is_longer_than_its_models_positions(
    name: str, mode: str, field: str, tmp_path: Path
) -> None:
    declared = catalogue.workload(name).modes[mode]
    module = importlib.import_module(type(catalogue.workload(name)).__module__)
    sizes = getattr(declared.parameters, "sizes", getattr(module, "SIZES", {}))
    for model, size in sizes.items():
        most = MOST_POSITIONS.get(name) or size.positions
        with pytest.raises(ValueError, match=f"{field} must be from 1 to {most}, not {most + 1}"):
            declared.parameters(model=model, **{field: most + 1})
        if mode == "decode":
            both = {"prompt_length": most - 4, "new_tokens": 4}
            declared.parameters(model=model, **both)
            both[field] += 1
            with pytest.raises(
                ValueError, match=rf"prompt_length \+ new_tokens must .* to {most}, "
            ):
                declared.parameters(model=model, **both)


@pytest.mark.parametrize(("name", "mode"), MODES)
def test_what_a_mode_is_not_defined_for_names_what_it_is(
    name: str, mode: str, tmp_path: Path
) -> None:
    declared = catalogue.workload(name).modes[mode]
    given = {"workload": name, "mode": mode, "precision": declared.precisions[0]}
    allowed = ", ".join(declared.precisions)
    said = refusal(tmp_path, **{**given, "precision": "fp33"})
    assert said.startswith(f"unknown precision `fp33` for {name}-{mode}.")
    assert allowed in said or "Did you mean" in said
    said = refusal(tmp_path, **given, execution="compiled")
    assert said.startswith(f"unknown execution `compiled` for {name}-{mode}.")
    assert all(execution in said for execution in declared.executions) or "Did you mean" in said
    said = refusal(tmp_path, **given, batchsize=8)
    assert said.startswith(f"unknown key `batchsize` for {name}-{mode}.")


@pytest.mark.parametrize("name", NAMES)
def test_heads_divide_the_width_of_every_model(name: str) -> None:
    module = importlib.import_module(type(catalogue.workload(name)).__module__)
    sizes = {**getattr(module, "SIZES", {}), **getattr(module, "DITS", {})}
    for model, size in sizes.items():
        if name != "deepseek":  # its heads have a width of their own
            assert size.hidden % size.heads == 0, model
        assert size.heads % getattr(size, "key_value_heads", 1) == 0, model
    for model, size in getattr(module, "UNETS", {}).items():
        assert all(channels % size.head == 0 for channels in size.channels), model
