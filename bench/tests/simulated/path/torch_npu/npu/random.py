"""`torch.npu` random numbers: those of the CPU's generator, whose kernels draw them.

A real device has a generator of its own. With one for both, a model that draws on the device
(dropout) draws what it would on the CPU, and losses can be compared.
"""

from __future__ import annotations

from typing import Any

import torch


def get_rng_state(device: Any = "npu") -> torch.Tensor:
    return torch.default_generator.get_state()


def set_rng_state(state: torch.Tensor, device: Any = "npu") -> None:
    torch.default_generator.set_state(state)


def get_rng_state_all() -> list[torch.Tensor]:
    return [get_rng_state()]


def set_rng_state_all(states: Any) -> None:
    for state in states:
        set_rng_state(state)


def manual_seed(seed: int) -> None:
    torch.default_generator.manual_seed(seed)


def manual_seed_all(seed: int) -> None:
    """`torch.manual_seed` calls this too."""
    torch.default_generator.manual_seed(seed)


def seed() -> None:
    torch.default_generator.seed()


seed_all = seed


def initial_seed() -> int:
    return torch.default_generator.initial_seed()
