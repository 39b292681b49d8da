"""The gate on every rank: what is right passes, and of what is wrong the reason names the rank."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch

from bench.measuring.asked import late
from bench.measuring.gates.rank_numerics import KINK, allowed, misplaced
from bench.measuring.ranks.agreed import apart, digests, named, of_all
from bench.ranks import WHOLE, Part
from bench.tests.measuring.gates.spoiled_ranks import SCHEMES
from bench.tests.rank_processes import together

LAYERS = 3
"""Of the tiny Llama: FSDP2 gathers the rest of it once and each layer twice, and reduces each."""
TARGET = "bench.tests.measuring.gates.spoiled_ranks:verdicts"


@pytest.fixture(scope="module")
def said(forked: None, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two ranks was told of every plant."""
    folder: Path = tmp_path_factory.mktemp("ranks")
    return together(2, TARGET, folder)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_is_right_passes_on_every_rank(said: list[dict[str, Any]], scheme: str) -> None:
    for rank in said:
        complaint, errors = rank[f"{scheme} right"]
        assert complaint == ""
        assert errors["in float64 gradients"] < 1e-12
        assert errors["in float64 update"] < 1e-12
        assert 0 < errors["gradients"] < 1e-5
        assert errors["reduced gradients"] < 1e-6


WORDS = {
    "dp2 wrong_sum": "rank 1 of 2: gradients off by",
    "dp2 not_finite": "rank 1 of 2: gradients is not finite",
    "dp2 lost_gradient": "the gradients of rank 1 are missing from the sum; every rank",
    "dp2 stale_replica": "rank 1 of 2: update off by",
    "dp2 narrow_wire": "every rank: gradients off by",
    "amp narrow_wire": "every rank: reduced gradients off by",
    "dp2 last_bit": "replicas differ: ranks 0, 1 hold not the same weights",
    "fsdp2 wrong_sum": "rank 1 of 2: gradients off by",
    "fsdp2 not_finite": "rank 1 of 2: gradients is not finite",
    "fsdp2 stale_replica": "rank 1 of 2: update off by",
}


@pytest.mark.parametrize("planted", WORDS)
def test_a_planted_fault_is_named_on_every_rank(said: list[dict[str, Any]], planted: str) -> None:
    first, second = (rank[planted][0] for rank in said)
    assert first == second
    assert WORDS[planted] in first


def test_every_plant_is_tried(said: list[dict[str, Any]]) -> None:
    tried = {f"{scheme} {name}" for scheme, names in SCHEMES.items() for name in names if name}
    assert tried | {"amp narrow_wire"} == WORDS.keys()


def test_a_step_never_asks_the_device(said: list[dict[str, Any]]) -> None:
    assert [rank["asked"] for rank in said] == [[False, False]] * 2


def test_copies_of_inference_are_gated_each(said: list[dict[str, Any]]) -> None:
    assert [rank["copies"] for rank in said] == ["", ""]


def test_batch_statistics_of_all_ranks_are_those_of_one_process(said: list[dict[str, Any]]) -> None:
    for rank in said:
        found, own = (rank["statistics"][which] for which in ("synchronized", "own"))
        assert found["loss"] < 1e-5 < 1e-3 < own["loss"]
        assert found["gradients"] < KINK < 0.1 < own["gradients"]
        assert found["running"] < 1e-5 < 1e-3 < own["running"]
        assert own["facts"] == {"batch statistics": "of each device's own images"}
        by, sent = found["facts"].values()
        assert by.startswith("synchronized, by a layer of accelmark's: torch.nn.SyncBatchNorm")
        # 16 batch norms of 2,400 channels: forwards and backwards two float32 of each.
        assert sent == "38,400 B from each rank and step, in 16 all-gathers and 16 all-reduces"


def test_the_record_names_what_decides_the_work_of_a_rank(said: list[dict[str, Any]]) -> None:
    for rank in said:
        (replicated, whole), (sharded, layers) = (rank["named"][x] for x in ("dp2", "fsdp2"))
        expected = {
            "parallelism": "dp2: DDP, buckets of 25 MiB",
            "accumulation": "none",
            "gradient checkpointing": "off",
            "mixed precision": "none: as the weights lie",
            "compiled": "LlamaForCausalLM, inside DDP",
        }
        assert replicated.items() >= expected.items()
        expected = {
            "parallelism": "fsdp2: FSDP2, root and 3 LlamaDecoderLayer",
            "accumulation": "2 micro-batches a step, reduced once, after the last",
            "gradient checkpointing": "on",
            "mixed precision": "autocast to bfloat16",
            "compiled": "each of 3 LlamaDecoderLayer; the rest is eager",
        }
        assert sharded.items() >= expected.items()
        assert (whole, layers) == (["LlamaForCausalLM"], ["LlamaDecoderLayer"] * LAYERS)


