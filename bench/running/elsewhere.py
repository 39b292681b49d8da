"""What computes a run's steps, and in which interpreter: torch in this one, or another elsewhere.

Another interpreter need not have accelmark, nor torch: `bench.lifeline.command` gives it this
package alone, and none of this one's libraries, made for another Python.
"""

from __future__ import annotations

import os
import shutil
import sys
from typing import NamedTuple

from bench import catalogue
from bench.errors import DeviceUnavailable, SuiteError

TORCH = "torch"


class Elsewhere(NamedTuple):
    """A framework and its interpreter."""

    framework: str = TORCH
    python: str = sys.executable


HERE = Elsewhere()


def require_alone(where: Elsewhere, leader: object, *, explain: bool) -> None:
    """Raises `SuiteError` for what only torch does so far.

    leader: of several hosts, if there are; explain: whether steps are to be taken apart.
    """
    name = where.framework
    if name != TORCH and explain:
        raise SuiteError(f"--explain: no step of {name} is taken apart, so far. Leave it out.")
    if name != TORCH and leader is not None:
        raise SuiteError(
            f"--framework {name}: on one host, so far. Start it without a launcher around it."
        )


def named_after(framework: str) -> str:
    """The variable that names the interpreter of a framework, where no option does."""
    return f"ACCELMARK_{framework.upper().replace('-', '_')}_PYTHON"


def elsewhere(framework: str | None, python: str | None) -> Elsewhere:
    """What `--framework` and `--python` mean. Raises `UnknownName` or, for no such
    program, `DeviceUnavailable`."""
    if framework in (None, TORCH):
        if python is not None:
            raise DeviceUnavailable(
                f"--python {python}: torch runs in this Python. Name the framework that runs in "
                "that one (--framework mindspore), or compare two Pythons: `accelmark ab --python`."
            )
        return HERE
    catalogue.framework(framework)
    given = python or os.environ.get(named_after(framework)) or sys.executable
    found = shutil.which(given)
    if found is None:
        option = f"--python {given}" if python else f"{named_after(framework)}={given}"
        raise DeviceUnavailable(
            f"{option}: there is no such program. Give the path of a Python that has {framework}, "
            "numpy, msgspec and psutil."
        )
    return Elsewhere(framework, found)
