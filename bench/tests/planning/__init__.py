"""Tests of `bench.planning`."""
