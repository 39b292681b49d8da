"""A simulated Ascend plug-in for torch, pure Python: for tests of accelmark, and never a source of
results. It bears the name of the real one, torch_npu, because torch and transformers look for that.
"""

from __future__ import annotations

from ._settings import SETTINGS

if SETTINGS.runtime == "missing":
    raise ImportError("libhccl.so: cannot open shared object file: No such file or directory")

from . import _accelerator, _autocast, _kernels, npu

__version__ = "2.13.0+sim"

_accelerator.register(npu)
_kernels.register()
_autocast.register()


def npu_fusion_attention(*args: object, **kwargs: object) -> None:
    """transformers imports the name, for an attention that nobody here asks for."""
    raise NotImplementedError("npu_fusion_attention [simulated]")


def _autoload() -> None:
    """The entry point `torch.backends`: importing was all."""
