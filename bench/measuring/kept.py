"""What a launch of a run leaves to the next ones: references of twins, compiled graphs, byte code.

References are the same in every launch, as the gate's weights and inputs come from the run's seed,
and on a host of few cores they take longer than the step that they are there for. What a compiler
made for one launch serves the next: what the first one takes is *cold*, and the others' is not. All
lies in a folder of the run's own, which goes with it, and never comes from another run, or "cold"
would depend on what somebody else did here yesterday.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import os
import pickle
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bench.records.encoding import encoded

if TYPE_CHECKING:
    from bench.workload import Site, Workload

DIGEST_BYTES = hashlib.sha256().digest_size


class Kept:
    """A folder of results, each under the digest of what it is of."""

    def __init__(self, folder: Path | None = None) -> None:
        """folder: need not exist yet; None to keep nothing."""
        self._folder = folder
        self._earlier: set[Path] = set()
        with contextlib.suppress(OSError):  # where it is not there yet
            self._earlier.update(() if folder is None else folder.iterdir())
        self.found = False
        """Whether an earlier launch had left anything: what another rank of this one has written
        meanwhile makes no launch a warm one."""

    def get(self, of: Callable[[], bytes], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What was kept of this, or what is computed now: tensors and plain values.

        of: all that the result depends on. What does not bear its own digest, or cannot be read,
        is computed anew.
        """
        if self._folder is None:
            return compute()
        path = self._folder / hashlib.sha256(of()).hexdigest()
        with contextlib.suppress(OSError, ValueError, RuntimeError, pickle.UnpicklingError):
            found = _read(path)
            self.found = self.found or path in self._earlier
            return found
        computed = compute()
        with contextlib.suppress(OSError):  # a full disk costs time, and nothing else
            _write(path, computed)
        return computed


NOTHING = Kept()
COMPILED = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}
"""Where torch's compiler keeps what it makes, by the variable that says so: in the system's own
temporary folder, from run to run, unless it is told otherwise."""


def references(scratch: str | None) -> Kept:
    """Those of a run with this folder."""
    return NOTHING if scratch is None else Kept(Path(scratch, "references"))


def keep_compiled(scratch: str | None, besides: Iterable[str] = ()) -> None:
    """Has this process compile into the run's folder, unless the user says where. Before torch is
    imported, and after the variables that the record names are read: these are ours.

    besides: variables of a vendor's compilers; see `bench.backend.Backend.compiler_folders`.
    """
    for name, folder in {**{name: name.lower() for name in besides}, **COMPILED}.items():
        if scratch is not None and name not in os.environ:
            os.environ[name] = str(Path(scratch, folder))


def byte_code(scratch: Path, library: str = "torch") -> dict[str, str]:
    """Variables by which byte code of libraries is kept in the run's folder: only where there is
    none and none could be written, as in many an image, where importing takes three times as long.
    """
    spec = importlib.util.find_spec(library)
    if spec is None or spec.origin is None:
        return {}
    compiled = Path(importlib.util.cache_from_source(spec.origin))
    forbidden = os.environ.get("PYTHONDONTWRITEBYTECODE", "") != ""
    nearest = next(folder for folder in compiled.parents if folder.exists())
    if compiled.exists() or (os.access(nearest, os.W_OK) and not forbidden):
        return {}
    return {"PYTHONPYCACHEPREFIX": str(scratch / "byte-code"), "PYTHONDONTWRITEBYTECODE": ""}


def key(what: str, workload: Workload, mode: str, twin: Any, site: Site) -> bytes:
    """All that a reference depends on, but for the libraries: those are the run's."""
    return encoded(
        [
            what,
            workload.name,
            workload.version_of(mode),
            mode,
            msgspec.to_builtins(twin),
            site.seed,
            site.precision.quantized,
            msgspec.to_builtins(site.precision.scales),
            site.memory_format,
            site.as_ranks,
            None if site.ranks is None else [site.ranks.rank, str(site.ranks.parallelism)],
        ]
    )


def _read(path: Path) -> dict[str, Any]:
    """Raises OSError, ValueError, RuntimeError or UnpicklingError where it is not there, or not
    whole."""
    import torch

    data = path.read_bytes()
    if hashlib.sha256(data[DIGEST_BYTES:]).digest() != data[:DIGEST_BYTES]:
        raise ValueError(f"{path.name} is not what was written")
    held: dict[str, Any] = torch.load(io.BytesIO(data[DIGEST_BYTES:]), weights_only=True)
    return held


def _write(path: Path, value: Mapping[str, Any]) -> None:
    """At once: several ranks may write the same."""
    import torch

    buffer = io.BytesIO()
    torch.save(value, buffer)
    data = buffer.getvalue()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}")
    part.write_bytes(hashlib.sha256(data).digest() + data)
    part.replace(path)
