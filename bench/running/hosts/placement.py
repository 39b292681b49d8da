"""Which of several hosts this process is on, as the launcher around it says in its variables.

`torchrun`, `srun`, `mpirun` and Kubernetes start one process of ours a host. The one of rank 0
leads (`bench.running.hosts.leader`), the others follow (`bench.running.hosts.follower`); nothing
here replaces a launcher. The innermost launcher is believed; a contradiction is refused, with both
variables.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Mapping
from typing import NamedTuple

from bench.errors import HostsError
from bench.records.cpu_limits import affinity_cores

PORT = "ACCELMARK_PORT"
"""Where the leader listens, the same on all hosts; else beside MASTER_PORT, or by the job's id."""
SECRET = "ACCELMARK_SECRET"
"""A word that only this job's hosts know; without one the launcher's id of the job stands for it.
"""
PORTS = range(20000, 30000)
"""Below what systems give to outgoing connections."""
IN_A_STEP = (
    *("SLURM_STEP_ID", "SLURM_STEPID", "SLURM_STEP_NODELIST", "SLURM_STEP_NUM_TASKS"),
    *("SLURM_SRUN_COMM_HOST", "SLURM_LAUNCH_NODE_IPADDR"),
)
"""Slurm sets these of what srun starts, and not of a batch script or a shell of an allocation,
which has a SLURM_PROCID too."""
JOBS = ("PBS_JOBID", "LSB_JOBID", "LSB_JOBINDEX", "SLURM_JOB_ID", "JOB_ID", "SGE_TASK_ID")
"""A scheduler's ids of the job, for mpirun that has none and gives all hosts the same variables."""
ONE_A_HOST = (
    "One process a host: accelmark starts one worker a device by itself. Give {remedy}, and all "
    "devices are taken all the same."
)


class Placement(NamedTuple):
    """This process among those that the launcher started, one a host."""

    rank: int
    """0-based; 0 leads."""
    hosts: int
    address: str
    """Of the host of rank 0: a name or a number."""
    port: int
    """Where the leader listens for the followers."""
    launcher: str
    """`torchrun`, `srun`, `mpirun` or `kubernetes`."""
    secret: str = ""
    """What all processes of this job know: the user's, or the launcher's id of the job."""


class Seen(NamedTuple):
    """What one launcher's variables say."""

    launcher: str
    rank_name: str
    size_name: str
    rank: int
    size: int
    several: str
    """What says that there are several processes a host; empty where nothing does."""
    remedy: str
    """How that launcher is told to start one a host."""
    job: str
    """Its id of the job; empty where it has none."""


def placement(given: Mapping[str, str]) -> Placement | None:
    """Where this process is; None for a run on one host.

    given: the process's variables. Raises `HostsError` where they contradict one another, where
    there are several processes a host, or where nothing says which host leads.
    """
    found = [seen for read in READERS if (seen := read(given)) is not None]
    if not found:
        return None
    inner = found[0]
    for other in found:
        _sensible(other)
    for outer in found[1:]:
        _agree(inner, outer)
    if inner.size == 1:
        return None
    same = [seen for seen in found if seen.size == inner.size]  # who started these very processes
    for seen in same:
        if seen.several:
            remedy = ONE_A_HOST.format(remedy=seen.remedy)
            raise HostsError(f"{seen.launcher}: {seen.several}. {remedy}")
    address = given.get("MASTER_ADDR", given.get("PET_MASTER_ADDR", "")).strip()
    address = address or _first_node(inner, given)
    if not address:
        raise HostsError(
            f"{inner.launcher}: {inner.rank_name}={inner.rank} and {inner.size_name}={inner.size}, "
            "and nothing says which host leads. Set MASTER_ADDR on all hosts to a name or an "
            "address of the host of rank 0, as in: mpirun -x MASTER_ADDR=node1 ..."
        )
    job = next((seen.job for seen in same if seen.job), "")
    secret = given.get(SECRET, "") or f"{inner.launcher} {job}"
    return Placement(inner.rank, inner.size, address, _port(given, job), inner.launcher, secret)


