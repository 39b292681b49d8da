"""Tests of `bench.conformance`."""
