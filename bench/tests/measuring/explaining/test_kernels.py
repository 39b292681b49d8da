"""Kernels of compiled and recorded steps: their names read, their events added up."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.measuring.explaining import kernels, profiled
from bench.measuring.explaining.kernels import fused, kind_of_kernel, rows
from bench.measuring.explaining.launch import prepare
from bench.measuring.explaining.profiled import MARK
from bench.records.explained import Unexplained
from bench.tests.fakes import FakeDevice
from bench.tests.measuring.explaining.small_job import CLOCK, SmallJob, nobody_looks


@pytest.mark.parametrize(
    ("name", "held", "kind"),
    [
        (
            "graph_0_cpp_fused_gelu_native_layer_norm_0",
            ("gelu", "native_layer_norm"),
            "normalization",
        ),
        (
            "graph_0_cpp_fused_gelu_gelu_backward_native_layer_norm_backward_sum_12",
            ("gelu", "gelu_backward", "native_layer_norm_backward", "sum"),
            "normalization",
        ),
        ("triton_red_fused__softmax_mul_3", ("_softmax", "mul"), "reduction"),
        ("triton_poi_fused_add_0", ("add",), "elementwise"),
        ("triton_poi_fused__to_copy_1", ("_to_copy",), "copy"),
        ("cpp_fused_unheard_of_add_2", ("unheard", "of", "add"), "elementwise"),
        ("triton_tem_fused_addmm_relu_0", ("addmm", "relu"), "matmul"),
        ("triton_poi_fused_addmm_relu_1", ("addmm", "relu"), "elementwise"),
        ("triton_poi_fused_convolution_1", ("convolution",), "elementwise"),
        ("triton_red_fused_convolution_backward_1", ("convolution_backward",), "reduction"),
        (
            "graph_0_cpp_fused_convolution_backward_native_batch_norm_backward_2",
            ("convolution_backward", "native_batch_norm_backward"),
            "normalization",
        ),
        (
            "triton_red_fused__to_copy_convolution_backward_3",
            ("_to_copy", "convolution_backward"),
            "reduction",
        ),
        ("triton_per_fused__to_copy_sum_view_0", ("_to_copy", "sum", "view"), "reduction"),
        ("triton_per_fused__to_copy_mm_t_0", ("_to_copy", "mm", "t"), "matmul"),
        ("triton_red_fused_clone_mm_view_3", ("clone", "mm", "view"), "matmul"),
        ("triton_red_fused_mm_0", ("mm",), "matmul"),
        ("triton_per_fused_bmm_1", ("bmm",), "matmul"),
        ("triton_red_fused__log_softmax_mm_2", ("_log_softmax", "mm"), "reduction"),
        ("triton_per_fused_addmm_sum_2", ("addmm", "sum"), "reduction"),
        ("triton_poi_fused_mm_3", ("mm",), "elementwise"),
        ("__amd_rocclr_copyBufferAligned", (), "copy"),
        ("__amd_rocclr_fillBufferAligned", (), "copy"),
        ("MEMORY_COPY_DEVICE_TO_DEVICE", (), "copy"),
        ("batched_transpose_32x32_pack_2x2_ediv_2x2_half", (), "copy"),
        ("transpose_NCHW2CNHW_opt", (), "copy"),
        ("SubTensorOpWithScalar1d", (), "copy"),
        ("bwd_kernel_dk_dv.kd", (), "attention"),
        ("bwd_kernel_dq", (), "attention"),
        ("bwd_kernel_fuse", (), "attention"),
        ("bwd_preprocess_varlen", (), "attention"),
        ("bwd_postprocess", (), "attention"),
        ("Im2d2Col", (), "convolution"),
        ("Col2Im2dU", (), "convolution"),
        ("Op4dTensorGeneric", (), "elementwise"),
        ("OpTensorFwdBias", (), "elementwise"),
        ("graph_0_cpp_fused_bmm_0", ("bmm",), "matmul"),
        ("graph_0_cpp_fused__softmax_bmm_view_0", ("_softmax", "bmm", "view"), "matmul"),
        ("graph_0_gemm_m64n256k256_kernel", (), "matmul"),
        ("graph_0_grouped_gemm_g2ms0n256k256_kernel", (), "matmul"),
        ("graph_0_kernel", (), "other"),
        ("aten::addmm", (), "matmul"),
        ("mkldnn::_linear_pointwise", (), "matmul"),
        ("void at::native::vectorized_elementwise_kernel<4, at>", (), "elementwise"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32", (), "matmul"),
        ("nvjet_hsh_256x128_64x4_1x2_h_bz_coopA_TNT", (), "matmul"),
        ("Cijk_Ailk_Bljk_BBS_BH_MT128x128x32_MI32x32x8x1_SN", (), "matmul"),
        ("Custom_Cijk_Alik_Bljk_BBS_BH_Bias_HAS_SAV_UserArgs_MT256x256x64", (), "matmul"),
        ("igemm_fwd_gtcx3_nhwc_bf16_bx0_ex1_bt256x128x32_wt32x32x8", (), "convolution"),
        ("igemm_wrw_gtcx3_nhwc_fp16_bx0_ex0_bt128x128x16_gkgs", (), "convolution"),
        ("sm80_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc", (), "convolution"),
        ("cutlass__5x_cudnn::Kernel<cutlass_tensorop_s16816fprop_optimized>", (), "convolution"),
        ("flash_fwd_kernel", (), "attention"),
        ("void cudnn::bn_fw_tr_1C11_singleread<float, 512>", (), "normalization"),
        ("void batch_norm_transform_input_channels_last_kernel", (), "normalization"),
        ("void distribution_elementwise_kernel<normal_and_transform>", (), "elementwise"),
        ("void reduce_kernel<512, 1, at::native::NormTwoOps<float>>", (), "reduction"),
        ("multi_tensor_apply_kernel<TensorListMetadata<1>, LpNormFunctor>", (), "optimizer"),
        ("elementwise_kernel_with_index<int, arange_out>", (), "elementwise"),
        ("void max_pool2d_with_indices_backward", (), "reduction"),
        ("void index_elementwise_kernel<128, 4>", (), "gather and scatter"),
        ("void convert_fp8_kernel", (), "other"),
        ("aten::add", (), "elementwise"),
        ("MatMulV2", (), "matmul"),
        ("Mul", (), "elementwise"),
        ("something", (), "other"),
    ],
)
def test_a_kernel_is_known_by_its_name(name: str, held: tuple[str, ...], kind: str) -> None:
    assert fused(name) == held
    assert kind_of_kernel(name, held) == kind


def event(name: str, us: float, above: Any = None, **more: Any) -> Any:
    """An event of torch's profiler."""
    return SimpleNamespace(
        **{
            "name": name,
            "cpu_time_total": us,
            "device_time_total": us,
            "device_type": "DeviceType.CPU",
            "cpu_parent": above,
            "input_shapes": [],
            "flops": 0,
            **more,
        }
    )


