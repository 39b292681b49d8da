"""Huawei Ascend through torch_npu: HF32 set and recorded, no host fallback, npu-smi read."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec

from bench.backend import DeviceInfo
from bench.backends import _links
from bench.backends._npu_smi import (
    Chip,
    NpuSmiSource,
    chip_of,
    common_figure,
    dies_of,
    npu_smi,
    parse_common,
    parse_info,
    power_of_card,
)
from bench.backends._torch_device import LOST, NotAvailable, TorchBackend, TorchDevice, ask
from bench.formats import Operand
from bench.precision import Precision
from bench.quantized_product import Products, Ready
from bench.records.observed import Reading
from bench.telemetry.figures import possible
from bench.telemetry.source import Source

if TYPE_CHECKING:
    import torch
    from torch import Tensor

NOT_OBSERVABLE = "not observable"
BEFORE_910B1 = re.compile(r"310P|910(?:A|B|Pro[AB]|PremiumA)$")
DRIVER = Path("/usr/local/Ascend/driver/version.info")


class AscendDevice(TorchDevice):
    """One die, current in this process."""

    switches = MappingProxyType(
        {"hf32_matmul": "npu.matmul.allow_hf32", "hf32_conv": "npu.conv.allow_hf32"}
    )

    def facts(self) -> dict[str, str]:
        """The switches as they stand, and what npu-smi says of this die."""
        return {**super().facts(), **smi_facts(self.info)}


class AscendProducts(Products):
    """Grouped products, and those of int8, are the vendor's own operators."""

    def __init__(self) -> None:
        self._ones: dict[torch.device, Tensor] = {}
        """The scale that changes nothing, where it was asked for."""

    def grouped(
        self,
        rows: Sequence[Operand],
        matrices: Sequence[Operand],
        how: Precision,
        device: torch.device,
    ) -> Ready:
        """`npu_grouped_matmul`: one tensor in and one out, groups of rows told by their ends.

        fp8 with scales of rows is torch's own operator, which op-plugin has; of other narrow values
        there is none that both sides know: NotImplementedError.
        Source: op-plugin, docs/context/torch_npu-npu_grouped_matmul.md.
        """
        import torch

        if how.name == "fp8-row":
            return super().grouped(rows, matrices, how, device)
        if how.scales is not None:
            raise NotImplementedError(f"npu_grouped_matmul has no {how.name}")
        operator = importlib.import_module("torch_npu").npu_grouped_matmul
        ends = torch.tensor([len(x.codes) for x in rows]).cumsum(0).to(device)
        a = torch.cat([x.codes for x in rows]).to(device)
        b = torch.stack([x.codes.t() for x in matrices]).to(device)
        groups = {"group_list": ends, "split_item": 3, "group_type": 0, "group_list_type": 0}
        return Ready(
            lambda: operator([a], [b], **groups)[0],
            "torch_npu.npu_grouped_matmul",
            (a, b.transpose(-2, -1)),
        )

    def sums(self, rows: Tensor, matrix: Tensor, out: Tensor | None = None) -> Tensor:
        """`npu_quant_matmul`, by a scale of 1 and into int32.

        Source: op-plugin, docs/context/torch_npu-npu_quant_matmul.md, table 2, last row.
        """
        import torch

        if rows.device not in self._ones:
            self._ones[rows.device] = torch.ones(1, dtype=torch.float32, device=rows.device)
        operator = importlib.import_module("torch_npu").npu_quant_matmul
        sums: Tensor = operator(rows, matrix.t(), self._ones[rows.device], output_dtype=torch.int32)
        return sums


