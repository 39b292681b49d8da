"""What the accounts of a step say of it."""
