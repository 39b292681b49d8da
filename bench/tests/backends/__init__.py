"""Tests of `bench.backends`."""
