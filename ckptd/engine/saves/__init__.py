"""Saves in progress: which ranks take part, what each still owes, and when a save is over."""
