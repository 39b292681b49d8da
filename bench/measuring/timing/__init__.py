"""Warm-up, blocks and single steps, timed."""
