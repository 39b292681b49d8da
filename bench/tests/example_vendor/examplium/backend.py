"""Examplium's chips: all in which their software differs from what torch offers on any device."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from bench.plugins.backend import DeviceInfo, TorchBackend


class ExampliumBackend(TorchBackend):
    """The EX series, through torch_examplium: `torch.device("examplium:0")`."""

    name = "examplium"
    vendor = "Examplium Ltd"
    device_type = "examplium"
    plug_ins = ("torch_examplium",)
    install = "Install it: pip install accelmark-examplium"
    runtime = "Examplium's runtime"
    repair = "Source its setenv.sh"
    lost = re.compile(r"error code is 507\d+")
    compilers = ("examplium",)
    graph_type = "NPUGraph"

    def recorded_variables(self) -> tuple[str, ...]:
        """What changes its speed."""
        return ("EXAMPLIUM_QUEUE_DEPTH", *self.harmful_variables())

    def harmful_variables(self) -> Mapping[str, str]:
        """What makes every launch wait."""
        return {"EXAMPLIUM_BLOCKING": "the host waits for every operator"}

    def shorten_float32(self, shortened: bool) -> None:
        """Its own switches too: the one for convolutions is on by default."""
        super().shorten_float32(shortened)
        module: Any = importlib.import_module("torch").get_device_module(self.device_type)
        module.matmul.allow_hf32 = module.conv.allow_hf32 = shortened

    def describe(self, module: Any, index: int) -> DeviceInfo:
        """With the version of its driver; a real chip leaves `simulated` out."""
        info = super().describe(module, index)
        facts = {**info.facts, "driver": importlib.import_module(self.plug_ins[0]).__version__}
        return msgspec.structs.replace(info, facts=facts, simulated=True)


BACKEND = ExampliumBackend()
