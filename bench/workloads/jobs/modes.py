"""The modes that most models have, how the work of a mode may be spread over devices, and twins."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec

from bench.workload import (
    ALL_EXECUTIONS,
    INFERENCE_PRECISIONS,
    TRAINING_PRECISIONS,
    Mode,
    Parameters,
    twin_name,
)

Small = TypeVar("Small", bound=Parameters)

ALONE = ("none",)
COPIES = ("none", "replicas")
"""Of inference whose job takes its rank's rows."""
REPLICATED = ("none", "dp")
SHARDED = ("none", "dp", "fsdp", "hsdp")
"""Of a model that `bench.workloads.jobs.jobs.TrainingJob` trains on its rank's rows."""

OPTIMIZER = "torch._dynamo"
"""What an optimizer of torch imports when it is made, which takes as long as torch itself: named
where a mode trains and nothing else brings it, it is imported beforehand."""


def train_and_infer(
    train: type[Parameters],
    infer: type[Parameters],
    executions: tuple[str, ...] = ALL_EXECUTIONS,
    inference: tuple[str, ...] = INFERENCE_PRECISIONS,
    together: tuple[str, ...] = ALONE,
    copies: tuple[str, ...] = ALONE,
    answering: tuple[str, ...] = ALL_EXECUTIONS,
) -> Mapping[str, Mode]:
    """The modes of a model that is trained, and gives one answer an input.

    executions: of training, and `answering` of inference; together: how training may be spread
    over devices; copies: how inference may.
    """
    return MappingProxyType(
        {
            "train": Mode(
                parameters=train,
                precisions=TRAINING_PRECISIONS,
                executions=executions,
                schemes=together,
                libraries=(OPTIMIZER,),
            ),
            "infer": Mode(
                parameters=infer,
                precisions=inference,
                executions=answering,
                latency="latency",
                schemes=copies,
            ),
        }
    )


def at_most(parameters: Small, **most: int) -> Small:
    """Parameters of a twin: of these, as far as there are such, no more than that each; and of a
    model by name its twin."""
    changes: dict[str, Any] = {
        name: min(getattr(parameters, name), n)
        for name, n in most.items()
        if hasattr(parameters, name)
    }
    if hasattr(parameters, "model"):
        changes["model"] = twin_name(parameters.model)
    return msgspec.structs.replace(parameters, **changes)
