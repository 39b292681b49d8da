"""Tensors of the device: host memory that torch is told lies on an accelerator, without a copy.

DLPack is a C structure by which libraries hand each other tensors; it has a field for the device.
A CPU tensor is exported, the field is rewritten to kDLExtDev, which torch reads as PrivateUse1, and
the structure is imported again: the result is a real `npu` tensor with a real storage. The same
way back gives a CPU alias of a device tensor, on which torch's CPU kernels work.
Source: dlpack.h, DLManagedTensor; torch 2.13, aten/src/ATen/DLConvertor.cpp.
"""

from __future__ import annotations

import ctypes
import weakref
from typing import Any

import torch

from ._devices import TYPE, device
from ._settings import SETTINGS
from ._stderr import warn_once

CPU, EXTENSION = 1, 12
"""kDLCPU and kDLExtDev of dlpack.h."""

_core: Any = torch._C  # private: DLPack capsules without the checks of Tensor.__dlpack__


class _ManagedTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_index", ctypes.c_int32),
        ("dimensions", ctypes.c_int32),
        ("dtype", ctypes.c_uint32),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("byte_offset", ctypes.c_uint64),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    )


_pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_of.restype, _pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


def _structure(capsule: Any) -> _ManagedTensor:
    return _ManagedTensor.from_address(_pointer_of(capsule, b"dltensor"))


def to_device(tensor: torch.Tensor, index: int) -> torch.Tensor:
    """A CPU tensor as one of the device's, which its memory counts; float64 becomes float32, or is
    refused."""
    may_be(tensor.dtype)
    if tensor.dtype == torch.float64:
        warn_once(
            "ToKernelNpu.cpp:41",
            "Device do not support double dtype now, dtype cast replace with float.",
            "operator()",
        )
        tensor = tensor.float()
    memory = device(index).memory
    pool, size = memory.shared, tensor.untyped_storage().nbytes()
    if (capture := device(index).capturing) is not None:
        pool = capture.pool
        capture.made(tensor)
        # A storage that ends with the device's tensor, whose memory the graph writes on.
        tensor = _core._from_dlpack(_core._to_dlpack(tensor))
    # torch keeps the Python object of a storage as long as the storage: it ends when the last
    # tensor that uses the memory ends. (A callback in the structure's deleter could be called with
    # an exception in flight, which ctypes does not survive. And an object of the device's storage
    # would be one more that uses it, by which autograd does not add in place.)
    block = memory.allocate(size, pool)
    weakref.finalize(tensor.untyped_storage(), memory.free, block, pool).atexit = False
    capsule = _core._to_dlpack(tensor)
    structure = _structure(capsule)
    structure.device_type, structure.device_index = EXTENSION, index
    result: torch.Tensor = _core._from_dlpack(capsule)
    return result


def may_be(dtype: torch.dtype) -> None:
    """Before the device makes something of that dtype. Raises TypeError in the words of torch.mps
    where SIMNPU_FLOAT64 refuses it."""
    if dtype == torch.float64 and SETTINGS.float64 == "refused":
        raise TypeError(
            "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support "
            "float64. Please use float32 instead. [simulated]"
        )


def to_host(tensor: torch.Tensor) -> torch.Tensor:
    """A CPU alias of a device tensor; a CPU tensor as it is."""
    if tensor.device.type != TYPE:
        return tensor
    # Lazy conjugates and negatives are a bit of the tensor, of which DLPack knows nothing.
    if tensor.is_conj():
        return to_host(tensor.conj()).conj()
    if tensor.is_neg():
        return torch._neg_view(to_host(torch._neg_view(tensor)))
    capsule = _core._to_dlpack(tensor)
    structure = _structure(capsule)
    structure.device_type, structure.device_index = CPU, 0
    result: torch.Tensor = _core._from_dlpack(capsule)
    return result
