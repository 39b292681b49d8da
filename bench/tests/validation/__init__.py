"""Whether the harness may be believed: bare loops and libraries beside it."""
