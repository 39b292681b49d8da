"""What was seen beside the work: power, energy, clocks, heat, other users, other load."""
