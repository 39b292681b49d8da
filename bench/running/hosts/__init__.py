"""Several hosts that do one run together."""
