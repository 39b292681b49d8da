"""How far what a job computes may be from float64, by precision and quantity.

The numerics gate holds a small twin to it, a job of one operator a few values of its own output.
"""

from __future__ import annotations

from bench.records.proof import EACH_GRADIENT, EACH_GRADIENT_OVER_KINKS, OTHER_INPUTS, RUNNING

# Largest relative error, by precision and quantity. Below, `u` is the unit roundoff of the format,
# "measured" the worst over all twins on a CPU, two to six seeds each, and "coarser" the range of
# the same twins when the operands of every product had only the mantissa of a coarser format: what
# a device does that quietly computes in less than it was asked for. A tolerance lies between the
# two where it can, at twice the measured error or more, as kernels sum in different orders.
TOLERANCES: dict[str, dict[str, float]] = {
    # u = 2^-8: bfloat16 keeps 7 bits of the mantissa. Coarser: 3 bits, as fp8 has.
    "bf16": {
        # Three roundings (a, b, c), 1.7e-3 each in root mean square: measured 2.9e-3, coarser 4e-2.
        "output": 5e-3,
        # Of rows by weights in mxfp4, both as they are: measured 1.7e-3; with rows of e4m3 2.6e-2.
        "products": 5e-3,
        # Measured 3.2e-3 and 4.5e-3, coarser 4e-2 and 5e-2; a fused kernel rounds its weights too.
        "attention": 8e-3,
        "gradients": 1.2e-2,
        # Over a latent, through two matrices more: measured 4.4e-3, 7.9e-3 where it is narrow;
        # coarser 4e-2.
        "latent attention": 1.2e-2,
        # Of what they give alone, through two matrices, at the timed size: measured 8.0e-3; one of
        # eight that is left out makes 3e-1.
        "experts": 1.2e-2,
        # Measured 1.6e-2 in two transformer layers, 2.7e-2 in ResNet's 50 with batch statistics;
        # coarser 5.9e-2 (BERT) to 2.2e-1 (ResNet).
        "logits": 5e-2,
        "loss": 1e-2,  # measured 2.6e-3, coarser 4e-4 to 2e-2
        "gradient_norm": 5e-2,  # measured 9.8e-3, coarser 9e-4 to 4e-2
        # An update below half a unit in the last of 8 bits is lost, so the loss stays where the
        # float64 loss falls, by 1 % (Llama) to 15 % (BERT large): measured 1.5e-1. Only a step
        # that does harm is caught.
        "loss after 2 steps": 3e-1,
        # Of the worst weight. A gradient that is missing makes 1, one of the other sign 2, those of
        # experts that were exchanged 1.4. Measured 8.6e-2 (gpt-oss), 6.6e-2 (BERT), 3e-2 (others).
        EACH_GRADIENT: 3e-1,
        EACH_GRADIENT_OVER_KINKS: 9e-1,  # measured 1.6e-1 (DLRM), 6.5e-1 (ResNet)
        # After two steps, of what they did not train on: measured 7.4e-2. A step that does not read
        # its inputs makes 5e-1 and more.
        OTHER_INPUTS: 2e-1,
        RUNNING: 6e-2,  # measured 2.3e-2; a momentum of 0.9 for 0.1 makes 8
    },
    # Only the matrix arithmetic is bfloat16; weights and updates are float32.
    "bf16-amp": {
        "logits": 5e-2,  # measured 2.5e-2 (ResNet), 1.4e-2 (others), coarser as above
        "loss": 5e-3,  # measured 2.1e-3 (DLRM), coarser 4e-4 to 2e-2
        "gradient_norm": 5e-2,  # measured 1.3e-2, coarser 2e-3 to 3e-2
        # Measured 2.0e-3, 3.4e-3 in a toy (DiT); without the optimizer's steps 1.3e-2 or more.
        "loss after 2 steps": 5e-3,
        EACH_GRADIENT: 2e-1,  # measured 5.1e-2 (BERT)
        EACH_GRADIENT_OVER_KINKS: 9e-1,  # measured 5.7e-1 (ResNet)
        OTHER_INPUTS: 1e-1,  # measured 2.5e-2
        RUNNING: 6e-2,  # measured 2.0e-2
    },
    # u = 2^-11: float16 keeps 10 bits. Coarser: 7 bits, as bfloat16 has.
    "fp16": {
        "output": 1e-3,  # measured 3.6e-4, coarser 2.4e-3
        "attention": 1e-3,  # measured 4.0e-4, coarser 2.6e-3
        "gradients": 1.4e-3,  # measured 5.7e-4, coarser 3.3e-3
        "latent attention": 1.6e-3,  # measured 7.3e-4, coarser 3.6e-3
        # Measured 2.2e-3, coarser 1e-2 (Llama), 3.5e-3 at the least (BERT).
        "logits": 4e-3,
    },
    # u = 2^-24: float32 keeps 23 bits. Coarser: 10 bits, as TF32 has, which is not fp32.
    "fp32": {
        # Sums of 256 products: measured 2.9e-7, coarser 2.9e-4.
        "output": 1e-5,
        "attention": 1e-5,  # measured 2.8e-7, coarser 3.1e-4
        "gradients": 1e-5,  # measured 4.3e-7, coarser 3.9e-4
        "latent attention": 1e-5,  # measured 3.4e-7
        "experts": 1e-5,  # measured 7.4e-7
        # Measured 1.8e-6, coarser 4.3e-4; a fast convolution (Winograd) may lose another digit.
        "logits": 1e-4,
        "loss": 2e-6,  # measured 2e-7, coarser 2.4e-6 to 2e-4
        "gradient_norm": 1e-3,  # measured 3e-5, coarser 4e-6 to 5e-3
        "loss after 2 steps": 5e-5,  # measured 3.8e-6, coarser 2e-7 to 2e-4
        EACH_GRADIENT: 1e-4,  # measured 2.6e-6
        # Measured 1.7e-2 (ResNet), 6e-6 with other seeds: by one ReLU that turns.
        EACH_GRADIENT_OVER_KINKS: 1e-1,
        OTHER_INPUTS: 2e-3,  # measured 4.7e-4 (BERT)
        RUNNING: 1e-4,  # measured 1.6e-6
    },
    # The operands of products keep 10 bits, sums and all else 23. No CPU does so: measured with the
    # operands of each product cut to 10 bits (hardware may cut where a library would round, which
    # is worth twice the error, to one side). Coarser: 7 bits, as bfloat16 has, rounded.
    "tf32": {
        "output": 1.6e-3,  # measured 7.7e-4 (2.9e-4 rounded), coarser 2.3e-3
        "attention": 3e-3,  # measured 1.4e-3 (4.1e-4 rounded), coarser 3.2e-3
        "gradients": 6e-3,  # of attention, few values: measured 3.6e-3, of large scores 9.3e-3
        # Measured 5.5e-3 (ResNet's infer, BERT, DLRM), 3e-3 (others); coarser 4e-3 to 1.7e-2, so
        # that bfloat16 in TF32's stead is told by gemm alone.
        "logits": 1e-2,
        "loss": 5e-3,  # measured 2.1e-3 (DLRM), coarser 6e-5 to 2e-3
        "gradient_norm": 2e-2,  # measured 7.7e-3, coarser 8e-5 to 9e-3
        # Measured 2.2e-3; without the optimizer's steps 1.3e-2 or more.
        "loss after 2 steps": 5e-3,
        EACH_GRADIENT: 5e-2,  # measured 9.2e-3
        EACH_GRADIENT_OVER_KINKS: 5e-1,  # measured 1.6e-1 (ResNet)
        OTHER_INPUTS: 5e-2,  # measured 5.9e-3
        RUNNING: 1e-2,  # measured 2.1e-3
    },
    # u = 2^-4: e4m3 keeps 3 bits, scaled by rows.
    "fp8": {
        # The same 8-bit values multiplied in float64, so all that differs is the sum, in float32,
        # and the rounding of the result to bfloat16, 1.7e-3: measured 1.7e-3. A scale that is off
        # by a tenth in one layer of fourteen makes 2.7e-2.
        "output": 5e-3,
        "products": 5e-3,
        # Of the model as it is, not quantized: what 3 bits lose, 2.6e-2 an operand and 3.7e-2 a
        # product, fourteen times over. Measured 1.7e-1; of a reranker's few logits 1.9e-1.
        "logits": 3e-1,
    },
    # Steps of 1/127 of the largest value in a row.
    "int8": {
        "output": 1e-9,  # sums of integers: exact, or wrong
        "products": 5e-3,  # as above; measured 1.7e-3
        # Of the model as it is: steps of 2 to 4 % of a row's deviation, the longer the row the
        # larger. Measured 2e-2 to 6.5e-2 (Llama, 2,048 wide).
        "logits": 1.5e-1,
    },
    # Formats of products by themselves. Their reference multiplies the same narrow values in
    # float64, so what differs is the sum, in float32, and the rounding of the result to bfloat16:
    # measured 1.7e-3 in each that a CPU has or a stand-in has there. Coarser: the operands once
    # more in the next coarser format (`bench/tests/workloads/test_formats.py`).
    "fp8-row": {"output": 4e-3},  # coarser, one scale an operand: 3.7e-2
    "fp8-block128": {"output": 4e-3},  # coarser, one scale a row: 3.2e-2
    "mxfp8": {"output": 4e-3},  # coarser, nvfp4: 1.3e-1
    "nvfp4": {"output": 4e-3},  # coarser, mxfp4: 1.7e-1
    "mxfp4": {"output": 4e-3},  # coarser, without its bit of mantissa: 4.0e-1
    # Weights are widened to bfloat16 first, a rounding more: measured 2.3e-3. Coarser, weights of
    # 3 bits: 2.9e-1.
    "int4-weights": {"output": 5e-3},
}
