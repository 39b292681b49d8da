"""What is said of a run and of a comparison: the same words, whatever shows them."""
