"""The checks of the conformance kit, in groups; each file exposes `CHECKS`."""