def require_one_host(who: str) -> None:
    """Raises `HostsError` where a launcher has started several: each would do the whole work."""
    try:
        found = placement(os.environ)
    except HostsError as error:  # of several on one host, too
        once = "is done once, by one process that no launcher has started"
        raise HostsError(f"{who} {once}. {error}") from error
    if found is not None:
        raise HostsError(
            f"{who} goes over one host, and {found.launcher} has started it on {found.hosts}. "
            "Start it without the launcher; `accelmark run` goes over several."
        )


def few_cores() -> str:
    """What is to be said where this process may not run on all cores of its host, else nothing."""
    here, there = affinity_cores(), os.cpu_count() or 1
    said = (
        f"; of this host's {there} cores its workers may use {here} in all. Unless that is meant, "
        "give `mpirun --bind-to none` or `srun --cpus-per-task`"
    )
    return said if here < there else ""


def _torch(given: Mapping[str, str]) -> Seen | None:
    """torchrun, or whoever sets the same: the operators of Kubernetes, a person."""
    elastic = "TORCHELASTIC_RUN_ID" in given
    there = [name for name in ("RANK", "WORLD_SIZE") if name in given]
    rank, size = "PET_NODE_RANK", "PET_NNODES"  # a TrainJob leaves the others to torchrun
    if not elastic and not there and rank in given and given.get(size, "1") != "1":
        numbers = (_number(given, rank), _number(given, size))
        return Seen("kubernetes", rank, size, *numbers, "", "", "")
    if not elastic and (not there or (len(there) < 2 and "MASTER_ADDR" not in given)):
        return None  # one alone may be anybody's
    if len(there) < 2:
        lacking = "WORLD_SIZE" if "RANK" in there else "RANK"
        said = "".join(f"{name}={given[name]}" for name in there) or "TORCHELASTIC_RUN_ID"
        raise HostsError(
            f"{said} is set and {lacking} is not: a launcher sets both. Set it, or unset RANK, "
            "WORLD_SIZE and MASTER_ADDR for a run on one host."
        )
    kubernetes = "KUBERNETES_SERVICE_HOST" in given or any(n.startswith("PET_") for n in given)
    launcher = "torchrun" if elastic else "kubernetes" if kubernetes else "RANK and WORLD_SIZE"
    names = ("LOCAL_WORLD_SIZE", "PET_NPROC_PER_NODE")
    local = next((name for name in names if given.get(name, "")), "")
    several = _several(given, local) if local else _several(given, "LOCAL_RANK", 0)
    return Seen(
        *(launcher, "RANK", "WORLD_SIZE"),
        *(_number(given, "RANK"), _number(given, "WORLD_SIZE")),
        *(several, "--nproc-per-node=1" if elastic else "one process a host (nprocPerNode 1)"),
        given.get("TORCHELASTIC_RUN_ID", ""),
    )


def _several(given: Mapping[str, str], name: str, most: int = 1) -> str:
    """A variable with its value, if that is a number above `most`."""
    text = given.get(name, "").strip()
    return f"{name}={text}" if text.isdecimal() and int(text) > most else ""


def _open_mpi(given: Mapping[str, str]) -> Seen | None:
    if "OMPI_COMM_WORLD_RANK" not in given or "OMPI_COMM_WORLD_SIZE" not in given:
        return None
    names = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE")
    how = "mpirun --map-by ppr:1:node --bind-to none"
    return _mpi(given, *names, given.get("PMIX_NAMESPACE", ""), how)


def _mpich(given: Mapping[str, str]) -> Seen | None:
    """MPICH's and Intel's mpirun; srun's pmi2 sets no MPI_LOCALNRANKS."""
    if "PMI_RANK" not in given or "PMI_SIZE" not in given:
        return None
    sizes = ("MPI_LOCALNRANKS", "PMI_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE")
    local = next((name for name in sizes if name in given), "")
    job = ".".join(given[name] for name in JOBS if name in given)
    found = _mpi(given, "PMI_RANK", "PMI_SIZE", local, job, "mpirun -ppn 1")
    srun = None if "MPI_LOCALNRANKS" in given else _srun(given)
    return None if srun and (srun.rank, srun.size) == (found.rank, found.size) else found


