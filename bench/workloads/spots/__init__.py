"""A few values of what was computed at the timed size, held to float64."""
