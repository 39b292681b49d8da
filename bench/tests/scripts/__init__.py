"""What is run by hand: long measurements, and what rewrites the golden files."""
