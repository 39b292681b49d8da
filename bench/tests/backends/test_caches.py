"""Last-level caches, by a tree as Linux has it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.backends import _caches
from bench.backends.cpu import BACKEND, last_level_bytes


def tree(folder: Path, cores: int, sharing: int, size: str) -> Path:
    """Cores with caches of three levels, of which so many cores share each last one."""
    for core in range(cores):
        first = core // sharing * sharing
        levels = (
            ("Data", "1", str(core), "32K"),
            ("Instruction", "1", str(core), "64K"),
            ("Unified", "2", str(core), "1024K"),
            ("Unified", "3", f"{first}-{first + sharing - 1}", size),
        )
        for index, values in enumerate(levels):
            path = folder / f"cpu{core}" / "cache" / f"index{index}"
            path.mkdir(parents=True)
            for name, value in zip(
                ("type", "level", "shared_cpu_list", "size"), values, strict=True
            ):
                (path / name).write_text(value + "\n", encoding="ascii")
    return folder


def test_each_last_level_cache_counts_once(tmp_path: Path) -> None:
    """Twelve of 96 MiB, eight cores each: 1,152 MiB; of a few cores those that they have."""
    folder = tree(tmp_path, cores=96, sharing=8, size="98304K")
    assert last_level_bytes(folder, range(96)) == 1152 * 2**20
    assert last_level_bytes(folder, [0, 7]) == 96 * 2**20
    assert last_level_bytes(folder, [7, 8]) == 192 * 2**20


def test_what_is_not_said_is_not_guessed(tmp_path: Path) -> None:
    folder = tree(tmp_path, cores=2, sharing=2, size="32M")
    assert last_level_bytes(folder, [0, 1]) == 32 * 2**20
    assert last_level_bytes(folder, [0, 1, 2]) is None, "a core that does not say"
    assert last_level_bytes(tmp_path / "nothing", [0]) is None
    assert last_level_bytes(folder, []) is None
    (folder / "cpu0" / "cache" / "index3" / "size").write_text("many", encoding="ascii")
    assert last_level_bytes(folder, [0]) == 2**20, "the last that says it"


def test_the_fact_is_there_where_the_system_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.backends.cpu.last_level_bytes", lambda: 5)
    assert BACKEND.devices()[0].facts["last_level_cache_bytes"] == "5"
    monkeypatch.setattr("bench.backends.cpu.last_level_bytes", lambda: None)
    assert "last_level_cache_bytes" not in BACKEND.devices()[0].facts


def test_a_gpus_cache_is_what_torch_says_by_either_name() -> None:
    for found, bytes_ in (
        (SimpleNamespace(L2_cache_size=60 * 2**20), 60 * 2**20),
        (SimpleNamespace(last_level_cache_size=24 * 2**20, L2_cache_size=0), 24 * 2**20),
    ):
        assert _caches.said(found) == {"last_level_cache_bytes": str(bytes_)}
    for nothing in (None, SimpleNamespace(), SimpleNamespace(L2_cache_size=0)):
        assert _caches.said(nothing) == {}


def test_a_gpus_cache_by_its_driver_is_the_largest_of_its_last_level(tmp_path: Path) -> None:
    """Sizes in KiB: a level 3 of 256 MiB beside eight of level 2; a CPU's node says nothing."""
    assert _caches.of_kfd(tmp_path / "nothing") == {}
    levels = [(2, 4096), (1, 32), (3, 2**18)]
    for node, gpu, caches in ("0", "0", [(3, 2**20)]), ("1", "51", levels), ("2", "52", []):
        for index, (level, size) in enumerate(caches):
            path = tmp_path / node / "caches" / str(index)
            path.mkdir(parents=True)
            text = f"processor_id_low 9\nlevel {level}\nsize {size}\ncache_line_size 128\n"
            (path / "properties").write_text(text, encoding="ascii")
        (tmp_path / node).mkdir(exist_ok=True)
        (tmp_path / node / "gpu_id").write_text(gpu + "\n", encoding="ascii")
    assert _caches.of_kfd(tmp_path) == {"last_level_cache_bytes": str(2**28)}
