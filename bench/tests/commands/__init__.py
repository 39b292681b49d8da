"""Tests of `bench.commands`."""