class AscendBackend(TorchBackend):
    """Ascend 910B, 910C (two dies, two devices), 950 and 310P, as the driver names them."""

    name = "ascend"
    vendor = "Huawei"
    device_type = "npu"
    plug_ins = ("torch_npu",)
    targets = MappingProxyType({"mindspore": "Ascend"})
    library_switches = ("is_torch_npu_available",)
    install = "Install the torch_npu of your torch's version"
    runtime = "CANN"
    products = AscendProducts()
    opened = AscendDevice
    graph_type = "NPUGraph"
    repair = "Source CANN's set_env.sh"
    # 507xxx: errors of the device or its driver, after which the context is dead (CANN, aclError);
    # the words are those that torch_npu 2.13 and MindSpore 2.10 have for their own.
    lost = re.compile(
        LOST.pattern + r"|(?:error code(?: is)?|\bret)[: ]{1,2}\[?507\d{3}|\b507\d{3}\["
        r"|FORCE STOP|(?:HCCS|UB) LINK ERROR|HCCL OP RETRY FAILED"
        r"|HBM MULTI BIT ECC ERROR|UCE ERROR|SUSPECT (?:MEM|REMOTE) ERROR",
        re.IGNORECASE,
    )

    @property
    def compilers(self) -> tuple[str, ...]:  # type: ignore[override]  # looked up, not written down
        """torch's own needs triton-ascend or another generator that is asked for, the plug-in's
        torchair.

        The wheel's others, npugraphs and npugraph_ex, record by themselves: another execution.
        """
        asked = os.environ.get("TORCHINDUCTOR_NPU_BACKEND", "default") != "default"
        return ("inductor", "npu") if asked or importlib.util.find_spec("triton") else ("npu",)

    def worker_environment(self) -> Mapping[str, str]:
        """No fallback to the host: an operator that would fall back raises, and is named, where
        torch_npu knows the switch (from 2026 on); else it is announced.

        torch_npu and MindSpore read their variables once in a process, so they hold for the timed
        steps too. Graphs of MindSpore would have what has no kernel run on the host and say so in
        its log alone, below the warnings (AnfRuntimeAlgorithm::IsNodeSupportKernelSelectBackoff).
        """
        return {
            **super().worker_environment(),
            "ASCEND_LAUNCH_BLOCKING": "0",
            "TORCH_NPU_FALLBACK_CPU_DISABLE": "1",
            "MS_DISABLE_KERNEL_BACKOFF": "1",
        }

    def recorded_variables(self) -> tuple[str, ...]:
        """What changes queues, memory, numbers, collectives or what a compiler makes."""
        return (
            *("ASCEND_*", "ACL*", "HCCL_*", "NPU_*", "TASK_QUEUE_ENABLE", "CPU_AFFINITY_CONF"),
            *("INF_NAN_MODE_*", "MULTI_STREAM_*", "COMBINED_ENABLE", "OPS_*", "TE_*", "ATB_*"),
            *("MS_*", "LCCL_*", "P2P_HCCL_*", "CLOSE_MATMUL_*", "PER_STREAM_QUEUE"),
            *("STREAMS_PER_DEVICE", "OOM_SNAPSHOT_*", "INDUCTOR_*", "ANIR_*", "CATLASS_*"),
            *("FASTAUTOTUNE", "FAST_RUN_*", "AUTOTUNE*", "ENABLE_PARALLEL_SCHEDULER"),
            *("PARALLEL_SCHEDULER_*", "ENABLE_INPLACE_BUFFERS", "SHUT_DOWN_FX_PASS_LIST"),
            *("USE_STORE_IN_CAT", "FLEX_ATTENTION_*"),
        )

    def harmful_variables(self) -> Mapping[str, str]:
        """What makes the host wait for every operator, or joins neighbours into one kernel."""
        return {
            **dict.fromkeys(
                ("ASCEND_LAUNCH_BLOCKING", "ASCEND_RT_LAUNCH_BLOCKING"),
                "the host waits for every operator",
            ),
            "TORCH_NPU_LAZY_FUSION": "operators are joined, which is another execution",
        }

    def silencing_variables(self) -> tuple[str, ...]:
        """What hides that an operator runs on the host, or which error it was."""
        own = ("WARNING_DISABLE", "DISABLED_WARNING", "COMPACT_ERROR_OUTPUT")
        return (*super().silencing_variables(), *(f"TORCH_NPU_{name}" for name in own))

    def telemetry(self, index: int) -> Source:
        """npu-smi."""
        return NpuSmiSource(index)

    def devices(self) -> list[DeviceInfo]:
        """Every visible die, with what npu-smi says of the package it is in."""
        found = super().devices()
        chips = parse_info(npu_smi("info") or "")
        return [_placed(info, chips) for info in found]

    def describe(self, module: Any, index: int) -> DeviceInfo:
        """With its Cubes, and the versions of torch_npu, CANN and the driver."""
        info = super().describe(module, index)
        version = str(importlib.import_module("torch_npu").__version__)
        facts = {
            **info.facts,
            "torch_npu": version,
            "cann": _version_of(module, "CANN"),
            "driver": _version_of(module, "DRIVER"),
        }
        with suppress(NotAvailable, AttributeError):  # an older torch_npu
            properties = ask(module, "get_device_properties", index)
            facts["multiprocessors"] = str(properties.cube_core_num)
        return msgspec.structs.replace(info, facts=facts, simulated=version.endswith("+sim"))

    def fabric(self, device_type: str, devices: int) -> Mapping[str, str]:
        """With what AscendCL says joins each two dies; HCCL's version is CANN's."""
        found = super().fabric(device_type, devices)
        return {**found, "topology": "; ".join((found["topology"], acl_links(devices)))}

    def told(self, found: Sequence[DeviceInfo]) -> list[DeviceInfo]:
        """With what npu-smi says of its package, and the versions of CANN and the driver."""
        chips = parse_info(npu_smi("info") or "")
        return [_placed(_completed(info, chips), chips) for info in found]

    def state(self, info: DeviceInfo) -> Mapping[str, str]:
        """What npu-smi says of this die."""
        return smi_facts(info)

    def unsupported(self, info: DeviceInfo, precision: Precision) -> str | None:
        """And float32 before the 910B1. Source: CANN, aclnnMatmul, `cubeMathType`; torch_npu,
        LazyInitAclops.cpp."""
        if precision.arithmetic == "fp32" and BEFORE_910B1.search(info.name):
            return f"{info.name} multiplies float32 as float16, with HF32 off too"
        return super().unsupported(info, precision)


