"""A device that torch calls cuda, whoever made it: the switches that come with that name."""

from __future__ import annotations

from bench.backends._torch_device import TorchDevice

SUMS = (
    *("fp16_accumulation", "fp16_reduced_precision_reduction"),
    "bf16_reduced_precision_reduction",
)
"""How products of 16 bits may be summed: torch's switches, some of which an older one has not."""


class CudaTypeDevice(TorchDevice):
    """One such device, current in this process."""

    def float32_reduced(self) -> bool:
        """TF32 in convolutions, or in products."""
        import torch

        return bool(torch.backends.cudnn.allow_tf32) or super().float32_reduced()

    def float16_sums(self) -> bool:
        """By torch's switch."""
        return self._sums().get("fp16_accumulation") == "True"

    def facts(self) -> dict[str, str]:
        """The switches as they stand."""
        import torch

        convolution = str(torch.backends.cudnn.allow_tf32)
        return {**super().facts(), "tf32_convolution": convolution, **self._sums()}

    def _sums(self) -> dict[str, str]:
        import torch

        here = torch.backends.cuda.matmul
        found = {name: getattr(here, f"allow_{name}", None) for name in SUMS}
        return {name: str(value) for name, value in found.items() if value is not None}
