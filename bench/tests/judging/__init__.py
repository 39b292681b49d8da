"""Tests of `bench.judging`."""
