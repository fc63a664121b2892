"""Saves in progress: which ranks take part, what each still has to send, and when a save is over."""
