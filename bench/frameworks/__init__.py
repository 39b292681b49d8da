"""What computes a step: one file a framework, each exposing one constant, FRAMEWORK."""
