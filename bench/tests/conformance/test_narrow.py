"""What the kit says of narrow formats: of a device that is right, and of those that are not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from bench import catalogue
from bench.conformance.check import Finding, Stand
from bench.conformance.checks import narrow
from bench.formats import Operand
from bench.precision import PRECISIONS, Precision
from bench.quantized_product import Products, Ready
from bench.tests.stand_in_products import Experts, stand_in

if TYPE_CHECKING:
    from bench.quantized_product import ByExperts

__all__ = ["stand_in"]  # a fixture, used by being here

LINES = ("every value is itself", "scales are applied", "wrong layouts are refused", "products")


class Device(Stand):
    """The CPU, as one that claims every format, with products of its own."""

    def __init__(self, products: Products | None = None) -> None:
        super().__init__(catalogue.backend("cpu"), 0)
        kind: Any = type(self.backend)
        claiming: Any = type(
            "Claiming",
            (kind,),
            {"unsupported": lambda *_: None, "products": products or Products()},
        )
        self.backend = claiming()


def lines(products: Products | None, *names: str) -> dict[str, Finding]:
    """By title, of some formats."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(narrow, "FORMATS", names)
        return {finding.title: finding for finding in narrow.formats(Device(products))}


def failures(products: Products, name: str) -> set[str]:
    found = lines(products, name)
    return {title.partition(": ")[2] for title, line in found.items() if line.verdict == "fail"}


def test_a_right_device_passes_in_every_format(stand_in: None) -> None:
    found = lines(None, *narrow.FORMATS)
    assert [*found] == [f"{name}: {line}" for name in narrow.FORMATS for line in LINES]
    assert {line.verdict for line in found.values()} == {"pass"}, found
    assert found["fp8-row: every value is itself"].observed == "254 of 254 values of 8 bits"
    assert found["mxfp4: every value is itself"].observed == "16 of 16 values of 4 bits"
    assert found["int4-weights: scales are applied"].observed.startswith("1 of 2 operands")
    assert "at 1 rows" in found["nvfp4: products"].observed


def test_here_what_torch_lacks_is_not_observable_and_says_why() -> None:
    found = {line.title: line for line in narrow.formats(Stand(catalogue.backend("cpu"), 0))}
    assert found["int4-weights: products"].verdict == "pass"
    assert found["mxfp8 is mxfp8"].verdict == "not observable"
    assert "no such product" in found["mxfp8 is mxfp8"].reason
    groups = [*narrow.grouped(Device())]
    assert [line.verdict for line in groups] == ["pass", "not observable", "not observable"]
    assert "at 4 experts" in groups[0].observed


class ShorterCodes(Products):
    """Reads one bit less of the second operand's elements."""

    def product(self, rows: Operand, matrix: Operand, how: Precision, device: Any) -> Ready:
        octets = matrix.codes.view(torch.uint8) & 0b11111110
        short = matrix._replace(codes=octets.view(matrix.codes.dtype))
        return super().product(rows, short, how, device)


class HalfValues(Products):
    """Takes e4m3 for the format of the same bits whose values are half."""

    def product(self, rows: Operand, matrix: Operand, how: Precision, device: Any) -> Ready:
        ready = super().product(rows, matrix, how, device)
        return ready._replace(queue=lambda: ready.queue() / 2)


class OneScale(Products):
    """Has one scale for all: that of the first block."""

    def product(self, rows: Operand, matrix: Operand, how: Precision, device: Any) -> Ready:
        first = matrix.shared.float().flatten()[0]
        scales = torch.full(matrix.shared.shape, float(first)).to(matrix.shared.dtype)
        return super().product(rows, matrix._replace(scales=scales), how, device)


class Obliging(Products):
    """Takes the scales that there are, and again from the start where they end."""

    def product(self, rows: Operand, matrix: Operand, how: Precision, device: Any) -> Ready:
        high = matrix.block[0] or 1
        missing = len(matrix.codes) // high // len(matrix.shared)
        scales = torch.cat([matrix.shared.float()] * missing).to(matrix.shared.dtype)
        return super().product(rows, matrix._replace(scales=scales), how, device)


class WrongForOneRow(Products):
    """As some devices' weights of 4 bits have been."""

    def product(self, rows: Operand, matrix: Operand, how: Precision, device: Any) -> Ready:
        ready = super().product(rows, matrix, how, device)

        def queue() -> Tensor:
            found = ready.queue()
            return found.roll(1, 1) if len(found) == 1 else found

        return ready._replace(queue=queue)


def test_no_scale_leaves_its_format(stand_in: None) -> None:
    """An older torch makes no number of it, and a right device was wrong. In e4m3 the largest of
    nvfp4 is the largest that there is, and a newer torch would keep it there."""
    found = []

    class Noting(Products):
        def product(self, rows: Operand, matrix: Operand, how: Precision, device: Any) -> Ready:
            found.append(rows.shared.double())
            return super().product(rows, matrix, how, device)

    stand = Device(Noting())
    narrow._scales(stand, "nvfp4", PRECISIONS["nvfp4"])
    plain, moved, _ = found
    assert set((moved / plain).log2().unique().tolist()) == {-4.0, -3.0, -2.0, -1.0, 0.0}


@pytest.mark.parametrize(
    ("name", "wrong", "told"),
    [
        ("mxfp4", ShorterCodes(), {"every value is itself", "scales are applied", "products"}),
        ("fp8-row", HalfValues(), {"every value is itself", "scales are applied", "products"}),
        ("mxfp8", OneScale(), {"scales are applied", "products"}),
        ("fp8-block128", Obliging(), {"wrong layouts are refused"}),
        ("int4-weights", Obliging(), {"wrong layouts are refused"}),
        ("int4-weights", WrongForOneRow(), {"products"}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Products) else "",
)
def test_a_wrong_device_is_told_by_the_line_of_its_fault(
    stand_in: None, name: str, wrong: Products, told: set[str]
) -> None:
    assert failures(wrong, name) >= told
    assert failures(wrong, name) - told <= {"wrong layouts are refused"}


def test_what_raises_and_another_experts_matrix_are_failures(stand_in: None) -> None:
    class Raising(Products):
        def product(self, *_: Any) -> Ready:
            raise RuntimeError("no kernel")

    found = lines(Raising(), "mxfp8")
    assert {line.verdict for title, line in found.items() if "layout" not in title} == {"fail"}

    class Swapped(Products):
        def grouped(self, rows: Any, matrices: Any, how: Precision, device: Any) -> Ready:
            return super().grouped(rows, matrices[::-1], how, device)

    assert {line.verdict for line in narrow.grouped(Device(Swapped()))} == {"fail"}
    right = {line.verdict for line in narrow.grouped(Device())}
    assert right == {"pass"}


def test_experts_that_are_narrow_are_tried_where_a_device_multiplies_them() -> None:
    class Shifted(Experts):
        """Reads the scales of the next expert."""

        def by_experts(self, codes: Tensor, scales: Tensor, device: torch.device) -> ByExperts:
            turned = scales.view(torch.uint8).roll(1, 0).view(scales.dtype)
            return super().by_experts(codes, turned, device)

    (absent,) = narrow.by_experts(Device())
    assert absent.verdict != "pass" and "torch multiplies no rows of bfloat16" in str(absent)
    (right,), (wrong,) = (narrow.by_experts(Device(one)) for one in (Experts(), Shifted()))
    assert (right.verdict, wrong.verdict) == ("pass", "fail")
