"""What is asked of transformers: an attention of ours, checkpoints, a cache by its name."""

from __future__ import annotations

import importlib
import inspect
import operator
from typing import TYPE_CHECKING, Any

from bench.workload import Site, Unsupported
from bench.workloads.layers.windows import attended

if TYPE_CHECKING:
    from torch import Tensor, nn

ATTENTION = "accelmark-maskless"
"""`attend`, registered under a name for which transformers builds no mask, and of which it does not
ask whether a model's attention may go through torch's function: with sinks, it says, it may not.

For plain `sdpa` it asks the device in every training step whether sequences are packed, and waits
for the answer. Nothing is packed here: without a mask `attend` is causal, which is right.
"""


def attention_of(site: Site) -> str:
    """What a config names its attention: ours, known to transformers from here on; of the gate's
    reference the library's own, written out, with the library's own masks."""
    from transformers.modeling_utils import AttentionInterface

    if site.is_reference:
        return "eager"
    AttentionInterface.register(ATTENTION, attend)
    return ATTENTION


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    s_aux: Tensor | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """torch's attention of a query [B, H, T, D] over keys and values [B, K, L, D], as
    transformers calls it; gives [B, T, H, D].

    Keys and values are never repeated in memory for the H / K queries that share them: a single
    token's queries become the rows of one, for which every kernel will do. Causal without a mask,
    and within the window, and with the sinks (`s_aux`, [H]); the mask [B or 1, 1, T, L] of a single
    token is the same for all heads.
    """
    from torch.nn.functional import scaled_dot_product_attention

    batch, heads, tokens, width = query.shape
    windowed = sliding_window is not None and sliding_window < tokens and attention_mask is None
    if windowed or s_aux is not None:
        if attention_mask is not None or dropout:
            raise RuntimeError("no attention here has sinks and a mask of its own, or drops out")
        scale = width**-0.5 if scaling is None else scaling
        found = attended(query, key, value, scale, sliding_window, s_aux)
        return found.transpose(1, 2).contiguous(), None
    shared = heads // key.shape[1]
    if tokens == 1 and shared > 1:
        query = query.reshape(batch, key.shape[1], shared, -1)
    found = scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=attention_mask,
        dropout_p=dropout,
        is_causal=attention_mask is None and tokens > 1,
        scale=scaling,
        enable_gqa=tokens > 1 and shared > 1,
    )
    return found.reshape(batch, heads, tokens, -1).transpose(1, 2).contiguous(), None


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


def library_class(module: str, name: str) -> Any:
    """A class of transformers, or what has a dot before it in its name, of a class; raises
    `Unsupported`, by name, where the installed one lacks it. What else keeps its module from
    loading, as a package that it needs, is raised as it is."""
    import transformers

    found: object = None
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise
    try:
        return operator.attrgetter(name)(found)
    except AttributeError:
        version = transformers.__version__
        raise Unsupported(
            f"transformers {version} has no {name}. Install the newest that this release allows: "
            "pip install -U transformers"
        ) from None


def library_model(kind: str, name: str, **options: Any) -> nn.Module:
    """A model of transformers' kind (`qwen3`) and class (`Qwen3ForCausalLM`), of what its
    configuration is given; raises `Unsupported` as `library_class`."""
    place, stem = f"transformers.models.{kind}", name.partition("For")[0]
    config = library_class(f"{place}.configuration_{kind}", f"{stem}Config")(**options)
    model: nn.Module = library_class(f"{place}.modeling_{kind}", name)(config)
    return model
