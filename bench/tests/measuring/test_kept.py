"""What launches leave to the next ones: computed once, read whole or not at all, then gone."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest

from bench.measuring import kept
from bench.measuring.gates.numerics import gate, reference_of
from bench.measuring.kept import Kept
from bench.precision import PRECISIONS
from bench.records.run import Settings
from bench.running import scratch, session
from bench.running.face import Nobody
from bench.tests.fakes import FakeBackend
from bench.tests.small_workloads import WORKLOADS, small
from bench.tests.values import make_case
from bench.workload import Site


def site(**changes: Any) -> Site:
    import torch

    given = {"device": torch.device("cpu"), "precision": PRECISIONS["fp32"], "seed": 1, **changes}
    return Site(**given)


def test_a_result_is_computed_once_and_read_from_then_on(tmp_path: Path) -> None:
    import torch

    made = []

    def compute() -> dict[str, Any]:
        made.append(1)
        return {"a": torch.ones(3, dtype=torch.float64), "none": [None], "where": ("cpu",)}

    first, beside = Kept(tmp_path / "new"), Kept(tmp_path / "new")
    assert first.get(lambda: b"x", compute)["where"] == ("cpu",) and not first.found
    assert beside.get(lambda: b"x", compute) and not beside.found, "another rank of the same launch"
    again = Kept(tmp_path / "new")
    found = again.get(lambda: b"x", compute)
    assert again.found and len(made) == 1
    assert torch.equal(found["a"], torch.ones(3, dtype=torch.float64)) and found["none"] == [None]
    again.get(lambda: b"of another thing", compute)
    assert len(made) == 2


@pytest.mark.parametrize("damage", [b"", b"\0" * 40, None])
def test_what_is_not_whole_is_computed_anew(tmp_path: Path, damage: bytes | None) -> None:
    Kept(tmp_path).get(lambda: b"x", lambda: {"a": 1})
    (path,) = tmp_path.iterdir()
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]) if damage is None else damage)
    assert Kept(tmp_path).get(lambda: b"x", lambda: {"a": 2}) == {"a": 2}
    assert Kept(tmp_path).get(lambda: b"x", lambda: {"a": 3}) == {"a": 2}, "and kept in its place"


def test_nowhere_to_keep_it_costs_time_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for one in (Kept(), Kept(tmp_path / "file")):
        assert one.get(lambda: b"x", lambda: {"a": 1}) == {"a": 1} and not one.found


def test_the_gate_reads_a_reference_and_still_computes_on_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of other precisions and launches; never of another seed, mode or shape."""
    gemm, asked = WORKLOADS["gemm"], small("gemm", "matmul")
    precisions: list[str] = []
    build = type(gemm).build

    def noted(self: Any, mode: str, twin: Any, at: Site) -> Any:
        precisions.append(at.precision.name)
        return build(self, mode, twin, at)

    monkeypatch.setattr(type(gemm), "build", noted)

    def gated(at: Site) -> bool:
        one = Kept(tmp_path)
        assert gate(gemm, "matmul", asked, at, (), one).passed
        return one.found

    assert not gated(site())
    assert gated(site()) and gated(site(precision=PRECISIONS["bf16"]))
    assert precisions == ["fp32", "fp64", "fp32", "bf16"]
    assert not gated(site(seed=2))


def test_a_reference_of_wrong_numbers_stops_right_ones(tmp_path: Path) -> None:
    """It is what was kept that the device is held to."""
    gemm, asked = WORKLOADS["gemm"], small("gemm", "matmul")
    gate(gemm, "matmul", asked, site(), (), Kept(tmp_path))
    (path,) = tmp_path.iterdir()
    found = kept._read(path)
    kept._write(path, {name: value * 2 for name, value in found.items()})
    assert not gate(gemm, "matmul", asked, site(), (), Kept(tmp_path)).passed


def test_what_is_compiled_lies_in_the_run_s_folder_unless_the_user_says_where(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environment = {"TRITON_CACHE_DIR": "/mine"}
    monkeypatch.setattr(os, "environ", environment)
    kept.keep_compiled(None)
    assert environment == {"TRITON_CACHE_DIR": "/mine"}
    kept.keep_compiled("/run", ["VENDORS_CACHE"])
    assert environment == {
        "TRITON_CACHE_DIR": "/mine",
        "TORCHINDUCTOR_CACHE_DIR": str(Path("/run/inductor")),
        "VENDORS_CACHE": str(Path("/run/vendors_cache")),
    }


def test_byte_code_is_kept_where_there_is_none_and_none_could_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "library" / "__init__.py"
    source.parent.mkdir()
    source.write_text("")
    spec = importlib.machinery.ModuleSpec("library", None, origin=str(source))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    wanted = {"PYTHONPYCACHEPREFIX": str(tmp_path / "byte-code"), "PYTHONDONTWRITEBYTECODE": ""}
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    assert kept.byte_code(tmp_path, "library") == {}, "it will be written"
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert kept.byte_code(tmp_path, "library") == wanted, "a folder of others"
    monkeypatch.setattr(os, "access", lambda *_: True)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    assert kept.byte_code(tmp_path, "library") == wanted, "forbidden"
    compiled = Path(importlib.util.cache_from_source(str(source)))
    compiled.parent.mkdir(exist_ok=True)
    compiled.write_bytes(b"")
    assert kept.byte_code(tmp_path, "library") == {}, "there already"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert kept.byte_code(tmp_path, "library") == {}


def test_a_launch_is_told_where_and_the_session_takes_it_away() -> None:
    folder = scratch.made()
    assert folder is not None and folder.is_dir()
    (folder / "references").mkdir()
    backend, nobody = FakeBackend(), Nobody()
    nowhere: Any = None
    one = session.Session(
        *([make_case()], Settings(), backend.devices()[0], backend, nowhere, nobody, nowhere),
        folder=folder,
    )
    assert one.request(one.states[0]).scratch == str(folder)
    one.close()
    assert not folder.exists()


def test_formats_of_the_same_elements_have_references_of_their_own() -> None:
    gemm, twin = WORKLOADS["gemm"], small("gemm", "matmul")
    found = {
        kept.key("probe", gemm, "matmul", twin, reference_of(site(precision=PRECISIONS[name])))
        for name in ("fp8", "fp8-row", "fp8-block128", "mxfp8")
    }
    assert len(found) == 4
