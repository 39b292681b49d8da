"""Runs, comparisons and accounts of steps as flat rows, for other programs."""
