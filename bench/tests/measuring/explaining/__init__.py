"""Tests of `bench.measuring.explaining`."""
