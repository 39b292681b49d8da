"""Cores by control groups: quota and cpuset of every level, in trees that are written and real."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.records import cpu_limits
from bench.records.cpu_limits import Level, advice, levels, quota_cores, usable_cores
from bench.tests.machine import cpu_group, no_cpu_groups


def tree(folder: Path, files: dict[str, str]) -> tuple[Path, Path]:
    """`proc` and `cgroups` of a machine with these files."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "proc", folder / "cgroup"


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_limits, "affinity_cores", lambda: 8)


V2 = {
    "proc/self/cgroup": "0::/kubepods.slice/pod1/box\n",
    "cgroup/cpuset.cpus.effective": "0-7\n",
    "cgroup/kubepods.slice/cpu.max": "400000 100000\n",
    "cgroup/kubepods.slice/pod1/cpu.max": "250000 100000\n",
    "cgroup/kubepods.slice/pod1/box/cpu.max": "max 100000\n",
    "cgroup/kubepods.slice/pod1/box/cpuset.cpus.effective": "0-2,5\n",
}
V1 = {
    "proc/self/cgroup": "5:cpuset:/docker/1f\n2:cpu,cpuacct:/docker/1f\n1:name=systemd:/x\n",
    "cgroup/cpu,cpuacct/docker/cpu.cfs_quota_us": "300000\n",
    "cgroup/cpu,cpuacct/docker/cpu.cfs_period_us": "100000\n",
    "cgroup/cpu,cpuacct/docker/1f/cpu.cfs_quota_us": "-1\n",
    "cgroup/cpu,cpuacct/docker/1f/cpu.cfs_period_us": "100000\n",
    "cgroup/cpuset/docker/1f/cpuset.cpus": "0-1\n",
}
ALONE = {  # in a container: the kernel's path leads nowhere below what is mounted
    "proc/self/cgroup": "2:cpu:/docker/1f\n",
    "cgroup/cpu/cpu.cfs_quota_us": "150000\n",
    "cgroup/cpu/cpu.cfs_period_us": "100000\n",
}
OUTSIDE = {
    "proc/self/cgroup": "0::/../../other\n",
    "cgroup/cpu.max": "50000 100000\n",
}


@pytest.mark.parametrize(
    ("files", "quota", "cores"),
    [
        (V2, 2.5, 2),
        (V1, 3.0, 2),
        (ALONE, 1.5, 1),
        (OUTSIDE, 0.5, 1),
        ({"proc/self/cgroup": "0::/\n", "cgroup/cpu.max": "max 100000\n"}, None, 8),
        ({"proc/self/cgroup": "0::/\n", "cgroup/cpu.max": "200000\n"}, 2.0, 2),
        ({"proc/self/cgroup": "0::/\n", "cgroup/cpu.max": "nonsense here\n"}, None, 8),
        ({"proc/self/cgroup": "0::/\n", "cgroup/cpuset.cpus.effective": "\n"}, None, 8),
        ({"proc/self/cgroup": "garbage"}, None, 8),
        ({}, None, 8),
    ],
    ids=[
        "v2",
        "v1",
        "a container alone",
        "outside",
        "max",
        "no period",
        "bad",
        "empty",
        "odd",
        "none",
    ],
)
def test_the_least_of_every_level_is_the_number_of_cores(
    tmp_path: Path, files: dict[str, str], quota: float | None, cores: int
) -> None:
    proc, groups = tree(tmp_path, files)
    assert quota_cores(proc, groups) == quota
    assert usable_cores(proc, groups) == cores


def test_each_level_is_recorded_without_its_name(tmp_path: Path) -> None:
    assert levels(*tree(tmp_path, V2)) == [
        Level(depth=0, cpuset_cores=8),
        Level(depth=1, quota_cores=4.0),
        Level(depth=2, quota_cores=2.5),
        Level(depth=3, cpuset_cores=4),
    ]
    assert "kubepods" not in str(levels(*tree(tmp_path, V2)))


def test_one_version_beside_the_other_takes_the_lesser(tmp_path: Path) -> None:
    both = {
        "proc/self/cgroup": "2:cpu:/\n0::/\n",
        "cgroup/cpu/cpu.cfs_quota_us": "400000\n",
        "cgroup/cpu/cpu.cfs_period_us": "100000\n",
        "cgroup/unified/cpu.max": "300000 100000\n",
    }
    assert quota_cores(*tree(tmp_path, both)) == 3.0


@pytest.mark.parametrize(
    ("threads", "quota", "words"),
    [
        (2, None, ""),
        (2, 2.0, ""),
        (2, 1.0, "set OMP_NUM_THREADS=1, or raise the quota to 2 or more"),
        (8, 2.5, "set OMP_NUM_THREADS=2, or raise the quota to 8 or more"),
        (1, 0.5, "raise the quota to 1 core"),
    ],
)
def test_what_helps(threads: int, quota: float | None, words: str) -> None:
    assert advice(threads, quota) == words


@pytest.mark.skipif(bool(no_cpu_groups()), reason=no_cpu_groups() or "they can be made here")
def test_a_real_group_with_a_quota_is_seen_from_within() -> None:
    """A process is put into a group, and into one below it without a quota of its own."""
    code = (
        "import sys; sys.stdin.readline(); from bench.records import cpu_limits as c;"
        "print(c.quota_cores(), c.usable_cores())"
    )
    with cpu_group(0.5) as group:
        assert group is not None
        inner = group / "inner"
        inner.mkdir()
        try:
            child = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=dict(os.environ),
            )
            (inner / "cgroup.procs").write_text(str(child.pid))
            said, _ = child.communicate("\n")
        finally:
            inner.rmdir()
    assert said.split() == ["0.5", "1"]
