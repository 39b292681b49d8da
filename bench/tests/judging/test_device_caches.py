"""Streams beside an accelerator's last-level cache: which are a ceiling, and which cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.judging import chips
from bench.judging.row import Row
from bench.judging.summary import summarize
from bench.tests.values import make_case, make_file, make_launches, make_measured

MINE = """
[[chip]]
name = "Mine"
match = ["Mine"]
memory_tbps = 2
source = "my own notes"
trust = "high"
"""


def stream(
    mode: str, mib: int, cache_mib: int | None, name: str = "Other", tbps: float = 1.0
) -> Row:
    """Of arrays of so many MiB on an accelerator that says how large its cache is, or does not."""
    case = make_case(workload="memory", mode=mode, parameters={"size_bytes": mib * 2**20})
    outcome = make_measured(0.01, moved_bytes=round(tbps * 10**10))
    facts = {} if cache_mib is None else {"last_level_cache_bytes": str(cache_mib * 2**20)}
    device: dict[str, Any] = {"backend": "an accelerator", "name": name, "facts": facts}
    (found,) = summarize(make_file([case], make_launches(case, [outcome]), device=device))
    return found


@pytest.mark.parametrize(
    ("mode", "mib", "cache_mib", "advised_mib"),
    [
        ("read", 258, 86, None),
        ("read", 257, 86, 258),
        ("copy", 256, 170, None),
        ("copy", 256, 171, 257),
        ("triad", 256, 256, None),
        ("triad", 256, 257, 257),
        ("triad", 4, 50, 50),
        ("triad", 256, None, None),
        ("triad", 4, None, 86),
    ],
)
def test_arrays_of_which_a_cache_may_hold_more_than_a_third_are_no_ceiling(
    mode: str, mib: int, cache_mib: int | None, advised_mib: int | None
) -> None:
    said = stream(mode, mib, cache_mib).in_cache
    assert bool(said) == (advised_mib is not None)
    if advised_mib is not None:
        assert said.endswith(f"so no ceiling. Take size_bytes = {advised_mib * 2**20}")
        assert stream(mode, advised_mib, cache_mib).in_cache == ""
        assert ("is not known" in said) == (cache_mib is None)


@pytest.mark.parametrize(
    ("mode", "mib", "cache_mib", "tbps", "status"),
    [
        ("copy", 256, None, 2.1, "measured"),  # half of it may have been in a cache
        ("copy", 256, None, 4.1, "void"),
        ("copy", 256, 50, 2.1, "measured"),
        ("copy", 256, 50, 2.3, "void"),
        ("read", 32, 50, 9.0, "measured"),  # all of it
        ("copy", 4096, None, 2.1, "void"),
    ],
)
def test_only_what_no_cache_can_have_held_makes_a_stream_impossible(
    mode: str,
    mib: int,
    cache_mib: int | None,
    tbps: float,
    status: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a chip of 2 TB/s. What is above that, and possible, is no ceiling all the same."""
    own = tmp_path / "mine.toml"
    own.write_text(MINE, encoding="utf-8")
    monkeypatch.setenv(chips.USER_FILE, str(own))
    found = stream(mode, mib, cache_mib, "Mine", tbps)
    assert found.status == status
    assert (found.mbu is not None and found.in_cache != "") == (status == "measured")
    assert stream(mode, 4096, cache_mib, "Mine", 1.9).in_cache == ""


@pytest.mark.parametrize(
    ("name", "said_mib", "mib"),
    [
        ("AMD Instinct MI300X", None, 256),
        ("AMD Instinct MI300X", 4, 256),  # of one die, by a driver that leaves the last level out
        ("NVIDIA H200", 60, 60),
        ("Nobody's", 7, 7),
        ("Nobody's", None, None),
        ("Nobody's", 0, None),
    ],
)
def test_a_cache_is_as_large_as_the_record_says_or_the_chip_has(
    name: str, said_mib: int | None, mib: int | None
) -> None:
    facts = {} if said_mib is None else {"last_level_cache_bytes": str(said_mib * 2**20)}
    found = chips.cache_of({"name": name, "facts": facts})
    assert found == (None if mib is None else mib * 2**20)
    assert chips.cache_of({"name": name, "facts": {"last_level_cache_bytes": "unknown"}}) == (
        chips.cache_of({"name": name})
    )
