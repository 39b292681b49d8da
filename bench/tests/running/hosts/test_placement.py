"""Which host this is, from the variables of every launcher, and of two at once."""

from __future__ import annotations

import pytest

from bench.errors import HostsError
from bench.running.hosts.placement import PORTS, Placement, first_node, placement

TORCHRUN = (
    "RANK=1 LOCAL_RANK=0 GROUP_RANK=1 WORLD_SIZE=2 LOCAL_WORLD_SIZE=1 MASTER_ADDR=node1 "
    "MASTER_PORT=29500 TORCHELASTIC_RUN_ID=7a TORCHELASTIC_USE_AGENT_STORE=True"
)
SRUN = (
    "SLURM_JOB_ID=42 SLURM_STEP_ID=0 SLURM_PROCID=1 SLURM_LOCALID=0 SLURM_NTASKS=2 "
    "SLURM_STEP_NUM_TASKS=2 SLURM_STEP_NUM_NODES=2 SLURM_STEP_NODELIST=node[07-08] "
    "SLURM_JOB_NODELIST=node[01-16] SLURM_LAUNCH_NODE_IPADDR=10.0.0.9"
)
OPEN_MPI = (
    "OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_LOCAL_SIZE=1 "
    "PMIX_NAMESPACE=prterun-1 MASTER_ADDR=10.0.0.1"
)
MPICH = "PMI_RANK=1 PMI_SIZE=2 MPI_LOCALNRANKS=1 MASTER_ADDR=10.0.0.1 MASTER_PORT=4000"
PMI_ALONE = "PMI_RANK=1 PMI_SIZE=2 MASTER_ADDR=10.0.0.1"
WRAPPED = "RANK=1 WORLD_SIZE=2 MASTER_ADDR=10.0.0.1"
KUBERNETES = (
    "KUBERNETES_SERVICE_HOST=10.96.0.1 MASTER_ADDR=job-master-0 MASTER_PORT=23456 WORLD_SIZE=2 "
    "RANK=1 PET_NNODES=2 PET_NODE_RANK=1 PET_NPROC_PER_NODE=1"
)
TRAIN_JOB = (
    "KUBERNETES_SERVICE_HOST=1 PET_NNODES=2 PET_NODE_RANK=1 PET_NPROC_PER_NODE=auto "
    "PET_MASTER_ADDR=n0 PET_MASTER_PORT=29500"
)
ALLOCATION = "SLURM_JOB_ID=42 SLURM_JOB_NODELIST=node[07-08] SLURM_NTASKS=2 SLURM_NNODES=2"
BATCH = f"{ALLOCATION} SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0"


def given(text: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in text.split())


def at(text: str) -> Placement:
    found = placement(given(text))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (TORCHRUN, Placement(1, 2, "node1", 29501, "torchrun", "torchrun 7a")),
        (f"{TORCHRUN} ACCELMARK_PORT=77", Placement(1, 2, "node1", 77, "torchrun", "torchrun 7a")),
        (f"{MPICH} ACCELMARK_SECRET=s", Placement(1, 2, "10.0.0.1", 4001, "mpirun", "s")),
        (KUBERNETES, Placement(1, 2, "job-master-0", 23457, "kubernetes", "kubernetes ")),
        (TRAIN_JOB, Placement(1, 2, "n0", 29501, "kubernetes", "kubernetes ")),
        # What torchrun would start in a pod, and has not.
        (
            f"{TRAIN_JOB} PET_NPROC_PER_NODE=8",
            Placement(1, 2, "n0", 29501, "kubernetes", "kubernetes "),
        ),
        # torchrun numbers its hosts by who comes first, whatever srun says.
        (
            SRUN.replace("PROCID=1", "PROCID=0") + " " + TORCHRUN,
            Placement(1, 2, "node1", 29501, "torchrun", "torchrun 7a"),
        ),
        # From the shell of an allocation, whose own step has one task, with the other by ssh.
        (
            f"{SRUN.replace('=2', '=1').replace('PROCID=1', 'PROCID=0')} {TORCHRUN}",
            Placement(1, 2, "node1", 29501, "torchrun", "torchrun 7a"),
        ),
    ],
)
def test_each_launcher_says_where_this_is(text: str, expected: Placement) -> None:
    assert at(text) == expected


