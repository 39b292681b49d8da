"""Ranks that a test starts: processes that join one group of gloo, and each call one function."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.ranks import Ranks
from bench.records.parallelism import parse

SECONDS = 300


def together(size: int, target: str, folder: Path, *words: str) -> list[Any]:
    """What `module:function(ranks, *words)` gives on each of so many ranks; values of JSON.

    folder: empty; it holds the store by which they meet, and what they give.
    """
    command = [sys.executable, "-m", "bench.tests.rank_processes", target, str(folder), str(size)]
    variables = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    variables["PYTHONPATH"] = str(Path(__file__).parents[2])
    processes = [
        subprocess.Popen([*command, str(rank), *words], env=variables, stderr=subprocess.PIPE)
        for rank in range(size)
    ]
    try:
        said = [process.communicate(timeout=SECONDS)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for rank, process in enumerate(processes):
        if process.returncode:
            raise AssertionError(f"rank {rank}:\n{said[rank].decode(errors='replace')}")
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(size)]


def main(target: str, folder: str, size: str, rank: str, *words: str) -> None:
    """One rank."""
    import torch.distributed as dist

    store = dist.FileStore(f"{folder}/store", int(size))  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=int(rank), world_size=int(size))
    control = dist.new_group(backend="gloo")
    assert dist.group.WORLD is not None
    ranks = Ranks(
        rank=int(rank),
        size=int(size),
        parallelism=parse("dp", int(size)),
        group=dist.group.WORLD,
        control=control,
    )
    module, _, function = target.partition(":")
    given = getattr(importlib.import_module(module), function)(ranks, *words)
    Path(folder, f"{rank}.json").write_text(json.dumps(given))
    dist.barrier(group=control)
    os._exit(0)  # teardown of a group says nothing that a test would know


if __name__ == "__main__":
    main(*sys.argv[1:])
