"""Restoring: what is requested against what is stored, and what happens when it is damaged."""