def test_a_policy_gathers_and_computes_in_bfloat16(said: list[dict[str, Any]]) -> None:
    for rank in said:
        found = rank["policy"]
        expected = {
            "weights gathered as": "bfloat16",
            "gradients reduced as": "float32",
            "mixed precision": "FSDP2's policy: all computed in bfloat16",
        }
        assert found["facts"].items() >= expected.items()
        assert found["policies"] == ["bfloat16", "bfloat16"]
        assert found["looks"]["weights as they are gathered"] == ["bfloat16", "bfloat16"]
        assert "autocast" not in found["looks"]
        assert {k: v for k, v in found["looks"].items() if v[0] != v[1]} == {}
        assert found["logits"] == "torch.bfloat16"


def test_adapters_are_reduced_in_float32_and_what_they_adapt_must_stay_the_same(
    said: list[dict[str, Any]],
) -> None:
    for rank in said:
        facts = rank["adapters"]["facts"]
        assert facts["weights gathered as"] == "bfloat16, float32"
        assert facts["gradients reduced as"] == "float32"
        assert facts["parameters reduced"] == "20", "and no more travels than trains, of 40"
        assert rank["adapters"]["replicated"]["parameters reduced"] == "20"
        changed = "replicas differ: ranks 0, 1 hold not the same weights"
        assert rank["adapters"]["said"] == ["", changed]


def test_the_memory_of_shared_tables_is_counted_from_shapes(said: list[dict[str, Any]]) -> None:
    held, estimate = said[0]["hybrid bytes"]
    assert held <= estimate <= 1.2 * held
    (other,) = said[1]["hybrid bytes"]
    assert abs(other - held) <= 8, "but for a scalar that is still on its way"


def test_replicas_must_agree_after_the_timing_too(said: list[dict[str, Any]]) -> None:
    for rank in said:
        right, astray, wrong = rank["after timing"]
        assert right == ""
        assert astray == "replicas differ: ranks 0, 1 hold not the same weights"
        assert wrong == f"rank 1 of 2: its work is wrong; {astray}"


def test_a_silent_step_waits_for_no_other_rank(said: list[dict[str, Any]]) -> None:
    for scheme, operations in {"dp2": 1, "fsdp2": 3 * LAYERS + 2}.items():
        calls, moved, finite, finite_again, calls_again = said[1]["silent"][scheme]
        assert (moved, finite, finite_again) == (True, True, True), scheme
        assert calls == calls_again == operations, scheme


def test_what_a_silent_collective_gives_is_made_of_what_is_here(said: list[dict[str, Any]]) -> None:
    found = said[1]["hushed"]
    assert found["gathered"] == [0, 1, 2, 3, 0, 1, 2, 3]
    assert found["scattered"] == [0, 1]
    assert found["exchanged"] == [0, 1, 2]
    assert found["listed"] == found["summed"] == [0, 1, 2, 3]
    assert found["future"] is True, "DDP takes its sums from there"
    assert found["refused"].startswith("a step uses the control group: allgather")


@pytest.mark.parametrize(
    ("case", "kinds"),
    [
        ("dp2", {"attention", "gather", "gradient", "norm", "product"}),
        ("fsdp2", {"attention", "gather", "norm", "product"}),
        ("synchronized", {"convolution", "product"}),
        ("dlrm-hybrid2", {"product"}),
    ],
)
def test_each_rank_looks_at_its_rows_at_the_timed_size(
    said: list[dict[str, Any]], case: str, kinds: set[str]
) -> None:
    """And waits for nobody whose look failed; all are told whose."""
    for rank in said:
        found, wrong, gradients, again, absent, replicas = rank["looked"][case]
        assert kinds <= {*found} and ("gradient" in found) == ("gradient" in kinds)
        assert wrong == again == replicas == ""
        waits = "not observable: in the backward ranks wait for each other"
        assert gradients == (None if "gradient" in kinds else waits)
        assert absent == "rank 1 of 2: not observable: ValueError: no room"


# The values by themselves


