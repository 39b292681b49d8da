"""What a record says of the host and the stack, and what it leaves out."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest

from bench import catalogue
from bench.records import environment
from bench.records.paths import without_paths
from bench.running.hosts import alike


def test_the_host_is_described_without_naming_anyone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELMARK_SECRET", "s3cret-value")
    host = environment.host()
    assert host["logical_cores"] >= host["usable_cores"] >= 1
    assert host["memory_bytes"] > 0 and host["cpu"] and host["accelmark"]
    import getpass

    text = repr(host)
    names = {"s3cret-value", platform.node(), str(Path.home())}
    if getpass.getuser() != "root":
        names.add(getpass.getuser())
    for name in names - {"", "/"}:
        assert name not in text


def test_the_stack_says_what_changes_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("MY_SWITCH", "on")
    monkeypatch.setenv("OTHER_SECRET", "no")
    monkeypatch.setenv("LD_PRELOAD_", "no")
    stack = environment.stack()
    assert stack["torch"] == torch.__version__
    assert stack["threads"] == torch.get_num_threads()
    for name in ("torch", "transformers", "diffusers", "peft"):  # whose models are measured
        assert stack["packages"][name] == importlib.metadata.version(name)
    found = environment.variables(["OMP_NUM_THREADS", "MY_SWITCH", "NOT_SET"])
    assert found == {"OMP_NUM_THREADS": "2", "MY_SWITCH": "on"}


@pytest.mark.parametrize("brings", ["triton-rocm", "pytorch-triton-xpu", ""])
def test_the_compilers_version_is_recorded_whoever_brings_it(
    brings: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Builds of torch for some vendors require a distribution of another name."""
    installed = importlib.metadata.version

    def version(name: str) -> str:
        if name == "triton":
            raise importlib.metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "triton", ModuleType("triton"))  # as some plug-ins put there
    (tmp_path / "triton").mkdir()
    (tmp_path / "triton/__init__.py").write_text("raise RuntimeError('imported')")
    others = {"a_triton_tool": "tool/triton/__init__.py", "triton_kernels": "triton_kernels/x.py"}
    ours = {brings.replace("-", "_"): "triton/__init__.py"} if brings else {}
    for name, holds in {**others, **ours}.items():
        folder = tmp_path / f"{name}-3.{len(name)}+git1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Name: {name}\nVersion: 3.{len(name)}+git1\n")
        (folder / "RECORD").write_text(f"{holds}/more.py,,\n{holds},sha256=x,1\n")
    found = environment._package_versions.__wrapped__().get("triton")
    assert found == (f"3.{len(brings)}+git1" if brings else None)


FAMILIES = {
    "DNNL_MAX_CPU_ISA": "SSE41",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    "ATEN_CPU_CAPABILITY": "default",
    "OPENBLAS_CORETYPE": "Nehalem",
    "OMP_SCHEDULE": "dynamic",
    "GOMP_SPINCOUNT": "0",
    "KMP_TPAUSE": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "TORCHINDUCTOR_MAX_AUTOTUNE": "1",
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F",
    "MALLOC_CONF": "background_thread:true",
    "THP_MEM_ALLOC_ENABLE": "1",
    "LRU_CACHE_CAPACITY": "1024",
    "PYTHONMALLOC": "debug",
    "PYTHONOPTIMIZE": "2",
    "DIFFUSERS_ATTN_BACKEND": "flash",
    "DNNL_OF_A_LATER_VERSION": "x",
    "DISABLE_ADDMM_CUDA_LT": "1",
    "DISABLE_LLVM_OPT": "disable-lsr",
    "DISABLE_FAST_REDUCTION": "1",
    "ENABLE_INTRA_NODE_COMM": "1",
    "KINETO_USE_DAEMON": "1",
    "UCX_TLS": "rc",
    "FI_PROVIDER": "efa",
    "OFI_NCCL_PROTOCOL": "RDMA",
    "SHARP_COLL_ENABLE_SAT": "1",
    "NVSHMEM_IB_ENABLE_IBGDA": "1",
}
OTHERS = ("PYTHONPATH", "PYTHONSTARTUP", "HOME", "MKLROOT", "OMPI_COMM_WORLD_RANK", "UNASKED")


