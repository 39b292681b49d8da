"""What is asked of transformers: attention without a mask, checkpoints, a cache by its name."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

ATTENTION = "sdpa-maskless"
"""`sdpa`, registered under a name for which transformers builds no mask.

For plain `sdpa` it asks the device in every training step whether sequences are packed, and waits
for the answer. Nothing is packed here: without a mask its sdpa is causal, which is right.
"""


def register_attention() -> None:
    """Makes ATTENTION known to transformers."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.modeling_utils import AttentionInterface

    AttentionInterface.register(ATTENTION, sdpa_attention_forward)


def checkpoint_layers(model: nn.Module) -> None:
    """Has a transformers model keep the inputs of its layers only, and compute the rest again.

    Nothing here draws at random, so no generator's state is kept for the second time.
    """
    library: Any = model
    if hasattr(library, "activation_checkpointing_enable"):  # transformers 5.24 and later
        enable = library.activation_checkpointing_enable
    else:
        enable = library.gradient_checkpointing_enable
    library.config.use_cache = False  # else it warns that it does not
    enable({"use_reentrant": False, "preserve_rng_state": False})


def with_cache(model: nn.Module, cache: object) -> dict[str, object]:
    """The cache, as the model's forward calls that argument: transformers 5.24 renamed it."""
    forward: Any = model.forward
    named = "cache" in inspect.signature(forward).parameters
    return {"cache" if named else "past_key_values": cache}
