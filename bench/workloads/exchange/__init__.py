"""What collectives exchange, and whether each rank got what it must."""