def test_the_record_says_what_another_rank_could_not_look_at() -> None:
    """Rank 0's facts are the record's; what is so on all ranks is told as it is."""
    no, waits = {"values": "not observable: no room"}, {"gradients": "not observable: ranks wait"}
    job: Any = SimpleNamespace(facts={"parameters": "7", **waits}, looks=lambda: ())
    launch: Any = mock.MagicMock(ranks=mock.Mock(told=lambda mine: [mine, {**waits, **no}]))
    launch.environment = {}
    launch.request.case.precision = "fp32"
    assert late(launch, job, mock.Mock()) == ""
    values = "rank 1 of 2: not observable: no room"
    assert launch.environment["job"] == {**job.facts, "values": values}
    launch.ranks = None
    late(launch, job, mock.Mock())
    assert launch.environment["job"] == job.facts


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (["", ""], ""),
        (["", "off"], "rank 1 of 2: off"),
        (["off by 1", "off by 1"], "every rank: off by 1"),
        (["off by 1", "off by 2"], "every rank, the others likewise: off by 1"),
        (["a", "", "b"], "rank 0 of 3: a; rank 2 of 3: b"),
        (["", *"abcd"], "rank 1 of 5: a; rank 2 of 5: b; rank 3 of 5: c; and 1 more ranks"),
    ],
)
def test_the_guilty_are_named(told: list[str], words: str) -> None:
    assert named(told) == words


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ([{"whole": "a"}] * 3, ""),
        ([{"part 1 of 2": "a"}, {"part 2 of 2": "b"}], ""),
        ([{"whole": "a"}, {"whole": "b"}, {"whole": "a"}], "rank 1 holds not the weights"),
        ([{"whole": "a"}, {"whole": "b"}], "ranks 0, 1 hold not the same weights"),
        (
            [{"part 1 of 2": "a"}, {"part 2 of 2": "b"}] * 2
            + [{"part 1 of 2": "a"}, {"part 2 of 2": "c"}],
            "rank 5 holds not the weights",
        ),
    ],
)
def test_ranks_with_the_same_part_must_agree(told: list[dict[str, str]], words: str) -> None:
    found = apart(told)
    assert words in found
    assert bool(found) == bool(words)


def test_a_digest_sees_one_bit_and_is_of_a_part() -> None:
    weights = [torch.arange(6.0).view(2, 3), torch.ones(0, 3, dtype=torch.bfloat16)]
    parts = [Part(0, 2), WHOLE]
    before = digests(weights, parts)
    assert before.keys() == {"part 1 of 2", "whole"}
    weights[0].view(torch.int32)[1, 2] ^= 1
    after = digests(weights, parts)
    assert after["part 1 of 2"] != before["part 1 of 2"]
    assert after["whole"] == before["whole"]


def test_whoever_reads_its_weights_says_so_at_each() -> None:
    """Ranks that hash 60 GB after the timing are silent for a minute otherwise, and are ended."""
    said: list[str] = []
    weights = [torch.ones(3), torch.zeros(2)]
    ranks: Any = SimpleNamespace(told=lambda word: [word, word])
    job: Any = SimpleNamespace(weights=lambda: weights, training=lambda: None)
    assert of_all(ranks, "", job, lambda: said.append("frozen")) == ""
    training = SimpleNamespace(
        optimizer=SimpleNamespace(param_groups=[{"params": weights}]), parts=(), fixed=weights[:1]
    )
    job.training = lambda: training
    assert of_all(ranks, "", job, lambda: said.append("trained")) == ""
    assert said == ["frozen"] * 2 + ["trained"] * 3


@pytest.mark.parametrize(
    ("rows", "count", "unit", "sizes"),
    [
        (8, 2, 1, [4, 4]),
        (5, 2, 1, [3, 2]),
        (2, 4, 1, [1, 1, 0, 0]),
        (9, 4, 1, [3, 3, 3, 0]),
        (26, 4, 2, [8, 8, 8, 2]),
    ],
)
def test_parts_are_torchs_own_chunks(rows: int, count: int, unit: int, sizes: list[int]) -> None:
    whole = torch.arange(rows)
    parts = [Part(index, count, unit).of(whole) for index in range(count)]
    assert [len(part) for part in parts] == sizes
    assert torch.equal(torch.cat(parts), whole)
    if unit == 1:
        chunks = whole.chunk(count)
        assert all(torch.equal(a, b) for a, b in zip(parts, chunks, strict=False))


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ((0, "meta:0", ""), (0, "meta:1", ""), ""),
        ((0, "meta:0", ""), (0, "meta:0", ""), "it is on meta:0, which is the device of rank 0"),
        ((0, "cpu", ""), (0, "cpu", ""), ""),
        # Each host counts from 0.
        ((0, "meta:0", ""), (1, "meta:0", ""), ""),
        ((0, "meta:0", "m 5"), (1, "meta:0", "m 6"), ""),
        # Containers of one machine that both have a card.
        ((0, "meta:0", "m 5"), (1, "meta:1", "m 5"), "it is on meta:1, which is the device of"),
        # On one host a name that tells no card from another does no harm.
        ((0, "meta:0", "m XX"), (0, "meta:1", "m XX"), ""),
    ],
)
def test_no_two_ranks_have_one_device(
    first: tuple[int, str, str], second: tuple[int, str, str], words: str
) -> None:
    host, device, card = second
    ranks: Any = SimpleNamespace(rank=1, host=host, card=card, told=lambda mine: [first, mine])
    found = misplaced(ranks, SimpleNamespace(device=torch.device(device)))  # type: ignore[arg-type]
    assert found.startswith(words) and bool(found) == bool(words)


def test_a_tolerance_follows_one_devices_error() -> None:
    assert allowed(1e-3, "float32") == 2e-3
    assert allowed(0.0, "float32") == 8 * 2**-23
    assert allowed(1e-6, "float32", kinks=True) == KINK
    assert allowed(0.1, "float32", kinks=True) == 0.2
