"""How it is timed, in the worker's process."""
