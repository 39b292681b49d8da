"""What a record must say of the machine and the software, and nothing that identifies people.

The host is captured once by the parent, without torch. The stack is captured by every worker, after
its run, so that it describes the configuration that was timed. Environment variables are recorded
by an allow-list of families: never a user name, a host name, a path of the user's or a secret.
"""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

import bench
from bench.records import cpu_limits
from bench.records.cpu_limits import affinity_cores, usable_cores
from bench.records.encoding import readable
from bench.records.paths import without_paths

PACKAGES = ("torch", "transformers", "diffusers", "peft", "numpy", "triton")
"""Distributions whose versions every record names beside ours; absent ones are left out."""

VARIABLES = (
    # How many threads compute, where they lie and how they wait.
    *("OMP_*", "GOMP_*", "KMP_*", "TBB_*", "GOTO_NUM_THREADS", "VECLIB_*"),
    # Which instructions and kernels the libraries of a CPU choose.
    *("MKL_*", "DNNL_*", "ONEDNN_*", "OPENBLAS_*", "BLIS_*", "XNNPACK_*", "ATEN_*"),
    *("TORCH*", "PYTORCH_*", "TRITON_*", "LRU_CACHE_CAPACITY", "THP_MEM_ALLOC_ENABLE"),
    *("DIFFUSERS_*", "FLASH_ATTENTION_*", "TRANSFORMERS_*", "XFORMERS_*"),
    # Torch's own by other names, its profiler's, and Triton's.
    *("DISABLE_ADDMM_*", "ENABLE_INTRA_NODE_COMM", "KINETO_*"),
    *("DISABLE_FAST_REDUCTION", "DISABLE_LLVM_OPT"),
    # What carries messages between devices.
    *("FI_*", "OFI_*", "UCX_*", "SHARP_*", "NVSHMEM_*"),
    # Where memory comes from, and what is put in the place of a library's functions.
    *("GLIBC_TUNABLES", "MALLOC_*", "MIMALLOC_*", "TCMALLOC_*", "LD_BIND_NOW", "LD_PRELOAD"),
    *("DYLD_INSERT_LIBRARIES", "FAKETIME*"),
    # Of Python's own, those that change how a program runs.
    *("PYTHONDEVMODE", "PYTHONHASHSEED", "PYTHONMALLOC", "PYTHONMALLOCSTATS", "PYTHONOPTIMIZE"),
    *("PYTHONPERFSUPPORT", "PYTHONTRACEMALLOC", "PYTHON_CPU_COUNT", "PYTHON_GIL", "PYTHON_JIT"),
)
"""Variables that may change speed or numbers on any backend: names, and families that begin so.
A backend adds its own (`Backend.recorded_variables`). A list of names alone is never whole: one
that nobody thought of has made a chip three hundred times slower."""
FURNITURE = re.compile(
    r"^(?!.*(INJECTION|OVERRIDE|PTXAS|LIBDEVICE|CUSTOM_OPP|DISABLE|CONFIG_PATH|XBLAS"
    r"|WORKSPACE|MEMTYPE)).*"
    r"((_VERSION|_HOME|_ROOT|(?<!DB)_PATH|_DIR|_CACHE|_ARCH|_ARCH_LIST|_CAPABILITIES)$|_REQUIRE_)"
)
"""Names that tell where software lies, which it is, or what an image wants of its machine: recorded
with their families, and no cause of another speed; but those that put other code in its place, or
choose kernels."""
BETWEEN_DEVICES = re.compile(r"[A-Z\d_]*(BK|C|H)CL_|(FI|OFI|UCX|SHARP|NVSHMEM)_")
"""How the names of variables begin that matter to work over several devices alone."""
SELECTS = re.compile(
    r"_(VISIBLE_(CHIPS|CORES|DEVICES)|DEVICE_(ORDER|ORDINAL|SELECTOR)|AFFINITY_MASK)$"
)
"""Variables that choose which device it is; its name says what came of that."""
OF_ONE_HOST = re.compile(r"_(SOCKET_IFNAME|IB_HCA|NET_DEVICES|WORKER_ID)$")
"""Names of variables that name a host's own network devices, or the host among its own."""
LIMIT = re.compile(r"(re)?compile.limit|cache.size.limit", re.IGNORECASE)
"""How the compiler says that it gives a function up: it has been compiled too often."""
SECRET = re.compile(r"TOKEN|SECRET|KEY|PASSW|PASSPHRASE|CREDENTIAL|AUTH", re.IGNORECASE)
"""Names of variables whose values nobody is told."""
WHERE = re.compile(
    r"(^|_)(ADDR|ADDRESS(ES)?|COMM_ID|EMAIL|ENDPOINT|HOST(ID|S|_?NAMES?)?|IFNAME|IP|LOGIN"
    r"|NODE_?(NAME|LIST)|OWNER|URI|URL|USER(_?NAME)?|UUID)$"
)
"""Names of variables whose values say who or where somebody is."""
LAUNCHERS = re.compile(
    r"(TORCHELASTIC|PET|GROUP|ROLE|OMPI_COMM_WORLD|OMPI_UNIVERSE|PMI|PMIX)_.*|MPI_LOCAL\w*"
    r"|(LOCAL_)?(RANK|WORLD_SIZE)|MASTER_(ADDR|PORT)|SLURM_(PROCID|LOCALID|NTASKS|NPROCS|STEP_\w*)"
    r"|ACCELMARK_(PORT|SECRET)"
)
"""Variables of the launcher around us, which say of this process who it is among its own. Of a
worker they would be wrong: a fresh group must not take them for its own."""
OF_TORCHRUN = re.compile(r"TORCH_\w+_ASYNC_ERROR_HANDLING=1")
"""torchrun sets it where the user does not."""
ARM_CORES = {
    ("0x41", "0xd0c"): "Neoverse-N1",
    ("0x41", "0xd40"): "Neoverse-V1",
    ("0x41", "0xd49"): "Neoverse-N2",
    ("0x41", "0xd4f"): "Neoverse-V2",
    ("0x48", "0xd01"): "Kunpeng-920",
}
"""Cores by their implementer and part, as `lscpu` calls them."""
UNSEARCHED = "products_unsearched"
"""Beside what `compiler` says, 1: it was to search, and leaves out matrix products on a device."""
NOT_RECORDED = "(not recorded)"
SECRET_CHARACTERS = 6
"""Shorter values are not looked for in other texts: they would be found in every word."""