def test_what_changes_speed_is_recorded_by_family_whatever_its_name() -> None:
    """A list of names missed the one by which a CPU was 280 times slower."""
    given = {**FAMILIES, **dict.fromkeys(OTHERS, "planted")}
    assert environment.variables(environment.VARIABLES, given) == dict(sorted(FAMILIES.items()))


def test_a_family_keeps_neither_secrets_nor_folders_nor_addresses() -> None:
    home = Path.home()
    given = {
        "TORCH_API_TOKEN": "planted",
        "TORCH_HOME": f"{home}/planted/models",
        "TORCH_NCCL_ADDR": "planted.example.org",
        "TORCH_LOGS_OUT": "/data/planted project/x.log",
        "MALLOC_CONF": "prof_prefix:/mnt/planted/y,lg_prof:1",
        "PYTORCH_SHARED": r"C:\Users\Planted Person\z.dll;D:\planted\w.dll",
        "OMP_TOOL_LIBRARIES": "planted@planted:8 https://planted/x",
    }
    found = environment.variables(environment.VARIABLES, given)
    assert "planted" not in str(found).lower() and str(home) not in str(found)
    assert found["TORCH_HOME"] == "models" and found["TORCH_LOGS_OUT"] == "x.log"
    assert found["MALLOC_CONF"] == "prof_prefix:y,lg_prof:1"
    assert found["PYTORCH_SHARED"] == "z.dll;w.dll"
    assert "TORCH_API_TOKEN" not in found


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("plain", "plain"),
        ("{0:4}:8:4", "{0:4}:8:4"),
        ("glibc.malloc.check=1:glibc.cpu.hwcaps=-A", "glibc.malloc.check=1:glibc.cpu.hwcaps=-A"),
        ("/a/b.so /c/d.so", "b.so d.so"),
        ("/a/b:/c/d", "b:d"),
        ("../../NAME/x", "x"),
        ("~/x", "x"),
        ("/home/someone", "~"),
        ("/home/someone/x:y", "x:y"),
        ("/", "/"),
        ("file:///home/x", "(address)"),
    ],
)
def test_of_a_path_its_last_name_is_left(text: str, kept: str) -> None:
    assert without_paths(text) == kept


@pytest.mark.parametrize(
    "name",
    [
        *("CUDA_INJECTION64_PATH", "HSA_OVERRIDE_GFX_VERSION", "TRITON_PTXAS_PATH"),
        *("ASCEND_CUSTOM_OPP_PATH", "MIOPEN_DISABLE_CACHE", "MIOPEN_USER_DB_PATH"),
        *("MCBLAS_CUSTOMIZED_CONFIG_PATH", "TORCH_ACL_INIT_CONFIG_PATH", "XBLAS_FC_HBM_VERSION"),
        *("TORCH_CUBLAS_WORKSPACE_CACHE", "UCX_MEMTYPE_CACHE", "TRITON_LIBDEVICE_PATH"),
    ],
)
def test_what_puts_other_code_or_memory_in_a_librarys_place_is_no_furniture(name: str) -> None:
    assert environment.may_change_speed(name)


@pytest.mark.parametrize(
    "name", ["CUDA_PATH", "TRITON_CACHE_DIR", "NCCL_VERSION", "NVIDIA_REQUIRE_CUDA", "ROCM_HOME"]
)
def test_where_software_lies_changes_no_speed(name: str) -> None:
    assert not environment.may_change_speed(name)


@pytest.mark.parametrize(
    ("name", "idle"),
    [
        *((name, True) for name in ("BKCL_X", "HCL_X", "LCCL_X", "ONECCL_X", "P2P_HCCL_BUFFSIZE")),
        *((name, False) for name in ("ACL_X", "OCL_X", "SYCL_X", "P2P_X")),
    ],
)
def test_libraries_of_links_are_known_by_their_names(name: str, idle: bool) -> None:
    assert environment.is_idle(name, {}) is idle
    assert not environment.is_idle(name, {"world": {"devices": 2}})