def test_srun_leads_on_the_first_node_at_a_port_of_the_job() -> None:
    found = at(SRUN)
    assert (found.rank, found.hosts, found.address) == (1, 2, "node07")
    assert found.port in PORTS and found.port == at(f"{SRUN} SLURM_CPU_BIND=x").port
    assert found.port != at(SRUN.replace("=42", "=43")).port
    assert found.secret == "srun 42.0"
    assert at(f"{SRUN} MASTER_ADDR=ib-node07").address == "ib-node07"
    bare = " ".join(word for word in SRUN.split() if "NODELIST" not in word)
    assert at(bare).address == "10.0.0.9"


PMI2 = "PMI_FD=9 PMI_JOBID=42.0"
"""Slurm's pmi2 plugin, a site's default, sets these of every task beside PMI_RANK and PMI_SIZE."""


def test_srun_with_pmi2_is_no_mpirun() -> None:
    assert at(f"{SRUN} {PMI2} PMI_RANK=1 PMI_SIZE=2") == at(SRUN)
    crowd = f"{SRUN} {PMI2} SLURM_STEP_NUM_TASKS=16 PMI_RANK=1 PMI_SIZE=16 MASTER_ADDR=node07"
    with pytest.raises(HostsError, match=r"srun: .* One process a host"):
        at(crowd)
    # mpirun may be started by srun, once a host, and numbers its processes itself.
    inner = f"{SRUN} PMI_RANK=0 PMI_SIZE=2 MASTER_ADDR=node07"
    assert at(inner).launcher == at(f"{SRUN} {MPICH}").launcher == "mpirun"


def test_open_mpi_has_its_address_from_the_user() -> None:
    assert at(OPEN_MPI)[:3] == (1, 2, "10.0.0.1")
    assert at(OPEN_MPI).port in PORTS


def test_jobs_on_one_node_are_told_apart() -> None:
    """The leader of one is not joined by a host of another: they prove their job, at its port."""
    jobs = [f"{MPICH.removesuffix(' MASTER_PORT=4000')} PBS_JOBID={n}.pbs" for n in (1, 2)]
    jobs += [f"{PMI_ALONE} LSB_JOBID=7 LSB_JOBINDEX={n}" for n in (1, 2)]
    jobs += [f"{SRUN} {WRAPPED} SLURM_JOB_ID={n}" for n in (1, 2)]
    jobs += [f"{OPEN_MPI} {WRAPPED} PMIX_NAMESPACE={n}" for n in (1, 2)]
    found = [at(job) for job in jobs]
    assert len({one.secret for one in found}) == len({one.port for one in found}) == len(jobs)
    # Where a person starts both, one by ssh, a scheduler's variables are on one host alone.
    assert at(f"{WRAPPED} SLURM_JOB_ID=7") == at(WRAPPED)