STEP = event(MARK, 100.0)
REGION = event("Torch-Compiled Region: 0/0", 90.0, STEP)
MM = event("aten::mm", 40.0, REGION, input_shapes=[[8, 64], [64, 64], []], flops=65536)
EVENTS = [
    STEP,
    REGION,
    MM,
    event("aten::copy_", 10.0, MM),
    event("graph_0_cpp_fused_add_1", 20.0, REGION),
    event("graph_0_cpp_fused_add_1", 20.0, REGION),
    event("gemm_kernel", 7.0, device_type="DeviceType.OTHER"),
    event(MARK, 90.0, device_type="DeviceType.OTHER", is_user_annotation=True),
]


def test_what_no_other_holds_is_a_row() -> None:
    found = rows(EVENTS, 1, "bf16", synchronous=True)
    assert [(row.name, row.calls, row.ns) for row in found] == [
        ("aten::mm", 1, 40_000.0),
        ("graph_0_cpp_fused_add_1", 2, 40_000.0),
    ]
    assert found[0].operands == "[8,64] [64,64]" and found[0].flop == 65536
    assert (found[0].precision, found[1].fuses) == ("bf16", ("add",))
    assert found[0].read_bytes is None, "nobody knows what it moved"


def test_kernels_without_names_of_operators_are_work() -> None:
    """Products of the compiler's own templates, and what copies the graph's inputs."""
    names = ("graph_0_cpp_fused_0", "graph_0_gemm_m64n256k256_kernel", "graph_0_kernel")
    found = rows([STEP, REGION, *(event(n, 9.0, REGION) for n in names)], 1, "", synchronous=True)
    assert [(row.name, row.ns) for row in found] == [(name, 9000.0) for name in names]


def test_of_an_asynchronous_device_its_own_events_count() -> None:
    (kernel,) = rows(EVENTS, 1, "bf16", synchronous=False)
    assert (kernel.name, kernel.kind, kernel.ns) == ("gemm_kernel", "matmul", 7000.0)


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (lambda *_: ([], 1), "torch's profiler sees no kernels of this device"),
        (nobody_looks, "torch's profiler does not work here: nobody looks"),
    ],
)
def test_where_no_profiler_sees_kernels_it_is_refused_with_what_to_do(
    seen: Any, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a step that is a graph: recording it would record another."""
    monkeypatch.setattr(profiled, "events_of", seen)
    device = FakeDevice(CLOCK, synchronous=False)
    found = kernels.explained(SmallJob(), device, "fp32", CLOCK)
    wanted = f'{reason}. Explain the same case with execution = "eager"'
    assert found == Unexplained(reason=wanted)


def test_memory_that_the_step_lacks_is_no_fault_of_the_profiler() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        profiled.not_here(torch.OutOfMemoryError("no memory"))


def test_compiled_code_tells_its_kernels_names_also_where_the_compiler_was_imported_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in what is forked from a process that has imported for it: that reads no variable anew."""
    import torch._inductor.config as read

    monkeypatch.delenv(kernels.WRITES_KERNEL_NAMES, raising=False)
    told: Any = read.cpp
    with told.patch(enable_kernel_profile=False) if hasattr(told, "patch") else nullcontext():
        prepare("eager")
        assert not told.enable_kernel_profile
        prepare("compile")
        assert told.enable_kernel_profile
