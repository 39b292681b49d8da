"""What ranks tell each other of their verdicts, so that all end alike and name the guilty one."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from bench.ranks import WHOLE, Part, Ranks, local
from bench.ranks import part as part_of

if TYPE_CHECKING:
    from torch import Tensor

    from bench.workload import Job

ABSENT = "not observable: "
"""So begins a fact that says why something was not looked at."""
MOST_NAMED = 3
"""Ranks that a reason quotes; of the others it says how many."""


def of_all(
    ranks: Ranks | None, wrong: str, job: Job, progress: Callable[[], None] = lambda: None
) -> str:
    """What is wrong with any rank, or between them, the same words on all; empty if nothing is.

    wrong: what is wrong with this one, empty if nothing is; job: whose weights must be the same
    wherever they are alike; progress: called before each weight is read, which may take a minute
    in all.
    """
    if ranks is None:
        return wrong
    guilty = named(ranks.told(wrong))
    return "; ".join(filter(None, (guilty, apart(ranks.told(digests_of(job, progress))))))


def named(told: Sequence[str]) -> str:
    """What each rank says is wrong with it, in one sentence; empty if none says anything."""
    guilty = [rank for rank, wrong in enumerate(told) if wrong]
    if not guilty:
        return ""
    if len(guilty) == len(told):
        others = "" if len(set(told)) == 1 else ", the others likewise"
        return f"every rank{others}: {told[0]}"
    said = [f"rank {rank} of {len(told)}: {told[rank]}" for rank in guilty[:MOST_NAMED]]
    if len(guilty) > MOST_NAMED:
        said.append(f"and {len(guilty) - MOST_NAMED} more ranks")
    return "; ".join(said)


def facts_of(ranks: Ranks | None, facts: Mapping[str, str]) -> dict[str, str]:
    """A job's facts; of what not every rank could look at alike, who says why, for rank 0's are the
    record's. All ranks call it together."""
    if ranks is None:
        return dict(facts)
    told = ranks.told({what: why for what, why in facts.items() if why.startswith(ABSENT)})
    absent = {
        what: [one.get(what, "") for one in told] for what in dict.fromkeys(itertools.chain(*told))
    }
    return {**facts, **{what: named(why) for what, why in absent.items() if len(set(why)) > 1}}


def digests(
    weights: Iterable[Tensor],
    parts: Sequence[Part] = (),
    progress: Callable[[], None] = lambda: None,
) -> dict[str, str]:
    """Of the bits of what lies here, by which part it is: ranks with the same part must agree.

    parts: of each weight; empty where all of all lies here. progress: called before each weight.
    Copies one weight at a time to the host, and waits for the device.
    """
    import torch

    found: dict[str, hashlib.blake2b] = {}
    for number, weight in enumerate(weights):
        progress()
        part = parts[number] if parts else WHOLE
        bits = local(weight).detach().cpu().contiguous().view(-1).view(torch.uint8)
        of_part = found.setdefault(str(part), hashlib.blake2b(digest_size=16))
        of_part.update(bits.numpy().data)
    return {part: digest.hexdigest() for part, digest in found.items()}


def digests_of(job: Job, progress: Callable[[], None] = lambda: None) -> dict[str, str]:
    """Of a job's weights: those that its optimizer moves and those that stay, else all."""
    training = job.training()
    if training is None:
        return digests(job.weights(), progress=progress)
    weights = [weight for group in training.optimizer.param_groups for weight in group["params"]]
    parts = training.parts or (WHOLE,) * len(weights)
    parts = (*parts, *map(part_of, training.fixed))
    return digests([*weights, *training.fixed], parts, progress)


def apart(told: Sequence[dict[str, str]]) -> str:
    """Which ranks hold other bits than the rest of those with the same part; empty if none does.

    told: what each rank says of its `digests`.
    """
    for part in dict.fromkeys(part for one in told for part in one):
        held = {rank: one[part] for rank, one in enumerate(told) if part in one}
        counts = Counter(held.values()).most_common()
        if len(counts) == 1:
            continue
        if counts[0][1] > counts[1][1]:
            odd = [rank for rank, digest in held.items() if digest != counts[0][0]]
            return f"replicas differ: {_ranks(odd)} not the weights that the other ranks hold"
        return f"replicas differ: {_ranks(list(held))} not the same weights"
    return ""


def _ranks(numbers: Sequence[int]) -> str:
    verb = "holds" if len(numbers) == 1 else "hold"
    return f"rank{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))} {verb}"
