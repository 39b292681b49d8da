"""What is kept of a run: the work, what came of it, what was seen beside it, and the file."""
