"""DeepSeek language models, experts and latent attention: training, prefill (TTFT), decode (TPOT).

Routing. No noise, and no auxiliary loss that would balance the experts: transformers' DeepSeek-V2
and V3 have none, V3 balances by a bias that is no part of the gradient step, and random weights
under random tokens load the experts evenly enough. A token's experts are what its router says.

Experts. The grouped matrix product (`grouped_mm`): tokens sorted by expert on the device, one
product for each of the two expert matrices, work in proportion to the active experts. Of the others
that transformers has, the loop (`eager`) asks the device which experts were hit, in every layer of
every step, and `batched_mm` copies the weights of each expert for each token. Accelerators have a
kernel for the product in bfloat16; where one lacks it, torch loops over the experts and asks the
device where each begins, which is why no case is float16, and why float32 may be slow there. None
is `bf16-amp`: autocast passes the product by, and the experts would stay in float32. torch before
2.9 has it on no CPU, and transformers falls back to such a loop.
float64 has it nowhere: there the numerics reference takes the loop, so that dispatch and product
are checked against another implementation of both.

The twin. Rounding moves the routers' scores, and where two experts are nearly level, the one chosen
changes: right numbers, another result (with 4 of 8 chosen, bfloat16 alone reached three quarters of
the tolerance). So the twin has 4 experts and every token goes to all of them: it sees every weight,
routing weight, sorting and product, whatever the rounding. Its routing weights add up to 4, so that
one wrong expert is heard above bfloat16's own error, which at a quarter each it would not be. It
does not see a wrong choice of the best experts, nor groups of unequal size: those are looked at in
the timed model itself, by `bench.workloads.spots.expert_spots`.
"""

from __future__ import annotations

from bench.workloads.language import language
from bench.workloads.language.family import Family, language_modes
from bench.workloads.language.language import of_family
from bench.workloads.language.latent import SIZES

DEFAULT_MODEL = "v2-lite-cut"
"""A model is a published size, a cut of one that says so, or `tiny`; with `-2l`, cut for the gate
to 2 layers, 4,096 tokens and 4 experts, all of them active."""


TrainParameters = of_family(language.TrainParameters, SIZES, DEFAULT_MODEL)
PrefillParameters = of_family(language.PrefillParameters, SIZES, DEFAULT_MODEL)
DecodeParameters = of_family(language.DecodeParameters, SIZES, DEFAULT_MODEL)


class DeepSeek(Family):
    """DeepSeek-V2, arXiv 2405.04434, and DeepSeek-V3, arXiv 2412.19437."""

    name = "deepseek"
    version = 2
    libraries = (
        "transformers.models.deepseek_v2.modeling_deepseek_v2",
        "transformers.models.deepseek_v3.modeling_deepseek_v3",
    )
    sizes = SIZES
    # No tf32 in training: with 10 bits a token in some hundred is given to another expert than with
    # 23, which no tolerance tells from a fault.
    modes = language_modes(
        TrainParameters,
        PrefillParameters,
        DecodeParameters,
        training=("bf16", "fp32"),
        inference=("bf16", "fp32"),
    )


WORKLOAD = DeepSeek()
