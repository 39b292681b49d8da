"""A model's 8-bit layers: which are quantized, how they compute, and what their reference knows.

The weights are scaled once and the activations in every step ("dynamic"). The layers of the blocks
are quantized; embedding, norms, attention's own products, its cache and the output head are not, as
in the 8-bit checkpoints that are published. The product itself is `bench.quantized_product`.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from bench.quantized_product import Products, multiply, name_of, quantize
from bench.workload import Site
from bench.workloads.layers import mxfp4

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

SCALE_BYTES = 4
PROBE_ROWS = 32
"""Rows that the numerics gate multiplies by each layer's matrix."""
PADDED_ROWS = 32
"""Rows that a product gets where a device has none for few."""


def quantizes(site: Site, blocks: str, path: str) -> bool:
    """Whether linear layers at this path of a model are quantized: those in `blocks`, if any."""
    return site.precision.quantized is not None and bool(blocks) and path.startswith(f"{blocks}.")


def quantize_layer(model: nn.Module, path: str, site: Site) -> None:
    """Replaces the linear layer at that path by its 8-bit form.

    In the gate's float64 reference the layers compute as they are, and only know what their 8-bit
    form should give.
    """
    import torch

    parent_path, _, name = path.rpartition(".")
    dtype = getattr(torch, str(site.precision.quantized))
    linear = model.get_submodule(path)
    if site.precision.weights == "float64":
        layer = _reference_layer()(linear, dtype)
    else:
        layer = quantized_layer()(linear, dtype, site.products)
    setattr(model.get_submodule(parent_path), name, layer)


def layers_of(model: nn.Module) -> list[Any]:
    """The layers of a model that are quantized, or whose reference is known."""
    kinds = (quantized_layer(), _reference_layer())
    return [module for module in model.modules() if isinstance(module, kinds)]


def narrowed(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows [M, K] as 8 bits and a scale have them, in float64 on the host."""
    eight_bits, scale = quantize(values, dtype)
    return eight_bits.cpu().double() * scale.cpu().double()


def products(model: nn.Module) -> dict[str, Tensor]:
    """What each quantized layer of a model, and each product of narrow experts, gives for rows of
    its own, end to end; {} without any.

    The rows are seeded normals, the same on every device.
    """
    import torch

    found = []
    for index, layer in enumerate(layers_of(model)):
        generator = torch.Generator().manual_seed(index)
        rows = torch.randn((PROBE_ROWS, layer.in_features), generator=generator)
        with torch.inference_mode():
            found.append(layer.product(rows.to(layer.weight.device, torch.bfloat16)).flatten())
    found += mxfp4.products(model)
    return {"products": torch.cat(found)} if found else {}


def quantized_facts(model: nn.Module) -> dict[str, str]:
    """What the record says of a model's quantized layers."""
    layers = layers_of(model)
    if not layers:
        return {}
    dtype = name_of(layers[0].weight.dtype)
    return {"quantized": f"{len(layers)} linear layers, {dtype}, a scale for each row"}


@functools.cache
def _needs_padding(
    device: torch.device, dtype: torch.dtype, products: Products | None = None
) -> bool:
    """Whether the device refuses a product of one row; tried once.

    torch's int8 product on some devices wants more than 16, in most releases.
    """
    import torch

    one = torch.ones((1, 1), device=device)
    row, matrix = (torch.ones((n, 32), device=device).to(dtype) for n in (1, 32))
    try:
        multiply(row, one, matrix, one.expand(1, 32).contiguous(), products)
    except RuntimeError:
        return True
    return False


@functools.cache
def quantized_layer() -> Any:
    """The class of an 8-bit linear layer, which cannot exist before torch is imported."""
    import torch
    from torch.nn import functional

    class Quantized(torch.nn.Module):
        """y = x W' + b, both x and W in 8 bits."""

        def __init__(self, linear: nn.Linear, dtype: torch.dtype, products: Products) -> None:
            super().__init__()
            weight, scale = quantize(linear.weight.detach(), dtype)
            self.in_features = linear.in_features
            self.weight = torch.nn.Parameter(weight, requires_grad=False)
            self.bias = linear.bias
            self.register_buffer("_scale", scale.t().contiguous())
            self._products = products
            self._padded = _needs_padding(weight.device, dtype, products)

        def forward(self, x: Tensor) -> Tensor:
            rows = x.reshape(-1, self.in_features)
            result = self.product(rows)
            return result.view(*x.shape[:-1], result.shape[-1])

        def product(self, rows: Tensor) -> Tensor:
            """[M, K] to [M, N]."""
            count = rows.shape[0]
            if self._padded and count < PADDED_ROWS:
                rows = functional.pad(rows, (0, 0, 0, PADDED_ROWS - count))
            operand, scale = quantize(rows, self.weight.dtype)
            by = self.get_buffer("_scale")
            result = multiply(operand, scale, self.weight, by, self._products)[:count]
            return result if self.bias is None else result + self.bias

    return Quantized


@functools.cache
def _reference_layer() -> Any:
    """The class of its reference."""
    import torch
    from torch.nn import functional

    class Reference(torch.nn.Module):
        """The layer in float64, unquantized; its `product` is that of the 8-bit values, exactly."""

        def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
            super().__init__()
            self.in_features = linear.in_features
            self.weight, self.bias = linear.weight, linear.bias
            self._dtype = dtype

        def forward(self, x: Tensor) -> Tensor:
            return functional.linear(x, self.weight, self.bias)

        def product(self, rows: Tensor) -> Tensor:
            """[M, K] to [M, N]."""
            bias = None if self.bias is None else self.bias.to(torch.bfloat16).double()
            matrix = narrowed(self.weight.to(torch.bfloat16), self._dtype)
            return functional.linear(narrowed(rows, self._dtype), matrix, bias)

    return Reference
