"""What computes a run's steps, and in which interpreter: torch in this one, or another elsewhere.

Another interpreter need not have accelmark, nor torch: it is given this package by a folder that
holds nothing else, so that it finds none of this one's libraries, made for another Python.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import bench
from bench import catalogue
from bench.errors import DeviceUnavailable, SuiteError

TORCH = "torch"
PATHS = "PYTHONPATH"


class Elsewhere(NamedTuple):
    """A framework and its interpreter."""

    framework: str = TORCH
    python: str = sys.executable

    def variables(self, folder: Path) -> dict[str, str]:
        """Variables by which that interpreter finds this package; nothing where it is this one.

        folder: a temporary one. Raises OSError where no link can be made in it.
        """
        if self.framework == TORCH or self.python == sys.executable:
            return {}
        only = folder / "package"
        only.mkdir(exist_ok=True)
        link = only / "bench"
        if not link.exists():
            link.symlink_to(Path(bench.__file__).parent.resolve(), target_is_directory=True)
        before = os.environ.get(PATHS, "")
        return {PATHS: f"{only}{os.pathsep}{before}" if before else str(only)}


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
