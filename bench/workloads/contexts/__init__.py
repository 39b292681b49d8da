"""Attention over long contexts."""