def test_every_backend_declares_its_vendors_families() -> None:
    """Those of the issue, for each vendor; and no family that would take everything."""
    wanted = {
        "cuda": "CUDA_X NVIDIA_X NCCL_X CUBLAS_X CUBLASLT_X CUDNN_X PTXAS_OPTIONS DISABLE_PTXAS_OPT"
        " DISABLE_MMA_V5",
        "rocm": "HSA_X HIP_X ROCR_X ROCBLAS_X MIOPEN_X AMD_X HIPBLASLT_X ROCPROFILER_X ROCP_X"
        " ROC_GLOBAL_CU_MASK DEBUG_CLR_X DEBUG_HIP_X PAL_X AMDGCN_USE_BUFFER_OPS",
        "ascend": "ASCEND_X ACL_X ACLNN_X HCCL_X NPU_X LCCL_X P2P_HCCL_BUFFSIZE PER_STREAM_QUEUE"
        " CLOSE_MATMUL_K_SHIFT STREAMS_PER_DEVICE OOM_SNAPSHOT_ENABLE FASTAUTOTUNE AUTOTUNE_METHOD"
        " ANIR_MODE INDUCTOR_ASCEND_AGGRESSIVE_AUTOTUNE CATLASS_EPILOGUE_FUSION USE_STORE_IN_CAT"
        " ENABLE_PARALLEL_SCHEDULER PARALLEL_SCHEDULER_NODES_MIN ENABLE_INPLACE_BUFFERS"
        " SHUT_DOWN_FX_PASS_LIST FAST_RUN_WITH_MAX_TILING_NUM FLEX_ATTENTION_X",
        "xpu": "ZE_X UR_X SYCL_X ONEAPI_X IGC_X",
        "mps": "METAL_X",
        "generic": "MUSA_X MLU_X PT_HPU_X GCU_X USE_GCU_DEFAULT_STREAM MACA_X BRTB_X SUDNN_X"
        " SUBLAS_X XMLIR_X BKCL_X XBLAS_X XDNN_X XFT_X XFA_X XPUAPI_X XPURT_X UMD_X MHA_X"
        " ENABLE_FLASH_ATTENTION_X NEURON_X RBLN_X LIBTPU_X TPU_X XLA_X",
    }
    for name, variables in wanted.items():
        given = dict.fromkeys(variables.split(), "1")
        words = catalogue.backend(name).recorded_variables()
        assert set(environment.variables(words, given)) == set(given), name
        assert all(len(word.rstrip("*")) >= 3 for word in words)


def test_of_its_vendors_variables_some_tell_where_or_which_it_is() -> None:
    for name in ("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES", "NEURON_RT_ROOT_COMM_ID"):
        assert environment.variables(["TPU_*", "NEURON_*"], {name: "a"}) == {
            name: environment.NOT_RECORDED
        }
    for name in ("NEURON_RT_VISIBLE_CORES", "TPU_VISIBLE_CHIPS"):
        assert environment.selects(name, "3")
        assert not environment.is_common(name, "3")
    assert not environment.is_common("TPU_WORKER_ID", "3")
    assert environment.is_common("NEURON_RT_NUM_CORES", "3")


def test_what_a_backend_sets_or_forbids_is_recorded() -> None:
    """Of every backend, its runtime here or not."""
    for name in catalogue.plug_ins("backends"):
        backend = catalogue.backend(name)
        words = environment.looked_for(backend.recorded_variables())
        set_here = {*backend.worker_environment(), *backend.harmful_variables()}
        assert set(environment.variables(words, dict.fromkeys(set_here, "1"))) == set_here, name


