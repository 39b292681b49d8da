"""Attention over long contexts: what is seen, what it costs, and that the gate tells the kinds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from bench.judging.comparing.equal_work import judged
from bench.measuring.gates.numerics import gate, relative_error
from bench.measuring.proving.watch import Watch
from bench.precision import PRECISIONS
from bench.records.outcome import Numerics
from bench.records.proof import Proof
from bench.records.tolerances import TOLERANCES
from bench.tests.small_workloads import WORKLOADS, one_thread, site
from bench.tests.workloads.context_kinds import KINDS, parameters
from bench.workload import Site
from bench.workloads.contexts import context_jobs, contexts
from bench.workloads.contexts.contexts import Drawn
from bench.workloads.jobs import products
from bench.workloads.jobs.seeded import SeededData

__all__ = ["one_thread"]  # a fixture, used by being here

ATTENTION = WORKLOADS["attention"]
BF16 = PRECISIONS["bf16"]
EACH = pytest.mark.parametrize(("mode", "given"), KINDS, ids=str)


@pytest.fixture(autouse=True)
def few_buffers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What rotates changes no result, and takes time."""
    if "rotation" not in request.fixturenames:
        monkeypatch.setattr(products, "MOST_BUFFERS", 2)


@pytest.fixture
def rotation() -> None:
    """As many sets of operands as are timed."""


def gated(mode: str, precision: str = "bf16", **given: Any) -> Numerics:
    return gate(ATTENTION, mode, parameters(mode, **given), site(PRECISIONS[precision], seed=5))


# What is seen


@pytest.mark.parametrize(
    ("queries", "context", "window"),
    [(9, 9, 0), (9, 9, 1), (9, 9, 4), (9, 9, 9), (9, 9, 50), (1, 9, 0), (1, 9, 4), (3, 9, 4)],
)
def test_pairs_are_those_of_the_mask(queries: int, context: int, window: int) -> None:
    visible = 0
    for token in range(context - queries, context):
        visible += sum(1 for key in range(token + 1) if not window or token - key < window)
    assert contexts.pairs(queries, context, window) == visible
    assert int(context_jobs.seen(queries, context, window).sum()) == visible


def test_at_128k_a_window_leaves_a_five_hundredth() -> None:
    tokens, window = 131_072, 128
    assert contexts.pairs(tokens, tokens, 0) == tokens * (tokens + 1) // 2
    assert contexts.pairs(tokens, tokens, window) == window * tokens - window * (window - 1) // 2
    mask = context_jobs.seen(512, 512, window)
    assert contexts.pairs(512, 512, window) == int(mask.sum())


# What it costs


@EACH
def test_bytes_are_those_of_the_tensors_that_are_seen(mode: str, given: Any) -> None:
    p = parameters(mode, **given)
    one = contexts.drawn(p, SeededData(0), site(BF16))
    job: Any = ATTENTION.build(mode, p, site(BF16))
    job.step()
    read = [one.query, one.key, one.value, *one.scales, *one.matrices]
    if mode == "decode" and p.window:
        assert one.value is not None
        read[1:3] = [x[:, :, -p.window :] for x in (one.key, one.value)]
    moved = sum(x.numel() * x.itemsize for x in (*read, job._output) if x is not None)
    assert ATTENTION.work(mode, p, BF16).moved_bytes == moved


def test_absorbed_and_expanded_are_the_same_result_by_other_work() -> None:
    found = {}
    for absorbed in (False, True):
        p = parameters("latent-decode", absorbed=absorbed)
        found[absorbed] = ATTENTION.build("latent-decode", p, site()).probe()["latent attention"]
    assert relative_error(found[True], found[False]) < 1e-5
    at_128k = [
        ATTENTION.work(
            "latent-decode",
            contexts.LatentDecodeParameters(context_length=131_072, absorbed=absorbed),
            BF16,
        ).flop
        or 0
        for absorbed in (False, True)
    ]
    assert at_128k[0] > 25 * at_128k[1], "the whole cache is expanded for one token"


# What rotates


