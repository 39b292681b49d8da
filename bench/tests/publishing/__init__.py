"""Tests of `bench.publishing`."""