def variables(words: Iterable[str], given: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The set ones among `words`, which are names or, with a * at their end, families of names.

    In alphabetical order. Of a path its last name is kept, and of what looks like a secret by its
    name no value; a family leaves that out.
    """
    asked = set(words)
    names = {n for n in given if n in asked or (is_among(n, asked) and not SECRET.search(n))}
    return {n: _told(n, given[n]) for n in sorted(names)}


def looked_for(*more: Iterable[str]) -> list[str]:
    """`VARIABLES` and these words besides, each once."""
    return sorted({*VARIABLES, *(word for words in more for word in words)})


def is_among(name: str, words: Iterable[str]) -> bool:
    """Whether a variable is one of these names, or of one of these families."""
    return any(name == w or (w.endswith("*") and name.startswith(w[:-1])) for w in words)


def selects(name: str, value: object) -> bool:
    """Whether a variable merely chooses a device; one that names a part of it (`0.1`) makes
    another chip of it."""
    return SELECTS.search(name) is not None and "." not in str(value)


def is_common(name: str, value: object) -> bool:
    """Whether hosts that work together must have the same of it."""
    others = selects(name, value) or OF_ONE_HOST.search(name)
    return may_change_speed(name) and not others


def is_idle(name: str, launch: Mapping[str, Any]) -> bool:
    """Whether a variable of links, which no `ab` compared, stood in a launch of one device.

    launch: its environment.
    """
    compared = launch.get("variables_compared")
    if "world" in launch or not BETWEEN_DEVICES.match(name):
        return False
    return not isinstance(compared, list) or name not in compared


def may_change_speed(name: str) -> bool:
    """Whether a recorded variable may be why two runs differ."""
    return not FURNITURE.search(name)


def is_withheld(name: str) -> bool:
    """Whether a record keeps of a variable its name alone."""
    return bool(SECRET.search(name) or WHERE.search(name))


def _told(name: str, value: str) -> str:
    """A variable's value as a record has it."""
    return NOT_RECORDED if is_withheld(name) else without_paths(readable(value))


def worker_variables(
    backends: Mapping[str, str],
    forced: Mapping[str, str] | None = None,
    unset: Collection[str] = (),
) -> dict[str, str]:
    """The whole environment of a worker: the user's goes before the backend's, `forced` first.

    What a launcher says of our own process is left out, and of both what is to be unset.
    """
    own = {name: value for name, value in os.environ.items() if not LAUNCHERS.fullmatch(name)}
    if "TORCHELASTIC_RUN_ID" in os.environ:
        own = {k: v for k, v in own.items() if not OF_TORCHRUN.fullmatch(f"{k}={v}")}
    own.update(forced or {})
    return {**backends, **{name: value for name, value in own.items() if name not in unset}}


def section(facts: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Part of a free-form description, which another version may have written otherwise; empty
    where it is none."""
    found = facts.get(name)
    return found if isinstance(found, Mapping) else {}


def threads_each(cores: int, ranks: int) -> dict[str, str]:
    """The variables by which so many ranks of one host share its cores, where no user sets them."""
    return {"OMP_NUM_THREADS": str(max(1, cores // ranks))}


def threads_given(launch: Mapping[str, Any], cores: int, shared: bool) -> dict[str, str]:
    """`threads_each` as the ranks of a launch had it on a host of so many cores, by what the launch
    says of its world; nothing where it was one process, or each the only one of equal hosts.

    shared: they compute on the host's cores, and have it then too.
    """
    world = section(launch, "world")
    devices, hosts, fewest = world.get("devices"), world.get("hosts", 1), world.get("cores")
    if not all(isinstance(n, int) and n > 0 for n in (devices, hosts)):
        return {}
    each = max(1, devices // hosts)
    if isinstance(fewest, int):  # of unequal hosts
        return threads_each(fewest, each)
    return threads_each(cores, each) if shared or each > 1 else {}


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
    return dict(_package_versions())


@functools.cache
def _package_versions() -> Mapping[str, str]:
    """Looked up once a process, for all that are forked from it: it takes a tenth of a launch."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if "triton" not in versions and (found := _compilers_version()):
        versions["triton"] = found
    return {**versions, "accelmark": bench.__version__}  # which another Python need not have


def _compilers_version() -> str | None:
    """Triton's, by the distribution that brings it, which has another name for some vendors."""
    found = importlib.machinery.PathFinder.find_spec("triton")  # whatever a worker has loaded
    if found and found.origin:
        for info in sorted(Path(found.origin).parents[1].glob("*triton*.dist-info")):
            brought = importlib.metadata.Distribution.at(info)
            if re.search(r"^triton/__init__\.py,", brought.read_text("RECORD") or "", re.MULTILINE):
                return brought.version
    return None


def host() -> dict[str, Any]:
    """The machine, operating system, interpreter and code version, as the parent sees them."""
    import psutil

    return {
        "accelmark": bench.__version__,
        "git": git_state(Path(bench.__file__).parent),
        "packages": package_versions(),
        "python": f"{platform.python_implementation()} {python_version()}",
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "cpu": cpu_name(),
        "physical_cores": _asked(lambda: psutil.cpu_count(logical=False)),
        "logical_cores": _asked(psutil.cpu_count),
        "usable_cores": usable_cores(),
        "affinity_cores": affinity_cores(),
        "cpu_quota_cores": cpu_limits.quota_cores(),
        "cpu_limits": msgspec.to_builtins(cpu_limits.levels()),
        "memory_bytes": _asked(lambda: psutil.virtual_memory().total),
        "load_1min": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "governor": _read(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        "container": container(),
    }


def python_version() -> str:
    """The interpreter's, with a `t` where it was built free-threaded, whose code runs otherwise."""
    free = sysconfig.get_config_var("Py_GIL_DISABLED")
    return f"{platform.python_version()}{'t' if free else ''}"


def cpu_name() -> str:
    """The processor's marketing name where the system gives one; on Arm Linux its cores."""
    text = _read(Path("/proc/cpuinfo")) or ""
    for line in text.splitlines():
        if line.startswith(("model name", "Model")):
            return line.split(":", 1)[1].strip()
    cores = re.findall(r"CPU implementer\s*: (\w+).*?CPU part\s*: (\w+)", text, re.DOTALL)
    if named := dict.fromkeys(ARM_CORES.get(c, f"Arm core {' '.join(c)}") for c in cores):
        return ", ".join(named)
    return _sysctl("machdep.cpu.brand_string") or platform.processor() or platform.machine()


def cpu_flags() -> set[str]:
    """Instruction-set flags (Linux on x86 and Arm; of a Mac `fphp` alone), empty elsewhere."""
    text = _read(Path("/proc/cpuinfo")) or ""
    for line in text.splitlines():
        if line.startswith(("flags", "Features")):
            return set(line.split(":", 1)[1].split())
    return {"fphp"} if _sysctl("hw.optional.arm.FEAT_FP16") == "1" else set()


def _sysctl(name: str) -> str:
    """What macOS says; empty elsewhere."""
    if sys.platform != "darwin":
        return ""
    return _printed("/usr/sbin/sysctl", "-n", name)


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
    """Commit of the clone that this code runs from, and whether what runs is changed; else None."""
    if not (folder.parent / ".git").exists():
        return None
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        # What runs, and of that tracked files: `publish` writes results/ beside it.
        what = (".", "../configs")
        changed = bool(_git(folder, "status", "--porcelain", "--untracked-files=no", "--", *what))
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "changed": changed}


def _git(folder: Path, *arguments: str) -> str:
    return _printed("git", "-C", str(folder), *arguments, timeout=10, check=True)


def _printed(*command: str, **options: Any) -> str:
    """What a program prints; options: of `subprocess.run`."""
    done: subprocess.CompletedProcess[str] = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="backslashreplace", **options
    )
    return done.stdout.strip()


def _asked(ask: Callable[[], Any]) -> Any:
    """What the system says; None where it does not, as without /proc."""
    try:
        return ask()
    except OSError:
        return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="backslashreplace").strip()
    except OSError:
        return None


def stack() -> dict[str, Any]:
    """torch as this worker has it: version, threads, libraries."""
    import torch

    return {
        "torch": str(torch.__version__),
        "python": python_version(),
        "packages": package_versions(),
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "mkldnn": torch.backends.mkldnn.is_available(),
        "affinity": affinity_cores(),
    }


def compiler() -> dict[str, int]:
    """What torch.compile has done in this process: graphs made, breaks between them, functions that
    it compiled too often and runs eagerly since, and of the graphs' code what an earlier launch of
    the run had compiled, and what it compiled itself.
    """
    from torch._dynamo.utils import counters  # no public name; torch's own tutorials read it

    breaks = sum(counters["graph_break"].values())
    limits = sum(n for why, n in counters["unimplemented"].items() if LIMIT.search(why))
    return {
        "graphs": counters["stats"]["unique_graphs"],
        "graph_breaks": breaks,
        "limits": limits,
        "kept": counters["inductor"]["fxgraph_cache_hit"],
        "compiled": counters["inductor"]["fxgraph_cache_miss"],
    }
