"""Whether the work was done that was timed."""
