"""A run goes on only under the settings that it was begun with, whatever their names."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from bench import catalogue
from bench.errors import RecordError
from bench.measuring.launch import Launch
from bench.measuring.messages import Place
from bench.measuring.ranks import joining
from bench.records import environment
from bench.records.cpu_limits import usable_cores
from bench.running.hosts import alike
from bench.running.resume import mixed_launches, mixture, resume
from bench.tests.running.test_resume import (
    CPU,
    DEVICE,
    first,
    same_variables,
    with_environment,
    write,
)


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
    monkeypatch.setenv("UCX_TLS", "rc")  # of links, which one device does not use
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


@pytest.mark.parametrize("hosts", [1, 2])
@pytest.mark.parametrize("users", [{}, {"OMP_NUM_THREADS": "3"}], ids=["no variable", "the user's"])
def test_ranks_that_share_a_host_go_on_with_the_threads_that_they_were_given(
    monkeypatch: pytest.MonkeyPatch, hosts: int, users: dict[str, str]
) -> None:
    """Each has its part of the cores, by a variable that nobody but their parent set."""
    same_variables(monkeypatch)
    monkeypatch.delenv("OMP_NUM_THREADS")
    for name, value in users.items():
        monkeypatch.setenv(name, value)
    each = 4 // hosts
    place = Place(
        rank=0,
        size=4,
        local_rank=0,
        local_size=each,
        hosts=hosts,
        parallelism="dp4",
        address="127.0.0.1",
        port=1,
    )
    given = joining.variables(environment.worker_variables({}), place, usable_cores(), shared=True)
    several = {} if hosts == 1 else {"hosts": hosts, "devices_per_host": each}
    launches = with_environment(
        variables=environment.variables(environment.VARIABLES, given),
        world={"devices": 4, "shared_host": True, **several},
    )
    assert launches[0].environment["variables"]["OMP_NUM_THREADS"]
    assert mixed_launches(launches, {}, "cpu") == []
    monkeypatch.setenv("OMP_NUM_THREADS", "31")
    (changed,) = mixed_launches(launches, {}, "cpu")
    assert changed.startswith("variable OMP_NUM_THREADS was") and changed.endswith("is 31")
    if not users:
        alone = with_environment(variables=launches[0].environment["variables"])
        monkeypatch.delenv("OMP_NUM_THREADS")
        assert mixed_launches(alone, {}, "cpu"), "one process has no such variable by itself"


def test_what_a_library_reads_from_a_file_is_noted_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a launch, between hosts, and where a run goes on."""
    monkeypatch.delenv("NCCL_ALGO", raising=False)
    monkeypatch.setenv("NCCL_CONF_FILE", str(tmp_path / "x.conf"))
    (tmp_path / "x.conf").write_text("NCCL_ALGO=Tree\n")
    launch: Any = SimpleNamespace(
        request=SimpleNamespace(recorded=()),
        backend=catalogue.backend("cuda"),
        framework=catalogue.framework("torch"),
        environment={},
    )
    Launch._note_variables(launch)
    noted = launch.environment["variables"]
    assert noted["NCCL_ALGO"] == alike.conditions("cuda")["NCCL_ALGO"] == "Tree"
    world = {"devices": 2, "hosts": 1}
    then = with_environment(variables={**noted, "NCCL_ALGO": "Ring"}, world=world)
    assert "variable NCCL_ALGO was Ring, is Tree" in mixed_launches(then, {}, "cuda")


def test_what_no_worker_is_given_keeps_no_run_from_going_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TORCH_NPU_WARNING_DISABLE", "1")
    changed = mixed_launches(with_environment(variables={}), {}, "ascend")
    assert not [one for one in changed if "TORCH_NPU_WARNING_DISABLE" in one]


def test_a_plug_in_of_another_version_does_not_mix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor one that is not there; of another interpreter nobody here can tell."""
    launches = with_environment(plug_ins={"theirs": "1"})
    now = {"theirs": "1"}
    monkeypatch.setattr(catalogue, "versions", lambda *names: {"plug_ins": now})
    assert (
        mixed_launches(launches, {}, "cpu") == mixed_launches(with_environment(), {}, "cpu") == []
    )
    now["theirs"] = "2"
    said = "a launch's plug-ins were {'theirs': '1'}, are {'theirs': '2'}"
    assert mixed_launches(launches, {}, "cpu") == [said]
    assert mixed_launches(launches, {}, "cpu", "mindspore") == []
    assert mixed_launches(with_environment(plug_ins=["theirs"]), {}, "cpu") == [], "no table"


@pytest.mark.parametrize(("more", "mixes"), [(4096, True), (2**33, False), (-(2**33), False)])
def test_some_pages_more_are_the_same_device(tmp_path: Path, more: int, mixes: bool) -> None:
    """What a kernel keeps for itself changes from start to start."""
    file = write(tmp_path / "run.jsonl", first(1))
    then = {**msgspec.to_builtins(DEVICE), "memory_bytes": 2**36}
    run = msgspec.structs.replace(file.run, device=then)
    assert bool(mixture(run, run.host, {**then, "memory_bytes": 2**36 + more})) != mixes
    assert mixture(run, run.host, {**then, "memory_bytes": None})
