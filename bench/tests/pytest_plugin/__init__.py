"""Tests of `bench.pytest_plugin`."""
