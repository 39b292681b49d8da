"""What torch hands over to a launch in another framework: `python -m bench.frameworks._hand_over`.

Reads one `Order` from stdin, writes a file for each seed into a folder, and one `Answer` to stdout.
Nothing is timed meanwhile.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench import catalogue, lifeline, rehearsal
from bench.measuring.gates.handed import REFERENCE, Draw, Handed, Which, integers_name, pool_file
from bench.measuring.gates.numerics import reference_of, referred
from bench.measuring.messages import Answer, Order
from bench.planning import memory_fit
from bench.planning.plan import parameters_of
from bench.precision import PRECISIONS
from bench.records.encoding import encoded
from bench.records.reason import of_error, reason
from bench.workload import Site, Unsupported
from bench.workloads.jobs.seeded import Noted, SeededData, noted, replayed


def handed_over(order: Order) -> Answer:
    """Writes what is asked for; or why torch cannot."""
    try:
        _write_all(order)
    except Unsupported as why:
        return Answer(skipped=str(why))
    except Exception as error:  # noqa: BLE001 - whatever it is, the launch has nothing to go by
        return Answer(failed=reason(of_error(error)))
    return Answer()


def _write_all(order: Order) -> None:
    import numpy as np
    import torch

    request, folder = order.request, Path(order.folder)
    case = request.case
    workload = catalogue.workload(case.workload)
    parameters = parameters_of(case, workload)
    twin = workload.twin(case.mode, parameters)
    site = Site(
        device=torch.device("cpu"),
        precision=PRECISIONS[case.precision],
        seed=request.settings.seed,
        memory_format=request.memory_format or workload.memory_formats[0],
    )
    switches = catalogue.backend(request.backend).library_switches
    reference = referred(workload, case.mode, twin, reference_of(site), switches)
    arrays: dict[str, Any] = {f"{REFERENCE}{q}": value.numpy() for q, value in reference.items()}
    estimated = memory_fit.estimate(workload, case.mode, parameters, site)
    gate = _drawn(_noted(workload, case.mode, twin, site), "twin", arrays)
    for seed, found in _of_seeds(order.seeds, workload, case.mode, parameters, site):
        mine = dict(arrays)
        job = _drawn(found, "job", mine)
        handed = Handed(
            seeds={"twin": site.seed, "job": seed},
            draws={"twin": gate, "job": job},
            estimated_peak_bytes=estimated,
            threads=torch.get_num_threads(),
        )
        for one in (site.seed, seed):
            _save(pool_file(folder, one), {"": SeededData(one).pool.numpy()})
        _save(
            folder / order.file(seed), {**mine, "handed": np.frombuffer(encoded(handed), np.uint8)}
        )


def _of_seeds(
    seeds: Sequence[int], workload: Any, mode: str, parameters: Any, site: Site
) -> Iterator[tuple[int, Noted]]:
    """What the job of each seed draws: noted in one rehearsal, as to build it may take long (a
    decode reads its prompt) and the host's memory, and replayed for each seed. Where that cannot be
    done it is built."""
    found = _rehearsed(workload, mode, parameters, site)
    for seed in seeds:
        if found is None:
            at = msgspec.structs.replace(site, seed=seed)
            yield seed, _noted(workload, mode, parameters, at)
        else:
            yield seed, replayed(found, seed)


def _rehearsed(workload: Any, mode: str, parameters: Any, site: Site) -> Noted | None:
    """None of a job that cannot be rehearsed, or draws from several generators."""
    try:
        with rehearsal.shapes_alone():
            found = _noted(workload, mode, parameters, site)
    except Unsupported:
        raise
    except Exception:  # noqa: BLE001 - whatever it is, building it says it better
        traceback.print_exc()
        return None
    return found if len(found.makers) == 1 else None


def _noted(workload: Any, mode: str, parameters: Any, site: Site) -> Noted:
    with noted() as found:
        workload.build(mode, parameters, site).close()
    return found


def _drawn(found: Noted, which: Which, arrays: dict[str, Any]) -> tuple[Draw, ...]:
    """The draws of a job as torch builds it; its integers go into the arrays."""
    draws = []
    for number, (shape, how, value) in enumerate(found):
        if isinstance(how, tuple):
            arrays[integers_name(which, number)] = value.numpy()
            draws.append(Draw(shape=tuple(shape), span=how))
        else:
            draws.append(Draw(shape=tuple(shape), std=float(how), start=value))
    return tuple(draws)


def _save(path: Path, arrays: dict[str, Any]) -> None:
    """At once, under its name; a pool that is there is the same."""
    import numpy as np

    part = path.with_suffix(f".{os.getpid()}")
    with part.open("wb") as file:
        if "" in arrays:
            np.save(file, arrays[""], allow_pickle=False)
        else:
            np.savez(file, allow_pickle=False, **arrays)
    part.replace(path)


def main() -> None:
    """The process."""
    lifeline.hold()
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    answer = handed_over(order)
    sys.stdout.buffer.write(b"\n" + encoded(answer) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
