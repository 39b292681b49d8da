"""What there is: plug-ins found by name, without importing them.

A workload, backend, framework or report is a file in its folder here, or an entry point of an
installed package (`accelmark.workloads`, and so on by its kind). Listing reads file names and
docstrings only; `load` imports the one that is asked for.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import importlib.metadata
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

import bench
from bench.backend import Backend
from bench.errors import AccelmarkError, UnknownName, suggestion
from bench.framework import Framework
from bench.report import Report
from bench.workload import Workload

Kind = Literal["workloads", "backends", "frameworks", "reports"]
CONSTANTS: dict[Kind, str] = {
    "workloads": "WORKLOAD",
    "backends": "BACKEND",
    "frameworks": "FRAMEWORK",
    "reports": "REPORT",
}
"""The one constant that a plug-in file exposes."""
PROTOCOLS: dict[Kind, type] = {
    "workloads": Workload,
    "backends": Backend,
    "frameworks": Framework,
    "reports": Report,
}
"""What it is an instance of."""


class PlugIn(msgspec.Struct, frozen=True, kw_only=True):
    """Where a name comes from."""

    name: str
    module: str
    attribute: str
    package: str = ""
    """The installed one that brings it; empty for ours."""
    version: str = ""
    """Of that package."""
    flaw: str = ""
    """Why it is not used, if it is not."""
    remedy: str = "Repair or uninstall that package."

    @property
    def source(self) -> str:
        """Where to look when it fails."""
        return f"from the package {self.package}" if self.package else self.module

    @property
    def summary(self) -> str:
        """One line: the first of our file's docstring, which is read only when it is asked for."""
        if self.package:
            return f"{self.source}, {self.flaw}" if self.flaw else self.source
        file = Path(bench.__file__).parent.parent / f"{self.module.replace('.', '/')}.py"
        doc = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        return doc.split("\n", 1)[0].rstrip(".")


def plug_ins(kind: Kind) -> dict[str, PlugIn]:
    """Every plug-in of a kind by name: ours first, then installed packages'.

    One whose name is taken has that of its package besides, and does not load; nor does one that
    lies where no launch looks, as in the current folder.
    """
    found = dict(_ours(kind))
    for one in _installed(kind, tuple(sys.path), os.environ.get("PYTHONPATH", "")):
        name = one.name
        if first := found.get(name):
            name = f"{name} ({one.package})"
            flaw = f"not used: {first.package or 'accelmark'} has one of that name"
            found[name] = msgspec.structs.replace(one, name=name, flaw=flaw)
        else:
            found[name] = one
    return found


@functools.lru_cache(maxsize=64)
def _installed(kind: Kind, path: tuple[str, ...], given: str) -> tuple[PlugIn, ...]:
    """Those of the packages on that path, read once: every name that is nobody's asks for them.

    given: PYTHONPATH.
    """
    found = [
        PlugIn(
            name=point.name,
            module=point.module,
            attribute=point.attr or CONSTANTS[kind],
            package=point.dist.name if point.dist else point.module,
            version=point.dist.version if point.dist else "",
            **({} if kind == "reports" or point.dist is None else _unseen(point.dist, given)),
        )
        for point in importlib.metadata.entry_points(group=f"accelmark.{kind}")
    ]
    return tuple(sorted(found, key=lambda one: bool(one.flaw)))


def _unseen(package: importlib.metadata.Distribution, given: str) -> dict[str, str]:
    """The flaw of one that lies where a launch does not look; nothing for all others.

    Launches are started without the folder of the script, or the current one, and without what the
    program has added to its path. One that is installed from its own folder may be found there.
    """
    folder = os.path.realpath(str(package.locate_file("")))
    usual = _real((*given.split(os.pathsep), *map(sysconfig.get_path, ("purelib", "platlib"))))
    if sys.flags.safe_path or folder in usual or folder in _looked_in(given):
        return {}
    looked = [*usual, *_looked_in(given)]
    if any(importlib.metadata.distributions(name=package.name, path=looked)):
        return {}
    flaw = f"not used: it lies in {folder}, where no launch looks"
    return {"flaw": flaw, "remedy": "Install that package."}


@functools.cache
def _looked_in(given: str) -> frozenset[str]:
    """The folders on a launch's path; it alone knows what the site adds to it."""
    code = "import sys; print(*sys.path, sep='\\0', end='')"
    asked = (sys.executable, "-P", "-c", code)
    said = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    return _real(said.split("\0"))


def _real(folders: Iterable[str]) -> frozenset[str]:
    return frozenset(os.path.realpath(folder) for folder in folders if folder)


