"""What is drawn for a terminal, in as many columns as it has."""
