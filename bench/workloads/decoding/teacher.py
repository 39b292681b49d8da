"""Whole texts at once, without a cache: what jobs of text are judged by, and answers read again.

Answers are read in float64, by the library's own layers with its eager attention. One layer at a
time is widened, so a model needs the memory of one layer in float64 beside itself.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from bench.workload import Site
from bench.workloads.decoding.slot_caches import ADDED
from bench.workloads.jobs.jobs import model_facts
from bench.workloads.jobs.rotation import OneOutput
from bench.workloads.layers.quantized import products

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

ROWS = 256
"""Of the logits, that are held at a time: [ROWS, V] in float64."""
WRITTEN_OUT = ("_attn_implementation", "_experts_implementation")
"""What of a library's config is set to its plain implementation while a text is read."""


class TeacherForced(OneOutput):
    """What prefill and decode are judged by: the library's own forward over whole texts, no cache.

    It attends by the library's own code, under the library's own masks, and shares with them only
    weights and tokens: a mask, a window, a place or a head that is wrong there is none here.
    """

    quantity = "logits"

    def __init__(self, model: nn.Module, texts: Tensor, prompt_length: int, site: Site) -> None:
        """texts: [B, P + N], a prompt and the tokens that are fed after it."""
        self._model = model.eval()
        self._texts = texts
        self._prompt_length = prompt_length
        self.facts = model_facts(model, site)

    def step(self) -> None:
        """One forward over all tokens."""
        import torch

        with torch.inference_mode():
            logits: Tensor = self._model(input_ids=self._texts, use_cache=False).logits
        self._output = logits[:, self._prompt_length - 1 :]

    def probe(self) -> dict[str, Tensor]:
        """Logits after the prompt and after each token that follows: [B, 1 + N, V]."""
        return super().probe() | products(self._model)


def regrets(model: nn.Module, prompt: Sequence[int], answer: Sequence[int]) -> list[float]:
    """See `bench.serving_job.ServingJob.regrets`; of a model of Llama's build, with experts or not.

    On the model's device where that multiplies float64, else on the CPU.
    """
    import torch

    library: Any = model
    device = _wide_device(next(model.parameters()).device)
    text = torch.tensor([[*prompt, *answer[:-1]]], device=device)
    with torch.inference_mode():
        hidden = _hidden(library, text, device)[0, len(prompt) - 1 :]
        head = _widened(library.lm_head, device)
        chosen = torch.tensor(answer, device=device)
        found: list[float] = []
        for start in range(0, len(answer), ROWS):
            logits = head(hidden[start : start + ROWS])
            given = logits.gather(1, chosen[start : start + ROWS, None])[:, 0]
            found += ((logits.amax(1) - given) / logits.std(1)).tolist()
    return found


def _hidden(model: Any, text: Tensor, device: torch.device) -> Tensor:
    """What comes out of the last layer and its norm: [1, T, hidden]."""
    import torch

    length = text.shape[1]
    mask = torch.full((length, length), float("-inf"), dtype=torch.float64, device=device).triu(1)
    places = torch.arange(length, device=device)[None]
    inner = model.model
    hidden = inner.embed_tokens.weight[text.to(inner.embed_tokens.weight.device)]
    hidden = hidden.to(device).to(torch.float64)
    rotary = _copied(inner.rotary_emb, lambda tensor: tensor.to(device))
    embeddings = rotary(hidden, position_ids=places)
    # Experts one after another, too: no device has their grouped product in float64.
    before = {name: getattr(model.config, name, None) for name in WRITTEN_OUT}
    for name in WRITTEN_OUT:
        setattr(model.config, name, "eager")
    try:
        for layer in inner.layers:
            hidden = _widened(layer, device)(
                hidden,
                attention_mask=mask[None, None],
                position_embeddings=embeddings,
                position_ids=places,
                use_cache=False,
            )
    finally:
        for name, given in before.items():
            setattr(model.config, name, given)
    found: Tensor = _widened(inner.norm, device)(hidden)
    return found


def _widened(module: nn.Module, device: torch.device) -> Any:
    """A copy in float64; of a layer that has a cache beside its weights, without it."""
    import torch

    kept = [
        (m, name, vars(m).pop(name)) for m in module.modules() for name in ADDED if name in vars(m)
    ]
    try:
        twin = _copied(
            module,
            lambda tensor: (
                tensor.to(device).to(torch.float64)  # the device may have no float64
                if tensor.is_floating_point()
                else tensor.to(device)
            ),
        )
    finally:
        for owner, name, added in kept:
            setattr(owner, name, added)
    # What it shares with the model is the model's: its attention is looked up there.
    for mine, other in zip(module.modules(), twin.modules(), strict=True):
        if hasattr(mine, "config"):
            vars(other)["config"] = mine.config
    return twin


def _copied(module: nn.Module, convert: Callable[[Tensor], Tensor]) -> Any:
    """A copy whose tensors are converted on the way: copied as they are, they would be in memory
    once more, and not every device can."""
    import torch

    memo: dict[int, Any] = {}
    for part in module.modules():
        for tensor in (*part._parameters.values(), *part._buffers.values(), *vars(part).values()):
            if isinstance(tensor, torch.Tensor) and id(tensor) not in memo:
                new = convert(tensor.detach())
                is_parameter = isinstance(tensor, torch.nn.Parameter)
                memo[id(tensor)] = torch.nn.Parameter(new, False) if is_parameter else new
    return copy.deepcopy(module, memo)


def _wide_device(device: torch.device) -> torch.device:
    import torch

    try:
        # Some devices take float64 for float32, with no more than a warning: 40 bits tell.
        near_one = torch.full((2, 2), 1 + 2.0**-40, dtype=torch.float64).to(device)
        product = near_one @ torch.eye(2, dtype=torch.float64).to(device)
        if product.dtype == torch.float64 and bool((product.cpu() == 1 + 2.0**-40).all()):
            return device
    except Exception:  # noqa: BLE001 - each runtime says in its own way that it has no float64
        pass
    return torch.device("cpu")
