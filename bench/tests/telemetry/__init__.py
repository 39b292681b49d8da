"""Tests of `bench.telemetry`."""
