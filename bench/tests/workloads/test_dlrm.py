"""What DLRM promises beyond the contract."""

from __future__ import annotations

import copy
import functools
import itertools
from typing import Any

import pytest
import torch

from bench.precision import PRECISIONS, REFERENCE
from bench.tests.small_workloads import FP32, WORKLOADS, build, model_of, one_thread, site
from bench.workloads import _clicks, dlrm

__all__ = ["one_thread"]  # a fixture, used by being here


@pytest.mark.parametrize("lookups", [1, 3])
def test_a_dlrm_step_is_one_of_torchs_embedding_bags_with_sparse_gradients(lookups: int) -> None:
    job: Any = build("dlrm", "train", site(REFERENCE), batch_size=64, rows=16, lookups=lookups)
    parts: Any = model_of(job)
    before = parts["tables"].weight.detach().clone()
    bag = functools.partial(torch.nn.EmbeddingBag.from_pretrained, mode="sum", sparse=True)
    bags = [bag(table, freeze=False) for table in before.clone().split(16)]
    bottom, top = (copy.deepcopy(parts[part]) for part in ("bottom", "top"))
    weights = [w for module in (*bags, bottom, top) for w in module.parameters()]
    optimizer = torch.optim.SGD(weights, lr=_clicks.LEARNING_RATE)
    for _ in range(3):
        (dense, indices), clicks = next(job._batches)
        job._batches = itertools.chain([((dense, indices), clicks)], job._batches)
        job.step()
        optimizer.zero_grad()
        first = bottom(dense)
        vectors = [first, *(table(indices[:, t] - 16 * t) for t, table in enumerate(bags))]
        products = [(vectors[i] * vectors[j]).sum(-1) for i in range(27) for j in range(i)]
        chance = top(torch.cat((first, torch.stack(products, 1)), 1)).squeeze(1).sigmoid()
        loss = -torch.where(clicks == 1, chance, 1 - chance).log().mean()
        loss.backward()
        optimizer.step()
        assert job.witness() == pytest.approx(float(loss.detach()))
    expected = torch.cat([bag.weight for bag in bags])
    torch.testing.assert_close(parts["tables"].weight, expected)
    assert not torch.allclose(before, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(dict(parts["top"].named_parameters()), dict(top.named_parameters()))


def test_dlrm_keeps_what_it_does_not_look_up_and_looks_up_every_table() -> None:
    job: Any = build("dlrm", "train", site(), batch_size=4, rows=100)
    (_, indices), _ = next(job._batches)
    job._batches = itertools.repeat(next(job._batches))
    (_, indices), _ = next(job._batches)
    assert indices.shape == (4, 26, 1)
    assert torch.equal(indices // 100, torch.arange(26)[:, None].expand(4, 26, 1))
    tables: Any = model_of(job)
    weight = tables["tables"].weight
    before = weight.detach().clone()
    job.step()
    changed = (weight != before).any(1).nonzero().flatten()
    assert set(changed.tolist()) == set(indices.flatten().tolist())
    assert weight.grad is None


def test_dlrm_counts_flop_and_bytes_as_its_docstring_says() -> None:
    workload = WORKLOADS["dlrm"]
    sizes: dict[str, Any] = {"batch_size": 2, "rows": 10**8, "embedding_dim": 8}
    bottom = 13 * 512 + 512 * 256 + 256 * 8
    mlps = bottom + (8 + 351) * 1024 + 1024 * 1024 + 1024 * 512 + 512 * 256 + 256
    flop = 2 * (mlps + 27 * 27 * 8)
    biases = 512 + 256 + 8 + 1024 + 1024 + 512 + 256 + 1
    inputs = 2 * (13 * 2 + 26 * 8)
    rows = 2 * 26 * 8  # of so many, no two are the same
    infer = workload.work("infer", dlrm.InferParameters(**sizes), PRECISIONS["bf16"])
    assert infer.flop == 2 * flop
    assert infer.moved_bytes == 2 * (mlps + biases + rows) + inputs
    train = workload.work("train", dlrm.TrainParameters(**sizes), PRECISIONS["bf16"])
    assert train.flop == 2 * (3 * flop - 2 * 13 * 512)
    assert train.moved_bytes == 4 * (mlps + biases + rows) + inputs
    few = workload.work("infer", dlrm.InferParameters(batch_size=10**6, rows=2), FP32)
    assert few.moved_bytes is not None
    assert few.moved_bytes == pytest.approx(10**6 * (13 * 4 + 26 * 8), rel=0.05)


def test_gradients_of_the_products_are_not_added_in_place() -> None:
    """One of the two is transposed: in place that takes a CPU twice the time, 5 % of a step."""
    job = build("dlrm", "train", site(PRECISIONS["bf16-amp"]), batch_size=16, rows=50)
    job.step()
    with torch.profiler.profile(record_shapes=True, acc_events=True) as profile:
        job.step()
    added = [(e.name, e.input_shapes[0]) for e in profile.events() if e.name in ADDITIONS]
    wide = [name for name, shape in added if shape[:2] == [16, 27]]
    assert wide == ["aten::add"]


ADDITIONS = ("aten::add", "aten::add_")
