"""Tests of `bench.workloads`."""
