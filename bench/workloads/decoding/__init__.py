"""Texts that go on, token by token."""
