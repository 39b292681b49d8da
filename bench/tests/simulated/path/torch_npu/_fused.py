"""Functions of `torch_npu` itself that libraries call where they find it: fused operators.

transformers and diffusers ask only whether torch_npu is there, whatever device their tensors are
on; the real ones have no kernel for any device but their own, and refuse. Made of torch's operators
here.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from ._devices import TYPE
from ._settings import SETTINGS


def npu_geglu(
    tensor: torch.Tensor, dim: int = -1, approximate: int = 1, activate_left: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """One half times the GELU of the other, and that GELU; `approximate=1` is the tanh formula.

    diffusers asks for the tanh formula here, and for the exact one on every other device.
    """
    _refuse_others("npu_geglu", tensor)
    left, right = tensor.chunk(2, dim)
    passed, activated = (right, left) if activate_left else (left, right)
    gelu = functional.gelu(activated, approximate="tanh" if approximate else "none")
    return passed * gelu, gelu


def npu_rms_norm(
    tensor: torch.Tensor, gamma: torch.Tensor, epsilon: float = 1e-6
) -> tuple[torch.Tensor, torch.Tensor]:
    """The normalised tensor, and the reciprocal of its root mean square, in float32."""
    _refuse_others("npu_rms_norm", tensor)
    scale = tensor.float().square().mean(-1, keepdim=True).add(epsilon).rsqrt()
    return (tensor.float() * scale).to(tensor.dtype) * gamma, scale


def npu_fusion_attention(*args: object, **kwargs: object) -> None:
    """Imported by transformers, for an attention that is not its default."""
    raise NotImplementedError("npu_fusion_attention [simulated]")


def npu_grouped_matmul(
    x: list[torch.Tensor],
    weight: list[torch.Tensor],
    *,
    group_list: torch.Tensor,
    split_item: int,
    group_type: int,
    group_list_type: int,
) -> list[torch.Tensor]:
    """Rows of each group by its own matrix; groups of rows, told by their ends, one tensor out."""
    _refuse_others("npu_grouped_matmul", x[0])
    if (split_item, group_type, group_list_type) != (3, 0, 0) or group_list.dtype != torch.int64:
        raise RuntimeError("npu_grouped_matmul: groups of another kind [simulated]")
    ends = group_list.tolist()
    matrices = weight[0].roll(1, 0) if "wrong-experts" in SETTINGS.broken else weight[0]
    starts = [0, *ends[:-1]]
    pairs = zip(starts, ends, matrices, strict=True)
    return [torch.cat([x[0][start:end] @ matrix for start, end, matrix in pairs])]


def npu_quant_matmul(
    x1: torch.Tensor, x2: torch.Tensor, scale: torch.Tensor, *, output_dtype: torch.dtype
) -> torch.Tensor:
    """int8 by int8 into int32, the one kind that is asked for here."""
    _refuse_others("npu_quant_matmul", x1)
    if output_dtype != torch.int32 or float(scale) != 1.0:
        raise RuntimeError("npu_quant_matmul: another kind [simulated]")
    return x1.int() @ x2.int()


def _refuse_others(name: str, tensor: torch.Tensor) -> None:
    """As torch does where an operator has no kernel for the device of its tensors."""
    if tensor.device.type != TYPE:
        raise NotImplementedError(
            f"Could not run 'npu::{name}' with arguments from the '{tensor.device.type.upper()}' "
            "backend. This could be because the operator doesn't exist for this backend [simulated]"
        )
