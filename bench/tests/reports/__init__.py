"""Tests of `bench.reports`."""
