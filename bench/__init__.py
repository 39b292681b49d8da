"""accelmark: the same step on any accelerator, and who is faster, by how much, how surely."""

__version__ = "0.1.0"
