"""What a launch passes before it is timed: its numbers are right."""