def smi_facts(info: DeviceInfo) -> dict[str, str]:
    """Health, power, clock and temperature now, from npu-smi; "not observable" where it is mute."""
    facts = dict.fromkeys(("card_power_watts", "temperature_celsius", "aicore_mhz"), NOT_OBSERVABLE)
    chips = parse_info(npu_smi("info") or "")
    chip = _chip(chips, info)
    if chip is None:
        return facts
    common = parse_common(npu_smi("info", "-t", "common", "-i", str(chip.npu)) or "")
    detail = next((c for c in common if c["Chip ID"] == str(chip.chip)), {})
    assert chip.npu is not None
    power = power_of_card(chips, chip.npu)
    if power is None and dies_of(chips, chip) == 1:
        power = _known(common_figure(detail, "power", "NPU Real-time Power"))
    seen, _ = possible(
        Reading(
            power_watts=power,
            temperature_celsius=chip.temperature_celsius,
            clock_mhz=_known(common_figure(detail, "clock", "Aicore curFreq")),
        )
    )
    found = {
        "card_power_watts": seen.power_watts,
        "temperature_celsius": seen.temperature_celsius,
        "aicore_mhz": seen.clock_mhz,
    }
    known = {name: f"{value:g}" for name, value in found.items() if value is not None}
    return {**facts, "health": chip.health or NOT_OBSERVABLE, **known}


LINKS = {
    0x01: "HCCS",
    0x02: "one PCIe switch",
    0x08: "a PCIe host bridge",
    0x10: "SMP between NUMA nodes",
    0x20: "SIO (one package)",
    0x40: "an HCCS switch",
}
"""ACL_RT_DEVS_TOPOLOGY_* (CANN 8.5, AscendCL API reference, aclrtGetDevicesTopo)."""


def acl_links(devices: int) -> str:
    """What joins each two of the first dies, by pyACL, which is a part of CANN."""
    try:
        runtime = importlib.import_module("acl").rt
        answers = [runtime.get_devices_topo(*pair) for pair in _links.pairs(devices)]
    except Exception as error:  # noqa: BLE001 - a CANN without it, or without devices
        return f"links not observable: {error}".splitlines()[0]
    if failed := [code for _, code in answers if code != 0]:
        return f"links not observable: aclrtGetDevicesTopo gives {failed[0]}"
    return _links.kinds(LINKS.get(int(value), f"link {value}") for value, _ in answers)


def _known(found: float | str) -> float | None:
    return None if isinstance(found, str) else found


def installed() -> dict[str, str]:
    """Versions of CANN and the driver by the files that they bring: no torch_npu is asked.

    CANN's is where MindSpore looks for it (2.10, mindspore/run_check): below ASCEND_HOME_PATH,
    which its set_env.sh sets. The driver's is where its package puts it.
    """
    cann = Path(os.environ.get("ASCEND_HOME_PATH", "/none"), "compiler", "version.info")
    return {"cann": _version_in(cann), "driver": _version_in(DRIVER)}


def _version_in(path: Path) -> str:
    try:
        found = re.search(r"^Version=(\S+)", path.read_text(errors="replace"), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else "not available"


def _chip(chips: tuple[Chip, ...], info: DeviceInfo) -> Chip | None:
    return chip_of(chips, info.index, os.environ.get("ASCEND_RT_VISIBLE_DEVICES"))


def _completed(info: DeviceInfo, chips: tuple[Chip, ...]) -> DeviceInfo:
    """With versions, and its memory, where npu-smi alone tells it."""
    chip, memory_bytes = _chip(chips, info), info.memory_bytes
    if memory_bytes is None and chip is not None:
        memory_bytes = (chip.hbm_total_mb or chip.memory_total_mb or 0) * 2**20 or None
    facts = {**info.facts, **installed()}
    return msgspec.structs.replace(info, memory_bytes=memory_bytes, facts=facts)


def _placed(info: DeviceInfo, chips: tuple[Chip, ...]) -> DeviceInfo:
    """With its card and the number of dies on it, which figures per package need."""
    chip = _chip(chips, info)
    place = {"dies_per_package": NOT_OBSERVABLE}
    if chip is not None:
        dies = dies_of(chips, chip)
        count = NOT_OBSERVABLE if dies is None else str(dies)
        place = {"card": str(chip.npu), "die": str(chip.chip), "dies_per_package": count}
    return msgspec.structs.replace(info, facts={**info.facts, **place})


def _version_of(module: Any, part: str) -> str:
    try:
        return str(module.utils.get_cann_version(part)).strip() or "not available"
    except Exception:  # noqa: BLE001 - no reason to lose a device that works
        return "not available"


BACKEND = AscendBackend()
