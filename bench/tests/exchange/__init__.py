"""Tests of `bench.exchange`."""