def _mpi(given: Mapping[str, str], rank: str, size: str, local: str, job: str, how: str) -> Seen:
    numbers = (_number(given, rank), _number(given, size))
    return Seen("mpirun", rank, size, *numbers, _several(given, local), f"`{how}`", job)


def _srun(given: Mapping[str, str]) -> Seen | None:
    if "SLURM_PROCID" not in given or not any(name in given for name in IN_A_STEP):
        return None
    sizes = [name for name in ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS") if name in given]
    if not sizes:
        return None
    size = _number(given, sizes[0])
    nodes = next(
        (n for n in ("SLURM_STEP_NUM_NODES", "SLURM_NNODES", "SLURM_JOB_NUM_NODES") if n in given),
        "",
    )
    several = ""
    if nodes and 0 < _number(given, nodes) < size:
        several = f"{nodes}={given[nodes]} and {sizes[0]}={size}"
    return Seen(
        *("srun", "SLURM_PROCID", sizes[0], _number(given, "SLURM_PROCID"), size),
        *(several, "`srun --ntasks-per-node=1`"),
        ".".join(given.get(name, "") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID")).strip("."),
    )


READERS = (_torch, _open_mpi, _mpich, _srun)
"""From the innermost launcher to the outermost: srun may start a torchrun or an mpirun a host."""


def _sensible(seen: Seen) -> None:
    if seen.size < 1 or not 0 <= seen.rank < seen.size:
        raise HostsError(
            f"{seen.launcher}: {seen.rank_name}={seen.rank} and {seen.size_name}={seen.size} "
            "contradict each other: ranks count from 0 and end below the size. Set both as the "
            "launcher does, or unset both for a run on one host."
        )


def _agree(inner: Seen, outer: Seen) -> None:
    """Raises where both cannot be true.

    A launcher that another one starts once a host numbers its processes itself: torchrun by who
    comes first, mpirun without the host that it was typed on. So only what it cannot have chosen
    is held against it.
    """
    ours = inner.launcher == "torchrun"
    if outer.size == 1 or (outer.launcher == "srun" and inner.launcher == "mpirun"):
        return
    pairs = [(inner.size_name, inner.size, outer.size_name, outer.size)]
    if not ours:
        pairs.append((inner.rank_name, inner.rank, outer.rank_name, outer.rank))
    for name, value, other_name, other in pairs:
        if value != other:
            raise HostsError(
                f"{name}={value} ({inner.launcher}) and {other_name}={other} ({outer.launcher}) "
                "contradict each other. Let one launcher set them: unset the other's, or give both "
                "the same hosts."
            )


def _port(given: Mapping[str, str], job: str) -> int:
    if given.get(PORT):
        return _a_port(given, PORT, 0)
    for name in ("MASTER_PORT", "PET_MASTER_PORT"):
        if given.get(name):  # where torchrun itself, or a job's own store, may listen
            return _a_port(given, name, 1)
    return PORTS[zlib.crc32(job.encode()) % len(PORTS)]


def _a_port(given: Mapping[str, str], name: str, more: int) -> int:
    port = _number(given, name) + more
    if not 0 < port < 65536:
        raise HostsError(
            f"{name}={given[name]}: no port that can be listened at. Give 1 to {65535 - more}, the "
            "same on all hosts."
        )
    return port


def _number(given: Mapping[str, str], name: str) -> int:
    text = given[name].strip()
    if not text.isdecimal():
        raise HostsError(
            f"{name}={given[name]}: not a number, as a launcher would set. Correct it, or unset it "
            "for a run on one host."
        )
    return int(text)


def _first_node(seen: Seen, given: Mapping[str, str]) -> str:
    """srun's rank 0 is on the first node of its list."""
    if seen.launcher != "srun":
        return ""
    for name in ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST"):
        if given.get(name):
            return first_node(given[name])
    return given.get("SLURM_LAUNCH_NODE_IPADDR", "")


def first_node(nodes: str) -> str:
    """The first of Slurm's list of nodes: `rack1-node07` of `rack[1-2]-node[07-12,20],login`."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes.strip())
    assert first is not None  # it may match nothing
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first[0])
