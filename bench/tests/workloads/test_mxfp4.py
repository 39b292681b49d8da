"""Experts in mxfp4: multiplied by the device's own product, or skipped; judged as rounded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import torch
from torch import Tensor

from bench.errors import SuiteError
from bench.measuring.asked import complaint
from bench.measuring.gates import numerics
from bench.planning import plan
from bench.planning.suite_file import Suite
from bench.precision import PRECISIONS
from bench.quantized_product import Products
from bench.records.run import Settings
from bench.tests.measuring.proving.wrong_workloads import one_reference
from bench.tests.small_workloads import WORKLOADS, build, one_thread, site
from bench.tests.stand_in_products import Experts
from bench.workload import Unsupported
from bench.workloads import gpt_oss
from bench.workloads.jobs.seeded import parameter_count
from bench.workloads.language import gpts

if TYPE_CHECKING:
    from bench.quantized_product import ByExperts

__all__ = ["one_reference", "one_thread"]  # fixtures

WORKLOAD, BF16 = WORKLOADS["gpt-oss"], PRECISIONS["bf16"]


def where(products: Products) -> Any:
    return msgspec.structs.replace(site(BF16), products=products)


def verdict(mode: str, products: Products) -> str:
    kind: Any = WORKLOAD.modes[mode].parameters
    parameters = kind(model="tiny-mxfp4")
    return numerics.gate(WORKLOAD, mode, parameters, where(products)).complaint


def test_without_such_a_product_the_case_is_skipped_before_a_weight_is_drawn() -> None:
    with pytest.raises(Unsupported, match="experts in mxfp4: torch multiplies no rows of bfloat16"):
        build("gpt-oss", "decode", site(BF16), model="gpt-oss-120b-mxfp4")


def test_with_it_the_gate_passes_and_the_record_says_how() -> None:
    for mode in ("prefill", "decode"):
        assert verdict(mode, Experts()) == ""
    job: Any = build("gpt-oss", "decode", where(Experts()), model="tiny-mxfp4")
    job.step()
    assert job.facts["experts"] == "accelmark-mxfp4"
    whole = parameter_count(gpts.SIZES["tiny"].construct())
    assert job.facts["parameters"] == str(whole)
    assert parameter_count(job.generator.model) == whole - 2 * 8 * 3 * 64 * 32
    assert complaint(job.looks()) == ""


class Halves(Experts):
    """Takes the second of two elements for the first."""

    def by_experts(self, codes: Tensor, scales: Tensor, device: torch.device) -> ByExperts:
        return super().by_experts(codes << 4 | codes >> 4, scales, device)


class Unscaled(Experts):
    """Gives every block the scale of the first."""

    def by_experts(self, codes: Tensor, scales: Tensor, device: torch.device) -> ByExperts:
        octets = scales.view(torch.uint8)
        return super().by_experts(
            codes, octets[:, :1, :1].expand_as(octets).view(scales.dtype), device
        )


class Narrower(Experts):
    """Rounds its rows to 8 bits besides, as products of mxfp4 by mxfp8 would."""

    def by_experts(self, codes: Tensor, scales: Tensor, device: torch.device) -> ByExperts:
        product = super().by_experts(codes, scales, device)
        return lambda rows, ends: product(rows.to(torch.float8_e4m3fn).to(rows.dtype), ends)


@pytest.mark.parametrize("wrong", [Halves, Unscaled, Narrower])
def test_what_a_device_gets_wrong_of_them_is_void(wrong: type[Products]) -> None:
    assert "products off by" in verdict("prefill", wrong())


def test_bytes_are_of_four_bits_and_a_scale_for_each_32() -> None:
    wide = gpt_oss.DecodeParameters(model="gpt-oss-20b", prompt_length=99, new_tokens=1)
    narrow = msgspec.structs.replace(wide, model="gpt-oss-20b-mxfp4")
    moved = [WORKLOAD.work("decode", p, BF16).moved_bytes or 0 for p in (wide, narrow)]
    weights = 24 * 4 * 3 * 2880 * 2880
    assert moved[0] - moved[1] == weights * 16 // 8 - weights * 17 // 32
    assert WORKLOAD.work("decode", narrow, BF16).flop == WORKLOAD.work("decode", wide, BF16).flop


def test_rows_are_bfloat16_or_the_case_is_refused_and_none_trains() -> None:
    def refusal(mode: str, precision: str) -> str:
        entry = {"workload": "gpt-oss", "mode": mode, "precision": precision}
        entries = ({**entry, "model": "tiny-mxfp4"},)
        with pytest.raises(SuiteError) as error:
            plan.plan(
                Suite(name="s", source="s", description="", settings=Settings(), entries=entries)
            )
        return str(error.value)

    assert 'has no fp32. Ask for precision = "bf16", or for tiny' in refusal("decode", "fp32")
    assert "Allowed: " in refusal("train", "bf16")
