"""What a record must say of the machine and the software, and nothing that identifies people.

The host is captured once by the parent, without torch. The stack is captured by every worker, after
its run, so that it describes the configuration that was timed. Environment variables are recorded
by an allow-list of names: never a user name, a host name, a path of the user's or a secret.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import bench

PACKAGES = ("torch", "transformers", "numpy", "triton", "accelmark")
"""Distributions whose versions every record names; absent ones are left out."""

VARIABLES = (
    "GOMP_CPU_AFFINITY",
    "KMP_AFFINITY",
    "KMP_BLOCKTIME",
    "LD_PRELOAD",
    "MALLOC_ARENA_MAX",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OMP_PLACES",
    "OMP_PROC_BIND",
    "OMP_WAIT_POLICY",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "PYTHONHASHSEED",
    "PYTORCH_ALLOC_CONF",
    "TORCH_DEVICE_BACKEND_AUTOLOAD",
)
"""Variables that change speed or numbers on any backend. A backend adds its own."""


LIMIT = re.compile(r"(re)?compile.limit|cache.size.limit", re.IGNORECASE)
"""How the compiler says that it gives a function up: it has been compiled too often."""
SECRET = re.compile(r"TOKEN|SECRET|KEY|PASSW|PASSPHRASE|CREDENTIAL|AUTH", re.IGNORECASE)
"""Names of variables whose values nobody is told."""
NOT_RECORDED = "(not recorded)"
SECRET_CHARACTERS = 6
"""Shorter values are not looked for in other texts: they would be found in every word."""


def variables(names: Iterable[str], given: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The set ones among `names`, in alphabetical order.

    LD_PRELOAD keeps file names only, and what looks like a secret by its name keeps no value.
    """
    found = {name: given[name] for name in sorted(set(names)) if name in given}
    if "LD_PRELOAD" in found:
        found["LD_PRELOAD"] = " ".join(Path(p).name for p in found["LD_PRELOAD"].split())
    return {name: NOT_RECORDED if SECRET.search(name) else found[name] for name in found}


def worker_variables(
    backends: Mapping[str, str], forced: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The whole environment of a worker: the user's goes before the backend's, `forced` first."""
    return {**backends, **os.environ, **(forced or {})}


def redacted(argument: str) -> str:
    """A word of a command line; of NAME=VALUE with a secret's name, the name alone."""
    found = re.match(r"((?:--\w+=)?([A-Za-z_]\w*)=)", argument)
    return f"{found[1]}{NOT_RECORDED}" if found and SECRET.search(found[2]) else argument


def without_secrets(text: str, given: Mapping[str, str] = os.environ) -> str:
    """A text for the record, in which no secret of an environment stands."""
    for name, value in given.items():
        if SECRET.search(name) and len(value) >= SECRET_CHARACTERS:
            text = text.replace(value, NOT_RECORDED)
    return text


def package_versions() -> dict[str, str]:
    """Versions by the installed metadata: imports none of the packages."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def host() -> dict[str, Any]:
    """The machine, operating system, interpreter and code version, as the parent sees them."""
    import psutil

    return {
        "accelmark": bench.__version__,
        "git": git_state(Path(bench.__file__).parent),
        "packages": package_versions(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "cpu": cpu_name(),
        "physical_cores": psutil.cpu_count(logical=False),
        "logical_cores": psutil.cpu_count(),
        "usable_cores": usable_cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "load_1min": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "governor": _read(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        "container": container(),
    }


def usable_cores() -> int:
    """Cores that this process may run on (affinity), which containers and schedulers cut down."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_name() -> str:
    """The processor's marketing name where the system gives one."""
    text = _read(Path("/proc/cpuinfo")) or ""
    for line in text.splitlines():
        if line.startswith(("model name", "Model")):
            return line.split(":", 1)[1].strip()
    if sys.platform == "darwin":
        brand = subprocess.run(
            ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True
        ).stdout.strip()
        if brand:
            return brand
    return platform.processor() or platform.machine()


def cpu_flags() -> set[str]:
    """Instruction-set flags (Linux on x86 and Arm), empty elsewhere."""
    text = _read(Path("/proc/cpuinfo")) or ""
    for line in text.splitlines():
        if line.startswith(("flags", "Features")):
            return set(line.split(":", 1)[1].split())
    return set()


def container() -> str | None:
    """`docker`, `podman`, `kubernetes` or None, by the marks that those leave."""
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return "kubernetes"
    if Path("/run/.containerenv").exists():
        return "podman"
    if Path("/.dockerenv").exists():
        return "docker"
    return None


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit of the clone that this code runs from, and whether it is changed; else None."""
    if not (folder.parent / ".git").exists():
        return None
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        # Only tracked files: a results folder beside the code does not change what was run.
        changed = bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "changed": changed}


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(folder), *arguments],
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
    ).stdout.strip()


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def stack() -> dict[str, Any]:
    """torch as this worker has it: version, threads, libraries."""
    import torch

    return {
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "packages": package_versions(),
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "mkldnn": torch.backends.mkldnn.is_available(),
        "affinity": usable_cores(),
    }


def compiler() -> dict[str, int]:
    """What torch.compile has done in this process: graphs made, breaks between them, and functions
    that it compiled too often and runs eagerly since.
    """
    from torch._dynamo.utils import counters  # no public name; torch's own tutorials read it

    breaks = sum(counters["graph_break"].values())
    limits = sum(n for why, n in counters["unimplemented"].items() if LIMIT.search(why))
    return {
        "graphs": counters["stats"]["unique_graphs"],
        "graph_breaks": breaks,
        "limits": limits,
    }