@pytest.mark.usefixtures("rotation")
@pytest.mark.parametrize(
    ("mode", "given", "count"),
    [
        ("decode", {}, 16),
        ("decode", {"cache": "fp8"}, 16),
        ("decode", {"context_length": 2048}, 16),
        ("decode", {"context_length": 32_768}, 2),
        ("decode", {"context_length": 131_072}, 1),
        ("latent-decode", {}, 7),
        ("latent-decode", {"cache": "fp8"}, 8),
        ("prefill", {"context_length": 1024}, 4),
        ("prefill", {"context_length": 131_072}, 1),
        ("latent-prefill", {}, 1),
    ],
    ids=str,
)
def test_none_of_a_decodes_sets_is_in_a_cache_when_its_turn_comes(
    mode: str, given: Any, count: int
) -> None:
    """In 8 bits too, whose sets are half as large: else their rate were a cache's."""
    p = contexts.MODES[mode](**given)
    assert contexts.buffers(p, BF16) == count
    if "decode" in mode:
        together = count * contexts.counted(p, BF16).moved_bytes
        assert together >= 128 * 2**20, "twice the largest cache of most devices"


@pytest.mark.usefixtures("rotation")
@pytest.mark.parametrize("cache", ["unquantized", "fp8"])
def test_all_that_rotates_is_there_and_each_set_is_another(cache: str) -> None:
    p = parameters("decode", cache=cache)
    job: Any = ATTENTION.build("decode", p, site(BF16))
    assert job.facts["operand buffers"] == "16"
    found = []
    for _ in range(17):
        job.step()
        found.append(job._output.flatten().tolist())
    assert found[16] == found[0] and len({*map(tuple, found)}) == 16


@pytest.mark.usefixtures("rotation")
@pytest.mark.parametrize("cache", ["unquantized", "fp8"])
@pytest.mark.parametrize("sinks", [False, True])
def test_of_a_long_context_only_what_its_window_sees_is_held(cache: str, sinks: bool) -> None:
    """Sixteen whole contexts of GPT-OSS at batch 32 would be 137 GB."""
    shorter, longer = (
        parameters("decode", context_length=tokens, window=8, sinks=sinks, cache=cache)
        for tokens in (8, 4000)
    )
    held = [ATTENTION.peak_bytes("decode", p, site(BF16)) for p in (shorter, longer)]
    assert held[0] == held[1] > 0
    drawn = [*contexts._drawn_sets(longer, 3, site(BF16))]
    assert [one.key.shape[2] for one in drawn] == [4000, 8, 8]


@pytest.mark.parametrize("window", [1, 3, 41, 100])
def test_a_set_of_a_window_alone_has_all_that_a_step_sees(window: int) -> None:
    p = parameters("decode", window=window)
    first, second = contexts._drawn_sets(p, 2, site())
    job: Any = ATTENTION.build("decode", p, site())
    job.step()
    job.step()
    seen = min(window, p.context_length)
    assert second.value is not None and second.key.shape[2] >= seen
    cut = [x[:, :, -seen:].repeat_interleave(2, 1) for x in (second.key, second.value)]
    scores = (second.query @ cut[0].transpose(-1, -2) / second.query.shape[-1] ** 0.5).softmax(-1)
    assert torch.allclose(job._output, scores @ cut[1], atol=1e-5)
    assert first.key.shape[2] == p.context_length, "the gate looks at what lies before a window"


# The gate


@EACH
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_each_kind_is_what_its_definition_says(mode: str, given: Any, precision: str) -> None:
    verdict = gated(mode, precision, **given)
    assert verdict.passed, verdict.complaint
    (check,) = verdict.checks
    assert 2 * (check.error or 1.0) < 1.3 * check.tolerance
    assert TOLERANCES[precision][check.quantity] == check.tolerance


def spoiled(monkeypatch: pytest.MonkeyPatch, by: Callable[[Drawn], Drawn]) -> None:
    """What the device gets, and not the reference."""
    right = contexts.drawn

    def drawn(p: Any, data: Any, at: Site) -> Drawn:
        one = right(p, data, at)
        return one if at.precision.weights == "float64" else by(one)

    monkeypatch.setattr(contexts, "drawn", drawn)


def in_8_bits(one: Drawn) -> Drawn:
    narrow = one.key.to(torch.float8_e4m3fn).to(one.key.dtype)
    return one._replace(key=narrow)


def without_sinks(one: Drawn) -> Drawn:
    assert one.sinks is not None
    return one._replace(sinks=torch.full_like(one.sinks, -100.0))


def groups_turned(one: Drawn) -> Drawn:
    assert one.value is not None
    return one._replace(key=one.key.flip(1), value=one.value.flip(1))


def scale_forgotten(one: Drawn) -> Drawn:
    return one._replace(scales=tuple(1.1 * x for x in one.scales))


