"""Two runs beside one another: who is faster, by how much, how surely."""
