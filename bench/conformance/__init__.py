"""Whether a backend may be believed: the checks of `accelmark check-backend`."""
