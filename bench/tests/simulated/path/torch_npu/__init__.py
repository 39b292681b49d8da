"""A simulated Ascend plug-in for torch, in Python: for tests only, never a source of results.

It bears the name of the real one, because torch and transformers look for `torch_npu`; the version
says `+sim`. It is loaded as the real one is, by `import torch`, through an entry point.

**What is imitated**, each from a fact in the project's notes on backends (`backends.md`, Ascend).

| file | what | fact |
|---|---|---|
| `_storage.py` | `device="npu"` tensors, in host memory; float64 becomes float32 | 5 |
| `_dispatch.py` | any operator, on CPU aliases of its arguments; faults; host fallback | 4 |
| `_kernels.py` | allocation (no channels_last), copies, convolution, fused attention | 3, 6 |
| `_autocast.py` | `torch.autocast("npu", torch.bfloat16)` | |
| `_hf32.py` | `torch.npu.conv.allow_hf32` (on), `torch.npu.matmul.allow_hf32` (off) | 5 |
| `_profiler.py` | torch's profiler sees kernels, and which operator queued each | |
| `_timeline.py` | work takes time after the call has returned; who waits, sleeps | |
| `_memory.py` | a caching allocator with a limit; graphs have pools of their own | 8 |
| `_capture.py`, `npu/graphs.py` | graphs: what is recorded has not run, and is replayed at the |  |
| | same addresses; who would wait for the device within a capture is refused, and | |
| | before it, if `torch.npu.set_sync_debug_mode` says so | |
| `_compiler.py` | `torch.compile(backend="npu")`; inductor fails | 7 |
| `_devices.py` | the dies; current device and stream; the lost device | 8, 10, 11 |
| `_hccl.py` | collectives between dies, over gloo on the host | |
| `_fused.py` | `torch_npu.npu_geglu` and its like, which libraries call by name | |
| `_accelerator.py` | torch.accelerator, torch.Event, torch.Generator, `Tensor.to` | |
| `_stderr.py` | warnings of C++, which Python's `warnings` does not see | 4, 5 |
| `npu/` | `torch.npu`: devices, memory, streams and events, random numbers, versions | 9, 10 |
| `../../bin/npu-smi` | the printed samples of A2, A3 and 310P | 12 |

**The variables.** OPERATOR is aten's name without overload, as in `mm` or `convolution_backward`;
the fused attention is `npu_fusion_attention`, its backward `npu_fusion_attention_grad`, and a copy
from or to the device `_copy_from`. Lists are separated by commas. A misspelt variable is an error.

| variable | default | what it does |
|---|---|---|
| `SIMNPU_DEVICE_NAME` | `Ascend910B2` | the name; `Ascend910_93...` (910C) has two dies |
| `SIMNPU_DEVICES` | by the name | number of devices; 0: the plug-in loads, and there is no device |
| `SIMNPU_MEMORY_BYTES` | 64 GiB | memory of each; what is more: torch.OutOfMemoryError |
| `SIMNPU_OPERATOR_MICROSECONDS` | 10 | device time of every operator |
| `SIMNPU_SLOW` | | `OPERATOR=MILLISECONDS,...`: device time on top |
| `SIMNPU_FALLBACK` | | OPERATORs that run on the host: one line on fd 2 each, and the host waits; |
| | | with `TORCH_NPU_FALLBACK_CPU_DISABLE=1` a RuntimeError instead |
| `SIMNPU_MISSING` | | OPERATORs that there are not: NotImplementedError |
| `SIMNPU_WRONG` | | OPERATORs whose results are 1 % too large |
| `SIMNPU_LOST` | | OPERATOR, or `synchronize`, in which the device is lost: RuntimeError with |
| | | `error code is 507018`, then and in whatever comes after |
| `SIMNPU_LOST_AFTER` | 0 | how many calls of it succeed before |
| `SIMNPU_RUNTIME` | | `missing`: `import torch` fails, as where CANN is not set up |
| `SIMNPU_TYPE` | `npu` | torch's name for the device: another plug-in's, for its tests |
| `SIMNPU_EVENTS` | 1 | what events count, over the truth |
| `SIMNPU_FLOAT64` | `cast` | `refused`: as Apple's GPUs, also where a copy to the host makes it |
| `SIMNPU_BROKEN` | | defects of the device or its software, of those in the table below |
| `SIMNPU_SMI_USERS` | | processes that `npu-smi` lists on card 0: CHIP:PID:MB, or `none` |
| `SIMNPU_SMI` | A2 | which `npu-smi` answers: A2, A3 (a card for each two of the devices), 310P; |
| | | HOT: an A2 whose figures cannot be |

| defect | what is wrong |
|---|---|
| `early-synchronize` | synchronize returns at once |
| `one-stream` | synchronize waits for the current stream, not for all |
| `fixed-peaks` | peak counters do not grow |
| `kept-peaks` | a reset does not reset them |
| `kept-cache` | empty_cache hands nothing back |
| `spoilt-by-oom` | after an allocation that failed, every operator fails |
| `oom-words` | such an allocation fails in words that nobody knows |
| `hf32` | float32 products have HF32's mantissa, whatever the switches say |
| `bfloat-for-half` | float16 products have bfloat16's mantissa |
| `quiet-fallback` | SIMNPU_FALLBACK's operators run on the host without a word, even if refused |
| `lost-words` | a lost device says so in words that nobody knows |
| `lost-copies` | a copy to the host that does not wait never arrives |
| `wrong-experts` | grouped products take each group's rows by another group's matrix |
| `lost-updates` | what changes bfloat16 tensors in place changes nothing |
| `no-compiler` | torch.compile fails with `npu` too |
| `wrong-compiler` | what it compiles gives numbers that are 1 % too large |
| `no-graphs` | no capture can be begun |
| `still-replays` | a replay does nothing |

Variables of the real one that are heeded: `ASCEND_LAUNCH_BLOCKING=1` (every operator is waited
for), `TORCH_NPU_FALLBACK_CPU_DISABLE=1`, `TORCH_NPU_WARNING_DISABLE=1` and
`TORCH_NPU_DISABLED_WARNING=1` (nothing on fd 2).

**What is not.** Operators run when they are called, so a call takes the CPU's time for it, and the
device's clock runs on from there. Random numbers are the CPU's; pinned memory is any memory. Fused
optimizers run, with the CPU's kernels and their faults (torch 2.13's SGD leaves bfloat16 weights as
they are); whether each does on a real device is not known here. HF32 is not in the attention.
torch's C++ takes `npu:0` for the current device, so a backward on the second die runs in the main
thread only. A graph keeps all that it made apart, where a real one shares memory among what is not
needed at once (and so it is counted); and what others made and it read stays alive with it, where a
real one reads what lies there then. Compiled code calls operators. There are no send and receive
among the collectives, no sparse tensors, no private formats, no LSTM, and no torch.load to the
device.
"""

from __future__ import annotations

from ._settings import SETTINGS

if SETTINGS.runtime == "missing":
    raise ImportError("libhccl.so: cannot open shared object file: No such file or directory")

from . import _accelerator, _autocast, _hccl, _kernels, _profiler, npu
from ._fused import (
    npu_fusion_attention,
    npu_geglu,
    npu_grouped_matmul,
    npu_quant_matmul,
    npu_rms_norm,
)

__version__ = "2.13.0+sim"

_accelerator.register(npu)
_kernels.register()
_autocast.register()
_hccl.register()
_profiler.register()


def _autoload() -> None:
    """The entry point `torch.backends`: importing was all."""


__all__ = [
    "npu",
    "npu_fusion_attention",
    "npu_geglu",
    "npu_grouped_matmul",
    "npu_quant_matmul",
    "npu_rms_norm",
]
