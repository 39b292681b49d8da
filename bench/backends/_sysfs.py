"""What a GPU's driver in the kernel says of it that somebody may have set: power limit and clocks.

Source: Linux, Documentation/gpu/amdgpu/thermal.rst, ABI/testing/sysfs-driver-intel-xe-hwmon and
sysfs-driver-intel-i915-hwmon.
"""

from __future__ import annotations

import platform
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

SYS = Path("/sys")
FILES = {
    "power_limit_watts": ("hwmon/*/power1_max", "hwmon/*/power2_max", "hwmon/*/power1_cap"),
    "sclk_max_mhz": ("pp_dpm_sclk", "tile0/gt0/freq0/max_freq", "drm/card*/gt_max_freq_mhz"),
    "mclk_max_mhz": ("pp_dpm_mclk",),
    "perf_level_mode": ("power_dpm_force_performance_level",),
}
"""Of a fact its files, of which the first counts that is there and not 0 (no limit): a word,
microwatts, or levels `1: 2100Mhz *`. Intel's `cap` is for bursts, AMD's is the only one."""


def version(driver: str) -> str:
    """Of a driver; of one that is the kernel's own the kernel's."""
    with suppress(OSError):
        return (SYS / "module" / driver / "version").read_text().strip()
    return platform.release()


def settings(device: Any, *drivers: str) -> dict[str, str]:
    """Those of a `TorchDevice`: of its PCI address, where torch says it, or of the only one that
    has a power limit. What the driver does not say is left out."""
    properties = None
    with suppress(Exception):  # a vendor's library fails as it likes
        properties = device.ask("get_device_properties", device.info.index)
    here = card(properties, *drivers)
    found = {name: _said(here, name) for name in FILES} if here else {}
    return {name: text for name, text in found.items() if text}


def card(properties: Any, *drivers: str) -> Path | None:
    """The folder of one device of these drivers, found as above; None where it is not known."""
    cards = [
        card for one in drivers for card in sorted((SYS / "bus/pci/drivers" / one).glob("*:*:*.*"))
    ]
    try:
        domain, bus, slot = (
            getattr(properties, f"pci_{x}_id") for x in ("domain", "bus", "device")
        )
        cards = [card for card in cards if card.name == f"{domain:04x}:{bus:02x}:{slot:02x}.0"]
    except AttributeError:  # an older torch
        cards = [card for card in cards if _said(card, "power_limit_watts")]
    return cards[0] if len(cards) == 1 else None


def pci_device(card: Path | None) -> str:
    """Which chip it is, by its vendor's number: `74a1`; empty where that is not said."""
    with suppress(OSError):
        return (card / "device").read_text().strip().removeprefix("0x") if card else ""
    return ""


def apu(address: str) -> Path | None:
    """The folder of an AMD device, if the host's memory is its own; None of a card.

    From Renoir on an APU's table of metrics is of format 2 or 3, a card's and MI300A's of 1.
    Source: Linux, drivers/gpu/drm/amd/include/kgd_pp_interface.h.
    """
    card = SYS / "bus/pci/drivers/amdgpu" / address.lower()
    with suppress(OSError, IndexError):
        if pci_device(card) == "74a0" or (card / "gpu_metrics").read_bytes()[2] > 1:
            return card
    return None


def apu_bytes(card: Path, what: str) -> list[int]:
    """`used` or `total`: of what is set aside for an APU, and of the rest that it maps (GTT).

    It keeps what is allocated in one of both, by kernel and driver. Empty where it is not said.
    """
    with suppress(OSError, ValueError):
        kinds = ("vram", "gtt")
        return [int((card / f"mem_info_{kind}_{what}").read_text()) for kind in kinds]
    return []


def _said(card: Path, name: str) -> str:
    for file in (path for pattern in FILES[name] for path in sorted(card.glob(pattern))):
        with suppress(OSError, ValueError, IndexError):  # none here, or another form
            text = file.read_text().strip()
            if name.endswith("_mode"):
                return text
            most = int(re.findall(r"\d+", text)[-1])  # of levels: one may be the present clock
            if most:
                return f"{most / 1e6:g}" if name.endswith("_watts") else str(most)
    return ""
