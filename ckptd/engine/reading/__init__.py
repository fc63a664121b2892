"""Reading a stored checkpoint: its index, its bytes, their sums."""
