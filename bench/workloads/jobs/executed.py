"""How a site executes a model or a function: compiled, or as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from bench.records.execution import is_compiled
from bench.workload import Site
from bench.workloads.jobs.sharded import compiled_parts

if TYPE_CHECKING:
    from torch import Tensor, nn


def executed(model: nn.Module, site: Site) -> nn.Module:
    """The model as the site executes it: compiled in place, or as it is.

    Compiling happens in the first step, a cold figure. What the compiler cannot do raises.
    """
    if is_compiled(site.execution):
        for part in compiled_parts(model, site):
            part.compile(backend=site.compiler)
    return model


def executed_function(function: Callable[..., Tensor], site: Site) -> Callable[..., Tensor]:
    """A step of tensors alone, as the site executes it: compiled, or as it is."""
    from torch import nn

    if not is_compiled(site.execution):
        return function

    class Step(nn.Module):
        def forward(self, *tensors: Tensor) -> Tensor:
            return function(*tensors)

    return executed(Step(), site)
