"""Tests of `bench.validation`."""
