"""Tensors of the device: host memory that torch is told lies on an accelerator, without a copy.

DLPack is a C structure by which libraries hand each other tensors; it has a field for the device.
A CPU tensor is exported, the field is rewritten to kDLExtDev, which torch reads as PrivateUse1, and
the structure is imported again: the result is a real `npu` tensor with a real storage. The same
way back gives a CPU alias of a device tensor, on which torch's CPU kernels work.
Source: dlpack.h, DLManagedTensor; torch 2.13, aten/src/ATen/DLConvertor.cpp.
"""

from __future__ import annotations

import atexit
import ctypes
from typing import Any

import torch

from ._devices import DEVICES, TYPE
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


_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_of.restype, _pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]

_blocks: dict[int, tuple[int, int, int]] = {}
"""Address of the structure -> device, bytes, the deleter that torch had put there."""


def _free(address: int) -> None:
    index, block, deleter = _blocks.pop(address)
    DEVICES[index].memory.free(block)
    _Deleter(deleter)(address)


_free_callback = _Deleter(_free)
_FREE = ctypes.cast(_free_callback, ctypes.c_void_p).value


@atexit.register
def _leave_no_callbacks() -> None:
    """What lives longer than the interpreter is freed by torch's own deleter."""
    for address, (_, _, deleter) in list(_blocks.items()):
        _structure(address).deleter = deleter


def _structure(address: int) -> _ManagedTensor:
    return ctypes.cast(address, ctypes.POINTER(_ManagedTensor)).contents


def to_device(tensor: torch.Tensor, index: int) -> torch.Tensor:
    """A CPU tensor as one of the device's, which its memory counts; float64 becomes float32."""
    if tensor.dtype == torch.float64:
        warn_once(
            "ToKernelNpu.cpp:41",
            "Device do not support double dtype now, dtype cast replace with float.",
            "operator()",
        )
        tensor = tensor.float()
    block = DEVICES[index].memory.allocate(tensor.untyped_storage().nbytes())
    capsule = _core._to_dlpack(tensor)
    address = _pointer_of(capsule, b"dltensor")
    structure = _structure(address)
    structure.device_type, structure.device_index = EXTENSION, index
    _blocks[address] = (index, block, structure.deleter)
    structure.deleter = _FREE
    result: torch.Tensor = _core._from_dlpack(capsule)
    return result


def to_host(tensor: torch.Tensor) -> torch.Tensor:
    """A CPU alias of a device tensor; a CPU tensor as it is."""
    if tensor.device.type != TYPE:
        return tensor
    capsule = _core._to_dlpack(tensor)
    structure = _structure(_pointer_of(capsule, b"dltensor"))
    structure.device_type, structure.device_index = CPU, 0
    result: torch.Tensor = _core._from_dlpack(capsule)
    return result
