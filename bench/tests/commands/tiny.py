"""The smallest suite that is really run."""

from __future__ import annotations

TINY = """
[settings]
launches = {launches}
block_seconds = 0.001
warmup_seconds = 0.0

[[case]]
workload = "gemm"
precision = "fp32"
shape = "32x32x32"
"""