@pytest.mark.parametrize(
    "text",
    [
        "HOME=/root",
        "MASTER_ADDR=node1 MASTER_PORT=29500",
        "RANK=3",
        "WORLD_SIZE=2",
        ALLOCATION,
        BATCH,
        f"{BATCH} MASTER_ADDR=node1",
        SRUN.replace("=2", "=1").replace("PROCID=1", "PROCID=0"),
        TORCHRUN.replace("=2", "=1").replace("RANK=1", "RANK=0"),
        TRAIN_JOB.replace("NNODES=2", "NNODES=1").replace("RANK=1", "RANK=0"),
        "PET_NNODES=2 PET_MASTER_ADDR=n0",
        "OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=1 OMPI_COMM_WORLD_LOCAL_SIZE=1",
    ],
)
def test_all_else_is_a_run_on_one_host(text: str) -> None:
    assert placement(given(text)) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TORCHRUN.replace("RANK=1", "RANK=2"), "RANK=2 and WORLD_SIZE=2 contradict each other"),
        (f"{TORCHRUN} WORLD_SIZE=two", "WORLD_SIZE=two: not a number"),
        (f"{TORCHRUN} RANK=-1", "RANK=-1: not a number"),
        ("RANK=1 MASTER_ADDR=node1", "RANK=1 is set and WORLD_SIZE is not"),
        (
            f"{SRUN} RANK=0 WORLD_SIZE=2 MASTER_ADDR=node7",
            "RANK=0 (RANK and WORLD_SIZE) and SLURM_PROCID=1 (srun) contradict each other",
        ),
        # Every host would run everything, for itself.
        (
            f"{SRUN} {TORCHRUN} RANK=0 WORLD_SIZE=1",
            "WORLD_SIZE=1 (torchrun) and SLURM_STEP_NUM_TASKS=2 (srun) contradict each other",
        ),
        (
            f"{OPEN_MPI} RANK=1 WORLD_SIZE=4",
            "WORLD_SIZE=4 (RANK and WORLD_SIZE) and OMPI_COMM_WORLD_SIZE=2 (mpirun)",
        ),
        (
            f"{TORCHRUN} WORLD_SIZE=16 LOCAL_WORLD_SIZE=8",
            "LOCAL_WORLD_SIZE=8. One process a host: accelmark starts one worker a device by "
            "itself. Give --nproc-per-node=1",
        ),
        (f"{OPEN_MPI} OMPI_COMM_WORLD_LOCAL_SIZE=2", "OMPI_COMM_WORLD_LOCAL_SIZE=2. One process a"),
        (f"{MPICH} MPI_LOCALNRANKS=2", "mpirun: MPI_LOCALNRANKS=2. One process a host"),
        (f"{KUBERNETES} PET_NPROC_PER_NODE=8", "PET_NPROC_PER_NODE=8. One process a host"),
        (f"{MPICH.replace('MPI_LOCALNRANKS=1', 'PMI_LOCAL_SIZE=4')}", "PMI_LOCAL_SIZE=4. One"),
        (f"{PMI_ALONE} MV2_COMM_WORLD_LOCAL_SIZE=4", "MV2_COMM_WORLD_LOCAL_SIZE=4. One"),
        # A wrapper that sets torch's variables knows nothing of hosts; what started it does.
        (
            f"{SRUN} SLURM_STEP_NUM_TASKS=8 {WRAPPED} WORLD_SIZE=8",
            "srun: SLURM_STEP_NUM_NODES=2 and SLURM_STEP_NUM_TASKS=8. One process a host",
        ),
        (f"{OPEN_MPI} OMPI_COMM_WORLD_LOCAL_SIZE=2 {WRAPPED}", "OMPI_COMM_WORLD_LOCAL_SIZE=2. One"),
        (
            f"{WRAPPED} LOCAL_RANK=1",
            "RANK and WORLD_SIZE: LOCAL_RANK=1. One process a host: accelmark starts one worker a "
            "device by itself. Give one process a host (nprocPerNode 1), and",
        ),
        (
            f"{SRUN} SLURM_STEP_NUM_TASKS=16",
            "srun: SLURM_STEP_NUM_NODES=2 and SLURM_STEP_NUM_TASKS=16. One process a host",
        ),
        (
            "PMI_RANK=0 PMI_SIZE=2",
            "mpirun: PMI_RANK=0 and PMI_SIZE=2, and nothing says which host leads. Set MASTER_ADDR",
        ),
        (
            "RANK=1 WORLD_SIZE=2",
            "RANK and WORLD_SIZE: RANK=1 and WORLD_SIZE=2, and nothing says which host leads",
        ),
        (f"{TRAIN_JOB} PET_NODE_RANK=2", "PET_NODE_RANK=2 and PET_NNODES=2 contradict each other"),
        (f"{TRAIN_JOB} PET_NNODES=1:4", "PET_NNODES=1:4: not a number"),
        (f"{TRAIN_JOB} PET_MASTER_PORT=0x", "PET_MASTER_PORT=0x: not a number"),
        (f"{TORCHRUN} MASTER_PORT=65535", "MASTER_PORT=65535: no port that can be listened at"),
        (f"{TORCHRUN} ACCELMARK_PORT=0", "ACCELMARK_PORT=0: no port"),
    ],
)
def test_what_cannot_be_is_refused_by_name(text: str, said: str) -> None:
    with pytest.raises(HostsError) as caught:
        placement(given(text))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node1", "node1"),
        ("node[01-03,7]", "node01"),
        ("node[7,01-03]", "node7"),
        ("a1,node[01-03]", "a1"),
        ("rack[1-2]-node[07-12,20],login", "rack1-node07"),
        ("gpu-a[3]b", "gpu-a3b"),
        ("host-1.cluster,host-2.cluster", "host-1.cluster"),
    ],
)
def test_the_first_of_slurms_list(nodes: str, first: str) -> None:
    assert first_node(nodes) == first
