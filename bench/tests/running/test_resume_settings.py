"""A run goes on only under the settings that it was begun with, whatever their names."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bench.errors import RecordError
from bench.running.resume import resume
from bench.tests.running.test_resume import CPU, same_variables, with_environment, write


@pytest.mark.parametrize(
    "name", ["DNNL_MAX_CPU_ISA", "TORCHDYNAMO_DISABLE", "PYTHONOPTIMIZE", "MALLOC_X_OF_TOMORROW"]
)
def test_a_variable_of_any_family_that_is_new_does_not_mix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """`run --resume` under DNNL_MAX_CPU_ISA=SSE41 once mixed two speeds in one figure."""
    same_variables(monkeypatch)
    then = {"variables": {"OMP_NUM_THREADS": "2"}}
    file = write(tmp_path / "run.jsonl", with_environment(**then), device=CPU)
    monkeypatch.setenv(name, "1")
    with pytest.raises(RecordError, match=f"variable {name} was not set, is 1"):
        resume(file, CPU, [])
    monkeypatch.delenv(name)
    monkeypatch.setenv("TORCH_HOME", "/somewhere")
    resume(file, CPU, []).close()


def test_other_instructions_do_not_mix_and_a_count_of_threads_decides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same_variables(monkeypatch)
    facts = {"instructions_used": "bf16 avx512_core_bf16", "threads_used": "2"}
    then = msgspec.structs.replace(CPU, facts=facts)
    file = write(tmp_path / "run.jsonl", with_environment(), device=then)
    other = msgspec.structs.replace(CPU, facts={**facts, "instructions_used": "bf16 sse41"})
    with pytest.raises(RecordError, match="device facts was"):
        resume(file, other, [])
    resume(file, msgspec.structs.replace(CPU, facts={**facts, "threads_used": "1"}), []).close()