@pytest.mark.parametrize(
    ("mode", "given", "by"),
    [
        ("prefill", {}, in_8_bits),
        ("decode", {"window": 8}, in_8_bits),
        ("latent-prefill", {}, in_8_bits),
        ("latent-decode", {}, in_8_bits),
        ("prefill", {"window": 8, "sinks": True}, without_sinks),
        ("decode", {"sinks": True}, without_sinks),
        ("prefill", {"window": 8}, groups_turned),
        ("decode", {}, groups_turned),
        ("decode", {"cache": "fp8"}, scale_forgotten),
        ("prefill", {"window": 8, "cache": "fp8"}, scale_forgotten),
        ("latent-decode", {"cache": "fp8"}, scale_forgotten),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_what_is_coarser_or_another_attention_is_void(
    monkeypatch: pytest.MonkeyPatch, mode: str, given: Any, by: Callable[[Drawn], Drawn]
) -> None:
    spoiled(monkeypatch, by)
    assert not gated(mode, **given).passed


@pytest.mark.parametrize("window", [7, 9])
@pytest.mark.parametrize("mode", ["prefill", "decode"])
def test_a_window_of_one_key_more_or_less_is_void(
    monkeypatch: pytest.MonkeyPatch, mode: str, window: int
) -> None:
    right = context_jobs.seen
    monkeypatch.setattr(context_jobs, "seen", lambda q, t, w: right(q, t, w and window))
    assert not gated(mode, window=8).passed


def test_the_twin_has_several_blocks_and_crosses_their_edges() -> None:
    big = contexts.PrefillParameters(
        context_length=131_072, heads=64, kv_heads=8, head_dim=64, window=128, sinks=True
    )
    small = contexts.twin(big)
    assert (small.window, small.context_length, small.sinks) == (8, 96, True)
    assert contexts.twin(small) == small


@pytest.mark.parametrize(
    ("heads", "kv_heads", "twin"),
    [(64, 8, (16, 8)), (32, 16, (32, 16)), (16, 16, (16, 16)), (3, 1, (2, 1)), (64, 32, (4, 2))],
)
def test_the_twin_has_as_many_heads_of_keys(
    heads: int, kv_heads: int, twin: tuple[int, int]
) -> None:
    """By how many there are, and whether they are shared, libraries choose their kernels."""
    small = contexts.twin(contexts.DecodeParameters(heads=heads, kv_heads=kv_heads))
    assert (small.heads, small.kv_heads) == twin and contexts.twin(small) == small


# Equal work


@pytest.mark.parametrize(
    ("mode", "given"),
    [KINDS[3], KINDS[7], KINDS[9], KINDS[11]],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_honest_attention_is_proved(mode: str, given: Any) -> None:
    proof = proof_of(mode, **given)
    assert proof.recomputed == 0.0
    assert judged([(1, proof)], [(1, proof)], "bf16").proved


def test_a_record_of_fewer_sets_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work is one, so is its version; but four sets, as decodes had, may lie in a cache."""
    proofs = []
    for count in (2, 3):
        monkeypatch.setattr(products, "MOST_BUFFERS", count)
        proofs.append(proof_of("decode"))
    found = judged([(1, proofs[0])], [(1, proofs[1])], "bf16")
    assert not found.proved
    assert "weights before the first step" in [x.quantity for x in found.findings if x.error > 1]


def proof_of(mode: str, **given: Any) -> Proof:
    from bench import catalogue

    job: Any = ATTENTION.build(mode, parameters(mode, **given), site(BF16))
    watch = Watch(job, catalogue.backend("cpu").open(0, BF16), BF16, 1, thorough=True)
    watch.start()
    for step in (1, 2, 3):
        job.step()
        watch.after(step)
    watch.before(1, False)
    job.step()
    watch.finish(step_seconds=1.0)
    assert watch.complaint == ""
    return watch.proof


@pytest.mark.parametrize("mode", ["prefill", "latent-prefill"])
def test_a_prefill_over_keys_as_they_are_is_the_case_that_it_was(mode: str) -> None:
    kind = contexts.MODES[mode]
    plain = kind.written({"context_length": 64, "cache": "unquantized"})
    assert plain == {"context_length": 64}
    assert kind.written({"cache": "fp8"}) == {"cache": "fp8"}


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="heads must be a multiple of kv_heads: 6 and 4"):
        contexts.DecodeParameters(heads=6, kv_heads=4)
    with pytest.raises(ValueError, match="unknown cache `int8`"):
        contexts.DecodeParameters(cache="int8")
