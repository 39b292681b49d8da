"""Tests of `bench.running`."""