@functools.cache
def _ours(kind: Kind) -> dict[str, PlugIn]:
    found: dict[str, PlugIn] = {}
    for file in sorted((Path(bench.__file__).parent / kind).glob("*.py")):
        if not file.stem.startswith("_"):
            name = file.stem.replace("_", "-")
            found[name] = PlugIn(
                name=name,
                module=f"bench.{kind}.{file.stem}",
                attribute=CONSTANTS[kind],
            )
    return found


def usable(kind: Kind) -> list[str]:
    """The names of those that load, as far as their names tell: what is proposed and allowed."""
    return [name for name, plug_in in plug_ins(kind).items() if not plug_in.flaw]


def _known(kind: Kind, name: str) -> dict[str, PlugIn]:
    """All that are looked at for one name: for one of ours no package is."""
    return _ours(kind) if name in _ours(kind) else plug_ins(kind)


def versions(workload: str, backend: str, framework: str) -> dict[str, dict[str, str]]:
    """Those of the packages that bring these, as a launch's `plug_ins`; nothing for ours."""
    named: tuple[tuple[Kind, str], ...] = (
        ("workloads", workload),
        ("backends", backend),
        ("frameworks", framework),
    )
    found = [_known(kind, name).get(name) for kind, name in named]
    said = {one.package: one.version for one in found if one and one.package}
    return {"plug_ins": said} if said else {}


def load(kind: Kind, name: str) -> Any:
    """Imports one plug-in and gives its constant; `UnknownName` if there is none of that name."""
    known = _known(kind, name)
    if name not in known:
        hint = suggestion(name, usable(kind))
        raise UnknownName(f"unknown {kind.removesuffix('s')} `{name}`.{hint}")
    plug_in = known[name]
    if plug_in.flaw:
        raise _broken(kind, plug_in, f"is {plug_in.flaw}")
    try:
        found = getattr(importlib.import_module(plug_in.module), plug_in.attribute)
        flaw = _flaw(kind, name, found)
    except (Exception, SystemExit) as error:  # another's code: whatever it raises means the same
        raise _broken(kind, plug_in, f"does not load: {_told(error)}") from error
    if flaw:
        raise _broken(kind, plug_in, flaw)
    return found


@contextlib.contextmanager
def blamed(kind: Kind, name: str) -> Iterator[None]:
    """Raises `UnknownName`, which says whose it is, where a package's plug-in fails within."""
    try:
        yield
    except Exception as error:
        plug_in = _known(kind, name)[name]
        if not plug_in.package or isinstance(error, AccelmarkError):
            raise
        raise _broken(kind, plug_in, f"fails: {_told(error)}") from error


def _told(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _flaw(kind: Kind, name: str, found: Any) -> str:
    """Why a constant is no plug-in of that kind and name; empty if it is one."""
    protocol = PROTOCOLS[kind]
    if not isinstance(found, protocol):
        return f"is {found!r:.60}, no {protocol.__module__}.{protocol.__name__}"
    own = getattr(found, "name", name)  # reports have none
    return "" if own == name else f"calls itself `{own}`"


def _broken(kind: Kind, plug_in: PlugIn, how: str) -> UnknownName:
    return UnknownName(
        f"{kind.removesuffix('s')} `{plug_in.name}` ({plug_in.source}) {how.rstrip('.')}. "
        f"{plug_in.remedy}"
    )


def workload(name: str) -> Workload:
    """The workload of that name, without importing torch."""
    found: Workload = load("workloads", name)
    return found


def backend(name: str) -> Backend:
    """The backend of that name, without importing its runtime."""
    found: Backend = load("backends", name)
    return found


def framework(name: str) -> Framework:
    """The framework of that name, without importing what it computes with."""
    found: Framework = load("frameworks", name)
    return found


def configs_folder() -> Path:
    """Where the suites lie: inside an installed package, or beside it in a clone."""
    package = Path(bench.__file__).resolve().parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def suites() -> dict[str, Path]:
    """Every shipped suite by name: of each the newest."""
    return {title.partition("@")[0]: file for title, file in releases().items()}


def releases() -> dict[str, Path]:
    """Every shipped suite by name and number, the oldest of a name first: `quick@1`, `quick@2`.

    What was released does not change: an idea that is new is a number more. The newest lies in
    `NAME.toml`, those before it in `NAME@NUMBER.toml`.
    """
    return dict(_releases(configs_folder()))


@functools.cache
def _releases(folder: Path) -> dict[str, Path]:
    numbered: dict[str, dict[int, Path]] = {}
    newest: dict[str, Path] = {}
    for file in folder.glob("*.toml"):
        name, _, number = file.stem.partition("@")
        if number.isdecimal():
            numbered.setdefault(name, {})[int(number)] = file
        elif file.stem != "chips":
            newest[name] = file
    found: dict[str, Path] = {}
    for name in sorted(newest):
        older = numbered.get(name, {})
        last = max(older, default=0) + 1
        found |= {f"{name}@{n}": file for n, file in sorted({**older, last: newest[name]}.items())}
    return found
