"""Examplium for accelmark: a backend and a workload."""