def test_preloaded_libraries_are_named_without_their_folders(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LD_PRELOAD", "/somewhere/private/libjemalloc.so.2 libx.so")
    found = environment.variables(["LD_PRELOAD"])
    assert found == {"LD_PRELOAD": "libjemalloc.so.2 libx.so"}


ARM = """processor\t: {n}
BogoMIPS\t: 2000.00
Features\t: fp asimd fphp sve
CPU implementer\t: {implementer}
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: {part}
CPU revision\t: 0
"""


@pytest.mark.parametrize(
    ("cores", "name"),
    [
        ([("0x41", "0xd4f")] * 2, "Neoverse-V2"),
        ([("0x41", "0xd0c")] * 2, "Neoverse-N1"),
        ([("0x48", "0xd01")], "Kunpeng-920"),
        ([("0xc0", "0xac3")], "Arm core 0xc0 0xac3"),
        ([("0x41", "0xd46"), ("0x41", "0xd4f")], "Arm core 0x41 0xd46, Neoverse-V2"),
    ],
)
def test_arm_cpus_that_linux_does_not_name_are_told_apart(
    cores: list[tuple[str, str]], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = [ARM.format(n=n, implementer=i, part=p) for n, (i, p) in enumerate(cores)]
    monkeypatch.setattr(environment, "_read", lambda path: "\n".join(said))
    assert environment.cpu_name() == name
    assert "fphp" in environment.cpu_flags()
    monkeypatch.setattr(environment, "_read", lambda path: "\n".join([*said, "Model\t: A board"]))
    assert environment.cpu_name() == "A board"


@pytest.mark.parametrize(("said", "flags"), [("1\n", {"fphp"}), ("0\n", set()), ("", set())])
def test_a_mac_is_asked_for_its_name_and_whether_it_has_fp16(
    said: str, flags: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        out = {"machdep.cpu.brand_string": "A chip\n", "hw.optional.arm.FEAT_FP16": said}
        return subprocess.CompletedProcess(command, 0, out[command[-1]], "")

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(environment, "_read", lambda path: None)
    monkeypatch.setattr(subprocess, "run", run)
    assert environment.cpu_name() == "A chip"
    assert environment.cpu_flags() == flags


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_a_clone_is_changed_by_what_runs_and_not_by_what_is_published(tmp_path: Path) -> None:
    """`publish` writes results/README.md: the next run is of the same code."""
    names = ("bench/x.py", "configs/q.toml", "results/README.md")

    def git(*words: str) -> None:
        who = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false")
        subprocess.run(["git", "-C", tmp_path, *who, *words], check=True, capture_output=True)

    def changed() -> bool:
        state = environment.git_state(tmp_path / "bench")
        assert state is not None and len(state["commit"]) == 40
        return bool(state["changed"])

    git("init")
    for name in names:
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("1\n")
    git("add", ".")
    git("commit", "-m", "x")
    assert not changed()
    for name in names:
        (tmp_path / name).write_text("2\n")
        assert changed() == (not name.startswith("results/")), name
        git("checkout", "--", ".")
    git("rm", "-r", "configs")
    assert changed(), "a suite is gone"
    git("commit", "-m", "x")
    assert not changed(), "a clone without that folder"
    (tmp_path / "bench" / "untracked").write_text("x")
    assert not changed()


@pytest.mark.parametrize("value", ["1", "3"])
@pytest.mark.parametrize("elastic", [True, False])
def test_what_torchrun_sets_is_not_taken_for_the_users(
    elastic: bool, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run under it would differ in a setting from one without."""
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("TORCH_NCCL_ASYNC_ERROR_HANDLING", value)
    if elastic:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    given = environment.worker_variables({})
    theirs = elastic and value == "1"
    assert given.get("TORCH_NCCL_ASYNC_ERROR_HANDLING") == (None if theirs else value)


@pytest.mark.parametrize("free_threaded", [None, 0, 1])
def test_a_free_threaded_python_is_another(
    free_threaded: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one version there are two builds, and the same code is not of the same speed in them."""
    built = {**sysconfig.get_config_vars(), "Py_GIL_DISABLED": free_threaded}
    monkeypatch.setattr(sysconfig, "get_config_var", built.get)
    version = platform.python_version() + ("t" if free_threaded else "")
    assert environment.python_version() == environment.stack()["python"] == version
    assert environment.host()["python"].split()[1] == version
    assert alike.software(None, {})["Python"] == version
