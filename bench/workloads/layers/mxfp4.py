"""Experts whose weights are in mxfp4 and whose rows are bfloat16, where a device multiplies those.

The weights are the wide model's, rounded to mxfp4: each 32 of them that are added up share a power
of two. They stay so in memory; what the product makes of them on its way is its own. Nothing is
emulated: without `bench.quantized_product.Products.by_experts` the case is skipped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from bench.formats import encode
from bench.precision import ELEMENT_BITS, PRECISIONS
from bench.rehearsal import has_no_values
from bench.workload import Site, Unsupported

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.quantized_product import ByExperts

EXPERTS = "accelmark-mxfp4"
"""Under this name transformers finds the experts of this file."""
SUFFIX = "-mxfp4"
"""Of the name of a model with such experts."""
NARROW = "narrow_products"
"""Of a layer's experts, by the name of the matrix."""
MATRICES = ("gate_up_proj", "down_proj")
"""Of a layer's experts, [E, K, N] each."""
FORMAT = PRECISIONS["mxfp4"]
BLOCK = 32
ELEMENT = "float4_e2m1fn_x2"
BYTES = (ELEMENT_BITS[ELEMENT] + ELEMENT_BITS["float8_e8m0fnu"] / BLOCK) / 8
"""Of a weight, with its share of a scale."""


PROBE_ROWS = 4
"""Rows of each expert that the numerics gate multiplies by each of its matrices."""


class Product(NamedTuple):
    """By one matrix of each expert of a layer."""

    by: ByExperts
    experts: int
    inner: int
    """K."""


class Narrowing:
    """Takes the matrices of experts out of a model while it is built, and puts products there."""

    def __init__(self, site: Site) -> None:
        """Raises `Unsupported` where the device has no such product."""
        import torch

        self._site = site
        self._products: dict[str, Product] = {}
        if not site.is_reference:
            one = torch.zeros((1, BLOCK, BLOCK // 2), dtype=torch.uint8)
            self._ready(one, torch.ones((1, BLOCK, 1)).to(torch.float8_e8m0fnu))

    def cut(self, path: str, value: Tensor) -> Tensor:
        """What stays of a parameter: of experts' matrices nothing, in the reference all, rounded.

        See `bench.workloads.jobs.seeded.build_model`.
        """
        import torch

        if path.rpartition(".")[2] not in MATRICES or value.dim() != 3:
            return value
        experts, inner, outer = value.shape
        if has_no_values(value):
            codes = torch.empty((experts, outer, inner // 2), dtype=torch.uint8)
            scales = torch.empty((experts, outer, inner // BLOCK), dtype=torch.float8_e8m0fnu)
        else:
            # From what bfloat16 holds, so that the reference rounds the same values.
            wide = (matrix.to(torch.bfloat16).float().t().contiguous() for matrix in value)
            operands = [encode(matrix, FORMAT, matrix=True) for matrix in wide]
            if self._site.is_reference:
                exact = torch.stack([operand.exactly().t() for operand in operands])
                self._products[path] = Product(_exactly(exact), experts, inner)
                return exact
            codes = torch.stack([operand.packed().view(torch.uint8) for operand in operands])
            scales = torch.stack([operand.shared for operand in operands])
        self._products[path] = Product(self._ready(codes, scales), experts, inner)
        return value[:, :0]

    def finish(self, model: nn.Module) -> None:
        """Gives each layer's experts their products."""
        for path, product in self._products.items():
            owner, _, name = path.rpartition(".")
            vars(model.get_submodule(owner)).setdefault(NARROW, {})[name] = product

    def _ready(self, codes: Tensor, scales: Tensor) -> ByExperts:
        try:
            return self._site.products.by_experts(codes, scales, self._site.device)
        except NotImplementedError as error:
            raise Unsupported(f"experts in mxfp4: {error}") from None


def register_experts() -> None:
    """Makes EXPERTS known to transformers."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    ALL_EXPERTS_FUNCTIONS.register(EXPERTS, _experts)


def _experts(self: Any, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """transformers' interface of experts: hidden states [T, H], which experts [T, k] each goes to,
    and with what weights."""
    import torch

    active = chosen.shape[1]
    experts, order = chosen.flatten().sort()
    every = torch.arange(self.num_experts, device=hidden.device)
    ends = torch.searchsorted(experts, every, right=True).int()
    rows = hidden[order // active]
    gate_up, down = (self.narrow_products[name].by for name in MATRICES)
    rows = gate_up(rows, ends) + self.gate_up_proj_bias[experts]
    rows = down(self._apply_gate(rows), ends) + self.down_proj_bias[experts]
    found = torch.empty_like(rows)
    found[order] = rows * weights.flatten()[order, None]
    return found.view(-1, active, rows.shape[1]).sum(1)


def products(model: nn.Module) -> list[Tensor]:
    """What each product of narrow experts gives for rows of its own, seeded normals of bfloat16."""
    import torch

    found: list[Tensor] = []
    for module in model.modules():
        for name, product in getattr(module, NARROW, {}).items():
            generator = torch.Generator().manual_seed(len(found))
            shape = product.experts * PROBE_ROWS, product.inner
            rows = torch.randn(shape, generator=generator).to(torch.bfloat16)
            ends = torch.arange(1, product.experts + 1, dtype=torch.int32) * PROBE_ROWS
            device = getattr(module, f"{name}_bias").device
            with torch.inference_mode():
                found.append(product.by(rows.to(device), ends.to(device)).flatten())
    return found


def _exactly(matrices: Tensor) -> ByExperts:
    """As many rows of each expert by [E, K, N] in float64."""
    return lambda rows, ends: (
        rows.double().view(len(matrices), -1, matrices.shape[1]) @ matrices
    ).flatten(0, 1)
