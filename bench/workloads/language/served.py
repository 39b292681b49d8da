"""The models that serve, of every family that the slot engine knows.

Llama's have the names that they are published under, the others their family's in front. What is
tied where it is published is untied here, and its name says so (see `llamas`). A window over the
last tokens is nothing that a slot knows, so models that have one are left out. So are those of
which the gate cannot tell a right engine from a wrong one (`bench.tests.scripts.serving_regrets`):
DeepSeek's third generation, where bfloat16 sends a token to other experts than float64 does, and a
right answer regrets 0.5, hardly less than a forgetful engine's 0.6; and Qwen3's with experts: of
the small one a forgetful engine regrets 0.02 to 0.08, and the 30B model, whose twin is told apart
(0.02 and 0.21), nobody has tried in full.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.workload import TWIN_SUFFIX, with_twins
from bench.workloads.language import latent, llamas, qwens
from bench.workloads.language.llamas import untied

ROUTED_PRECISIONS = ("bf16", "fp32")
"""Of models with experts, for the reasons that `bench.workloads.deepseek` gives."""


def _published(sizes: Mapping[str, Any], family: str) -> dict[str, Any]:
    found = {name: size for name, size in sizes.items() if not name.endswith(TWIN_SUFFIX)}
    return {f"{family}-{name.removeprefix(family + '-')}": size for name, size in found.items()}


_QWEN3 = dict(
    untied(name, size)
    for name, size in _published(qwens.SIZES, "qwen3").items()
    if size.window is None and not size.experts
)
_SECOND = {
    name: size
    for name, size in _published(latent.SIZES, "deepseek").items()
    if not size.third_generation
}
SERVED: dict[str, Any] = {
    **llamas.UNTIED,
    **with_twins(_QWEN3, **llamas.CUT),
    **with_twins(_SECOND, **latent.CUT),
}
"""Each with its cut for the gate behind it; of a cut each token goes to all of its experts."""
