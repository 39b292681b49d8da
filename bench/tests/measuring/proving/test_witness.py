"""Positions, signs and sums: the same in every stack, and what they say of a whole quantity."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
import torch

from bench.measuring.proving import witness
from bench.measuring.proving.witness import POSITIONS, Sample, counts, positions, project, signs
from bench.records.proof import Vector


def vector(tensors: list[torch.Tensor], seed: int = 0, whole: bool = True) -> Vector:
    sample = Sample(seed, "output", tensors)
    found = sample.vector(sample.gather(tensors), whole)
    assert found is not None
    return found


def test_the_positions_and_signs_are_those_of_the_standard() -> None:
    """By hand, from hashlib alone; and fixed values, so that no version of anything moves them."""
    drawn = hashlib.shake_256(b"accelmark/7/output/0/1000x1000").digest(8 * 5)
    numbers = [int.from_bytes(drawn[i : i + 8], "little", signed=True) for i in range(0, 40, 8)]
    expected = sorted(n % 1_000_000 for n in numbers)
    assert positions(7, "output/0/1000x1000", 1_000_000, 5).tolist() == expected
    assert expected == [184013, 336160, 363036, 948956, 977353]
    assert positions(7, "any", 4, 5).tolist() == [0, 1, 2, 3]
    octets = hashlib.shake_256(b"accelmark/7/output/signs/0").digest(64)
    expected_signs = [1 if octet & 1 else -1 for octet in octets]
    one = np.array([8.0])
    assert project(one, signs(7, "output", 1)) == expected_signs


@pytest.mark.parametrize("size", [1, 13, 2048, 5003])
def test_each_value_has_a_sign_in_each_sum(size: int) -> None:
    """Against the sums as they are written: a bit is a sign, of the first value the lowest."""
    values = torch.randn(size, dtype=torch.float64).numpy()
    drawn = signs(3, "x", size)
    bits = np.concatenate(
        [(r[:, :, None] >> np.arange(8)).reshape(64, -1)[:, :2048] & 1 for r in drawn], 1
    )
    whole = (bits[:, :size] * 2.0 - 1) @ values / 8
    assert project(values, drawn) == pytest.approx(whole.tolist(), rel=1e-9)


def test_what_is_drawn_is_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    real = witness.random_bytes

    def counted(seed: int, label: str, count: int) -> bytearray:
        drawn.append(count)
        return real(seed, label, count)

    monkeypatch.setattr(witness, "random_bytes", counted)
    values = [torch.randn(100_000), torch.randn(50, 2000).t()]
    sample = Sample(0, "x", values)
    first = sample.vector(sample.gather(values))
    count = len(drawn)
    assert sample.vector(sample.gather(values)) == first and len(drawn) == count


@pytest.mark.parametrize(
    ("sizes", "found"),
    [
        ([3, 5], [3, 5]),
        ([100, 300], [2, 6]),  # in proportion
        ([1, 1_000_000], [1, 7]),  # one at least
        ([8], [8]),
    ],
)
def test_positions_are_shared_out_in_proportion(sizes: list[int], found: list[int]) -> None:
    assert counts(sizes, most=8) == found


def test_the_sums_keep_distances() -> None:
    """Error and norm of a million values, from 65,536 positions, against the whole."""
    generator = torch.Generator().manual_seed(0)
    one = [torch.randn(s, generator=generator) for s in ((1000, 900), (100_000,))]
    for part in (0.01, 0.3):
        two = [t + part * torch.randn(t.shape, generator=generator) for t in one]
        whole = part / math.hypot(1, part)
        assert vector(one).error(vector(two)) == pytest.approx(whole, rel=0.3)
    assert vector(one).norm == pytest.approx(1_000_000**0.5, rel=0.02)
    assert vector(one).error(vector([-t for t in one])) == pytest.approx(2)
    assert vector(one).error(vector([*one[:1], one[1][:50_000]])) == math.inf
    assert vector(one, whole=False).projections == ()
    half = vector([0.5 * t for t in one], whole=False)
    assert vector(one).rests_on == pytest.approx(65_536 / 3, rel=0.1)  # kurtosis of a normal: 3
    assert vector(one, whole=False).norm_error(half) == pytest.approx(0.5)


def test_no_more_values_than_said_are_looked_at() -> None:
    tensors = [torch.ones(300, 1000), torch.ones(7)]
    assert Sample(0, "x", tensors).gather(tensors).size <= POSITIONS


def test_values_and_not_memory_are_looked_at() -> None:
    """A memory format, a dtype that holds the same values, and what has no gradient."""
    image = torch.randn(2, 16, 64, 64).bfloat16()
    last = image.contiguous(memory_format=torch.channels_last)
    assert not last.is_contiguous()
    assert vector([image]) == vector([last]) == vector([image.double()])
    eight = image.to(torch.float8_e4m3fn)
    assert vector([eight]) == vector([eight.float()])
    sample = Sample(0, "x", [image, image])
    zeros = sample.gather([image, torch.zeros_like(image)])
    assert np.array_equal(sample.gather([image, None]), zeros)
    with pytest.raises(ValueError, match=r"x 1: \(2, 16\), not \(2, 16, 64, 64\)"):
        sample.gather([image, image[:, :, 0, 0]])


def test_another_seed_looks_elsewhere() -> None:
    values = [torch.randn(1_000_000)]
    assert vector(values, seed=1).projections != vector(values, seed=2).projections


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_what_is_not_finite_has_no_witness(wrong: float) -> None:
    values = torch.tensor([1.0, wrong])
    sample = Sample(0, "x", [values])
    assert sample.vector(sample.gather([values])) is None


def test_a_single_number_is_kept_as_it_is() -> None:
    assert vector([torch.tensor(-1.23456789)]).norm == -1.23456788
    assert witness.rounded(0.000123456789, 3) == 0.000123
