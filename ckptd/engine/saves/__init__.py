"""Saves under way: who takes part, what each still owes, and when a save is over."""
